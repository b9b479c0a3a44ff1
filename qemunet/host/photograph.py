"""Takes the photograph: looks at what a plan touches and needs, and at nothing else."""

from __future__ import annotations

import os
import struct

from qemunet.facts import Facts, FileFact, LinkFact, PciFact, RouteFact, SocketFact, Wanted
from qemunet.frozen import frozen
from qemunet.host import addresses, caller, links, sysctls, taps
from qemunet.host import netlink as nl
from qemunet.model.routing import sysctls_of
from qemunet.steps import sysctl_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qemunet.host.netlink import Netlink
    from qemunet.host.netns import Place
    from qemunet.host.wires import Wires
    from qemunet.model.routing import Carried

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
    entries = {found[name].name if name in found else name: _forwarding(net, name) for name in wanted.bridges}
    ports = place.inside(lambda: _listeners(wanted.ports)) if wanted.ports else {}
    wired = _wired(net) if wanted.wires else None
    carried = _carried(net, wanted.uplinks) if wanted.uplinks else {}
    keys = wanted.sysctls | {key for name in carried for key in sysctls_of(name)}
    keys |= set(_forwarding_keys(known)) if wanted.routes else frozenset()
    programs, root = _programs(wanted.programs), os.geteuid() == 0
    return Facts(
        runtime=runtime,
        machine_id=_machine_id(),
        uid=os.geteuid(),
        can_switch_user=caller.can_switch_user(),
        links=found,
        addresses=known,
        routes=routes,
        sysctls=place.inside(lambda: _sysctls(keys)) if keys else {},
        macs_on_bridge={name: frozenset(filter(None, map(_guest_mac, known))) for name, known in entries.items()},
        ports={name: frozenset(filter(None, map(_port_mac, known))) for name, known in entries.items()},
        wires=wired.wires if wired else (),
        stp=wired.stp if wired else frozenset(),
        files=_files(wanted.files),
        sockets=_sockets(wanted) if wanted.sockets or wanted.doors else {},
        devices=_devices(wanted.devices) if wanted.devices else {},
        memlock=_memlock() if wanted.devices else None,
        programs=programs,
        users=_users(),
        kvm_gid=_kvm_gid(),
        tun=taps.can_open(taps.TUN),
        vhost_net=taps.can_open(_VHOST),
        carried=carried,
        listeners=ports,
        netns=frozenset(name for name in wanted.places if os.path.lexists(f"/run/netns/{name}")),
        shaping_lacks=_shaping_lacks(impairing=wanted.impairing) if wanted.shaping and root else frozenset(),
        guard_lacks=_guard_lacks() if wanted.guards and root and "nft" in programs else frozenset(),
        vlans=_vlans() if wanted.vlans and root else True,
    )


def inside(net: Netlink, place: Place, wanted: Wanted, runtime: str) -> Facts:
    """Return what is in a namespace of a lab: interfaces, addresses and routes, of sysctls what is wanted."""
    known, routes = _routing(net)
    wired = _wired(net)
    return Facts(
        runtime,
        "",
        os.geteuid(),
        can_switch_user=False,
        links=_links(net, wanted.links | known.keys()),
        addresses=known,
        routes=routes,
        sysctls=place.inside(lambda: _sysctls(wanted.sysctls)) if wanted.sysctls else {},
        wires=wired.wires,
        stp=wired.stp,
        macs_on_bridge={name: _seen_on(net, name) for name in wanted.bridges},
    )


def _seen_on(net: Netlink, bridge: str) -> frozenset[str]:
    return frozenset(filter(None, map(_guest_mac, _forwarding(net, bridge))))


def _carried(net: Netlink, names: Iterable[str]) -> dict[str, Carried]:
    from qemunet.host import routing

    return routing.carried(net, names)


def _links(net: Netlink, names: Iterable[str]) -> dict[str, LinkFact]:
    return {name: link for name in names if (link := links.find(net, name)) is not None}


def _routing(net: Netlink) -> tuple[Mapping[str, tuple[str, ...]], tuple[RouteFact, ...]]:
    return addresses.addresses(net), addresses.routes(net)


