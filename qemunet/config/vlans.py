"""Checks and resolves VLANs: that only bridges that tell them apart have ports with any, and what a host lacks."""

from __future__ import annotations

from qemunet.config import modes
from qemunet.config.hints import did_you_mean, listed
from qemunet.config.spec import EndKind
from qemunet.model.cable import OnSwitch
from qemunet.model.guard import GuardLevel
from qemunet.model.network import HostSide, OwnBridge
from qemunet.model.nic import OnBridge, OnNetwork, TapBackend
from qemunet.model.vlan import Vlans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemunet.config.cables import EndKeys
    from qemunet.config.scene import Scene
    from qemunet.config.spec import LabSpec, NetworkSpec, NicSpec
    from qemunet.errors import ConfigError
    from qemunet.model.cable import Where
    from qemunet.model.network import Network
    from qemunet.model.nic import Backend

KERNEL = "VLAN filtering of bridges in the kernel (BRIDGE_VLAN_FILTERING)"
_REMEDY = "without it there is a network for each VLAN, or a kernel that has it"


# ---------------------------------------------------------------- what must be right whatever the host is


def check_network(spec: LabSpec, network: NetworkSpec) -> None:
    """Raise ConfigError if the host's VLAN, or those of ports, cannot be."""
    _check_ports(spec, network)
    if network.host_vlan is None:
        return
    path = f"{network.path}.host-vlan"
    if not network.vlan_filtering:
        raise spec.error(path, "this network does not tell VLANs apart", "vlan-filtering = true lets it")
    if modes.host_place(network) is HostSide.NONE:
        raise spec.error(path, 'with host = "none" the host is in no VLAN of it', "leave out one of the two")
    if network.move_address:
        problem = "with move-address the host is where its uplink is, in VLAN 1"
        raise spec.error(path, problem, "leave out one of the two")


def _check_ports(spec: LabSpec, network: NetworkSpec) -> None:
    path, ports = f"{network.path}.port-vlan", network.ports or ()
    for name, _ in network.port_vlan or ():
        if name not in ports:
            problem = f'"{name}" is no port of this network'
            raise spec.error(path, problem, did_you_mean(name, ports, f"its ports are {listed(ports)}"))
    if network.port_vlan and not network.vlan_filtering:
        raise _unfiltered(spec, network.name, path)


def check_card(spec: LabSpec, nic: NicSpec) -> None:
    """Raise ConfigError if a card has VLANs on a network that does not tell them apart."""
    if nic.vlan is None or nic.vlan == Vlans():
        return
    _check_on(spec, nic.network, f"{nic.path}.vlan")
    if nic.vlan.tagged and nic.guard in (GuardLevel.CLEAN, GuardLevel.STRICT):
        problem = f'guard = "{nic.guard}" drops what has a tag, and this card is in VLANs with tags'
        raise spec.error(f"{nic.path}.guard", problem, 'guard = "mac" passes it')


def check_end(spec: LabSpec, end: EndKeys) -> None:
    """Raise ConfigError if an end of a cable has VLANs where nobody tells them apart."""
    if end.vlans is None:
        return
    if end.at.kind is EndKind.NETWORK:
        _check_on(spec, end.at.name, end.key("vlan"))
    elif end.at.kind is not EndKind.BRIDGE:
        raise spec.error(end.key("vlan"), f'"{end.at}" is no bridge, whose ports alone are in VLANs', "leave it out")


def _check_on(spec: LabSpec, name: str | None, path: str) -> None:
    network = spec.network(name) if name is not None else None
    if network is not None and modes.makes_bridge(network) and not network.vlan_filtering:
        raise _unfiltered(spec, network.name, path)


def _unfiltered(spec: LabSpec, network: str, path: str) -> ConfigError:
    problem = f'network "{network}" does not tell VLANs apart'
    return spec.error(path, problem, f"[network.{network}] vlan-filtering = true lets it")


# ---------------------------------------------------------------- on this host


def of_network(scene: Scene, network: NetworkSpec) -> bool:
    """Tell whether a network of ours tells VLANs apart; notes if the kernel cannot."""
    if network.vlan_filtering and not network.external:
        _able(scene)
    return bool(network.vlan_filtering)


def of_card(scene: Scene, spec: NicSpec, backend: Backend, networks: Mapping[str, Network]) -> Vlans | None:
    """Return a card's VLANs, and note what the host lacks for them; raises ConfigError."""
    attach = backend.attach if isinstance(backend, TapBackend) else None
    if spec.vlan in (None, Vlans()) or not isinstance(attach, OnNetwork | OnBridge):
        return None
    network = networks[attach.network] if isinstance(attach, OnNetwork) else None
    _filtered(scene, f"{spec.path}.vlan", network, attach.bridge)
    return spec.vlan


def of_end(scene: Scene, end: EndKeys, where: Where, networks: Mapping[str, Network]) -> Vlans | None:
    """Return the VLANs of an end of a cable, likewise."""
    if end.vlans is not None and isinstance(where, OnSwitch):
        network = networks[end.at.name] if end.at.kind is EndKind.NETWORK else None
        _filtered(scene, end.key("vlan"), network, where.bridge)
    return end.vlans


def _filtered(scene: Scene, path: str, network: Network | None, bridge: str) -> None:
    """Note it if a bridge of others, or the kernel, does not tell VLANs apart; raise ConfigError if ours does not."""
    if not _able(scene):
        return
    if network is not None and isinstance(network.switch, OwnBridge):
        if not network.switch.vlan_filtering:
            raise _unfiltered(scene.spec, network.name, path)
        return
    link = scene.link(bridge)
    if link is not None and link.kind == "bridge" and not link.vlan_filtering:
        hint = f"`ip link set {bridge} type bridge vlan_filtering 1` turns it on, for all that is plugged into it"
        scene.lack(f"VLAN filtering of the bridge {bridge}, for {path}", hint)


def _able(scene: Scene) -> bool:
    if not scene.facts.vlans:
        scene.lack(KERNEL, _REMEDY)
    return scene.facts.vlans
