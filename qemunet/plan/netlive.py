"""Compares a network that is up with what it should be: what of that can change while guests are on it, and how.

Both are planned as if neither were there, and the two plans are compared: what only the new one has is done, what only
the old one had is undone when all else is final. So a new address is there before an old one goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qemunet.config import units
from qemunet.frozen import frozen, replace
from qemunet.model.network import Dhcp, Dhcp6, Dns, Firewall, KnownHost, Network, OwnBridge, PortForward, Services
from qemunet.model.nic import Forward
from qemunet.plan.live import Disruption
from qemunet.steps import (
    AddAddress,
    AddLink,
    DelAddress,
    FilterVlans,
    LoadTable,
    Part,
    Reconfigure,
    Reserve,
    SetLink,
    SetSysctl,
    SetVlans,
    StartDaemon,
    Step,
    WriteFile,
    sysctl_name,
)

# what a switch of the kernel is when nobody has set it; it goes back there before anything else is done
_UNSET = {"disable_ipv6": "0", "forwarding": "0", "force_forwarding": "0", "route_localnet": "0"}
_LAST = ".disable_ipv6"  # it takes the addresses, and lets none come
_PASSING = ".promote_secondaries"
WAYS_BACK = (
    AddAddress,
    LoadTable,
    SetLink,
    SetSysctl,
    FilterVlans,
    SetVlans,
    Reconfigure,
    Reserve,
)  # of no use once a change is final
_FIXED = ("mac", "stp", "forward_delay", "ageing")  # of a bridge


@frozen
class Line:
    """Something about a network that is to be another way, and what that costs."""

    network: str
    what: str
    disruption: Disruption

    def describe(self) -> str:
        return self.what


@frozen
class Card:
    """A card that is on the network, of whichever lab: what its server is told of it before and after; empty: nothing.

    `path` is the file of that.
    """

    vm: str
    nic: str
    ifname: str | None
    path: str
    was: str
    now: str


@frozen
class Target:
    """What a network can become now, and every difference from what it should be."""

    network: Network
    lines: tuple[Line, ...]


@frozen
class Change:
    """The steps of a change, in order, and those of the old plan that are to be undone after them."""

    steps: tuple[Step, ...]
    gone: tuple[Step, ...]


def target(old: Network, new: Network, leaving: tuple[str, ...] = ()) -> Target:
    """Return what of the new network can come true while guests are on the old one; the host's old addresses that are
    `leaving` stay for now."""
    assert isinstance(old.switch, OwnBridge), "others are not ours to change"
    if not isinstance(new.switch, OwnBridge):
        return Target(old, (_restart(old, "mode", str(old.mode), str(new.mode)),))
    fixed = [
        _restart(old, key, was, now)
        for key, was, now in (
            ("mode", str(old.mode), str(new.mode)),
            ("bridge", old.switch.ifname, new.switch.ifname),
            ("netns", old.netns or "the host's own", new.netns or "the host's own"),
            ("host", str(old.switch.host), str(new.switch.host)),
            ("dhcp.server", _server(old), _server(new)),
            *_outside(old.switch, new.switch),
        )
        if was != now
    ]
    if new.server is not None and old.services != new.services:
        fixed.append(_restart(old, f"what dhcp-server {new.server.name} serves", "one", "another"))
    if fixed:
        return Target(old, tuple(fixed))
    if old.netns:  # nothing of what is in a namespace changes while guests are there
        inside = (replace(one, disruption=Disruption.RESTART) for one in _every(old, new))
        return Target(replace(old, port_profiles=new.port_profiles), (*inside, *_port_profiles(old, new)))
    kept = {key: getattr(old.switch, key) for key in _FIXED}
    kept |= {"mtu": max(old.switch.mtu, new.switch.mtu)}
    lines = _fixed(old.switch, new.switch, old)
    switch = replace(new.switch, **kept, leaving=leaving)
    services = None if new.services is None else replace(new.services, mtu=switch.mtu)
    found = replace(new, switch=switch, services=services)
    return Target(found, (*_live(old, found), *lines, *_port_profiles(old, new)))


def _fixed(old: OwnBridge, new: OwnBridge, network: Network) -> list[Line]:
    return [
        _restart(network, key.replace("_", "-"), str(getattr(old, key)), str(getattr(new, key)))
        for key in (*_FIXED, *(["mtu"] if new.mtu < old.mtu else []))
        if getattr(old, key) != getattr(new, key)
    ]


def _every(old: Network, new: Network) -> Iterator[Line]:
    assert isinstance(old.switch, OwnBridge), "others are not ours to change"
    assert isinstance(new.switch, OwnBridge), "others are not ours to change"
    yield from _live(old, new)
    yield from (one for one in _fixed(old.switch, new.switch, old) if not one.what.startswith("mtu:"))


def _outside(old: OwnBridge, new: OwnBridge) -> Iterator[tuple[str, str, str]]:
    """Yield what stays as it is with interfaces of the host: nobody is to be cut off while guests run."""
    yield "ports", ", ".join(old.ports) or "none", ", ".join(new.ports) or "none"
    yield "port-vlan", _port_vlans(old), _port_vlans(new)
    yield "move-address", str(old.move_address).lower(), str(new.move_address).lower()
    if old.ports:
        yield "mtu", str(old.mtu), str(new.mtu)
    if old.move_address:
        yield "address", ", ".join(old.addresses) or "none", ", ".join(new.addresses) or "none"


def _port_vlans(switch: OwnBridge) -> str:
    return ", ".join(f"{name} {vlans}" for name, vlans in switch.port_vlans) or "none"


def change(old: Part, new: Part, was: Network, now: Network, cards: Sequence[Card]) -> Change:
    """Return what makes a network that is up another one; the parts are the plans of both."""
    there = [_Key.of(step) for step in new.steps]
    gone = [step for step in old.steps if step not in new.steps]
    resets = [one for step in gone if (one := _reset(step, there)) is not None]
    own = tuple(_steps(old, new))
    shut = tuple(step for step in own if isinstance(step, SetSysctl) and step.key.endswith(_LAST))
    first = (step for step in own if step not in shut)
    steps = (*resets, *_larger(was, now, cards), *first, *_told(new, cards), *_left(gone), *_joined(gone, there), *shut)
    return Change(steps, tuple(step for step in gone if _Key.of(step) not in there and not isinstance(step, SetSysctl)))


class _Key:
    """What a step is about: two that are about the same replace each other."""

    @staticmethod
    def of(step: Step) -> object:
        match step:
            case LoadTable(name=name) | AddLink(name=name):
                return type(step), name
            case WriteFile(path=path):
                return WriteFile, path
            case StartDaemon(name=name, directory=directory):
                return StartDaemon, name, directory
            case SetSysctl(key=key):
                return SetSysctl, key
            case FilterVlans(name=name) | SetVlans(name=name):
                return type(step), name
            case _:
                return step


def _steps(old: Part, new: Part) -> Iterator[Step]:
    """Yield what only the new plan has, with what it replaces."""
    known = {_Key.of(step): step for step in old.steps}
    files = [step for step in new.steps if isinstance(step, WriteFile)]
    for step in new.steps:
        was = known.get(_Key.of(step))
        match step, was:
            case _ if step == was:
                pass
            case LoadTable(), LoadTable(rules=rules):
                yield replace(step, was=rules)
            case SetVlans(), SetVlans(vlans=vlans):
                yield replace(step, was=vlans)
            case StartDaemon(), StartDaemon():
                yield from _reconfigured(step, files, known)
            case ((WriteFile() | AddLink()), _) if was is not None:
                pass  # by the program that reads it; by its MTU, which is all of it that changes
            case _:
                yield step


def _reconfigured(step: StartDaemon, files: Sequence[WriteFile], known: Mapping[object, Step]) -> Iterator[Step]:
    """Yield what has a program begin again with other files, if there are any: what it has lent it remembers."""
    here = f"{step.directory}/{step.name}/"
    changed = [one for one in files if known.get(_Key.of(one)) != one and one.path.startswith(here)]
    if changed:
        texts = tuple((one.path.removeprefix(here), one.text) for one in changed)
        yield Reconfigure(step.name, step.directory, step.where, texts)


def _reset(step: Step, there: Sequence[object]) -> Step | None:
    if not isinstance(step, SetSysctl) or _Key.of(step) in there:
        return None
    value = _UNSET.get(step.key.rpartition(".")[2])
    return None if value is None or value == step.value else SetSysctl(step.key, value)


def _left(gone: Sequence[Step]) -> Iterator[Step]:
    """Yield what takes the host's old addresses; those that came with the bridge nobody would undo before it goes."""
    old = [step for step in gone if isinstance(step, AddAddress)]
    for name in dict.fromkeys(step.name for step in old if ":" not in step.address):
        # Else the kernel takes with an address all others of its subnet that came later.
        yield SetSysctl(f"net.ipv4.conf.{sysctl_name(name)}{_PASSING}", "1")
    yield from (DelAddress(step.name, step.address) for step in old)


