"""Makes, finds, changes and deletes interfaces by netlink; nothing that is not marked as ours is ever deleted."""

from __future__ import annotations

import errno
import struct

from qemunet.errors import Gone, Taken
from qemunet.facts import LinkFact, TunFact
from qemunet.frozen import frozen
from qemunet.host import netlink as nl
from qemunet.model.names import is_ifname
from qemunet.model.nic import MacvtapMode
from qemunet.steps import BridgeLink, IfbLink, MacvlanLink, MacvtapLink, VethLink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.host.netlink import Netlink
    from qemunet.steps import AddLink, DelGroup, DelLink, Mark, PinBridge, SetCarrier, SetLink, SetMaster, SetPort

ADDRESS, IFNAME, MTU, LINK, MASTER, LINKINFO, GROUP = 1, 3, 4, 5, 10, 18, 27
_EXT_MASK, _CARRIER, _PROP_LIST, _ALT_IFNAME = 29, 33, 52, 53
_INFO_KIND, _INFO_DATA = 1, 2
_BR_VLAN_FILTERING = 7
_BR_FORWARD_DELAY, _BR_AGEING, _BR_STP = 1, 4, 5
_BR_OPTIONS, _NO_LINKLOCAL_LEARN = 46, 1
_MACVLAN_MODE = 1
_VETH_PEER = 1
_TUN, _TYPE_TAP = b"tun\0", 2
_TUN_OWNER, _TUN_GROUP, _TUN_TYPE, _TUN_PI, _TUN_VNET_HDR, _TUN_MANY, _TUN_USED = 1, 2, 3, 4, 5, 7, 8  # IFLA_TUN_*
_AF_BRIDGE, _PROTINFO, _PORT_ISOLATED = 7, 12, 33
_NET_NS_FD = 28
_SKIP_STATS = 8
UP = 1
OURS = 0x4000_0000  # link groups from here up are derived from scopes (model.names.group)

_MODES = {
    MacvtapMode.PRIVATE: 1,
    MacvtapMode.VEPA: 2,
    MacvtapMode.BRIDGE: 4,
    MacvtapMode.PASSTHRU: 8,
}
_OPTIONS = struct.Struct("=II")  # struct br_boolopt_multi: values, and which of them are meant
WITHOUT_STATISTICS = nl.number(_EXT_MASK, _SKIP_STATS)
_INFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, device type, index, flags, change


class Vanished(Gone, OSError):
    """What should be changed is not there: an error on the way there, as good as done on the way back."""


def ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """Return a struct ifinfomsg."""
    return _INFO.pack(0, 0, index, flags, change)


# ---------------------------------------------------------------- finding


def find(net: Netlink, name: str) -> LinkFact | None:
    """Return the interface of that name or alternative name, or None."""
    key = nl.text(IFNAME if len(name.encode()) <= 15 else _ALT_IFNAME, name)
    try:
        body = net.ask(nl.Request(nl.GETLINK, 0, ifinfo() + key + nl.number(_EXT_MASK, _SKIP_STATS)))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return parse(net, body)


def find_index(net: Netlink, index: int) -> LinkFact:
    """Return the interface of that index; raises OSError (ENODEV)."""
    return parse(net, net.ask(nl.Request(nl.GETLINK, 0, ifinfo(index) + WITHOUT_STATISTICS)))


def everything(net: Netlink) -> list[LinkFact]:
    """Return all interfaces; what that costs grows with the host."""
    request = nl.Request(nl.GETLINK, 0, ifinfo() + nl.number(_EXT_MASK, _SKIP_STATS))
    return [parse(net, body) for body in net.dump(request)]


def parse(net: Netlink, body: bytes) -> LinkFact:
    """Return the interface that an RTM_NEWLINK message describes."""
    _family, _type, index, flags, _change = _INFO.unpack_from(body)
    values = nl.attributes(body[_INFO.size :])
    info = nl.attributes(values.get(LINKINFO, b""))
    kind = nl.string(info.get(_INFO_KIND, b""))
    names = nl.each_attribute(values.get(_PROP_LIST, b""))
    return LinkFact(
        index=index,
        name=nl.string(values[IFNAME]),
        kind=kind,
        mac=nl.colons(values.get(ADDRESS, b"")),
        mtu=nl.integer(values[MTU]),
        up=bool(flags & UP),
        master=_name(net, nl.integer(values[MASTER])) if MASTER in values else None,
        group=nl.integer(values.get(GROUP, b"")),
        altnames=tuple(nl.string(value) for kind, value in names if kind == _ALT_IFNAME),
        vlan_filtering=kind == "bridge" and _filters(info.get(_INFO_DATA, b"")),
        tun=_tun(info.get(_INFO_DATA, b"")) if info.get(_INFO_KIND, b"") == _TUN else None,
    )


