"""Bridges of networks, and the host side of cards: which interfaces are made, and how they are set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qemunet import steps
from qemunet.errors import Taken
from qemunet.facts import Facts, LinkFact
from qemunet.frozen import replace
from qemunet.later import later
from qemunet.model import mac, names
from qemunet.model.guard import GuardLevel
from qemunet.model.network import HostSide, Network, NetworkMode, OwnBridge
from qemunet.model.nic import (
    HostMacvlan,
    Linked,
    MacvtapBackend,
    Nic,
    OnBridge,
    OnNetwork,
    PointToPoint,
    Rate,
    TapBackend,
    UserBackend,
)
from qemunet.model.vm import Vm
from qemunet.plan import spaces, uplinks
from qemunet.plan.ways import Passed, vhost_steps
from qemunet.steps import (
    AddLink,
    BridgeLink,
    Claim,
    MacvlanLink,
    MacvtapLink,
    Mark,
    OpenMacvtap,
    OpenTap,
    Part,
    PinBridge,
    RunHook,
    SetLink,
    SetMaster,
    VethLink,
    sysctl_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.plan import adopted, rates
    from qemunet.steps import Step
else:
    adopted = later("qemunet.plan.adopted")
    rates = later("qemunet.plan.rates")


NO_MAC = "00:00:00:00:00:00"
ETHERNET_MTU = 1500  # what a bridge falls back to without ports
STP_DELAY = 2  # seconds; the kernel takes no shorter one once STP is on


def bridge(network: Network, switch: OwnBridge, facts: Facts) -> Part:
    """Return the part that makes a network's bridge. Raises Taken if its interface is somebody else's.

    Where the switch is in a namespace of the lab, that one is the host.
    """
    made = _bridge(network, switch, spaces.seen(network.netns, facts))
    if not network.netns:
        return made
    entry = f"{facts.runtime}/{spaces.scope(network.netns)}/users/{network.name}..network"
    return Part(made.scope, (Claim(entry, made.scope), *spaces.all_at(network.netns, made.steps)), made.fingerprint)


def _bridge(network: Network, switch: OwnBridge, facts: Facts) -> Part:
    scope = network_scope(network.name)
    mark = Mark(scope, "bridge", names.group(facts.runtime, scope))
    refuse_taken(switch.ifname, mark, facts, f"network.{network.name}.bridge")
    inside, is_cabled = switch.addressed or switch.ifname, switch.host is HostSide.VETH
    settings, plugs, moved = _outside(switch, facts)
    delay = max(switch.forward_delay, STP_DELAY) if switch.stp else switch.forward_delay
    made = BridgeLink(switch.mac, switch.mtu, switch.stp, delay, switch.ageing)
    todo: tuple[Step, ...] = (
        *(Claim(f"{facts.runtime}/{way.scope}/users/{network.name}.network", scope) for way in ways(network, facts)),
        *_rules(network, switch, facts),
        AddLink(switch.ifname, made, mark),
        *([steps.FilterVlans(switch.ifname)] if switch.vlan_filtering else []),
        *_host_cable(network, switch, facts),
        *_host_vlan(switch),
        *(settings if moved else _host_ipv6(switch, inside)),
        *(steps.AddAddress(switch.addressed, address) for address in switch.present),
        *(() if moved else _switches(network, switch, facts)),
        *plugs,
        SetLink(inside, up=True),
        *_services(network, switch, facts),
        *(SetLink(name, up=True) for name in ((switch.port_ifname, switch.ifname) if is_cabled else ())),
        *moved,
    )
    return Part(scope, todo, network_fingerprint(network))


def _outside(switch: OwnBridge, facts: Facts) -> tuple[tuple[Step, ...], ...]:
    """Return what its ports need: settings of the bridge, what plugs them in, and what moves from an uplink."""
    if not switch.ports:
        return (), (), ()
    from qemunet.plan import ports

    return tuple(ports.settings(switch, facts)), tuple(ports.plugs(switch, facts)), tuple(ports.move(switch, facts))


def ways(network: Network, facts: Facts) -> tuple[Part, ...]:
    """Return the shared switches that a network of ours needs which is not up yet."""
    there = network.external or network_scope(network.name) in facts.scopes
    if there or not isinstance(network.switch, OwnBridge) or network.mode is NetworkMode.PRIVATE:
        return ()
    from qemunet.plan import firewall  # only where it is needed: it takes as long as a tap

    return (*firewall.ways(network, network.switch, facts), *_server(network, facts))


def _server(network: Network, facts: Facts) -> Iterator[Part]:
    if network.server is not None:
        from qemunet.plan import dhcpserver

        yield dhcpserver.part(network.server, facts)


def _rules(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    if network.mode is not NetworkMode.PRIVATE:
        from qemunet.plan import firewall

        yield from firewall.load(network, switch, facts)


def _host_cable(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    """Yield what makes the host's cable and plugs it in; nobody is at either end before it is up."""
    if switch.host is not HostSide.VETH:
        return
    scope = network_scope(network.name)
    own = mac.stable(switch.mac, "host")
    cable = VethLink(switch.port_ifname, own, mac.host_twin(own), switch.mtu, "port")
    made = AddLink(switch.host_ifname, cable, Mark(scope, "host", names.group(facts.runtime, scope)))
    for name, mark in made.ends:
        refuse_taken(name, mark, facts, f"network.{network.name}.host")
    yield made
    yield from (steps.SetSysctl(ipv6(name, "disable_ipv6"), "1") for name in (switch.ifname, switch.port_ifname))
    yield SetMaster(switch.port_ifname, switch.ifname)


