"""Bridges of networks, and the host side of cards: which interfaces are made, and how they are set."""

from __future__ import annotations

from collections.abc import Iterator

from qemunet.errors import Taken
from qemunet.facts import Facts, LinkFact
from qemunet.model import mac, names
from qemunet.model.network import Network, OwnBridge
from qemunet.model.nic import (
    HostMacvlan,
    MacvtapBackend,
    Nic,
    OnBridge,
    OnNetwork,
    PointToPoint,
    TapBackend,
    UserBackend,
)
from qemunet.model.vm import Vm
from qemunet.plan.ways import Passed, vhost_steps
from qemunet.steps import (
    AddAddress,
    AddLink,
    AddNeighbour,
    AddRoute,
    BridgeLink,
    MacvlanLink,
    MacvtapLink,
    Mark,
    OpenMacvtap,
    OpenTap,
    Part,
    PinBridge,
    RunHook,
    SetLink,
    SetSysctl,
    Step,
    sysctl_name,
)

NO_MAC = "00:00:00:00:00:00"
ETHERNET_MTU = 1500  # what a bridge falls back to without ports
STP_DELAY = 2  # seconds; the kernel takes no shorter one once STP is on


def bridge(network: Network, switch: OwnBridge, facts: Facts) -> Part:
    """Return the part that makes a network's bridge. Raises Taken if its interface is somebody else's."""
    scope = network_scope(network.name)
    mark = Mark(scope, "bridge", names.group(facts.runtime, scope))
    _free(switch.ifname, mark, facts, f"network.{network.name}.bridge")
    delay = max(switch.forward_delay, STP_DELAY) if switch.stp else switch.forward_delay
    made = BridgeLink(switch.mac, switch.mtu, switch.stp, delay, switch.ageing)
    steps: tuple[Step, ...] = (
        AddLink(switch.ifname, made, mark),
        *_bridge_ipv6(switch),
        *(AddAddress(switch.ifname, address) for address in switch.addresses),
        SetLink(switch.ifname, up=True),
    )
    return Part(scope, steps, network_fingerprint(network))


def network_scope(name: str) -> str:
    """Return the scope of a network."""
    return f"net/{name}"


def network_fingerprint(network: Network) -> str:
    """Return what is equal for networks whose users may share one."""
    return names.digest(repr((str(network.mode), network.switch)), 16)


def card(vm: Vm, nic: Nic, facts: Facts) -> tuple[Step, ...]:
    """Return the steps that make and open a card's host side. Raises Taken."""
    match nic.backend:
        case UserBackend():
            return ()
        case TapBackend() as tap:
            made = tuple(_tap(vm, nic, tap, facts))
        case MacvtapBackend() as macvtap:
            made = tuple(_macvtap(vm, nic, macvtap, facts))
    return (*made, *vhost_steps(vm, nic))


def pins(vm: Vm, facts: Facts) -> Iterator[Step]:
    """Yield what keeps the bridges of others, that a vm's taps are plugged into, as they are."""
    lowest: dict[str, str] = {}
    for nic in vm.nics:
        attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
        if isinstance(attach, OnNetwork | OnBridge):
            twin = mac.host_twin(nic.mac)
            lowest[attach.bridge] = min(twin, lowest.get(attach.bridge, twin))
    for name, twin in lowest.items():
        link = next((link for link in facts.links.values() if link.name == name), None)
        if link is not None and not _is_ours(link):
            yield from pin(link, twin, facts)


def pin(bridge: LinkFact, port: str, facts: Facts) -> tuple[Step, ...]:
    """Return what keeps a bridge's address and MTU when a port of that address, and the bridge's MTU, comes and goes.

    With a port whose address is lower it has that one's, or one of its own; it goes on to have it. One of zeros is what
    a last port has left behind, as ours will.
    """
    ports = facts.ports.get(bridge.name, frozenset())
    if bridge.mac == NO_MAC or any(other < port for other in ports):
        return ()
    return (PinBridge(bridge.name, bridge.mac, None if ports or bridge.mtu == ETHERNET_MTU else bridge.mtu),)


