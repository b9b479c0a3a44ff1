"""Reads addresses, routes and policy rules with all that belongs to them, and writes the first two (rtnetlink(7))."""

from __future__ import annotations

import socket
import struct
import time
import typing

from qemunet.host import links
from qemunet.host import netlink as nl
from qemunet.model.routing import BY_KERNEL, CHOSEN, LOCAL, Carried, IpAddress, IpRoute, Way
from qemunet.steps.ports import OPTIONS

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qemunet.host.netlink import Netlink

_IFADDRMSG = struct.Struct("=BBBBi")  # family, prefix, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_NEXTHOP = struct.Struct("=HBBi")  # size, flags, hops, index
_ADDRESS, _LOCAL, _LABEL, _BROADCAST, _CACHEINFO, _FLAGS, _PRIORITY, _ORIGIN = 1, 2, 3, 4, 6, 8, 9, 11
_DST, _SRC, _OIF, _GATEWAY, _METRIC, _PREFSRC, _METRICS, _MULTIPATH = 1, 2, 4, 5, 6, 7, 8, 9
_CACHE, _TABLE, _VIA, _PREFERENCE, _EXPIRES = 12, 15, 18, 20, 23
_KNOWN = {_DST, _SRC, _OIF, _GATEWAY, _METRIC, _PREFSRC, _METRICS, _MULTIPATH, _CACHE, _TABLE, _VIA, _PREFERENCE}
_ALIEN = {21: "an encapsulation", 22: "an encapsulation", 30: "a nexthop object"}
_PERMANENT, _TEMPORARY = 0x80, 0x01
_ONLINK, _CLONED = 4, 0x200
_TICKS = 100  # USER_HZ: a second in what the kernel tells
_NEVER = 0xFFFF_FFFF
_GETRULE = 34
_FRA_IIF, _FRA_OIF = 3, 17
_LINK_NETNS = 37
_STACKED = ("macvlan", "macvtap", "ipvlan", "ipvtap")  # what takes all that arrives below it, as a bridge would
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def carried(net: Netlink, names: Iterable[str]) -> dict[str, Carried]:
    """Return what each of these interfaces carries, by its own name, without those that are not there."""
    found: dict[str, Carried] = {}
    for name in sorted(names):
        link = links.find(net, name)
        if link is not None:
            routes = list(_routes(net, link.index))
            peer = _peer(net, link.index) if link.kind == "veth" else None
            found[link.name] = Carried(
                addresses=tuple(one for where, one in addresses(net) if where == link.name),
                routes=tuple(one for one in routes if isinstance(one, IpRoute)),
                stuck=tuple(one for one in routes if isinstance(one, str)),
                rules=tuple(_rules(net, link.name)),
                above=tuple(above(net, link.index)),
                peer=peer[0] if peer else "",
                beyond=peer[1] if peer else "",
            )
    return found


def above(net: Netlink, index: int) -> Iterator[str]:
    """Yield the names of the macvlans and the like on an interface."""
    for body in net.dump(nl.Request(nl.GETLINK, 0, links.ifinfo() + links.WITHOUT_STATISTICS)):
        values = nl.attributes(body[16:])
        if nl.integer(values.get(links.LINK, b"")) == index and _LINK_NETNS not in values:
            link = links.parse(net, body)
            if link.kind in _STACKED:
                yield link.name


def _peer(net: Netlink, index: int) -> tuple[str, str] | None:
    """Return the other end of a cable and the bridge that it is in, None if it is elsewhere."""
    body = net.ask(nl.Request(nl.GETLINK, 0, links.ifinfo(index) + links.WITHOUT_STATISTICS))
    values = nl.attributes(body[16:])
    if links.LINK not in values or _LINK_NETNS in values:
        return None
    other = links.find_index(net, nl.integer(values[links.LINK]))
    return other.name, other.master or ""


# ---------------------------------------------------------------- addresses


