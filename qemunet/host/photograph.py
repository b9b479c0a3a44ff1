"""Takes the photograph: looks at what a plan touches and needs, and at nothing else."""

from __future__ import annotations

import os
import struct
import typing

from qemunet.facts import Facts, LinkFact, RouteFact, Wanted
from qemunet.host import addresses, caller, images, links, sysctls, taps
from qemunet.host import netlink as nl
from qemunet.steps import sysctl_name

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qemunet.host.netlink import Netlink
    from qemunet.host.netns import Place

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not in the PATH of Debian's ordinary users
_VHOST, _KVM = "/dev/vhost-net", "/dev/kvm"
_AF_BRIDGE, _PERMANENT = 7, 0x80
_NDA_LLADDR, _NDA_MASTER = 2, 9
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_GROUP_ACCESS = 0o060


def photograph(net: Netlink, place: Place, wanted: Wanted, runtime: str) -> Facts:
    """Return what `wanted` asks for, as it is now."""
    known, routes = _routing(net) if wanted.routes else ({}, ())
    found = _links(net, wanted.links | known.keys())
    keys = wanted.sysctls | {f"net.ipv4.conf.{sysctl_name(name)}.forwarding" for name in known}
    return Facts(
        runtime=runtime,
        machine_id=_machine_id(),
        uid=os.geteuid(),
        can_switch_user=caller.can_switch_user(),
        links=found,
        addresses=known,
        routes=routes,
        sysctls=place.inside(lambda: _sysctls(keys)) if keys else {},
        macs_on_bridge={name: _macs(net, name) for name in wanted.bridges},
        files=images.look_at(sorted(wanted.files)),
        programs=_programs(wanted.programs),
        users=_users(),
        kvm_gid=_kvm_gid(),
        tun=taps.can_open(taps.TUN),
        vhost_net=taps.can_open(_VHOST),
    )


def _links(net: Netlink, names: Iterable[str]) -> dict[str, LinkFact]:
    return {name: link for name in names if (link := links.find(net, name)) is not None}


def _routing(net: Netlink) -> tuple[Mapping[str, tuple[str, ...]], tuple[RouteFact, ...]]:
    return addresses.addresses(net), addresses.routes(net)


def _sysctls(keys: Iterable[str]) -> dict[str, str]:
    return {key: value for key in keys if (value := sysctls.read(key)) is not None}


def _macs(net: Netlink, bridge: str) -> frozenset[str]:
    """Return the addresses that a bridge has seen or was told of, without the host's ends of taps."""
    try:
        index = net.index(bridge)
    except OSError:
        return frozenset()
    request = nl.Request(nl.GETNEIGH, 0, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0) + nl.number(_NDA_MASTER, index))
    return frozenset(mac for body in net.dump(request) if (mac := _guest_mac(body, index)))


def _guest_mac(body: bytes, bridge: int) -> str | None:
    """Return the address of a forwarding entry, None for multicast and for a tap's own (see model.mac.host_twin)."""
    _family, index, state, _flags, _type = _NDMSG.unpack_from(body)
    values = nl.attributes(body[_NDMSG.size :])
    address = values.get(_NDA_LLADDR, b"")
    if bridge not in (index, nl.integer(values.get(_NDA_MASTER, b""))) or len(address) != 6 or address[0] & 1:
        return None
    twin = state & _PERMANENT and index != bridge and address[0] in (0xFE, 0xFA)
    return None if twin else nl.colons(address)


def _programs(names: Iterable[str]) -> dict[str, str]:
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *_SBIN]
    return {name: path for name in names if (path := _program(name, folders)) is not None}


def _program(name: str, folders: Iterable[str]) -> str | None:
    candidates = [name] if "/" in name else [os.path.join(folder or ".", name) for folder in folders]
    return next((path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def _users() -> dict[str, tuple[int, int]]:
    import pwd

    return {user.pw_name: (user.pw_uid, user.pw_gid) for user in pwd.getpwall()}


def _machine_id() -> str:
    try:
        with open("/etc/machine-id") as file:
            return file.read().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename


def _kvm_gid() -> int | None:
    """Return the group that may use KVM, if it is a group of its own."""
    try:
        status = os.stat(_KVM)
    except OSError:
        return None
    return status.st_gid if status.st_gid and status.st_mode & _GROUP_ACCESS == _GROUP_ACCESS else None