def _host_vlan(switch: OwnBridge) -> Iterator[Step]:
    """Yield what puts the host's way into the bridge into its VLAN."""
    if switch.host_vlan is None or switch.host is HostSide.NONE:
        return
    at_end = switch.host is HostSide.VETH
    yield steps.SetVlans(switch.port_ifname if at_end else switch.ifname, steps.Vlans(switch.host_vlan), own=not at_end)


def _switches(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    bare = (name for name in (switch.ifname, switch.host_ifname) if name != switch.addressed or not switch.present)
    for name in filter(None, bare):
        # The kernel answers for each of its addresses wherever it is asked, also by a bridge that has none of them.
        yield steps.SetSysctl(f"net.ipv4.conf.{sysctl_name(name)}.arp_ignore", "8")
        yield steps.SetSysctl(f"net.ipv4.conf.{sysctl_name(name)}.rp_filter", "1")
    if network.mode is not NetworkMode.PRIVATE:
        from qemunet.plan import firewall

        yield from firewall.sysctls(network, switch, facts)


def _services(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    if network.services is None:
        return
    if network.server is not None:
        from qemunet.plan import dhcpserver

        yield from dhcpserver.joined(network, switch, network.services, facts)
        return
    from qemunet.plan import dhcp

    yield from dhcp.steps(network, switch, facts)


def network_scope(name: str) -> str:
    """Return the scope of a network."""
    return f"net/{name}"


def network_fingerprint(network: Network) -> str:
    """Return what is equal for networks whose users may share one."""
    switch = replace(network.switch, leaving=()) if isinstance(network.switch, OwnBridge) else network.switch
    what = (str(network.mode), switch, network.services, network.firewall)
    return names.digest(repr((*what, network.netns) if network.netns else what), 16)


def card(vm: Vm, nic: Nic, facts: Facts) -> tuple[Step, ...]:
    """Return the steps that make and open a card's host side. Raises Taken."""
    there = spaces.seen(nic.netns, facts)
    match nic.backend:
        case TapBackend(adopted=True) as tap:
            made = (*_guard(vm, nic, facts), *adopted.steps(vm, nic, tap, facts))
        case TapBackend() as tap:
            made = (*_guard(vm, nic, there), *_tap(vm, nic, tap, there))
        case MacvtapBackend() as macvtap:
            made = tuple(_macvtap(vm, nic, macvtap, there))
        case UserBackend():
            return ()
        case _:
            from qemunet.plan import remote  # only where it is needed

            return tuple(remote.opened(vm, nic))
    limits = rates.limit(vm, nic, there) if nic.rate != Rate() or nic.impair else ()
    return (*spaces.all_at(nic.netns, (*made, *limits)), *vhost_steps(vm, nic))


def cable(nic: Nic, *, on: bool, was: bool | None = None) -> Iterator[Step]:
    """Yield what plugs a card's cable in or out as the host sees it; a macvtap has no carrier of its own to lose."""
    match nic.backend:
        case TapBackend(ifname=ifname):
            yield spaces.at(nic.netns, steps.SetCarrier(ifname, on=on, was=was))
        case MacvtapBackend(ifname=ifname):
            yield SetLink(ifname, up=on)
        case _:
            pass


def pins(nics: Iterable[Nic], facts: Facts) -> Iterator[Step]:
    """Yield what keeps the bridges of others, that the taps of these cards are plugged into, as they are."""
    lowest: dict[str, str] = {}
    for nic in nics:
        attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
        if isinstance(attach, OnNetwork | OnBridge) and not nic.netns:
            there = facts.links.get(nic.backend.ifname) if isinstance(nic.backend, TapBackend) else None
            twin = there.mac if there is not None and _is_adopted(nic) else mac.host_twin(nic.mac)
            lowest[attach.bridge] = min(twin, lowest.get(attach.bridge, twin))
    for name, twin in lowest.items():
        link = next((link for link in facts.links.values() if link.name == name), None)
        if link is not None and not uplinks.is_ours(link):
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


def host_macvlan(nic: Nic, facts: Facts) -> Iterator[Part]:
    """Yield the shared macvlan of the host beside a macvtap, if there is to be one."""
    backend = nic.backend
    if not isinstance(backend, MacvtapBackend) or backend.host is None:
        return
    scope = f"host/macvlan-{backend.parent}"
    steps = () if scope in facts.scopes else tuple(_macvlan(scope, backend, backend.host, facts))
    yield Part(scope, steps, names.digest(repr((backend.host.mac, backend.mtu, backend.host.answers)), 16))


def _macvlan(scope: str, backend: MacvtapBackend, host: HostMacvlan, facts: Facts) -> Iterator[Step]:
    """Yield what makes the host's macvlan: for its guests it is the parent, and nobody else learns that it is there."""
    name, mark = host.ifname, Mark(scope, "macvlan", names.group(facts.runtime, scope))
    refuse_taken(name, mark, facts, scope)
    yield AddLink(name, MacvlanLink(backend.parent, host.mac, backend.mtu), mark)
    for key in ("arp_filter", "rp_filter"):  # answer and hear only those whom a route leads to by this way
        yield steps.SetSysctl(f"net.ipv4.conf.{sysctl_name(name)}.{key}", "1")
    if not host.answers:
        yield steps.SetSysctl(ipv6(name, "disable_ipv6"), "1")
    for key, value in (("accept_ra", "0"), ("autoconf", "0"), ("proxy_ndp", "1"), ("forwarding", "1")):
        if host.answers:  # the kernel is no proxy where it is no router; it still forwards nothing
            yield steps.SetSysctl(ipv6(name, key), value)
    yield SetLink(name, up=True)
    yield from (steps.AddNeighbour(name, address) for address in host.answers)


def forwarding(nic: Nic, facts: Facts) -> Iterator[Part]:
    """Yield the shared switches that let packets come back to a guest behind a point-to-point tap."""
    if not (isinstance(nic.backend, TapBackend) and _is_cable(nic.backend)):
        return
    yield from uplinks.ipv4(facts)


def _tap(vm: Vm, nic: Nic, tap: TapBackend, facts: Facts) -> Iterator[Step]:
    master = tap.attach.bridge if isinstance(tap.attach, OnNetwork | OnBridge) else None
    yield OpenTap(
        handle=Passed(vm).handle(nic.id).name,
        name=tap.ifname,
        mark=_mark(vm, nic, tap.ifname, facts),
        mac=mac.host_twin(nic.mac),
        mtu=tap.mtu,
        master=master,
        queues=nic.queues,
        isolated=nic.port_isolation,
        vlans=nic.vlans,
    )
    if isinstance(tap.attach, PointToPoint):
        yield steps.SetSysctl(ipv6(tap.ifname, "accept_ra"), "0")  # the guest must not steer the host
        yield steps.SetSysctl(f"net.ipv4.conf.{sysctl_name(tap.ifname)}.forwarding", "1")
        yield from (steps.AddAddress(tap.ifname, address) for address in tap.attach.addresses)
        yield from (steps.AddRoute(route, tap.ifname) for route in tap.attach.routes)


def _is_adopted(nic: Nic) -> bool:
    return isinstance(nic.backend, TapBackend) and nic.backend.adopted


def _macvtap(vm: Vm, nic: Nic, macvtap: MacvtapBackend, facts: Facts) -> Iterator[Step]:
    name = macvtap.ifname
    link = MacvtapLink(macvtap.parent, macvtap.mode, nic.mac, macvtap.mtu)
    yield AddLink(name, link, _mark(vm, nic, name, facts))
    # It has the guest's address: the host's own neighbour probes from it would look like the guest's double.
    yield steps.SetSysctl(ipv6(name, "disable_ipv6"), "1")
    yield from _guard(vm, nic, facts)
    yield SetLink(name, up=True)
    yield OpenMacvtap(Passed(vm).handle(nic.id).name, name, nic.queues)
    if macvtap.host is not None:
        yield from _ways(nic, macvtap.host)


def _guard(vm: Vm, nic: Nic, facts: Facts) -> tuple[Step, ...]:
    """Return what is there before the link is up: rules go by names, but a macvtap has to be there for its own."""
    if nic.guard.level is GuardLevel.OFF:
        return ()
    from qemunet.plan import guards  # only where it is needed

    return tuple(guards.load(vm, nic, facts))


def _ways(nic: Nic, host: HostMacvlan) -> Iterator[Step]:
    """Yield what leads from the host to a guest.

    Its address is told, not asked for: a question would tell everybody on the LAN that the host is at the macvlan.
    """
    for guest, source in host.ways:
        yield steps.AddNeighbour(host.ifname, guest, nic.mac)
        yield steps.AddRoute(f"{guest}/{128 if ':' in guest else 32}", host.ifname, source=source)


def connected(vm: Vm, nic: Nic, facts: Facts) -> tuple[Step, ...]:
    """Return what connects a card to another program, when all who are to listen do."""
    if isinstance(nic.backend, Linked | UserBackend):
        return ()
    from qemunet.plan import remote

    return tuple(remote.connected(vm, nic, facts))


def hook(lab: str, vm: Vm, nic: Nic) -> Iterator[Step]:
    """Yield the user's own programs for a card, if it has a host side and he has any."""
    backend = nic.backend
    if not isinstance(backend, Linked) or (nic.hook.up is None and nic.hook.down is None):
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
    yield spaces.at(nic.netns, RunHook(nic.hook.up, nic.hook.down, backend.ifname, tuple(environment.items())))


def _host_ipv6(switch: OwnBridge, inside: str) -> tuple[Step, ...]:
    """A host that has no IPv6 address on a network shows no link-local one either; none is steered by guests."""
    if not any(":" in address for address in switch.present):
        return (steps.SetSysctl(ipv6(inside, "disable_ipv6"), "1"),)
    return tuple(steps.SetSysctl(ipv6(inside, name), "0") for name in ("accept_ra", "autoconf"))


def ipv6(interface: str, name: str) -> str:
    """Return the key of a sysctl of an interface."""
    return f"net.ipv6.conf.{sysctl_name(interface)}.{name}"


def _mark(vm: Vm, nic: Nic, ifname: str, facts: Facts) -> Mark:
    scope = f"vm/{vm.name}"
    mark = Mark(scope, nic.id, names.group(facts.runtime, scope))
    refuse_taken(ifname, mark, facts, f"vm.{vm.name}.nic {nic.id}")
    return mark


def refuse_taken(ifname: str, mark: Mark, facts: Facts, where: str) -> None:
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