def _tun(data: bytes) -> TunFact:
    values = {kind: nl.integer(value[:4].ljust(4, b"\0")) for kind, value in nl.attributes(data).items()}
    return TunFact(
        tap=values.get(_TUN_TYPE, _TYPE_TAP) == _TYPE_TAP,
        pi=bool(values.get(_TUN_PI)),
        vnet_hdr=bool(values.get(_TUN_VNET_HDR, 1)),
        many=bool(values.get(_TUN_MANY)),
        used=values.get(_TUN_USED, 0),
        owner=values.get(_TUN_OWNER),
        group=values.get(_TUN_GROUP),
    )


def _filters(data: bytes) -> bool:
    """Tell whether a bridge tells VLANs apart."""
    return any(nl.attributes(data).get(_BR_VLAN_FILTERING, b""))


def is_ours(link: LinkFact, mark: Mark) -> bool:
    """Tell whether a link carries the mark. The altname may be missing: it is the second of two messages."""
    readable = [name for name in link.altnames if name.startswith("qemunet.")]
    return link.group == mark.group >= OURS and (not readable or mark.altname in readable)


def holder(link: LinkFact | None, name: str) -> str:
    """Say what has a name that was free a moment ago."""
    return link.describe(name) if link else f"{name} is in use"


def _name(net: Netlink, index: int) -> str | None:
    try:
        return net.name(index)
    except OSError:  # gone since the answer was made, or in another namespace
        return None


# ---------------------------------------------------------------- making


@frozen
class Beyond:
    """Another namespace, in which the other end of a cable is made: a socket there, and a descriptor of it."""

    net: Netlink
    fd: int


def add(net: Netlink, step: AddLink, beyond: Beyond | None = None) -> None:
    """Make an interface with its mark, both ends of a cable. Raises Taken if a name is; then nothing was made."""
    for name, _ in step.ends:
        check_name(name)
    nets = (net, beyond.net if beyond else net)
    try:
        net.do(nl.Request(nl.NEWLINK, nl.CREATE | nl.EXCLUSIVE, ifinfo() + _creation(net, step, beyond)))
    except OSError as error:
        raise _refusal(nets, step, error) from error
    try:
        for where, (name, mark) in zip(nets, step.ends, strict=False):
            where.do(altname(name, mark))
        net.do(*_afterwards(step))
    except OSError as error:
        net.do(nl.Request(nl.DELLINK, 0, ifinfo() + nl.text(IFNAME, step.name)))
        if error.errno == errno.EEXIST:
            raise _taken(nets, [mark.altname for _, mark in step.ends]) from error
        raise


def check_name(name: str) -> None:
    """Raise OSError (EINVAL) for what is no name: the kernel takes an empty one or a ``%d`` as leave to choose."""
    if not is_ifname(name):
        raise OSError(errno.EINVAL, f"{name!r} cannot be the name of an interface")


def altname(name: str, mark: Mark) -> nl.Request:
    """Return the request for the readable half of a mark; no message that creates a link can carry it."""
    properties = nl.nested(_PROP_LIST, nl.text(_ALT_IFNAME, mark.altname))
    body = ifinfo() + nl.text(IFNAME, name) + properties
    return nl.Request(nl.NEWLINKPROP, nl.CREATE | nl.EXCLUSIVE | nl.APPEND, body)


