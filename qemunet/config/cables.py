"""Checks and resolves cables: what their ends are called and plugged into, and whether they close a loop."""

from __future__ import annotations

import re

from qemunet.config import cards, modes, nics, units, vlans
from qemunet.config.hints import did_you_mean, listed
from qemunet.config.scene import first
from qemunet.config.spec import CableSpec, EndKind, EndSpec
from qemunet.frozen import frozen
from qemunet.model import loops, mac, names
from qemunet.model.cable import AtHost, Cable, End, InNetns, Loose, OnSwitch, Route, Where
from qemunet.model.names import NAME
from qemunet.model.network import ForeignBridge, NetworkMode, OwnBridge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qemunet.config.scene import Scene
    from qemunet.config.spec import LabSpec
    from qemunet.model.network import Network
    from qemunet.model.vlan import Vlans

_HOSTS = (EndKind.HOST, EndKind.NETNS)
_SWITCHES = (EndKind.NETWORK, EndKind.BRIDGE)
_LOOP = "what is sent to all would go round for ever; stp = true on one of these networks has it block a port"


@frozen
class EndKeys:
    """The keys of one end. `path` is that of the cable, `side` the letter of the end."""

    path: str
    side: str
    at: EndSpec
    name: str | None
    addresses: tuple[str, ...]
    routes: tuple[Route, ...]
    mac: str | None
    vlans: Vlans | None

    def key(self, name: str) -> str:
        """Return the dotted path of a key of this end."""
        return f"{self.path}.{self.side}-{name}"


def ends(cable: CableSpec) -> tuple[EndKeys, EndKeys]:
    """Return the ends of a cable that was checked."""
    assert cable.a is not None, "checked with the file"
    assert cable.b is not None, "checked with the file"
    a, b = (cable.a_address or (), cable.a_routes or ()), (cable.b_address or (), cable.b_routes or ())
    return (
        EndKeys(cable.path, "a", cable.a, cable.a_name, *a, cable.a_mac, cable.a_vlan),
        EndKeys(cable.path, "b", cable.b, cable.b_name, *b, cable.b_mac, cable.b_vlan),
    )


def name(cable: CableSpec) -> str:
    """Return a cable's name: its own, or one made of its ends, as ``lab-host``."""
    if cable.name is not None:
        return cable.name
    words = (end.at.name or str(end.at.kind) for end in ends(cable))
    made = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-")[:56]
    return made if NAME.fullmatch(made) else f"cable-{made}"


def ifname(cable: CableSpec, end: EndKeys) -> str:
    """Return the interface name of an end."""
    return end.name or names.ifname(name(cable), end.side)


def networks(spec: LabSpec) -> set[str]:
    """Return the networks that the cables of a lab are plugged into."""
    return {end.at.name for cable in spec.cables for end in ends(cable) if end.at.kind is EndKind.NETWORK}


# ---------------------------------------------------------------- what must be right whatever the host is


def check(spec: LabSpec) -> None:
    """Raise ConfigError for the first thing that cannot be, loops among them."""
    taken: dict[str, str] = {}
    for cable in spec.cables:
        for side, end in (("a", cable.a), ("b", cable.b)):
            if end is None:
                hint = f'as in {side} = "network:lab", or "host"'
                raise spec.error(f"{cable.path}.{side}", "a cable has two ends", hint)
        for one in ends(cable):
            _check_end(spec, one)
        if name(cable) in taken:
            problem = f'the name "{name(cable)}" is also that of {taken[name(cable)]}'
            raise spec.duplicate(f"{cable.path}.name", problem, 'give one of them another by name = "…"')
        taken[name(cable)] = cable.path
    _check_loops(spec)


def _check_end(spec: LabSpec, end: EndKeys) -> None:
    if end.at.kind is EndKind.NETWORK:
        _check_network(spec, end)
    if end.at.kind is EndKind.NETNS:
        from qemunet.config import spaces

        spaces.known(spec, f"{end.path}.{end.side}", end.at.name)
    vlans.check_end(spec, end)
    if end.at.kind not in _HOSTS:
        for key, given in (("address", end.addresses), ("routes", end.routes)):
            if given:
                problem = f'"{end.at}" has no {key} of its own'
                raise spec.error(end.key(key), problem, "only an end at the host or in a namespace has")
    for route in end.routes if end.at.kind is EndKind.HOST else ():
        if route.destination == "default":
            problem = f"{route} would take the host's own default route"
            raise spec.error(end.key("routes"), problem, "name the networks that are behind the cable")
    for route in end.routes:
        if route.gateway is not None and not any(units.inside(route.gateway, one) for one in end.addresses):
            problem = f"{route.gateway} is in no network of that end"
            raise spec.error(end.key("routes"), problem, f"{end.side}-address has the network that a gateway is in")


def _check_network(spec: LabSpec, end: EndKeys) -> None:
    path, known = f"{end.path}.{end.side}", [network.name for network in spec.networks]
    network = spec.network(end.at.name)
    if network is None:
        every = f"networks are {listed(known)}" if known else f"there is no [network.{end.at.name}] in this file"
        raise spec.error(path, f'unknown network "{end.at.name}"', did_you_mean(end.at.name, known, every))
    if modes.network_mode(network) is NetworkMode.MACVTAP:
        problem = f'network "{end.at.name}" has no bridge that a cable could be plugged into'
        raise spec.error(path, problem, "its cards are macvtaps")


