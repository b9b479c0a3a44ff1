"""Puts addresses on interfaces and routes into the main table, and reads both."""

from __future__ import annotations

import errno
import socket
import struct

from qemunet.errors import Taken
from qemunet.facts import RouteFact
from qemunet.host import netlink as nl
from qemunet.host.links import Vanished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.host.netlink import Netlink
    from qemunet.steps import AddAddress, AddNeighbour, AddRoute, DelAddress, DelNeighbour, DelRoute

_MAIN, _UNICAST, _STATIC = 254, 1, 4  # rtnetlink(7): the table, the type, who made it
_GLOBAL, _ON_LINK = 0, 253  # scopes
_NODAD = 0x02
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_DST, _OIF, _GATEWAY, _PREFSRC, _MULTIPATH, _TABLE = 1, 4, 5, 7, 9, 15
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT, _NTF_PROXY = 0x80, 0x08
_IFADDRMSG = struct.Struct("=BBBBi")  # family, prefix, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NEXTHOP = struct.Struct("=HBBi")  # size, flags, hops, index
_ABSENT = (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def add_address(net: Netlink, step: AddAddress) -> None:
    """Put an address on an interface; raises Taken if that interface has it."""
    try:
        net.do(nl.Request(nl.NEWADDR, nl.CREATE | nl.EXCLUSIVE, _address(net, step)))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        raise Taken(f"{step.name} has the address {step.address} already") from error


def delete_address(net: Netlink, step: DelAddress) -> None:
    """Take an address from an interface; raises Vanished if it does not have it."""
    try:
        net.do(nl.Request(nl.DELADDR, 0, _address(net, step)))
    except OSError as error:
        raise _vanished(error) from error


def add_route(net: Netlink, step: AddRoute) -> None:
    """Add a route; raises Taken if there is one to the same destination with the same metric."""
    try:
        net.do(nl.Request(nl.NEWROUTE, nl.CREATE | nl.EXCLUSIVE, _route(net, step, step.source)))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        raise Taken(f"there is a route to {step.destination} already") from error


def delete_route(net: Netlink, step: DelRoute) -> None:
    """Delete a route; raises Vanished if it is not there."""
    try:
        net.do(nl.Request(nl.DELROUTE, 0, _route(net, step)))
    except OSError as error:
        raise _vanished(error) from error


def add_neighbour(net: Netlink, step: AddNeighbour) -> None:
    """Say where an address is found, for good; replaces what was learnt about it."""
    state = 0 if step.mac is None else _NUD_PERMANENT
    found = b"" if step.mac is None else nl.mac(_NDA_LLADDR, step.mac)
    body = _neighbour(net, step.name, step.address, state, proxy=step.mac is None)
    net.do(nl.Request(nl.NEWNEIGH, nl.CREATE | nl.REPLACE, body + found))


def delete_neighbour(net: Netlink, step: DelNeighbour) -> None:
    """Forget where an address is found; raises Vanished if that is not known."""
    try:
        net.do(nl.Request(nl.DELNEIGH, 0, _neighbour(net, step.name, step.address, 0, proxy=step.proxy)))
    except OSError as error:
        raise _vanished(error) from error


def addresses(net: Netlink) -> dict[str, tuple[str, ...]]:
    """Return the addresses of all interfaces that have any, as CIDR."""
    found: dict[str, tuple[str, ...]] = {}
    names: dict[int, str] = {}
    for body in net.dump(nl.Request(nl.GETADDR, 0, _IFADDRMSG.pack(0, 0, 0, 0, 0))):
        family, prefix, _flags, _scope, index = _IFADDRMSG.unpack_from(body)
        values = nl.attributes(body[_IFADDRMSG.size :])
        own = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
        if own is not None and family in _FAMILIES:
            name = _named(net, names, index)
            found[name] = (*found.get(name, ()), f"{socket.inet_ntop(family, own)}/{prefix}")
    return found


def routes(net: Netlink) -> tuple[RouteFact, ...]:
    """Return the routes of the main table, one for each way that a route has."""
    names: dict[int, str] = {}
    found: list[RouteFact] = []
    for wanted in _FAMILIES:
        for body in net.dump(nl.Request(nl.GETROUTE, 0, _RTMSG.pack(wanted, 0, 0, 0, 0, 0, 0, 0, 0))):
            family, size, _src, _tos, table, *_rest = _RTMSG.unpack_from(body)
            values = nl.attributes(body[_RTMSG.size :])
            if nl.integer(values.get(_TABLE, bytes([table]))) == _MAIN:
                base = f"{socket.inet_ntop(family, values[_DST])}/{size}" if _DST in values else "default"
                for index, gateway in _ways(values):
                    via = socket.inet_ntop(family, gateway) if gateway else None
                    found.append(RouteFact(base, _named(net, names, index), via))
    return tuple(found)


def _address(net: Netlink, step: AddAddress | DelAddress) -> bytes:
    family, address, prefix = _cidr(step.address)
    flags = _NODAD if family == socket.AF_INET6 else 0
    head = _IFADDRMSG.pack(family, prefix, flags, _GLOBAL, _index(net, step.name))
    return head + nl.raw(_IFA_LOCAL, address) + nl.raw(_IFA_ADDRESS, address)


def _route(net: Netlink, step: AddRoute | DelRoute, source: str | None = None) -> bytes:
    family, address, prefix = _cidr(step.destination, step.gateway or "")
    scope = _GLOBAL if step.gateway or family == socket.AF_INET6 else _ON_LINK
    head = _RTMSG.pack(family, prefix, 0, 0, _MAIN, _STATIC, scope, _UNICAST, 0)
    target = nl.raw(_DST, address) if prefix else b""
    via = nl.raw(_GATEWAY, socket.inet_pton(family, step.gateway)) if step.gateway else b""
    towards = nl.raw(_PREFSRC, socket.inet_pton(family, source)) if source else b""
    return head + target + via + towards + nl.number(_OIF, _index(net, step.name))


def _neighbour(net: Netlink, name: str, address: str, state: int, *, proxy: bool) -> bytes:
    family, packed, _prefix = _cidr(address)
    head = _NDMSG.pack(family, _index(net, name), state, _NTF_PROXY * proxy, 0)
    return head + nl.raw(_NDA_DST, packed)


def _cidr(text: str, beside: str = "") -> tuple[int, bytes, int]:
    """Return family, address and prefix length; ``default`` is of the family of the address `beside` it."""
    if text == "default":
        text = "::/0" if ":" in beside else "0.0.0.0/0"
    address, _, prefix = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return family, packed, int(prefix) if prefix else 8 * len(packed)


def _index(net: Netlink, name: str) -> int:
    try:
        return net.index(name)
    except OSError as error:
        raise _vanished(error) from error


def _ways(values: dict[int, bytes]) -> list[tuple[int, bytes | None]]:
    """Return interface index and gateway of each way of a route; a blackhole has one way, to nowhere."""
    if _MULTIPATH not in values:
        return [(nl.integer(values.get(_OIF, b"")), values.get(_GATEWAY))]
    data = values[_MULTIPATH]
    ways: list[tuple[int, bytes | None]] = []
    at = 0
    while at + _NEXTHOP.size <= len(data):
        size, _flags, _hops, index = _NEXTHOP.unpack_from(data, at)
        inner = nl.attributes(data[at + _NEXTHOP.size : at + size])
        ways.append((index, inner.get(_GATEWAY)))
        at += max(size + 3 & ~3, _NEXTHOP.size)
    return ways


def _named(net: Netlink, names: dict[int, str], index: int) -> str:
    if index not in names:
        try:
            names[index] = net.name(index) if index else ""
        except OSError:  # gone since the list was made
            names[index] = ""
    return names[index]


def _vanished(error: OSError) -> OSError:
    return Vanished(*error.args) if error.errno in _ABSENT else error