def _wired(net: Netlink) -> Wires:
    from qemunet.host import wires

    return wires.look(net)


def _forwarding_keys(names: Iterable[str]) -> Iterator[str]:
    """Yield the switches that say whether interfaces pass packets on; not every kernel has all of them."""
    yield "net.ipv6.conf.all.forwarding"
    yield "net.ipv6.conf.all.force_forwarding"
    for name in map(sysctl_name, names):
        yield f"net.ipv4.conf.{name}.forwarding"
        yield f"net.ipv6.conf.{name}.force_forwarding"


def _sysctls(keys: Iterable[str]) -> dict[str, str]:
    return {key: value for key in keys if (value := sysctls.read(key)) is not None}


@frozen
class _Entry:
    """An entry of a bridge's forwarding database."""

    mac: str
    permanent: bool
    own: bool  # the bridge's, not a port's


def _forwarding(net: Netlink, bridge: str) -> list[_Entry]:
    """Return the unicast addresses that a bridge has seen or was told of, none if there is no such bridge."""
    try:
        index = net.index(bridge)
    except OSError:
        return []
    request = nl.Request(nl.GETNEIGH, 0, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0) + nl.number(_NDA_MASTER, index))
    return [entry for body in net.dump(request) if (entry := _entry(body, index))]


def _entry(body: bytes, bridge: int) -> _Entry | None:
    _family, index, state, _flags, _type = _NDMSG.unpack_from(body)
    values = nl.attributes(body[_NDMSG.size :])
    address = values.get(_NDA_LLADDR, b"")
    if bridge not in (index, nl.integer(values.get(_NDA_MASTER, b""))) or len(address) != 6 or address[0] & 1:
        return None
    return _Entry(nl.colons(address), bool(state & _PERMANENT), index == bridge)


def _guest_mac(entry: _Entry) -> str | None:
    """Return whom a new card must not meet: everybody but the host's ends of taps (see model.mac.host_twin)."""
    twin = entry.permanent and not entry.own and entry.mac.startswith(("fe", "fa"))
    return None if twin else entry.mac


def _port_mac(entry: _Entry) -> str | None:
    return entry.mac if entry.permanent and not entry.own else None


def _files(names: Iterable[str]) -> dict[str, FileFact]:
    if not names:
        return {}
    from qemunet.host import images

    return images.look_at(sorted(names))


def _sockets(wanted: Wanted) -> dict[str, SocketFact]:
    from qemunet.host import sockets

    found = [sockets.look_at(path) for path in wanted.sockets]
    found += [sockets.look_at(path, knock=False) for path in wanted.doors]
    return {fact.path: fact for fact in found if fact is not None}


def _devices(addresses: Iterable[str]) -> dict[str, PciFact]:
    from qemunet.host import pci

    return {one: fact for one in addresses if (fact := pci.look_at(one)) is not None}


def _memlock() -> int | None:
    from qemunet.host import pci

    return pci.memlock()


def _programs(names: Iterable[str]) -> dict[str, str]:
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *_SBIN]
    return {name: path for name in names if (path := _program(name, folders)) is not None}


def _program(name: str, folders: Iterable[str]) -> str | None:
    candidates = [name] if "/" in name else [os.path.join(folder or ".", name) for folder in folders]
    return next((path for path in candidates if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def _shaping_lacks(*, impairing: bool) -> frozenset[str]:
    from qemunet.host import qdiscs

    return qdiscs.lacking() | (qdiscs.lacking_netem() if impairing else frozenset())


def _guard_lacks() -> frozenset[str]:
    from qemunet.host import nft

    return nft.guard_lacks()


def _vlans() -> bool:
    from qemunet.host import vlans

    return vlans.is_able()


def _listeners(ports: Iterable[tuple[str, str, int, int]]) -> dict[str, str]:
    from qemunet.host import complaints

    return {key: who for wanted in ports for key, who in complaints.listeners(*wanted)}


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
