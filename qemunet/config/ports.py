"""Resolves the ports of a network's own bridge: interfaces of the host that carry something, or are no ports at all."""

from __future__ import annotations

from qemunet.config import cards, managed, modes
from qemunet.config.hints import listed
from qemunet.config.scene import first
from qemunet.errors import Taken
from qemunet.model.network import HostSide
from qemunet.model.routing import Carried

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemunet.config.scene import Scene
    from qemunet.config.spec import LabSpec, NetworkSpec
    from qemunet.facts import Facts, LinkFact
    from qemunet.model.network import OwnBridge
    from qemunet.model.vlan import Vlans

LEAST_MTU = 1280  # below, the kernel takes IPv6 and its settings from an interface for good
USUAL_MTU = cards.USUAL_MTU


def check(spec: LabSpec, network: NetworkSpec) -> None:
    """Raise ConfigError for what cannot be whatever the host is like."""
    if network.ports is None:
        return
    path = f"{network.path}.ports"
    if not network.ports:
        raise spec.error(path, "it is empty", 'as in ports = ["eth1"]; for an existing bridge leave it out')
    if "lo" in network.ports:
        raise spec.error(path, "lo cannot be a port of a bridge: it leads nowhere but to this host")
    if network.mtu is not None and network.mtu < LEAST_MTU:
        hint = f"{LEAST_MTU} or more: below, the kernel takes IPv6 from its ports"
        raise spec.error(f"{network.path}.mtu", f"{network.mtu} is less than a bridge with ports can have", hint)
    if network.move_address and network.mac not in (None, "auto"):
        problem = "with move-address the bridge has the address of the uplink, so that the host stays the same"
        raise spec.error(f"{network.path}.mac", problem, "leave out one of the two")
    if network.move_address and network.host not in (None, HostSide.BRIDGE):
        problem = "with move-address the host is on the bridge, with the addresses of the uplink"
        raise spec.error(f"{network.path}.host", problem, "leave out one of the two")


def names(scene: Scene, spec: NetworkSpec) -> tuple[str, ...]:
    """Return the ports' names, and note those that are not there. Raises Taken and ConfigError for what is no port.

    Nothing is said of the ports of a bridge that is up.
    """
    if managed.is_up(scene, spec):
        return tuple(link.name if (link := scene.link(one)) else one for one in spec.ports or ())
    links = [link for one in spec.ports or () if (link := _there(scene, spec, one))]
    for link in links:
        _check_port(scene, spec, link)
    _check_loop(scene, spec, links)
    if scene.strict:
        _check_uplinks(scene, spec)
    return tuple(link.name if (link := scene.link(one)) else one for one in spec.ports or ())


def vlans(scene: Scene, spec: NetworkSpec) -> tuple[tuple[str, Vlans], ...]:
    """Return the VLANs of ports, by the names of these; raises ConfigError if the host would not be in its own."""
    moving = [link.name for link in _uplinks(scene, spec)] if spec.move_address else []
    found = [(link.name if (link := scene.link(name)) else name, one) for name, one in spec.port_vlan or ()]
    for name, one in found:
        if name in moving and one.native != 1:
            problem = f"with move-address the host is behind {name}, in VLAN 1 without a tag, and {name} would not be"
            raise scene.spec.error(f"{spec.path}.port-vlan", problem, "native = 1 lets it be")
    return tuple(found)


def mac(scene: Scene, spec: NetworkSpec) -> str | None:
    """Return the address of the bridge if it is to be its uplink's, None if it has one of its own."""
    if not spec.move_address:
        return None
    bridge = scene.link(modes.bridge_name(spec))
    if managed.is_up(scene, spec) and bridge is not None:
        return bridge.mac
    ports = [link for one in spec.ports or () if (link := scene.link(one))]
    return next((link.mac for link in [*_uplinks(scene, spec), *ports]), None)


def mtu(scene: Scene, spec: NetworkSpec) -> int:
    """Return the MTU of a bridge: as the file says, else the least of its ports."""
    known = [link.mtu for one in spec.ports or () if (link := scene.link(one))]
    return first(spec.mtu, otherwise=min(known, default=USUAL_MTU))


def notes(switch: OwnBridge, facts: Facts) -> Iterator[str]:
    """Yield what is worth a word about a bridge that is about to be made with its ports."""
    found = ((name, facts.carried.get(name, Carried())) for name in switch.ports)
    for name, carried in found:
        if carried.is_bare or not switch.move_address:
            continue
        lent = [one.address for one in carried.addresses if one.valid is not None and ":" not in one.address]
        if lent:
            yield (
                f"{listed(lent)} of {name} is lent to it; a DHCP client there hears no answer while {name} is a port: "
                f"let it look after {switch.ifname}, or end the lab before the lease ends"
            )
        for rule in carried.rules:
            yield f'the policy rule "{rule}" stays as it is, and packets come and go by {switch.ifname} meanwhile'
        if switch.stp:
            cut = 2 * switch.forward_delay
            yield f"with stp the host is cut off for the {cut} s in which {name} listens and learns before it forwards"


