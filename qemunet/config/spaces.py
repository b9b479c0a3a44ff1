"""Checks and resolves namespaces, and gives what a file says of their interfaces to the ends of cables in them."""

from __future__ import annotations

from qemunet.config import modes, units
from qemunet.config.hints import did_you_mean, listed
from qemunet.config.scene import first
from qemunet.config.spec import CableSpec, EndKind, LabSpec, NetnsSpec, NetworkSpec
from qemunet.frozen import replace
from qemunet.later import later
from qemunet.model.netns import Netns
from qemunet.model.network import HostSide

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from qemunet.config import cables, nics, served
    from qemunet.config.scene import Scene
    from qemunet.model.cable import Route
else:
    cables = later("qemunet.config.cables")
    nics = later("qemunet.config.nics")
    served = later("qemunet.config.served")

_LO = "lo"


def used(spec: LabSpec, networks: Collection[str | None]) -> set[str]:
    """Return the namespaces that cables of a lab reach into, and those that these networks are in."""
    found = {end.at.name for cable in spec.cables for end in cables.ends(cable) if end.at.kind is EndKind.NETNS}
    return found | {one.netns for one in spec.networks if one.name in networks and one.netns}


def check(spec: LabSpec) -> None:
    """Raise ConfigError for what is to be in a namespace and cannot be."""
    for network in spec.networks:
        if network.netns is not None:
            known(spec, f"{network.path}.netns", network.netns)
            _check_network(spec, network)
    for vm in spec.vms:
        if vm.netns is not None:
            known(spec, f"{vm.path}.netns", vm.netns)


def known(spec: LabSpec, path: str, name: str) -> None:
    """Raise ConfigError at `path` if a lab has no namespace of that name."""
    if spec.netns(name) is None:
        names = [netns.name for netns in spec.spaces]
        every = f"namespaces are {listed(names)}" if names else f"there is no [netns.{name}] in this file"
        raise spec.error(path, f'unknown namespace "{name}"', did_you_mean(name, names, every))


def _check_network(spec: LabSpec, network: NetworkSpec) -> None:
    if served.is_auto(network):
        problem = "of what is free in a namespace nobody knows"
        raise spec.error(f"{network.path}.address", f'"auto": {problem}', "name the address")
    if modes.host_place(network) is HostSide.VETH:
        problem = f'its switch is in namespace "{network.netns}", and the host is not'
        hint = f'a [[cable]] with a = "network:{network.name}" and b = "host" joins the two'
        raise spec.error(f"{network.path}.{'host' if network.host else 'dhcp.server'}", problem, hint)


def expanded(spec: LabSpec) -> LabSpec:
    """Return a lab in which each end of a cable says itself what its namespace says of it. Raises ConfigError."""
    for netns in spec.spaces:
        for name, _ in netns.address or ():
            if name != _LO and name not in _interfaces(spec, netns):
                every = listed((_LO, *_interfaces(spec, netns)))
                raise spec.error(f"{netns.path}.address", f"there is no {name} in this namespace", f"it has {every}")
        for route in netns.routes or ():
            _device(spec, netns, route)
    return replace(spec, cables=tuple(_expanded(spec, cable) for cable in spec.cables)) if spec.spaces else spec


def _expanded(spec: LabSpec, cable: CableSpec) -> CableSpec:
    if cable.a is None or cable.b is None:
        return cable
    changes: dict[str, tuple[object, ...]] = {}
    for end in cables.ends(cable):
        netns = spec.netns(end.at.name) if end.at.kind is EndKind.NETNS else None
        if netns is None:
            continue
        name = cables.ifname(cable, end)
        more = tuple(one for found, several in netns.address or () if found == name for one in several)
        changes[f"{end.side}_address"] = (*end.addresses, *(one for one in more if one not in end.addresses))
        ways = (replace(way, device="") for way in netns.routes or () if _device(spec, netns, way) == name)
        changes[f"{end.side}_routes"] = tuple(dict.fromkeys((*end.routes, *ways)))
    return replace(cable, **{key: value or None for key, value in changes.items()})


def _interfaces(spec: LabSpec, netns: NetnsSpec) -> dict[str, tuple[str, ...]]:
    """Return the ends of cables in a namespace, with their addresses."""
    given = dict(netns.address or ())
    found = {}
    for cable in spec.cables:
        for end in cables.ends(cable) if cable.a is not None and cable.b is not None else ():
            if end.at.kind is EndKind.NETNS and end.at.name == netns.name:
                name = cables.ifname(cable, end)
                found[name] = (*end.addresses, *given.get(name, ()))
    return found


def _device(spec: LabSpec, netns: NetnsSpec, route: Route) -> str:
    """Return the interface that a route of a namespace goes by; raises ConfigError."""
    interfaces = _interfaces(spec, netns)
    if route.device in interfaces:
        return route.device
    gateway = route.gateway
    if not route.device and gateway is not None:
        for name, addresses in interfaces.items():
            if any(units.inside(gateway, one) for one in addresses):
                return name
        raise spec.error(f"{netns.path}.routes", f"{gateway} is in no network of this namespace")
    every = f"it has {listed(interfaces)}" if interfaces else "no cable has an end in it"
    problem = (
        f"there is no {route.device} in this namespace" if route.device else f'"{route}" says not by which interface'
    )
    raise spec.error(f"{netns.path}.routes", problem, every)


def resolve(scene: Scene, spec: NetnsSpec) -> Netns:
    """Return a namespace; notes what the host lacks for it."""
    if scene.facts.uid != 0:
        scene.lack("the right to make a namespace (you are not root)", nics.RIGHTS)
    addresses = tuple(one for name, several in spec.address or () if name == _LO for one in several)
    named = first(spec.named, otherwise=True)
    return Netns(spec.name, first(spec.hostname, otherwise=spec.name), named, addresses, spec.sysctls or ())
