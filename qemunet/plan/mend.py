"""Which steps of a network are to be done again when somebody has deleted its bridge."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from qemunet.facts import Facts, LinkFact
from qemunet.frozen import frozen
from qemunet.plan import links, uplinks
from qemunet.steps import (
    AddAddress,
    AddLink,
    AddRoute,
    FilterVlans,
    PlugPort,
    PutAddress,
    PutRoute,
    SetLink,
    SetMaster,
    SetOffload,
    SetPort,
    SetSysctl,
    SetVlans,
    Step,
    Vlans,
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
        case FilterVlans() | SetVlans():  # of the bridge, or of a port that is plugged in again
            return True
        case SetSysctl(key=key):
            return any(f".conf.{sysctl_name(name)}." in key for name in again)
        case _:
            return False


@frozen
class Loose:
    """A tap that is to be plugged in again, and what it is as a port; `mac` is the address that it has there."""

    tap: LinkFact
    mac: str
    isolated: bool = False
    vlans: Vlans | None = None

    @property
    def settings(self) -> tuple[Step, ...]:
        """What makes it that port, before it is up."""
        apart = (SetPort(self.tap.name, isolated=True),) if self.isolated else ()
        return (*apart, *((SetVlans(self.tap.name, self.vlans),) if self.vlans is not None else ()))


def plug(bridge: LinkFact, taps: Iterable[Loose], facts: Facts) -> Iterator[Step]:
    """Yield what plugs taps into a bridge, of which nothing changes by that."""
    known = list(taps)
    if known and not uplinks.is_ours(bridge):
        yield from links.pin(bridge, min(one.mac for one in known), facts)
    for one in known:
        name, settings = one.tap.name, one.settings
        if one.tap.mtu != bridge.mtu:
            yield SetLink(name, mtu=bridge.mtu)
        yield from (SetLink(name, up=False),) if settings else ()
        yield SetMaster(name, bridge.name)
        yield from (*settings, SetLink(name, up=True)) if settings else ()


def _has(step: AddAddress, facts: Facts) -> bool:
    return step.address in facts.addresses.get(step.name, ())
