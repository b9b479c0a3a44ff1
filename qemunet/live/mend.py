"""Puts right what somebody did to the bridges of guests that run: makes ours again, and plugs the taps back in.

A bridge that is there is never changed, whoever made it; a tap that is plugged in anywhere is left there: that is
somebody's wish.
"""

from __future__ import annotations

import contextlib
import typing
from enum import StrEnum

from qemunet import plan, runner
from qemunet.config import cables, profiles, read, resolve
from qemunet.errors import ConfigError, Gone, QemunetError
from qemunet.facts import Wanted
from qemunet.frozen import frozen, replace
from qemunet.host.linux import LinuxHost
from qemunet.live import session
from qemunet.live.photo import photograph
from qemunet.model import vlan
from qemunet.model.cable import OnSwitch
from qemunet.model.names import altname, group
from qemunet.model.network import OwnBridge
from qemunet.plan import mend, uplinks
from qemunet.plan.links import network_scope
from qemunet.steps import DelLink, Mark, bare

if typing.TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from qemunet.facts import Facts, LinkFact
    from qemunet.model.lab import Lab
    from qemunet.model.vlan import Vlans
    from qemunet.records import NicRecord
    from qemunet.state import Runtime, Scope
    from qemunet.steps import Step


class How(StrEnum):
    """What became of a bridge that was not as it should be."""

    HEALED = "healed"  # the cards are on it again
    LOST = "lost"  # it is gone, and not ours to make
    FAILED = "not healed"


@frozen
class Tap:
    """The host's side of a card that is on a bridge."""

    vm: str
    nic: str
    ifname: str
    mac: str
    network: str | None
    isolated: bool = False
    vlans: Vlans | None = None

    @property
    def altname(self) -> str:
        """Its mark, by which it is found if somebody has given it another name."""
        return altname(f"vm/{self.vm}", self.nic)


@frozen
class Found:
    """How a bridge is now: its index, None if it is not there; and what was done about it, if anything was."""

    bridge: str
    index: int | None
    how: How | None = None
    text: str = ""
    network: str | None = None
    vms: tuple[str, ...] = ()


def bridges(runtime: Runtime, vms: Iterable[str]) -> dict[str, list[Tap]]:
    """Return the bridges that cards of these vms are on, with the cards' taps; none that is in a namespace of a lab,
    where nobody watches."""
    records = (runtime.scope(f"vm/{vm}").record() for vm in vms)
    found: dict[str, list[Tap]] = {}
    for record in records:
        for nic in record.nics if record else ():
            if nic.mode == "tap" and nic.bridge and nic.ifname and nic.host_mac and not nic.netns:
                found.setdefault(nic.bridge, []).append(_tap(record.name if record else "", nic))
    return found


def _tap(vm: str, nic: NicRecord) -> Tap:
    vlans = vlan.parse(nic.vlan) if nic.vlan else None
    return Tap(vm, nic.id, nic.ifname or "", nic.host_mac or "", nic.network, nic.port_isolation, vlans)


def look(runtime: Runtime, vms: Iterable[str], names: Collection[str]) -> list[Found]:
    """Put right what is wrong with bridges of these names that cards of the vms are on; return how each is now."""
    host = LinuxHost(runtime.path)
    try:
        with runtime.exclusive():
            there = {name: taps for name, taps in bridges(runtime, vms).items() if name in names}
            return [_looked_at(runtime, host, name, taps) for name, taps in there.items()]
    finally:
        host.close()