def addresses(net: Netlink) -> Iterator[tuple[str, IpAddress]]:
    """Yield every address with the interface that has it, but those that the kernel makes for a while (RFC 8981)."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    for body in net.dump(nl.Request(nl.GETADDR, 0, _IFADDRMSG.pack(0, 0, 0, 0, 0))):
        family, prefix, flags, scope, index = _IFADDRMSG.unpack_from(body)
        values = nl.attributes(body[_IFADDRMSG.size :])
        flags = nl.integer(values[_FLAGS]) if _FLAGS in values else flags
        if family not in _FAMILIES or (family == socket.AF_INET6 and flags & _TEMPORARY):
            continue
        try:
            name = net.name(index)
        except OSError:  # gone since the list was made
            continue
        own, other = values.get(_LOCAL, values.get(_ADDRESS, b"")), values.get(_ADDRESS, b"")
        label = nl.string(values.get(_LABEL, b""))
        preferred, valid = struct.unpack_from("=II", values.get(_CACHEINFO, b"\xff" * 8))
        yield (
            name,
            IpAddress(
                address=f"{socket.inet_ntop(family, own)}/{prefix}",
                peer=None if other == own else socket.inet_ntop(family, other),
                broadcast=socket.inet_ntop(family, values[_BROADCAST]) if _BROADCAST in values else None,
                label="" if label == name else label,
                scope=scope,
                flags=flags & CHOSEN,
                valid=_until(valid, now),
                preferred=_until(preferred, now),
                origin=nl.integer(values.get(_ORIGIN, b"")),
                metric=nl.integer(values.get(_PRIORITY, b"")),
            ),
        )


def _until(seconds: int, now: float) -> int | None:
    return None if seconds == _NEVER else int(now) + seconds


def address_body(address: IpAddress, index: int, more: int = 0) -> bytes:
    """Return the message about an address of an interface; `more` are flags, for IPv6 only."""
    plain, _, prefix = address.address.partition("/")
    family = socket.AF_INET6 if ":" in plain else socket.AF_INET
    flags = address.flags | (more if family == socket.AF_INET6 else 0)
    body = _IFADDRMSG.pack(family, int(prefix), flags & 0xFF, address.scope, index)
    body += nl.raw(_LOCAL, socket.inet_pton(family, plain))
    body += nl.raw(_ADDRESS, socket.inet_pton(family, address.peer or plain)) + nl.number(_FLAGS, flags)
    body += nl.raw(_BROADCAST, socket.inet_pton(family, address.broadcast)) if address.broadcast else b""
    body += nl.text(_LABEL, address.label) if address.label else b""
    body += nl.number(_PRIORITY, address.metric) if address.metric else b""
    body += nl.raw(_ORIGIN, bytes((address.origin,))) if address.origin else b""
    if address.valid is not None or address.preferred is not None:
        now = _now()  # once: the kernel refuses an address that is preferred for longer than it is valid
        body += nl.raw(_CACHEINFO, struct.pack("=IIII", _left(address.preferred, now), _left(address.valid, now), 0, 0))
    return body


def _left(until: int | None, now: int) -> int:
    return _NEVER if until is None else max(0, until - now)


def _now() -> int:
    """Return how many seconds ago the kernel began."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


# ---------------------------------------------------------------- routes


def through(net: Netlink, index: int) -> Iterator[IpRoute]:
    """Yield the routes through an interface that can be moved."""
    yield from (one for one in _routes(net, index) if isinstance(one, IpRoute))


def _routes(net: Netlink, index: int) -> Iterator[IpRoute | str]:
    """Yield the routes through an interface, but those that the kernel makes of its own; as text what cannot be moved.

    An IPv6 route with several ways is yielded for those through the interface, each of which is a route of its own.
    """
    for wanted in _FAMILIES:
        for body in net.dump(nl.Request(nl.GETROUTE, 0, _RTMSG.pack(wanted, 0, 0, 0, 0, 0, 0, 0, 0))):
            family, _, _, _, _, _, _, _, flags = _RTMSG.unpack_from(body)
            values = nl.attributes(body[_RTMSG.size :])
            if family != wanted or flags & _CLONED:
                continue
            ways = list(_ways(net, family, values, flags))
            if any(way.index == index for way in ways):
                yield from _route(body, values, ways, index)


def _route(body: bytes, values: dict[int, bytes], ways: list[Way], index: int) -> Iterator[IpRoute | str]:
    family, size, source_size, tos, table, protocol, scope, kind, _flags = _RTMSG.unpack_from(body)
    table = nl.integer(values[_TABLE]) if _TABLE in values else table
    base = socket.inet_ntop(family, values.get(_DST, bytes(4 if family == socket.AF_INET else 16)))
    destination = f"{base}/{size}"
    if protocol == BY_KERNEL and (table == LOCAL or destination.startswith(("fe80::/", "ff00::/"))):
        return
    options = [(number, value) for number, value in nl.each_attribute(values.get(_METRICS, b""))]
    alien = [_ALIEN.get(number, f"attribute {number}") for number in sorted(values.keys() - _KNOWN)]
    alien += ["options that are not understood"] * any(n not in OPTIONS or len(v) != 4 for n, v in options)
    if alien:
        yield f"the route to {destination} in table {table} has {alien[0]}"
        return
    sender = f"{_text(family, values, _SRC)}/{source_size}" if source_size else None
    for several in [ways] if family == socket.AF_INET else [[way] for way in ways if way.index == index]:
        yield IpRoute(
            destination=destination,
            ways=tuple(several),
            table=table,
            protocol=protocol,
            scope=scope,
            kind=kind,
            tos=tos,
            metric=nl.integer(values.get(_METRIC, b"")),
            source=_text(family, values, _PREFSRC),
            sender=sender,
            preference=values[_PREFERENCE][0] if _PREFERENCE in values else None,
            options=tuple((number, nl.integer(value)) for number, value in options),
            expires=_expires(values.get(_CACHE, b"")),
        )


