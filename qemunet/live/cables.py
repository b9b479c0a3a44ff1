"""Looks at cables that are there, pulls them out and plugs them in, and makes and takes away those of no lab file.

A pulled cable is one of which an end is down: the kernel itself knows it, whoever is killed meanwhile.
"""

from __future__ import annotations

import typing

from qemunet import plan, runner
from qemunet.config import cables, read
from qemunet.errors import ConfigError, NotFound, Taken
from qemunet.facts import Wanted
from qemunet.frozen import frozen
from qemunet.live import nets, session
from qemunet.live.source import Source
from qemunet.model.cable import OnSwitch
from qemunet.model.names import altname

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from qemunet.facts import Facts, LinkFact
    from qemunet.host.linux import LinuxHost
    from qemunet.model.cable import Cable, End
    from qemunet.state import Runtime, Scope

_BY_HAND = "by hand"


@frozen
class Seen:
    """A cable as it is: `state` is plugged, pulled, gone, or starting."""

    cable: Cable
    state: str
    guests: tuple[str, ...]
    held: bool


def every(runtime: Runtime, host: LinuxHost) -> list[Seen]:
    """Return all cables of the runtime directory."""
    return [_seen(host, scope) for scope in runtime.scopes("cable")]


def pull(runtime: Runtime, host: LinuxHost, name: str) -> None:
    """Take the carrier from both ends of a cable; raises NotFound."""
    with runtime.exclusive():
        scope = _known(runtime, name)
        cable = as_made(scope)
        facts = in_place(host, cable)
        end = next((one for one in cable.expendable if one in _there(cable, facts)), None)
        if end is None:
            raise NotFound(f'of cable "{name}" no end is there any more', hint=f"`qemunet cable del {name}` forgets it")
        with session.working(scope) as journal:
            runner.apply(plan.cables.pull(end), facts, host, journal)
            journal.compact()


def plug(runtime: Runtime, host: LinuxHost, name: str) -> None:
    """Give the carrier back to both ends of a cable, and to each what it lost with it; raises NotFound."""
    with runtime.exclusive():
        scope = _known(runtime, name)
        cable = as_made(scope)
        facts = in_place(host, cable)
        with session.working(scope) as journal:
            for end in cable.ends:
                if end in _there(cable, facts):
                    runner.apply(plan.cables.plug(end, facts), facts, host, journal)
            journal.compact()


def again(runtime: Runtime, host: LinuxHost, bridge: str) -> list[str]:
    """Plug the ends of cables into a bridge of the host's that was made again; return the cables.

    The runtime directory's lock must be held. Raises any QemunetError.
    """
    plugged = []
    for scope in runtime.scopes("cable"):
        if scope.fingerprint() is None:
            continue
        cable = as_made(scope)
        for end in cable.ends:
            if not isinstance(end.where, OnSwitch) or end.where.netns or end.where.bridge != bridge:
                continue
            facts = in_place(host, cable)
            steps = tuple(plan.cables.loose(end, facts)) if end in _there(cable, facts) else ()
            if steps:
                with session.working(scope) as journal:
                    runner.apply(steps, facts, host, journal)
                plugged.append(cable.name)
    return plugged


def add(runtime: Runtime, host: LinuxHost, text: str) -> str:
    """Make the cable that a lab file of this text has, and hold it; return its name. Raises any QemunetError."""
    spec = read.loads(text, "cable add")
    (name,) = (cables.name(cable) for cable in spec.cables)
    source = Source(spec, {})
    scope = plan.cables.scope(name)
    with nets.taken_back(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        if runtime.scope(scope).exists():
            raise Taken(f'there is a cable "{name}" already', hint="`qemunet cable list` shows it")
        nets.make(runtime, host, source.think_networks(runtime, [scope], host))
        nets.hold_all(runtime, [scope], _BY_HAND)
    return name


def delete(runtime: Runtime, host: LinuxHost, name: str) -> None:
    """Take a cable away, also one of a lab that runs; raises NotFound, and NotTakenBack."""
    with runtime.exclusive():
        failures = session.drop(_known(runtime, name), host)
    session.reap_all(runtime, host, failures)


# ---------------------------------------------------------------- parts of these


def _known(runtime: Runtime, name: str) -> Scope:
    known = {scope.name.partition("/")[2]: scope for scope in runtime.scopes("cable")}
    if name not in known:
        every = ", ".join(known) or "none"
        raise NotFound(f'there is no cable "{name}" (there: {every})', hint="`qemunet cable list` shows them")
    return known[name]


def as_made(scope: Scope) -> Cable:
    """Return a cable as it was made; raises NotFound for one that is only being made."""
    try:
        spec = read.load(scope.path("cable.toml"))
    except ConfigError as error:
        raise NotFound(f"{scope.name.replace('/', ' ')} is only being made") from error
    return cables.as_written(spec)


def in_place(host: LinuxHost, cable: Cable) -> Facts:
    """Return a photograph of a cable: its ends, and what they are plugged into."""
    marks = {altname(plan.cables.scope(cable.name), side) for side in ("a", "b")}
    names = {end.ifname for end in cable.ends}
    names |= {end.where.bridge for end in cable.ends if isinstance(end.where, OnSwitch) and not end.where.netns}
    return host.photograph(Wanted(links=frozenset(names | marks), routes=True, places=frozenset(cable.namespaces)))


def _there(cable: Cable, facts: Facts) -> dict[End, LinkFact]:
    """Return the ends that are to be seen, whatever they are called by now."""
    marks = {end: altname(plan.cables.scope(cable.name), side) for end, side in _sides(cable)}
    known = {end: plan.spaces.seen(end.netns, facts).links for end in marks}
    return {end: known[end][mark] for end, mark in marks.items() if mark in known[end]}


def _sides(cable: Cable) -> Sequence[tuple[End, str]]:
    return (cable.a, "a"), (cable.b, "b")


def _seen(host: LinuxHost, scope: Scope) -> Seen:
    cable = as_made(scope)
    there = _there(cable, in_place(host, cable))
    state = "pulled" if not all(link.up for link in there.values()) else "plugged"
    return Seen(cable, state if there else "gone", scope.guests(), scope.held())
