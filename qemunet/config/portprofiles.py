"""Gives cards the values of the port profile that they name, and says what such a profile cannot have."""

from __future__ import annotations

import typing

from qemunet.config import modes
from qemunet.config.hints import did_you_mean, listed
from qemunet.frozen import as_dict, replace
from qemunet.model.guard import GuardLevel
from qemunet.model.network import NetworkMode

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.spec import LabSpec, NetworkSpec, NicSpec
    from qemunet.model.network import PortProfile

_OF_BRIDGES = ("vlan", "port_isolation")


def of(spec: LabSpec, nic: NicSpec) -> PortProfile | None:
    """Return the port profile that a card names, if its network has one of that name."""
    network = spec.network(nic.network) if nic.network is not None and nic.port_profile is not None else None
    profiles = (network.port_profile or ()) if network is not None else ()
    return next((one for one in profiles if one.name == nic.port_profile), None)


def values(profile: PortProfile) -> dict[str, object]:
    """Return what a profile says, by the fields of a card."""
    return {key: one for key, one in as_dict(profile).items() if key != "name" and one is not None}


def expanded(spec: LabSpec) -> LabSpec:
    """Return a lab in which each card says itself what it has from a port profile."""
    found: list[tuple[str, str]] = []
    vms = []
    for vm in spec.vms:
        nics = None if vm.nic is None else tuple(_expanded(spec, nic, found) for nic in vm.nic)
        vms.append(replace(vm, nic=nics))
    return replace(spec, vms=tuple(vms), preset=(*spec.preset, *found)) if found else spec


def _expanded(spec: LabSpec, nic: NicSpec, found: list[tuple[str, str]]) -> NicSpec:
    profile = of(spec, nic)
    if profile is None:
        return nic
    news = {key: one for key, one in values(profile).items() if getattr(nic, key) is None}
    found += [(f"{nic.path}.{key.replace('_', '-')}", profile.name) for key in news]
    return replace(nic, **news)


# ---------------------------------------------------------------- what must be right whatever the host is


def check(spec: LabSpec) -> None:
    """Raise ConfigError for a profile that no card of its network could have, and for a card that names none."""
    for network in spec.networks:
        for profile in network.port_profile or ():
            _check_profile(spec, network, profile)
    for vm in spec.vms:
        for nic in vm.nic or ():
            if nic.port_profile is not None and nic.network is not None and spec.network(nic.network) is not None:
                _check_named(spec, nic, nic.network)


def _check_profile(spec: LabSpec, network: NetworkSpec, profile: PortProfile) -> None:
    path = f"{network.path}.port-profile.{profile.name}"
    said = values(profile)
    misfits = [key for key in _OF_BRIDGES if key in said and network.mode is NetworkMode.MACVTAP]
    for key in misfits:
        problem = "a macvtap is not a port of a bridge"
        raise spec.error(f"{path}.{key.replace('_', '-')}", problem, "leave it out")
    if profile.vlan is not None and modes.makes_bridge(network) and not network.vlan_filtering:
        problem = f'network "{network.name}" does not tell VLANs apart'
        raise spec.error(f"{path}.vlan", problem, f"[network.{network.name}] vlan-filtering = true lets it")
    tagged = profile.vlan is not None and profile.vlan.tagged
    if tagged and profile.guard in (GuardLevel.CLEAN, GuardLevel.STRICT):
        problem = f'guard = "{profile.guard}" drops what has a tag, and vlan has VLANs with tags'
        raise spec.error(f"{path}.guard", problem, 'guard = "mac" passes it')


def _check_named(spec: LabSpec, nic: NicSpec, name: str) -> None:
    network = spec.network(name)
    if network is None or of(spec, nic) is not None:
        return
    path = f"{nic.path}.port-profile"
    if network.external:
        problem = f'network "{name}" is external, and its port profiles are for the cards of its own lab'
        raise spec.error(path, problem, "give the card the values itself")
    known = [*_names(network)]
    every = f"those of {name} are {listed(known)}" if known else f"network {name} has none"
    problem = f'unknown port-profile "{nic.port_profile}" of network "{name}"'
    raise spec.error(path, problem, did_you_mean(nic.port_profile or "", known, every))


def _names(network: NetworkSpec) -> Iterator[str]:
    yield from (one.name for one in network.port_profile or ())