def _joined(gone: Sequence[Step], there: Sequence[object]) -> Iterator[Step]:
    """Yield what lets VLANs be as they are where nobody has said anything."""
    for step in gone:
        if isinstance(step, SetVlans) and _Key.of(step) not in there:
            yield SetVlans(step.name, None, step.vlans, step.own)
    yield from (FilterVlans(step.name, on=False) for step in gone if isinstance(step, FilterVlans))


def _larger(was: Network, now: Network, cards: Sequence[Card]) -> Iterator[Step]:
    """Yield what lets larger packets through: a bridge takes what the smallest of its ports does."""
    old, new = was.switch, now.switch
    assert isinstance(old, OwnBridge), "others are not ours to change"
    assert isinstance(new, OwnBridge), "others are not ours to change"
    if new.mtu == old.mtu:
        return
    names = [card.ifname for card in cards if card.ifname is not None]
    for name in filter(None, (*names, new.host_ifname, new.port_ifname, new.ifname)):
        yield SetLink(name, mtu=new.mtu)


def _told(new: Part, cards: Sequence[Card]) -> Iterator[Step]:
    """Yield what tells the network's server of the cards that are there already."""
    daemon = next((step for step in new.steps if isinstance(step, StartDaemon)), None)
    for card in cards if daemon is not None else ():
        if daemon is not None and card.now and card.now != card.was:
            yield Reserve(daemon.name, daemon.directory, card.path, card.now, card.was)