def host_macvlans(vm: Vm, facts: Facts) -> Iterator[Part]:
    """Yield the shared macvlans of the host beside a vm's macvtaps, one for each parent."""
    backends = [nic.backend for nic in vm.nics if isinstance(nic.backend, MacvtapBackend)]
    for backend in {backend.parent: backend for backend in backends if backend.host}.values():
        assert backend.host is not None, "only those are left"
        scope = f"host/macvlan-{backend.parent}"
        steps = () if scope in facts.scopes else tuple(_macvlan(scope, backend, backend.host, facts))
        yield Part(scope, steps, names.digest(repr((backend.host.mac, backend.mtu, backend.host.answers)), 16))


def _macvlan(scope: str, backend: MacvtapBackend, host: HostMacvlan, facts: Facts) -> Iterator[Step]:
    """Yield what makes the host's macvlan: for its guests it is the parent, and nobody else learns that it is there."""
    name, mark = host.ifname, Mark(scope, "macvlan", names.group(facts.runtime, scope))
    _free(name, mark, facts, scope)
    yield AddLink(name, MacvlanLink(backend.parent, host.mac, backend.mtu), mark)
    for key in ("arp_filter", "rp_filter"):  # answer and hear only those whom a route leads to by this way
        yield SetSysctl(f"net.ipv4.conf.{sysctl_name(name)}.{key}", "1")
    if not host.answers:
        yield SetSysctl(_ipv6(name, "disable_ipv6"), "1")
    for key, value in (("accept_ra", "0"), ("autoconf", "0"), ("proxy_ndp", "1"), ("forwarding", "1")):
        if host.answers:  # the kernel is no proxy where it is no router; it still forwards nothing
            yield SetSysctl(_ipv6(name, key), value)
    yield SetLink(name, up=True)
    yield from (AddNeighbour(name, address) for address in host.answers)


def forwarding(vm: Vm, facts: Facts) -> Iterator[Part]:
    """Yield the shared switches that let packets come back to a guest behind a point-to-point tap.

    Each interface that the way out may take has its own: the global one would rewrite every interface.
    """
    if not any(isinstance(nic.backend, TapBackend) and _is_cable(nic.backend) for nic in vm.nics):
        return
    for name in sorted(facts.addresses):
        scope = f"host/forward-{name}"
        key = f"net.ipv4.conf.{sysctl_name(name)}.forwarding"
        off = facts.sysctls.get(key) == "0"
        if (off or scope in facts.scopes) and _is_uplink(name, facts):
            yield Part(scope, (SetSysctl(key, "1"),), "1")


def _tap(vm: Vm, nic: Nic, tap: TapBackend, facts: Facts) -> Iterator[Step]:
    master = None if isinstance(tap.attach, PointToPoint) else tap.attach.bridge
    yield OpenTap(
        handle=Passed(vm).handle(nic.id).name,
        name=tap.ifname,
        mark=_mark(vm, nic, tap.ifname, facts),
        mac=mac.host_twin(nic.mac),
        mtu=tap.mtu,
        master=master,
        queues=nic.queues,
    )
    if isinstance(tap.attach, PointToPoint):
        yield SetSysctl(_ipv6(tap.ifname, "accept_ra"), "0")  # the guest must not steer the host
        yield SetSysctl(f"net.ipv4.conf.{sysctl_name(tap.ifname)}.forwarding", "1")
        yield from (AddAddress(tap.ifname, address) for address in tap.attach.addresses)
        yield from (AddRoute(route, tap.ifname) for route in tap.attach.routes)


def _macvtap(vm: Vm, nic: Nic, macvtap: MacvtapBackend, facts: Facts) -> Iterator[Step]:
    name = macvtap.ifname
    link = MacvtapLink(macvtap.parent, macvtap.mode, nic.mac, macvtap.mtu)
    yield AddLink(name, link, _mark(vm, nic, name, facts))
    # It has the guest's address: the host's own neighbour probes from it would look like the guest's double.
    yield SetSysctl(_ipv6(name, "disable_ipv6"), "1")
    yield SetLink(name, up=True)
    yield OpenMacvtap(Passed(vm).handle(nic.id).name, name, nic.queues)
    if macvtap.host is not None:
        yield from _ways(nic, macvtap.host)


