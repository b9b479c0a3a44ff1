"""Sees which bridges of a network namespace are joined by veth pairs, and which of those have a spanning tree."""

from __future__ import annotations

import struct
import typing

from qemunet.facts import WireFact
from qemunet.frozen import frozen
from qemunet.host import links
from qemunet.host import netlink as nl

if typing.TYPE_CHECKING:
    from qemunet.facts import LinkFact
    from qemunet.host.netlink import Netlink

_NETNSID = 37  # IFLA_LINK_NETNSID: the other end is in another namespace
_INFO_DATA, _BR_STP = 2, 5
_HEAD = struct.calcsize("=BxHiII")  # struct ifinfomsg


@frozen
class Wires:
    """The veth pairs of which both ends are ports here, and the bridges with a spanning tree."""

    wires: tuple[WireFact, ...]
    stp: frozenset[str]


def look(net: Netlink) -> Wires:
    """Look at all interfaces, whoever made them."""
    ports: dict[int, tuple[LinkFact, int]] = {}
    stp = set()
    for body in net.dump(nl.Request(nl.GETLINK, 0, links.ifinfo())):
        values, link = nl.attributes(body[_HEAD:]), links.parse(net, body)
        if link.kind == "bridge" and _has_stp(values):
            stp.add(link.name)
        if link.kind == "veth" and link.master and _NETNSID not in values:
            ports[link.index] = link, nl.integer(values.get(links.LINK, b""))
    pairs = ((one, ports[other][0]) for one, other in ports.values() if one.index < other and other in ports)
    return Wires(tuple(_wire(*pair) for pair in pairs), frozenset(stp))


def _wire(one: LinkFact, other: LinkFact) -> WireFact:
    marks = [name for end in (one, other) for name in end.altnames if name.startswith("qemunet.")]
    return WireFact((one.master or "", other.master or ""), (one.name, other.name), marks[0] if marks else "")


def _has_stp(values: dict[int, bytes]) -> bool:
    data = nl.attributes(nl.attributes(values[links.LINKINFO]).get(_INFO_DATA, b""))
    return nl.integer(data.get(_BR_STP, b"")) != 0
