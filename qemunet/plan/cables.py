"""Cables: what makes one and plugs it in, and that none closes a loop with what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qemunet import steps
from qemunet.errors import Taken
from qemunet.facts import Facts, LinkFact
from qemunet.model import loops, names
from qemunet.model.cable import AtHost, Cable, End, InNetns, OnSwitch
from qemunet.model.lab import Lab
from qemunet.model.network import OwnBridge
from qemunet.model.routing import Carried
from qemunet.plan import links, spaces, uplinks
from qemunet.steps import AddLink, Claim, Mark, Part, PinBridge, SetLink, SetMaster, VethLink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.steps import Step

_HINT = "pull one of them out, or give one of the networks stp = true"


def scope(cable: str) -> str:
    """Return the scope of a cable."""
    return f"cable/{cable}"


def fingerprint(cable: Cable) -> str:
    """Return what is equal for cables whose users may share one."""
    return names.digest(repr(cable), 16)


def part(cable: Cable, facts: Facts) -> Part:
    """Return the part that makes a cable, nothing if it is up. Raises Taken if a name of its ends is in use."""
    if scope(cable.name) in facts.scopes:
        return Part(scope(cable.name), (), fingerprint(cable))
    return Part(scope(cable.name), tuple(_steps(cable, facts)), fingerprint(cable))


def refuse_loops(lab: Lab, facts: Facts) -> None:
    """Raise Taken if a cable that is to be made closes a loop with others, or with veth pairs that are there."""
    there = [
        *_wires("", facts),
        *_ports(lab, facts),
        *(wire for name, one in facts.places.items() for wire in _wires(name, one)),
    ]
    ours = [end.where for cable in lab.cables for end in cable.ends if isinstance(end.where, OnSwitch)]
    stp = facts.stp | {where.key for where in ours if where.stp}
    stp |= {OnSwitch(name, netns=netns).key for netns, one in facts.places.items() for name in one.stp}
    for cable in lab.cables:
        match [end.where.key for end in cable.ends if isinstance(end.where, OnSwitch)]:
            case [one, other] if scope(cable.name) not in facts.scopes:
                wire = loops.Wire(one, other, cable.name)
                _refuse_loop(wire, there, stp)
                there.append(wire)


def _wires(netns: str, facts: Facts) -> Iterator[loops.Wire]:
    """Yield what joins bridges in a namespace."""
    for wire in facts.wires:
        one, other = (OnSwitch(bridge, netns=netns).key for bridge in wire.bridges)
        yield loops.Wire(one, other, "-".join(wire.ends) + (f", {wire.whose}" if wire.whose else ""))


def _ports(lab: Lab, facts: Facts) -> Iterator[loops.Wire]:
    """Yield what joins bridges that are not up yet with others, as one of their ports is an end of a cable there."""
    new = {
        port: OnSwitch(one.switch.ifname, one.name).key
        for one in lab.networks
        if isinstance(one.switch, OwnBridge) and links.network_scope(one.name) not in facts.scopes
        for port in one.switch.ports
    }
    for port, bridge in new.items():
        carried = facts.carried.get(port, Carried())
        if carried.beyond:
            yield loops.Wire(bridge, OnSwitch(carried.beyond).key, f"port {port}")
        elif carried.peer in new and port < carried.peer:
            yield loops.Wire(bridge, new[carried.peer], f"port {port}")


def _refuse_loop(wire: loops.Wire, there: Sequence[loops.Wire], stp: frozenset[str]) -> None:
    found = loops.closed_by(wire, there, stp)
    if found is not None:
        raise Taken(f"it closes a loop: {loops.story(found)}", where=f"cable {wire.name}", hint=_HINT)


def pull(end: End) -> tuple[Step, ...]:
    """Return what takes the carrier from both ends."""
    return (spaces.at(end.netns, SetLink(end.ifname, up=False)),)


def plug(end: End, facts: Facts) -> Iterator[Step]:
    """Yield what makes an end as it was, of which the kernel took routes and IPv6 addresses when it went down."""
    return (spaces.at(end.netns, step) for step in _lost(end, spaces.seen(end.netns, facts)))


def _lost(end: End, there: Facts) -> Iterator[Step]:
    link = there.links.get(end.ifname)
    yield from loose(end, there)
    if link is None or not link.up:
        yield SetLink(end.ifname, up=True)
    known = there.addresses.get(end.ifname, ())
    yield from (steps.AddAddress(end.ifname, one) for one in end.addresses if one not in known)
    ways = {(way.destination, way.device) for way in there.routes}
    for one in end.routes:
        if (one.destination, end.ifname) not in ways:
            yield steps.AddRoute(one.destination, end.ifname, one.gateway)


def loose(end: End, there: Facts) -> Iterator[Step]:
    """Yield what plugs an end into its bridge again, if that is there and the end is on none."""
    link, where = there.links.get(end.ifname), end.where
    bridge = _bridge(where.bridge, there) if isinstance(where, OnSwitch) else None
    if link is None or link.master is not None or bridge is None or bridge.kind != "bridge":
        return
    if not uplinks.is_ours(bridge):
        yield from links.pin(bridge, end.mac, there)
    yield from _plugged(end, bridge.name)


def _plugged(end: End, bridge: str) -> Iterator[Step]:
    yield SetMaster(end.ifname, bridge)
    if end.vlans is not None:
        yield steps.SetVlans(end.ifname, end.vlans)


# ---------------------------------------------------------------- parts of a cable


def _steps(cable: Cable, facts: Facts) -> Iterator[Step]:
    own, group = scope(cable.name), names.group(facts.runtime, scope(cable.name))
    for end, part_name in ((cable.a, "a"), (cable.b, "b")):
        mark = Mark(own, part_name, group)
        links.refuse_taken(end.ifname, mark, spaces.seen(end.netns, facts), f"cable {cable.name}")
    used = (
        *(links.network_scope(name) for name in cable.networks),
        *(spaces.scope(name) for name in cable.namespaces),
    )
    yield from (Claim(f"{facts.runtime}/{one}/users/{cable.name}..cable", own) for one in used)
    for end in cable.ends:
        yield from _pin(end, cable, facts)
    yield _made(cable, group)
    for end in cable.ends:
        yield from (spaces.at(end.netns, step) for step in _settings(end))
    for end in sorted(cable.ends, key=lambda end: isinstance(end.where, OnSwitch)):  # nobody is there before all is
        yield spaces.at(end.netns, SetLink(end.ifname, up=True))
        for one in end.routes:
            yield spaces.at(end.netns, steps.AddRoute(one.destination, end.ifname, one.gateway))


def _made(cable: Cable, group: int) -> Step:
    """Return what makes both ends, each where it belongs: from the host's side, if one of them is there."""
    (near, side), (far, beyond) = sorted(((cable.a, "a"), (cable.b, "b")), key=lambda pair: bool(pair[0].netns))
    peer = far.netns if far.netns != near.netns else ""
    link = VethLink(far.ifname, near.mac, far.mac, cable.mtu, beyond, peer)
    return spaces.at(near.netns, AddLink(near.ifname, link, Mark(scope(cable.name), side, group)))


def _pin(end: End, cable: Cable, facts: Facts) -> Iterator[Step]:
    """Yield what keeps somebody else's bridge as it is."""
    where = end.where
    link = _bridge(where.bridge, facts) if isinstance(where, OnSwitch) and not where.netns else None
    if link is None or uplinks.is_ours(link):
        return
    if cable.mtu < link.mtu:
        yield PinBridge(link.name, link.mac, link.mtu)
    else:
        yield from links.pin(link, end.mac, facts)


def _bridge(name: str, facts: Facts) -> LinkFact | None:
    return next((link for link in facts.links.values() if link.name == name), None)


def _settings(end: End) -> Iterator[Step]:
    """Yield what an end is before it goes up. A host without an IPv6 address there shows no link-local one either."""
    if not isinstance(end.where, AtHost | InNetns) or not any(":" in one for one in end.addresses):
        yield steps.SetSysctl(links.ipv6(end.ifname, "disable_ipv6"), "1")
    else:
        yield from (steps.SetSysctl(links.ipv6(end.ifname, key), "0") for key in ("accept_ra", "autoconf"))
    if isinstance(end.where, OnSwitch):
        yield from _plugged(end, end.where.bridge)
    yield from (steps.AddAddress(end.ifname, address) for address in end.addresses)