def again(runtime: Runtime, host: LinuxHost, scope: Scope) -> bool:
    """Make a network's bridge again if it is gone, or somebody was killed while he did; tell whether it was so.

    The runtime directory's lock must be held. Raises any QemunetError; then nothing was made.
    """
    source = read.load(scope.path("net.toml"))
    known = profiles.load_all(source)
    wanted = resolve.wanted(source, known)
    facts = _remembered(scope, photograph(runtime, wanted, host))
    name = scope.name.removeprefix("net/")
    lab = resolve.resolve(source, known, facts, strict=False, running=True)
    lab = _as_it_is(lab, name, scope)
    network = lab.network(name)
    switch, netns = network.switch, network.netns
    if not isinstance(switch, OwnBridge):
        return False
    link = plan.spaces.seen(netns, facts).links.get(switch.ifname)
    if link is not None and not is_half_made(link, scope):
        return False
    if link is not None and not facts.ports.get(switch.ifname):  # its name may be all that it has of ours
        host.perform(plan.spaces.at(netns, DelLink(switch.ifname, Mark(scope.name, "bridge", link.group))))
        facts = _remembered(scope, photograph(runtime, wanted, host))
    others = {one: mark for one, mark in facts.scopes.items() if one != scope.name}
    part = plan.networks(lab, [name], replace(facts, scopes=others))[name][-1]
    there = plan.spaces.seen(netns, facts)
    steps = plan.spaces.all_at(netns, mend.missing(map(bare, part.steps), switch.ifname, there))
    _make(host, scope, steps, facts)
    _plug_again(runtime, host, scope, netns, switch.ifname)
    return True


def _as_it_is(lab: Lab, name: str, scope: Scope) -> Lab:
    """Return the lab with the addresses that its network had before and still has."""
    if not scope.leaving():
        return lab
    from qemunet.live import netchange

    networks = (netchange.with_leaving(one, scope) if one.name == name else one for one in lab.networks)
    return replace(lab, networks=tuple(networks))


def _plug_again(runtime: Runtime, host: LinuxHost, scope: Scope, netns: str, bridge: str) -> None:
    """Plug the cables of a network into its bridge again, and cards in a namespace, where nobody watches."""
    network = scope.name.removeprefix("net/")
    ports = {mark: port for name in scope.cables() for mark, port in _ends(runtime, name, network)}
    for vm in runtime.vms() if netns else ():
        taps = (_tap(vm.name, nic) for nic in vm.nics if (nic.network, nic.netns) == (network, netns))
        ports |= {tap.altname: (tap.mac, tap.isolated, tap.vlans) for tap in taps}
    if not ports:
        return
    wanted = Wanted(links=frozenset({bridge, *ports}), places=frozenset({netns} if netns else ()))
    there = plan.spaces.seen(netns, host.photograph(wanted))
    loose = [mend.Loose(there.links[mark], *port) for mark, port in sorted(ports.items()) if mark in there.links]
    for step in mend.plug(there.links[bridge], [one for one in loose if one.tap.master is None], there):
        with contextlib.suppress(Gone):  # it ended just now
            host.perform(plan.spaces.at(netns, step))


def _ends(runtime: Runtime, cable: str, network: str) -> Iterator[tuple[str, tuple[str, bool, Vlans | None]]]:
    """Yield the marks of a cable's ends that are ports of a network, and what they are there."""
    scope = runtime.scope(plan.cables.scope(cable))
    with contextlib.suppress(ConfigError):  # it is being made, or taken away
        found = cables.as_written(read.load(scope.path("cable.toml")))
        for side, end in (("a", found.a), ("b", found.b)):
            if isinstance(end.where, OnSwitch) and end.where.network == network:
                yield altname(scope.name, side), (end.mac, False, end.vlans)


def _remembered(scope: Scope, facts: Facts) -> Facts:
    """Return the photograph with what moved to the network's bridge back where it came from."""
    if not facts.carried:
        return facts
    from qemunet.plan import ports

    with session.working(scope) as journal:
        return ports.remembered([one.undo for one in journal.owed()], facts)


def is_half_made(link: LinkFact, scope: Scope) -> bool:
    """Tell whether a bridge is one of ours that was never finished: that it goes up is the last that is done to it."""
    return link.group == group(scope.runtime.path, scope.name) and not link.up


