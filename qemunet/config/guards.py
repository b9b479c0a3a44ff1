"""Resolves the guard of a card: which addresses are its own, which are the host's, and whether this kernel can look."""

from __future__ import annotations

from qemunet.config import units
from qemunet.model import mac
from qemunet.model.guard import Guard, GuardLevel
from qemunet.model.network import HostSide, OwnBridge
from qemunet.model.nic import Linked, MacvtapBackend, OnBridge, OnNetwork, PointToPoint, TapBackend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qemunet.config.scene import Scene
    from qemunet.config.spec import NicSpec
    from qemunet.model.network import Network
    from qemunet.model.nic import Backend

NFT = "nft"
BRIDGE, EGRESS, INET = "bridge", "egress", "inet"  # ways of nft to look at what a guest sends
_LACKS = {
    BRIDGE: "nftables of the family bridge in the kernel (NF_TABLES_BRIDGE)",
    EGRESS: "nftables at the egress of interfaces in the kernel (Linux 5.16, NETFILTER_EGRESS), which alone sees what "
    "the guest of a macvtap sends,",
    INET: "nftables of the families inet and arp in the kernel",
}


def is_guarded(spec: NicSpec) -> bool:
    """Tell whether a card asks for a guard."""
    return spec.guard not in (None, GuardLevel.OFF)


def programs(every: Iterable[NicSpec]) -> Iterator[str]:
    """Yield the programs that guards need."""
    yield from [NFT] if any(map(is_guarded, every)) else []


def guard(scene: Scene, spec: NicSpec, address: str, backend: Backend, networks: Mapping[str, Network]) -> Guard:
    """Return the guard of a card with that MAC address, and note what this host lacks for it; raises ConfigError."""
    level = spec.guard or GuardLevel.OFF
    if level is GuardLevel.OFF or not isinstance(backend, Linked):
        return Guard()
    _able(scene, spec, backend)
    if level is GuardLevel.MAC:
        return Guard(level)
    attach = backend.attach if isinstance(backend, TapBackend) else None
    network = networks[attach.network] if isinstance(attach, OnNetwork) else None
    own = tuple(map(units.plain, spec.ip or ())) or tuple(_reserved(network, address))
    if level is GuardLevel.STRICT and not own:
        problem = '"strict" lets the card use its known addresses alone, and none is known'
        hint = 'as in ip = ["192.168.50.12/24"], or a reservation in the hosts of its network; or guard = "clean"'
        raise scene.spec.error(f"{spec.path}.guard", problem, hint)
    known = tuple(dict.fromkeys(one for one in (*_hosts(attach, network), *(spec.gateway or ())) if one not in own))
    behind = attach.routes if isinstance(attach, PointToPoint) else ()
    return Guard(level, own, behind, () if level is GuardLevel.STRICT else known)


def _able(scene: Scene, spec: NicSpec, backend: Backend) -> None:
    if NFT not in scene.facts.programs:
        scene.lack(f"{NFT}, for {spec.path}.guard", "Debian has it in nftables")
        return
    way = _way(backend)
    if way in scene.facts.guard_lacks:
        scene.lack(f"{_LACKS[way]} for {spec.path}.guard", "without it leave that out")


def _way(backend: Backend) -> str:
    if isinstance(backend, MacvtapBackend):
        return EGRESS
    on_bridge = isinstance(backend, TapBackend) and isinstance(backend.attach, OnNetwork | OnBridge)
    return BRIDGE if on_bridge else INET


def _reserved(network: Network | None, address: str) -> Iterator[str]:
    services = network.services if network is not None else None
    yield from (host.ip for host in (services.hosts if services is not None else ()) if host.mac == address)


def _hosts(attach: object, network: Network | None) -> Iterator[str]:
    """Yield the addresses of the host where the card is, with that by which it is known as a router in IPv6."""
    if isinstance(attach, PointToPoint):
        yield from map(units.plain, attach.addresses)
    switch = network.switch if network is not None else None
    if not isinstance(switch, OwnBridge):
        return
    yield from map(units.plain, switch.addresses)
    if any(":" in one for one in switch.addresses):
        yield mac.link_local(mac.stable(switch.mac, "host") if switch.host is HostSide.VETH else switch.mac)