def _text(family: int, values: dict[int, bytes], kind: int) -> str | None:
    return socket.inet_ntop(family, values[kind]) if kind in values else None


def _expires(cache: bytes) -> int | None:
    """Return when a route is over (struct rta_cacheinfo), None for never."""
    ticks = struct.unpack_from("=IIi", cache)[2] if len(cache) >= 12 else 0
    return _now() + max(1, ticks // _TICKS) if ticks else None


def _ways(net: Netlink, family: int, values: dict[int, bytes], flags: int) -> Iterator[Way]:
    data, at = values.get(_MULTIPATH, b""), 0
    if not data and _OIF in values:
        yield _way(net, family, nl.integer(values[_OIF]), values, 1, flags)
    while at + _NEXTHOP.size <= len(data):
        size, own, hops, index = _NEXTHOP.unpack_from(data, at)
        yield _way(net, family, index, nl.attributes(data[at + _NEXTHOP.size : at + size]), hops + 1, own)
        at += max(size + 3 & ~3, _NEXTHOP.size)


def _way(net: Netlink, family: int, index: int, values: dict[int, bytes], weight: int, flags: int) -> Way:
    gateway = socket.inet_ntop(family, values[_GATEWAY]) if _GATEWAY in values else None
    if _VIA in values:
        other = nl.integer(values[_VIA][:2])
        gateway = socket.inet_ntop(other, values[_VIA][2:])
    try:
        name = net.name(index)
    except OSError:  # gone since the list was made
        name = ""
    return Way(name, index, gateway, weight, bool(flags & _ONLINK))


def route_body(route: IpRoute, index_of: Callable[[Way], int]) -> bytes:
    """Return the message about a route; `index_of` finds the interface of a way."""
    family = socket.AF_INET6 if ":" in route.destination else socket.AF_INET
    several = len(route.ways) > 1 or any(way.weight > 1 for way in route.ways)
    onlink = _ONLINK if not several and any(way.onlink for way in route.ways) else 0
    base, _, size = route.destination.partition("/")
    sender, _, sender_size = (route.sender or "/0").partition("/")
    table = route.table if route.table < 256 else 0
    numbers = (family, int(size), int(sender_size), route.tos, table, route.protocol, route.scope, route.kind, onlink)
    body = _RTMSG.pack(*numbers) + nl.number(_TABLE, route.table)
    for kind, text in ((_DST, base if int(size) else ""), (_SRC, sender), (_PREFSRC, route.source)):
        body += nl.raw(kind, socket.inet_pton(family, text)) if text else b""
    body += nl.number(_METRIC, route.metric) if route.metric else b""
    body += nl.raw(_PREFERENCE, bytes((route.preference,))) if route.preference is not None else b""
    body += nl.nested(_METRICS, *(nl.number(*one) for one in route.options)) if route.options else b""
    body += nl.number(_EXPIRES, _left(route.expires, _now())) if route.expires is not None else b""
    if several:
        return body + nl.raw(_MULTIPATH, b"".join(_hop(family, way, index_of(way)) for way in route.ways))
    return body + b"".join(_gateway(family, way) + nl.number(_OIF, index_of(way)) for way in route.ways)


def _hop(family: int, way: Way, index: int) -> bytes:
    inner = _gateway(family, way)
    return _NEXTHOP.pack(_NEXTHOP.size + len(inner), _ONLINK * way.onlink, way.weight - 1, index) + inner


def _gateway(family: int, way: Way) -> bytes:
    if way.gateway is None:
        return b""
    other = socket.AF_INET6 if ":" in way.gateway else socket.AF_INET
    packed = socket.inet_pton(other, way.gateway)
    return nl.raw(_GATEWAY, packed) if other == family else nl.raw(_VIA, struct.pack("=H", other) + packed)


# ---------------------------------------------------------------- policy rules


def _rules(net: Netlink, name: str) -> Iterator[str]:
    """Yield the policy rules (ip-rule(8)) that name an interface."""
    for family in _FAMILIES:
        for body in net.dump(nl.Request(_GETRULE, 0, struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0))):
            values = nl.attributes(body[12:])
            priority = nl.integer(values.get(6, b""))
            for word, kind in (("iif", _FRA_IIF), ("oif", _FRA_OIF)):
                if body[0] == family and nl.string(values.get(kind, b"")) == name:
                    yield f"{priority}: {word} {name}"