def _ways(nic: Nic, host: HostMacvlan) -> Iterator[Step]:
    """Yield what leads from the host to a guest.

    Its address is told, not asked for: a question would tell everybody on the LAN that the host is at the macvlan.
    """
    for guest, source in host.ways:
        yield AddNeighbour(host.ifname, guest, nic.mac)
        yield AddRoute(f"{guest}/{128 if ':' in guest else 32}", host.ifname, source=source)


def hook(lab: str, vm: Vm, nic: Nic) -> Iterator[Step]:
    """Yield the user's own programs for a card, if it has a host side and he has any."""
    backend = nic.backend
    if isinstance(backend, UserBackend) or (nic.hook.up is None and nic.hook.down is None):
        return
    environment = {"QEMUNET_LAB": lab, "QEMUNET_VM": vm.name, "QEMUNET_NIC": nic.id, "QEMUNET_MAC": nic.mac}
    if nic.ips:
        environment["QEMUNET_IP"] = " ".join(nic.ips)
    attach = backend.attach if isinstance(backend, TapBackend) else None
    if isinstance(attach, OnNetwork | OnBridge):
        environment["QEMUNET_BRIDGE"] = attach.bridge
    if isinstance(attach, OnNetwork):
        environment["QEMUNET_NETWORK"] = attach.network
    if isinstance(backend, MacvtapBackend):
        environment["QEMUNET_PARENT"] = backend.parent
    yield RunHook(nic.hook.up, nic.hook.down, backend.ifname, tuple(environment.items()))


def _bridge_ipv6(switch: OwnBridge) -> tuple[Step, ...]:
    """A host that has no IPv6 address on a bridge shows no link-local one either; none is steered by guests."""
    if not any(":" in address for address in switch.addresses):
        return (SetSysctl(_ipv6(switch.ifname, "disable_ipv6"), "1"),)
    return tuple(SetSysctl(_ipv6(switch.ifname, name), "0") for name in ("accept_ra", "autoconf"))


def _ipv6(interface: str, name: str) -> str:
    return f"net.ipv6.conf.{sysctl_name(interface)}.{name}"


def _mark(vm: Vm, nic: Nic, ifname: str, facts: Facts) -> Mark:
    scope = f"vm/{vm.name}"
    mark = Mark(scope, nic.id, names.group(facts.runtime, scope))
    _free(ifname, mark, facts, f"vm.{vm.name}.nic {nic.id}")
    return mark


def _free(ifname: str, mark: Mark, facts: Facts, where: str) -> None:
    """Refuse an interface name that is in use; one of ours that runs already is the runner's business."""
    link = facts.links.get(ifname)
    if link is None or (mark.altname in link.altnames and link.group == mark.group):
        return
    whose = next((name for name in link.altnames if name.startswith("qemunet.")), None)
    hint = "choose another name, or remove it; what is left of a killed qemunet goes by `qemunet gc`"
    if whose:
        hint = f"a lab of another runtime directory has it (as {whose}): stop that, or choose another name"
    raise Taken(link.describe(ifname), where=where, hint=hint)


def _is_cable(backend: TapBackend) -> bool:
    return isinstance(backend.attach, PointToPoint)


def _is_uplink(name: str, facts: Facts) -> bool:
    """Whose an interface is has to be known: forwarding on a network of ours would open it to the world."""
    link = facts.links.get(name)
    foreign = link is not None and not _is_ours(link)
    return foreign and name != "lo" and any(_is_global(address) for address in facts.addresses[name])


def _is_ours(link: LinkFact) -> bool:
    return any(altname.startswith("qemunet.") for altname in link.altnames)


def _is_global(address: str) -> bool:
    return ":" not in address and not address.startswith(("127.", "169.254."))