def interfaces(spec: LabSpec) -> Iterator[tuple[str, str, str]]:
    """Yield the interfaces that cables make: name, path of the key, and of the cable."""
    for cable in spec.cables:
        for end in ends(cable):
            yield modes.placed(netns(spec, end.at), ifname(cable, end)), end.key("name"), cable.path


def netns(spec: LabSpec, at: EndSpec) -> str:
    """Return the namespace of the lab that an end is in, empty for the host's own."""
    if at.kind is EndKind.NETNS:
        return at.name
    network = spec.network(at.name) if at.kind is EndKind.NETWORK else None
    return network.netns or "" if network is not None else ""


def bridges(spec: LabSpec) -> Iterator[tuple[str, str]]:
    """Yield the existing bridges that cables are plugged into, with the paths of their keys."""
    for cable in spec.cables:
        for end in ends(cable):
            if end.at.kind is EndKind.BRIDGE:
                yield end.at.name, f"{cable.path}.{end.side}"


def _check_loops(spec: LabSpec) -> None:
    stp = {modes.switch_key(network) for network in spec.networks if network.stp or network.external}
    wires = []
    for cable in spec.cables:
        joined = [_where_written(spec, end.at).key for end in ends(cable) if end.at.kind in _SWITCHES]
        if len(joined) == 2:
            wires.append(loops.Wire(joined[0], joined[1], name(cable)))
            found = loops.closed_by(wires[-1], wires[:-1], frozenset(stp))
            if found is not None:
                raise spec.error(cable.path, f"it closes a loop: {loops.story(found)}", _LOOP)


def _where_written(spec: LabSpec, at: EndSpec) -> OnSwitch:
    network = spec.network(at.name) if at.kind is EndKind.NETWORK else None
    if network is None:
        return OnSwitch(at.name)
    return OnSwitch(modes.bridge_name(network), network.name, netns=network.netns or "")


# ---------------------------------------------------------------- on this host


def resolve(scene: Scene, spec: CableSpec, known: Mapping[str, Network]) -> Cable:
    """Return a cable; notes what the host lacks for it. Raises ConfigError."""
    if scene.facts.uid != 0:
        scene.lack("the right to make a cable (you are not root)", nics.RIGHTS)
    one, other = ends(spec)
    (where, mtu), (beyond, other_mtu) = _where(scene, one, known), _where(scene, other, known)
    least = min((found for found in (mtu, other_mtu) if found is not None), default=cards.USUAL_MTU)
    a, b = _end(scene, spec, one, where, known), _end(scene, spec, other, beyond, known)
    return Cable(name(spec), a, b, first(spec.mtu, otherwise=least))


def as_written(spec: LabSpec) -> Cable:
    """Return the only cable of a file that says everything, as those in the runtime directory do."""
    (cable,) = spec.cables
    one, other = ends(cable)
    a, b = (_as_written(spec, cable, end) for end in (one, other))
    return Cable(name(cable), a, b, first(cable.mtu, otherwise=cards.USUAL_MTU))


def _as_written(spec: LabSpec, cable: CableSpec, end: EndKeys) -> End:
    where: Where = AtHost() if end.at.kind is EndKind.HOST else Loose()
    if end.at.kind is EndKind.NETNS:
        where = InNetns(end.at.name)
    if end.at.kind in _SWITCHES:
        where = _where_written(spec, end.at)
    return End(ifname(cable, end), end.mac or "", where, end.addresses, end.routes, end.vlans)


def _where(scene: Scene, end: EndKeys, known: Mapping[str, Network]) -> tuple[Where, int | None]:
    """Return where an end is, and the MTU of what it is plugged into."""
    match end.at.kind:
        case EndKind.HOST:
            return AtHost(), None
        case EndKind.FREE:
            return Loose(), None
        case EndKind.NETNS:
            return InNetns(end.at.name), None
        case EndKind.BRIDGE:
            found, mtu = nics.bridge(scene, f"{end.path}.{end.side}", end.at.name)
            return OnSwitch(found), mtu
        case EndKind.NETWORK:
            network = known[end.at.name]
            switch = network.switch
            if isinstance(switch, OwnBridge):
                return OnSwitch(switch.ifname, end.at.name, switch.stp, network.netns), switch.mtu
            assert isinstance(switch, ForeignBridge), "checked with the file"
            return OnSwitch(switch.ifname), switch.mtu


def _end(scene: Scene, cable: CableSpec, end: EndKeys, where: Where, known: Mapping[str, Network]) -> End:
    own = mac.stable(scene.facts.machine_id, "cable", name(cable), end.side)
    address = own if end.mac in (None, "auto") else end.mac
    if isinstance(where, OnSwitch) and end.mac in (None, "auto"):
        address = mac.host_twin(own)  # which no bridge takes for its own
    assert address is not None, "it was made"
    return End(ifname(cable, end), address, where, end.addresses, end.routes, vlans.of_end(scene, end, where, known))
