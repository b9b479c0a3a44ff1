"""Which interfaces of a lab are the host's, and which those of a namespace, and the network that each leads to."""

from __future__ import annotations

import typing

from qemunet.config import cables, check, modes, nics
from qemunet.config.spec import EndKind
from qemunet.model.network import HostSide

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.cables import EndKeys
    from qemunet.config.spec import CableSpec, LabSpec, NetworkSpec

    Leading = tuple[str, str | None]


def of_host(spec: LabSpec) -> dict[str, str | None]:
    """Return the host's own interfaces in a lab: where its bridges, cables and point-to-point cards have addresses."""
    return dict(_all(spec, ""))


def of_netns(spec: LabSpec, name: str) -> dict[str, str | None]:
    """Return the interfaces of a namespace, with its loopback, which leads nowhere."""
    return {"lo": None, **dict(_all(spec, name))}


def _all(spec: LabSpec, netns: str) -> Iterator[Leading]:
    """Yield the interfaces in a namespace of the lab, or in the host's own, whose name is empty."""
    for network in spec.networks:
        if (network.netns or "") == netns and network.parent is None:
            yield _own(network), network.name
    for cable in spec.cables:
        yield from _ends(cable, netns)
    if not netns:
        yield from _of_cards(spec)


def _own(network: NetworkSpec) -> str:
    """Return the interface on which the host has its addresses on a network."""
    at_end = modes.makes_bridge(network) and modes.host_place(network) is HostSide.VETH
    return modes.host_ifname(network) if at_end else modes.bridge_name(network)


def _ends(cable: CableSpec, netns: str) -> Iterator[Leading]:
    one, other = cables.ends(cable)
    for end, beyond in ((one, other), (other, one)):
        if _is_in(end, netns):
            yield cables.ifname(cable, end), beyond.at.name if beyond.at.kind is EndKind.NETWORK else None


def _is_in(end: EndKeys, netns: str) -> bool:
    return end.at.name == netns if end.at.kind is EndKind.NETNS else end.at.kind is EndKind.HOST and not netns


def _of_cards(spec: LabSpec) -> Iterator[Leading]:
    for vm in spec.vms:
        for index, nic in enumerate(check.nics(vm)):
            if modes.is_point_to_point(nic):
                yield check.ifname(vm, index, nic), None
            if nic.parent is not None and nic.host_macvlan:
                yield nics.macvlan_name(nic.parent), nic.network
