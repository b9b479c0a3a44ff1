"""Checks and resolves namespaces, and gives what a file says of their interfaces to the ends of cables in them."""

from __future__ import annotations

import typing

from qemunet.config import cables, nics, units
from qemunet.config.hints import listed
from qemunet.config.scene import first
from qemunet.config.spec import CableSpec, EndKind, LabSpec, NetnsSpec
from qemunet.frozen import replace
from qemunet.model.netns import Netns

if typing.TYPE_CHECKING:
    from qemunet.config.scene import Scene
    from qemunet.model.cable import Route

_LO = "lo"


def used(spec: LabSpec) -> set[str]:
    """Return the namespaces that cables of a lab reach into."""
    return {end.at.name for cable in spec.cables for end in cables.ends(cable) if end.at.kind is EndKind.NETNS}


def expanded(spec: LabSpec) -> LabSpec:
    """Return a lab in which each end of a cable says itself what its namespace says of it. Raises ConfigError."""
    for netns in spec.spaces:
        for name, _ in netns.address or ():
            if name != _LO and name not in _interfaces(spec, netns):
                known = listed((_LO, *_interfaces(spec, netns)))
                raise spec.error(f"{netns.path}.address", f"there is no {name} in this namespace", f"it has {known}")
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
    known = f"it has {listed(interfaces)}" if interfaces else "no cable has an end in it"
    problem = (
        f"there is no {route.device} in this namespace" if route.device else f'"{route}" says not by which interface'
    )
    raise spec.error(f"{netns.path}.routes", problem, known)


def resolve(scene: Scene, spec: NetnsSpec) -> Netns:
    """Return a namespace; notes what the host lacks for it."""
    if scene.facts.uid != 0:
        scene.lack("the right to make a namespace (you are not root)", nics.RIGHTS)
    addresses = tuple(one for name, several in spec.address or () if name == _LO for one in several)
    named = first(spec.named, otherwise=True)
    return Netns(spec.name, first(spec.hostname, otherwise=spec.name), named, addresses, spec.sysctls or ())