def _creation(net: Netlink, step: AddLink, beyond: Beyond | None) -> bytes:
    base = nl.text(IFNAME, step.name) + nl.number(GROUP, step.mark.group)
    match step.link:
        case BridgeLink(mac=mac, mtu=mtu):
            # An MTU counts as chosen, and is not lowered by a port, only if setting it changes it (see _afterwards).
            return base + nl.mac(ADDRESS, mac) + nl.number(MTU, mtu ^ 1) + _bridge(step.link)
        case MacvtapLink(parent=parent, mode=mode, mac=mac, mtu=mtu):
            own = b"" if mode is MacvtapMode.PASSTHRU else nl.mac(ADDRESS, mac)
            return base + nl.number(LINK, net.index(parent)) + nl.number(MTU, mtu) + own + _macvlan("macvtap", mode)
        case MacvlanLink(parent=parent, mac=mac, mtu=mtu):
            on = nl.number(LINK, net.index(parent)) + nl.number(MTU, mtu) + nl.mac(ADDRESS, mac)
            return base + on + _macvlan("macvlan", MacvtapMode.BRIDGE)
        case IfbLink(mac=mac, mtu=mtu):
            kind = nl.nested(LINKINFO, nl.text(_INFO_KIND, "ifb"))
            return base + nl.number(MTU, mtu) + nl.mac(ADDRESS, mac) + kind
        case VethLink(mac=mac, mtu=mtu):
            return base + nl.number(MTU, mtu) + nl.mac(ADDRESS, mac) + _veth(step.link, step.mark.group, beyond)


def _veth(link: VethLink, group: int, beyond: Beyond | None) -> bytes:
    """The other end in the same message, with its own part of the mark: one end is never there alone."""
    other = nl.text(IFNAME, link.peer) + nl.number(GROUP, group) + nl.number(MTU, link.mtu)
    where = nl.number(_NET_NS_FD, beyond.fd) if beyond else b""
    peer = nl.nested(_VETH_PEER, ifinfo(), other, nl.mac(ADDRESS, link.peer_mac), where)
    return nl.nested(LINKINFO, nl.text(_INFO_KIND, "veth"), nl.nested(_INFO_DATA, peer))


def _macvlan(kind: str, mode: MacvtapMode) -> bytes:
    data = nl.nested(_INFO_DATA, nl.number(_MACVLAN_MODE, _MODES[mode]))
    return nl.nested(LINKINFO, nl.text(_INFO_KIND, kind), data)


def _bridge(link: BridgeLink) -> bytes:
    """The kernel takes these in this order: with STP on it would refuse a short delay, so it gets the delay before.

    What switches say to each other passes no rule of a guard, and would teach the bridge any address.
    """
    data = nl.nested(
        _INFO_DATA,
        nl.number(_BR_FORWARD_DELAY, link.forward_delay * 100),
        nl.number(_BR_AGEING, link.ageing * 100),
        nl.number(_BR_STP, int(link.stp)),
        nl.raw(_BR_OPTIONS, _OPTIONS.pack(_NO_LINKLOCAL_LEARN, _NO_LINKLOCAL_LEARN)),
    )
    return nl.nested(LINKINFO, nl.text(_INFO_KIND, "bridge"), data)


def _afterwards(step: AddLink) -> tuple[nl.Request, ...]:
    if isinstance(step.link, BridgeLink):
        return (nl.Request(nl.NEWLINK, 0, ifinfo() + nl.text(IFNAME, step.name) + nl.number(MTU, step.link.mtu)),)
    return ()


def _refusal(nets: tuple[Netlink, Netlink], step: AddLink, error: OSError) -> Exception:
    """Say who stands in the way."""
    if error.errno == errno.EEXIST:
        return _taken(nets, [name for name, _ in step.ends])
    net = nets[0]
    if isinstance(step.link, MacvtapLink | MacvlanLink) and error.errno in (errno.EBUSY, errno.EINVAL):
        parent = find(net, step.link.parent)
        mode = step.link.mode if isinstance(step.link, MacvtapLink) else MacvtapMode.BRIDGE
        if parent is not None and parent.master:
            return Taken(f"{parent.name} cannot carry a macvtap: it is a port of {parent.master}")
        others = _on_parent(net, parent)
        if others:
            return Taken(
                f"{step.link.parent} cannot carry a macvtap in mode {mode} beside {', '.join(others)}",
                hint="mode passthru needs the parent for itself; bridge, vepa and private go together",
            )
    return error


def _taken(nets: tuple[Netlink, Netlink], names: list[str]) -> Taken:
    """Say what has one of these names, each where its end is."""
    pairs = list(zip(nets, names, strict=False))
    found = next(((link, name) for net, name in pairs if (link := find(net, name))), (None, names[0]))
    return Taken(holder(*found))


def _on_parent(net: Netlink, parent: LinkFact | None) -> list[str]:
    """Return the names of the macvlans and macvtaps on an interface."""
    found = []
    for body in net.dump(nl.Request(nl.GETLINK, 0, ifinfo() + nl.number(_EXT_MASK, _SKIP_STATS))):
        values = nl.attributes(body[_INFO.size :])
        kind = nl.string(nl.attributes(values.get(LINKINFO, b"")).get(_INFO_KIND, b""))
        if parent and kind in ("macvlan", "macvtap") and nl.integer(values.get(LINK, b"")) == parent.index:
            found.append(nl.string(values[IFNAME]))
    return found