def _make(host: LinuxHost, scope: Scope, steps: tuple[Step, ...], facts: Facts) -> None:
    """Do what is in the network's journal already once more; it is there twice, and undone twice."""
    with session.working(scope) as journal:
        last = max((one.number for one in journal.owed()), default=0)
        try:
            runner.apply(steps, facts, host, journal)
        except BaseException:
            runner.unwind(journal, host, which=lambda one: one.number > last)
            raise


def _looked_at(runtime: Runtime, host: LinuxHost, name: str, taps: list[Tap]) -> Found:
    try:
        return _mended(runtime, host, name, taps)
    except (QemunetError, OSError) as error:
        return found(name, None, taps, How.FAILED, str(error))


def _mended(runtime: Runtime, host: LinuxHost, name: str, taps: list[Tap]) -> Found:
    facts, link = _photographed(host, name, taps)
    loose = _loose(taps, facts)
    scope, made = _scope(runtime, taps), False
    if loose and scope is not None and (link is None or is_half_made(link, scope)):
        made = again(runtime, host, scope)
        facts, link = _photographed(host, name, taps)
    if link is None:
        return found(name, None, taps, How.LOST, "it is gone") if loose else Found(name, None)
    if link.kind != "bridge":
        return found(name, link.index, taps, How.FAILED, f"{name} is no bridge any more, but {link.kind or 'a card'}")
    ports = [mend.Loose(_link(tap, facts), tap.mac, tap.isolated, tap.vlans) for tap in loose]
    for step in mend.plug(link, ports, facts):
        with contextlib.suppress(Gone):  # it ended just now
            host.perform(step)
    _cables(runtime, host, name)
    if not loose:
        return Found(name, link.index)
    return found(name, link.index, loose, How.HEALED, _story(link, loose, made=made, ours=scope is not None))


def _cables(runtime: Runtime, host: LinuxHost, bridge: str) -> None:
    """Plug in the ends of cables that are loose, also in a bridge that is somebody else's."""
    if runtime.scopes("cable"):
        from qemunet.live import cables as ends

        ends.again(runtime, host, bridge)


def _story(link: LinkFact, taps: list[Tap], *, made: bool, ours: bool) -> str:
    whose = "it was made again" if made else "it is there again"
    if ours and not uplinks.is_ours(link):
        whose = "somebody has made another one, which is used as it is"
    return f"{whose}; plugged in: {', '.join(tap.ifname for tap in taps)}"


def _photographed(host: LinuxHost, name: str, taps: list[Tap]) -> tuple[Facts, LinkFact | None]:
    names = {name, *(one for tap in taps for one in (tap.ifname, tap.altname))}
    facts = host.photograph(Wanted(links=frozenset(names), bridges=frozenset({name})))
    return facts, facts.links.get(name)


def _loose(taps: list[Tap], facts: Facts) -> list[Tap]:
    """Return the taps that are there and not plugged in."""
    return [tap for tap in taps if _is_there(tap, facts) and _link(tap, facts).master is None]


def _is_there(tap: Tap, facts: Facts) -> bool:
    return tap.altname in facts.links or tap.ifname in facts.links


def _link(tap: Tap, facts: Facts) -> LinkFact:
    return facts.links.get(tap.altname) or facts.links[tap.ifname]


def _scope(runtime: Runtime, taps: list[Tap]) -> Scope | None:
    """Return the scope of the network that made a bridge, if it was one of ours."""
    names = {tap.network for tap in taps if tap.network is not None}
    scopes = (runtime.scope(network_scope(name)) for name in names)
    return next((scope for scope in scopes if scope.fingerprint() is not None), None)


def found(name: str, index: int | None, taps: list[Tap], how: How, text: str) -> Found:
    """Return what became of a bridge, with the vms whose taps these are."""
    vms = tuple(dict.fromkeys(tap.vm for tap in taps))
    return Found(name, index, how, text, next((tap.network for tap in taps if tap.network), None), vms)