def _there(scene: Scene, spec: NetworkSpec, name: str) -> LinkFact | None:
    link = scene.link(name)
    if link is None:
        hint = f"`ip link` lists those of this network namespace ({spec.path}.ports)"
        scene.lack(f"the interface {name}", hint)
    return link


def _check_port(scene: Scene, spec: NetworkSpec, link: LinkFact) -> None:
    path, name = f"{spec.path}.ports", link.name
    if link.kind == "bridge":
        hint = f'the guests are on it by mode = "bridge" and bridge = "{name}"'
        raise scene.spec.error(path, f"{name} is a bridge itself, and cannot be a port of one", hint)
    if len(link.mac) != 17:
        raise scene.spec.error(path, f"{name} is no Ethernet interface, which a port of a bridge has to be")
    if not scene.strict:
        return
    if link.master is not None and link.master != modes.bridge_name(spec):
        hint = f"`ip link set {name} nomaster` frees it, if nobody needs it there"
        raise Taken(f"{name} is a port of {link.master} already", where=path, hint=hint)
    above = scene.facts.carried.get(name, Carried()).above
    if above:
        hint = "what is on it takes all that arrives there; delete that first, or stop the vms that use it"
        raise Taken(f"{name} carries {listed(above)}", where=path, hint=hint)


def _check_loop(scene: Scene, spec: NetworkSpec, links: Sequence[LinkFact]) -> None:
    """Refuse two ports that lead to the same segment, as far as that can be seen: by cables of this host."""
    path, by_bridge = f"{spec.path}.ports", dict[str, str]()
    for link in links:
        carried = scene.facts.carried.get(link.name, Carried())
        if carried.peer in [other.name for other in links]:
            problem = f"{link.name} and {carried.peer} are the two ends of one cable: that is a loop"
            raise scene.spec.error(path, problem, "leave out one of them")
        other = by_bridge.setdefault(carried.beyond, link.name) if carried.beyond else link.name
        if other != link.name and not spec.stp:
            problem = f"{other} and {link.name} both lead to {carried.beyond}: that is a loop"
            raise scene.spec.error(path, problem, "leave out one of them, or stp = true on both bridges")


def moved(facts: Facts) -> dict[str, str]:
    """Return the ports of networks that are up and have what one of them carried, to the bridge that has it now."""
    found: dict[str, str] = {}
    for name, text in facts.networks.items():
        if "move-address" not in text:
            continue
        known = managed.as_it_is(facts, name)
        if known is not None and known.move_address:
            found |= dict.fromkeys(known.ports or (), modes.bridge_name(known))
    return found


def _uplinks(scene: Scene, spec: NetworkSpec) -> list[LinkFact]:
    """Return the ports that carry addresses of the host, or routes."""
    links = [link for one in spec.ports or () if (link := scene.link(one))]
    return [link for link in links if not scene.facts.carried.get(link.name, Carried()).is_bare]


def _check_uplinks(scene: Scene, spec: NetworkSpec) -> None:
    path, uplinks = f"{spec.path}.ports", _uplinks(scene, spec)
    if not uplinks:
        return
    carried = scene.facts.carried[uplinks[0].name]
    if not spec.move_address:
        hint = f"{spec.path}.move-address = true has them on the bridge for as long as it is there"
        problem = f"{uplinks[0].name} carries {_described(carried)}; as a port of a bridge it would cut the host off"
        raise Taken(problem, where=path, hint=hint)
    if len(uplinks) > 1:
        several = listed(link.name for link in uplinks)
        hint = f"take those of all but one away (`ip address flush dev {uplinks[1].name}`), or leave that out"
        raise Taken(f"{several} carry addresses or routes, and those of one can move", where=path, hint=hint)
    if carried.stuck:
        hint = "delete it, or use another interface"
        raise Taken(f"{carried.stuck[0]}, and cannot be moved to a bridge", where=path, hint=hint)


def _described(carried: Carried) -> str:
    own = [one.address for one in carried.addresses if not one.is_link_local]
    if own:
        return f"the host's address{'es' * (len(own) > 1)} {listed(own)}"
    routes = len(carried.routes) + len(carried.stuck)
    return "a route" if routes == 1 else f"{routes} routes"