def is_passing(undo: Step) -> bool:
    """Tell whether something was done for the change alone."""
    return isinstance(undo, SetSysctl) and undo.key.endswith(_PASSING)


def wanted_sysctls(plan: Change) -> frozenset[str]:
    """Return the keys of which a change has to know the value."""
    return frozenset(step.key for step in plan.steps if isinstance(step, SetSysctl))


# ---------------------------------------------------------------- words


def _restart(network: Network, key: str, was: str, now: str) -> Line:
    return Line(network.name, f"{key}: {was} to {now}", Disruption.RESTART)


def _server(network: Network) -> str:
    return network.server.name if network.server is not None else "its own"


def _live(old: Network, new: Network) -> Iterator[Line]:
    assert isinstance(old.switch, OwnBridge), "others are not ours to change"
    assert isinstance(new.switch, OwnBridge), "others are not ours to change"
    pairs: list[tuple[str, object, object]] = [
        ("address", _list(old.switch.addresses), _list(new.switch.addresses)),
        ("old address", _list(_gone(old.switch, new.switch)), "none"),
        ("mtu", old.switch.mtu, new.switch.mtu),
        ("vlan-filtering", str(old.switch.vlan_filtering).lower(), str(new.switch.vlan_filtering).lower()),
        ("host-vlan", old.switch.host_vlan or "none", new.switch.host_vlan or "none"),
        *_rules(old.firewall, new.firewall),
        *_served(old.services, new.services),
        ("keep", str(old.keep).lower(), str(new.keep).lower()),
    ]
    for key, was, now in pairs:
        if was != now:
            yield Line(old.name, f"{key}: {was} to {now}", Disruption.LIVE)


def _port_profiles(old: Network, new: Network) -> Iterator[Line]:
    """Yield what becomes of port profiles; the cards that have one are changed as cards are."""
    for name in dict.fromkeys(one.name for one in (*old.port_profiles, *new.port_profiles)):
        was, now = old.port_profile(name), new.port_profile(name)
        if was != now:
            word = "new" if was is None else "none any more" if now is None else "other values"
            yield Line(old.name, f"port-profile {name}: {word}", Disruption.LIVE)


def _gone(old: OwnBridge, new: OwnBridge) -> list[str]:
    return [address for address in old.leaving if address not in new.present]


def _rules(old: Firewall | None, new: Firewall | None) -> Iterator[tuple[str, object, object]]:
    for key, of in (
        ("uplink", lambda one: one.uplink or "any"),
        ("forward", lambda one: _list(map(_forward, one.forwards))),
        ("nat", _nat),
        ("host-services", lambda one: _list(one.host_services)),
    ):
        yield key, "none" if old is None else of(old), "none" if new is None else of(new)


def _nat(rules: Firewall) -> str:
    if rules.masquerade is None:
        return "none"
    return f"ports {units.format_ports(rules.masquerade.ports)} of {rules.masquerade.source or 'the way out'}"


def _forward(one: PortForward) -> str:
    return units.format_forward(Forward(one.protocol, one.address, one.ports, one.to, one.to_ports))


def _served(old: Services | None, new: Services | None) -> Iterator[tuple[str, object, object]]:
    nothing = Services(None, None, None, (), 0)
    was, now = old or nothing, new or nothing
    yield _pair("dhcp", _dhcp(was.dhcp), _dhcp(now.dhcp), same=was.dhcp == now.dhcp)
    yield "dhcp for IPv6", _dhcp6(was.dhcp6), _dhcp6(now.dhcp6)
    yield _pair("dns", _dns(was.dns), _dns(now.dns), same=was.dns == now.dns)
    yield _pair("hosts", _hosts(was.hosts), _hosts(now.hosts), same=was.hosts == now.hosts)


def _pair(key: str, was: str, now: str, *, same: bool) -> tuple[str, str, str]:
    """Return both texts; if they are the same and what they stand for is not, the second says so."""
    return key, was, now if was != now or same else f"{now} with other settings"


def _dns(dns: Dns | None) -> str:
    return "off" if dns is None else f"domain {dns.domain}" if dns.domain else "on"


def _hosts(hosts: Sequence[KnownHost]) -> str:
    return _list(host.ip for host in hosts)


def _dhcp(dhcp: Dhcp | None) -> str:
    return "off" if dhcp is None else f"{dhcp.first} - {dhcp.last}"


def _dhcp6(dhcp: Dhcp6 | None) -> str:
    if dhcp is None:
        return "off"
    return f"{dhcp.first} - {dhcp.last}" if dhcp.first is not None else "guests make their own"


def _list(texts: Iterator[str] | Sequence[str] | map[str]) -> str:
    return ", ".join(texts) or "none"