# ---------------------------------------------------------------- changing


def change(net: Netlink, step: SetLink) -> None:
    """Set properties of an interface. Raises Vanished if it is not there, Taken if another card has its address."""
    properties = b"" if step.mac is None else nl.mac(ADDRESS, step.mac)
    properties += b"" if step.mtu is None else nl.number(MTU, step.mtu)
    flags, mask = (0, 0) if step.up is None else (UP * step.up, UP)
    try:
        _set(net, step.name, properties, flags, mask)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or properties:  # with properties, half of it may be done
            raise
        raise Taken(f"{step.name} cannot go up: its address is in use on the same parent") from error


def enslave(net: Netlink, step: SetMaster) -> None:
    """Plug an interface into a bridge or out of it. Raises Vanished if one of them is not there."""
    try:
        master = net.index(step.master) if step.master else 0
    except OSError as error:
        raise _vanished(error) from error
    _set(net, step.name, nl.number(MASTER, master))


def pin(net: Netlink, step: PinBridge) -> None:
    """Set the address that a bridge has, and the MTU: what was set once is not taken from a port any more."""
    link = find(net, step.name)
    if link is None:
        raise Vanished(errno.ENODEV, f"there is no interface {step.name}")
    _set(net, step.name, nl.mac(ADDRESS, link.mac))
    if step.mtu == link.mtu:
        for mtu in (link.mtu ^ 1, link.mtu):  # see _creation
            _set(net, step.name, nl.number(MTU, mtu))


def set_port(net: Netlink, step: SetPort) -> None:
    """Keep a port apart from others of its bridge or not. Raises Vanished if it is not there, or no port."""
    try:
        body = _INFO.pack(_AF_BRIDGE, 0, net.index(step.name), 0, 0)
        net.do(nl.Request(nl.SETLINK, 0, body + nl.nested(_PROTINFO, nl.raw(_PORT_ISOLATED, bytes((step.isolated,))))))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise Vanished(error.errno, f"{step.name} is no port of a bridge") from error
        raise _vanished(error) from error


def set_carrier(net: Netlink, step: SetCarrier) -> None:
    """Plug a tap's cable in or out, as the host sees it. Raises Vanished if it is not there."""
    _set(net, step.name, nl.raw(_CARRIER, bytes((step.on,))))


def _set(net: Netlink, name: str, properties: bytes, flags: int = 0, mask: int = 0) -> None:
    try:
        net.do(nl.Request(nl.NEWLINK, 0, ifinfo(net.index(name), flags, mask) + properties))
    except OSError as error:
        raise _vanished(error) from error


def _vanished(error: OSError) -> OSError:
    return Vanished(*error.args) if error.errno == errno.ENODEV else error


# ---------------------------------------------------------------- deleting


def delete(net: Netlink, step: DelLink) -> None:
    """Delete a link of ours; raises Vanished if there is none."""
    link = find(net, step.name)
    if link is None or not is_ours(link, step.mark):
        link = find(net, step.mark.altname)  # somebody may have renamed it
    if link is None or not is_ours(link, step.mark):
        raise Vanished(errno.ENODEV, f"there is no {step.name} of {step.mark.scope}")
    _delete(net, ifinfo(link.index))


def delete_group(net: Netlink, step: DelGroup) -> None:
    """Delete the links of a scope: in one message if the group holds nothing else. Raises Vanished if none is there."""
    group = step.links[0].mark.group
    members = [link for link in everything(net) if link.group == group]
    expected = {link.mark.altname for link in step.links}
    if members and group >= OURS and all(expected.intersection(link.altnames) for link in members):
        _delete(net, ifinfo() + nl.number(GROUP, group))
        return
    gone = [_already_gone(net, link) for link in step.links]
    if all(gone):
        raise Vanished(errno.ENODEV, f"nothing of group {group:#x} is there")


def _already_gone(net: Netlink, link: DelLink) -> bool:
    try:
        delete(net, link)
    except Vanished:
        return True
    return False


def _delete(net: Netlink, body: bytes) -> None:
    try:
        net.do(nl.Request(nl.DELLINK, 0, body))
    except OSError as error:
        raise _vanished(error) from error
