"""Which steps of a network are to be done again when somebody has deleted its bridge."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from qemunet.facts import Facts, LinkFact
from qemunet.plan import links, uplinks
from qemunet.steps import (
    AddAddress,
    AddLink,
    AddRoute,
    PlugPort,
    PutAddress,
    PutRoute,
    SetLink,
    SetMaster,
    SetOffload,
    SetPort,
    SetSysctl,
    Step,
    sysctl_name,
)


def missing(steps: Iterable[Step], bridge: str, facts: Facts) -> Iterator[Step]:
    """Yield those of a network's steps that make its bridge as it was, on a host where it is not, or is half made.

    What went with it is done again: interfaces, their settings and addresses, and who was plugged into it. Tables,
    files and programs are still there.
    """
    again = {bridge}
    for step in steps:
        if isinstance(step, AddLink) and step.name not in facts.links:
            again |= {name for name, _ in step.ends}
            yield step
        elif _belongs(step, again) and not (isinstance(step, AddAddress) and _has(step, facts)):
            yield step


def _belongs(step: Step, again: Collection[str]) -> bool:
    """Tell whether what a step has done went with one of these interfaces."""
    match step:
        case SetMaster(name=name, master=master) | PlugPort(name=name, bridge=master):
            return name in again or master in again
        case PutRoute(route=route):
            return any(way.device in again for way in route.ways)
        case PutAddress(name=name):
            return name in again
        case SetLink(name=name) | SetOffload(name=name) | AddRoute(name=name) | AddAddress(name=name):
            return name in again
        case SetSysctl(key=key):
            return any(f".conf.{sysctl_name(name)}." in key for name in again)
        case _:
            return False


def plug(bridge: LinkFact, taps: Iterable[tuple[LinkFact, str, bool]], facts: Facts) -> Iterator[Step]:
    """Yield what plugs taps into a bridge, of which nothing changes by that; each has an address, and is isolated or
    not."""
    known = list(taps)
    if known and not uplinks.is_ours(bridge):
        yield from links.pin(bridge, min(mac for _, mac, _ in known), facts)
    for tap, _, isolated in known:
        if tap.mtu != bridge.mtu:
            yield SetLink(tap.name, mtu=bridge.mtu)
        yield from (SetLink(tap.name, up=False),) if isolated else ()
        yield SetMaster(tap.name, bridge.name)
        yield from (SetPort(tap.name, isolated=True), SetLink(tap.name, up=True)) if isolated else ()


def _has(step: AddAddress, facts: Facts) -> bool:
    return step.address in facts.addresses.get(step.name, ())
