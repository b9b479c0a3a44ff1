"""What is made on the host for networks and cards, in which order, and what is refused."""

from __future__ import annotations

import pytest

from qemunet import plan
from qemunet.errors import NotFound, Taken
from qemunet.facts import Facts, LinkFact
from qemunet.frozen import replace
from qemunet.model.lab import Lab
from qemunet.model.names import altname, group
from qemunet.model.network import Dhcp, ForeignBridge, HostSide, Network, NetworkMode, OwnBridge, Services
from qemunet.model.nic import (
    Backend,
    Hook,
    HostMacvlan,
    LinkState,
    MacvtapBackend,
    MacvtapMode,
    Nic,
    OnBridge,
    OnNetwork,
    PointToPoint,
    TapBackend,
    UserBackend,
)
from qemunet.model.vm import Accel, DirectBoot, Firmware, Machine, NicBus, RunAs, Vm
from qemunet.plan import links
from qemunet.steps import (
    AddAddress,
    AddLink,
    AddNeighbour,
    AddRoute,
    AwaitQemu,
    BridgeLink,
    Claim,
    LoadFile,
    MacvlanLink,
    MacvtapLink,
    Mark,
    OpenFile,
    OpenMacvtap,
    OpenTap,
    Part,
    PinBridge,
    Resume,
    RunHook,
    SetCarrier,
    SetGuestLink,
    SetLink,
    SetMaster,
    SetSysctl,
    StartDaemon,
    StartQemu,
    Step,
    VethLink,
)

RUNTIME = "/run/qemunet"
FACTS = Facts(runtime=RUNTIME, machine_id="m", uid=0, can_switch_user=True)
Q35 = Machine("q35", "q35", NicBus.ROOT_PORTS, 0, "host", "")
MAC = "52:54:00:00:00:01"
TAP = TapBackend("qn-a-net0", 1400, OnNetwork("lab", "qn-lab"))
CABLE = TapBackend("qn-a-net0", 1500, PointToPoint(("10.0.0.1/30",), ("10.99.0.0/24",)))
MACVTAP = MacvtapBackend("qn-a-net0", "eth1", MacvtapMode.VEPA, 1500)
BRIDGE = OwnBridge("qn-lab", "52:54:00:aa:00:01", 1500, stp=False, forward_delay=0, ageing=300, addresses=())


def nic(backend: Backend = TAP, **changes: object) -> Nic:
    return replace(Nic("net0", "virtio-net-pci", MAC, backend), **changes)  # type: ignore[arg-type]


def guest(*nics: Nic, name: str = "a", run_as: RunAs | None = None) -> Vm:
    boot = DirectBoot("/k", "/i", "")
    return Vm(name, Q35, 1 << 27, 1, Accel.TCG, boot, Firmware.BIOS, (), nics, run_as=run_as)


def lab(*vms: Vm, switch: OwnBridge | ForeignBridge = BRIDGE) -> Lab:
    return Lab("pentest", "/l/pentest.toml", vms, (Network("lab", NetworkMode.PRIVATE, switch),))


def place(vm: Vm, facts: Facts = FACTS, switch: OwnBridge | ForeignBridge = BRIDGE) -> list[Step]:
    """All that makes ready a vm's place on the host, in order; it comes in parts, by the card that they are about."""
    parts = plan.build(lab(vm, switch=switch), facts).own
    assert {part.scope for part in parts} <= {f"vm/{vm.name}"}
    return [step for part in parts for step in part.steps]


def own(vm: Vm, facts: Facts = FACTS, switch: OwnBridge | ForeignBridge = BRIDGE) -> list[Step]:
    return [step for step in place(vm, facts, switch) if not isinstance(step, Claim)]


def unhurried(vm: Vm) -> list[Step]:
    """What is done after the runtime directory's lock is let go and before QEMU is started."""
    started = [step for part in plan.build(lab(vm), FACTS).start for step in part.steps]
    return started[: next(number for number, step in enumerate(started) if isinstance(step, StartQemu))]


def shared(vm: Vm, facts: Facts = FACTS, switch: OwnBridge | ForeignBridge = BRIDGE) -> tuple[Part, ...]:
    return plan.build(lab(vm, switch=switch), facts).shared


def claims(vm: Vm, facts: Facts = FACTS) -> list[str]:
    return [step.path.removeprefix(f"{RUNTIME}/") for step in place(vm, facts) if isinstance(step, Claim)]


def mark(scope: str, part: str) -> Mark:
    return Mark(scope, part, group(RUNTIME, scope))


def uplink(name: str, **changes: object) -> LinkFact:
    return replace(LinkFact(2, name, "", "00:00:5e:00:53:01", 1500, up=True), **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------- networks


def test_a_bridge_without_addresses_has_no_ipv6_answers_for_none_and_is_set_up_last() -> None:
    """A private network's host must not show itself there, neither by a link-local address nor by one that it has
    elsewhere, not even for a moment."""
    (part,) = shared(guest(nic()))
    assert part.scope == "net/lab"
    assert part.steps == (
        AddLink(
            "qn-lab",
            BridgeLink("52:54:00:aa:00:01", 1500, stp=False, forward_delay=0, ageing=300),
            mark("net/lab", "bridge"),
        ),
        SetSysctl("net.ipv6.conf.qn-lab.disable_ipv6", "1"),
        SetSysctl("net.ipv4.conf.qn-lab.arp_ignore", "8"),
        SetSysctl("net.ipv4.conf.qn-lab.rp_filter", "1"),
        SetLink("qn-lab", up=True),
    )


def test_a_bridge_with_an_ipv6_address_is_not_steered_by_its_guests() -> None:
    """Router advertisements of guests neither move routes of the host nor give it addresses."""
    (part,) = shared(guest(nic()), switch=replace(BRIDGE, addresses=("10.0.0.1/24", "fd00::1/64")))
    assert part.steps[1:] == (
        SetSysctl("net.ipv6.conf.qn-lab.accept_ra", "0"),
        SetSysctl("net.ipv6.conf.qn-lab.autoconf", "0"),
        AddAddress("qn-lab", "10.0.0.1/24"),
        AddAddress("qn-lab", "fd00::1/64"),
        SetLink("qn-lab", up=True),
    )


WITH_CABLE = replace(BRIDGE, host=HostSide.VETH, host_ifname="qn-lab-host", port_ifname="qn-lab-port", mtu=1400)


def test_a_host_at_the_end_of_a_cable_has_its_addresses_there_and_the_bridge_has_none() -> None:
    """Nor IPv6, and neither has the port; nobody is heard before all of it is as it should be."""
    (part,) = shared(guest(nic()), switch=replace(WITH_CABLE, addresses=("10.0.0.1/24", "fd00::1/64")))
    made, cable, *rest = part.steps
    assert isinstance(made, AddLink)
    assert isinstance(cable, AddLink)
    assert made.name == "qn-lab"
    assert isinstance(cable.link, VethLink)
    assert cable.link.mac not in (BRIDGE.mac, MAC)
    twin = "fe" + cable.link.mac[2:]
    assert cable == AddLink(
        "qn-lab-host", VethLink("qn-lab-port", cable.link.mac, twin, 1400, "port"), mark("net/lab", "host")
    )
    assert rest == [
        SetSysctl("net.ipv6.conf.qn-lab.disable_ipv6", "1"),
        SetSysctl("net.ipv6.conf.qn-lab-port.disable_ipv6", "1"),
        SetMaster("qn-lab-port", "qn-lab"),
        SetSysctl("net.ipv6.conf.qn-lab-host.accept_ra", "0"),
        SetSysctl("net.ipv6.conf.qn-lab-host.autoconf", "0"),
        AddAddress("qn-lab-host", "10.0.0.1/24"),
        AddAddress("qn-lab-host", "fd00::1/64"),
        SetSysctl("net.ipv4.conf.qn-lab.arp_ignore", "8"),
        SetSysctl("net.ipv4.conf.qn-lab.rp_filter", "1"),
        SetLink("qn-lab-host", up=True),
        SetLink("qn-lab-port", up=True),
        SetLink("qn-lab", up=True),
    ]


def test_a_host_without_addresses_does_not_show_itself_at_the_end_of_its_cable() -> None:
    """Like a bridge without any."""
    (part,) = shared(guest(nic()), switch=WITH_CABLE)
    for name in ("qn-lab", "qn-lab-host"):
        assert SetSysctl(f"net.ipv6.conf.{name}.disable_ipv6", "1") in part.steps
        assert SetSysctl(f"net.ipv4.conf.{name}.arp_ignore", "8") in part.steps
        assert SetSysctl(f"net.ipv4.conf.{name}.rp_filter", "1") in part.steps


def test_what_is_served_waits_for_nothing_but_the_hosts_end_of_the_cable() -> None:
    """It is up and addressed; no guest is on the other end yet."""
    switch = replace(WITH_CABLE, addresses=("10.0.0.1/24",))
    served = Services(Dhcp("10.0.0.8", "10.0.0.9", 3600, gateway=False), None, None, (), 1400)
    steps = links.bridge(Network("lab", NetworkMode.ISOLATED, switch, services=served), switch, FACTS).steps
    (daemon,) = [number for number, step in enumerate(steps) if isinstance(step, StartDaemon)]
    assert {AddAddress("qn-lab-host", "10.0.0.1/24"), SetLink("qn-lab-host", up=True)} < {*steps[:daemon]}
    assert [*steps[daemon + 1 :]] == [SetLink("qn-lab-port", up=True), SetLink("qn-lab", up=True)]


def test_the_ends_of_the_hosts_cable_have_addresses_of_their_own_that_stay() -> None:
    """Guests remember the host by its; another network has others."""
    first, again = (shared(guest(nic()), switch=WITH_CABLE)[0].steps[1] for _ in range(2))
    other = shared(guest(nic()), switch=replace(WITH_CABLE, mac="52:54:00:aa:00:02"))[0].steps[1]
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", ["qn-lab-host", "qn-lab-port"])
def test_somebody_who_has_a_name_of_the_hosts_cable_is_in_the_way(name: str) -> None:
    facts = replace(FACTS, links={name: uplink(name, kind="bridge")})
    with pytest.raises(Taken, match=f"{name} is a bridge already") as caught:
        shared(guest(nic()), facts, WITH_CABLE)
    assert caught.value.where == "network.lab.host"
    ours = mark("net/lab", name.rpartition("-")[2])
    running = uplink(name, kind="veth", group=ours.group, altnames=(ours.altname,))
    assert shared(guest(nic()), replace(FACTS, links={name: running}), WITH_CABLE)


@pytest.mark.parametrize(("stp", "asked", "planned"), [(True, 0, 2), (True, 15, 15), (False, 0, 0)])
def test_a_spanning_tree_waits_as_long_as_the_kernel_will_make_it(stp: bool, asked: int, planned: int) -> None:
    """The plan says what will be."""
    (part,) = shared(guest(nic()), switch=replace(BRIDGE, stp=stp, forward_delay=asked))
    (link,) = [step.link for step in part.steps if isinstance(step, AddLink)]
    assert isinstance(link, BridgeLink)
    assert link.forward_delay == planned


def test_a_foreign_bridge_is_not_made_and_not_leased() -> None:
    """It was there before us and stays after us."""
    foreign = ForeignBridge("qn-lab", 1400)
    assert shared(guest(nic()), switch=foreign) == ()
    claimed = [step.path for step in place(guest(nic()), switch=foreign) if isinstance(step, Claim)]
    assert claimed == [f"{RUNTIME}/claims/mac/{MAC}"]


def test_only_networks_that_the_chosen_vms_use_are_made() -> None:
    """Each once, however many use it."""
    two = lab(guest(nic(), name="a"), guest(nic(replace(TAP, ifname="qn-b-net0"), mac="52:54:00:00:00:02"), name="b"))
    assert [part.scope for part in plan.build(two, FACTS).shared] == ["net/lab"]
    assert plan.build(lab(guest(nic(UserBackend()))), FACTS).shared == ()


def test_a_network_that_is_up_with_equal_settings_is_only_leased() -> None:
    """Networks outlive vms."""
    up = replace(FACTS, scopes={"net/lab": links.network_fingerprint(lab().network("lab"))})
    assert shared(guest(nic()), up) == ()
    assert "net/lab/users/a.net0" in claims(guest(nic()), up)


def test_a_network_that_is_up_with_other_settings_is_taken() -> None:
    """Neither may change under the other."""
    with pytest.raises(Taken, match="other settings") as caught:
        shared(guest(nic()), replace(FACTS, scopes={"net/lab": "else"}))
    assert (caught.value.where, bool(caught.value.hint)) == ("network.lab", True)


def test_the_fingerprint_of_a_network_is_of_what_its_users_see() -> None:
    """Whether it is kept is nobody else's concern."""
    network = lab().network("lab")
    assert links.network_fingerprint(replace(network, keep=True)) == links.network_fingerprint(network)
    changed = replace(network, switch=replace(BRIDGE, mtu=9000))
    assert links.network_fingerprint(changed) != links.network_fingerprint(network)


def test_an_interface_of_somebody_else_is_in_the_way() -> None:
    """It is not used, and certainly not deleted."""
    facts = replace(FACTS, links={"qn-lab": uplink("qn-lab", kind="bridge")})
    with pytest.raises(Taken, match="qn-lab is a bridge already"):
        shared(guest(nic()), facts)
    with pytest.raises(Taken, match="qn-a-net0 is a tap already"):
        own(guest(nic()), replace(FACTS, links={"qn-a-net0": uplink("qn-a-net0", kind="tun")}))


def test_an_interface_of_ours_is_not() -> None:
    """The plan of a vm that runs can be looked at."""
    ours = uplink("qn-a-net0", altnames=(altname("vm/a", "net0"),), group=mark("vm/a", "net0").group)
    assert own(guest(nic()), replace(FACTS, links={"qn-a-net0": ours}))


def test_an_interface_of_another_runtime_directory_is_in_the_way() -> None:
    """The readable half of the mark is the same there, the number is not."""
    theirs = uplink("qn-a-net0", kind="tun", altnames=(altname("vm/a", "net0"),), group=1 << 30)
    with pytest.raises(Taken, match=r"a tap already, of qemunet\.vm-a\.net0") as caught:
        own(guest(nic()), replace(FACTS, links={"qn-a-net0": theirs}))
    assert "another runtime directory" in caught.value.hint


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize("attach", [OnNetwork("lab", "qn-lab"), OnBridge("qn-lab")])
def test_a_tap_has_the_guests_twin_address_and_the_bridges_mtu(attach: OnNetwork | OnBridge) -> None:
    """Both before it is plugged in, so that nothing of the bridge changes: it is one step."""
    assert own(guest(nic(replace(TAP, attach=attach), queues=2))) == [
        OpenTap("a:net0", "qn-a-net0", mark("vm/a", "net0"), "fe" + MAC[2:], 1400, "qn-lab", 2)
    ]


FOREIGN = LinkFact(7, "br0", "bridge", "02:00:00:00:00:07", 1500, up=True)
ON_BR0 = replace(TAP, attach=OnBridge("br0"), mtu=1500)


def pinned(facts: Facts, *nics: Nic, **switch: ForeignBridge) -> list[PinBridge]:
    return [step for step in own(guest(*nics), facts, **switch) if isinstance(step, PinBridge)]


@pytest.mark.parametrize(
    ("bridge", "expected"),
    [
        (FOREIGN, PinBridge("br0", FOREIGN.mac)),
        (replace(FOREIGN, mtu=9000), PinBridge("br0", FOREIGN.mac, 9000)),
        (replace(FOREIGN, mac="00:00:00:00:00:00"), None),
    ],
)
def test_somebody_elses_bridge_without_ports_keeps_its_address(bridge: LinkFact, expected: PinBridge | None) -> None:
    """It would take the tap's, and none with the tap's end; one that has none yet may."""
    facts = replace(FACTS, links={"br0": bridge})
    assert pinned(facts, nic(ON_BR0)) == ([expected] if expected else [])


def test_it_is_kept_once_before_the_first_tap_also_by_way_of_a_network() -> None:
    """Two cards are one reason."""
    facts = replace(FACTS, links={"br0": FOREIGN, "an-alternative-name": FOREIGN})
    two = (nic(ON_BR0), nic(replace(ON_BR0, ifname="qn-a-net1"), id="net1", mac="52:54:00:00:00:02"))
    steps = own(guest(*two), facts)
    assert [type(step) for step in steps] == [PinBridge, OpenTap, OpenTap]
    attached = replace(ON_BR0, attach=OnNetwork("lab", "br0"))
    assert len(pinned(facts, nic(attached), switch=ForeignBridge("br0", 1500))) == 1


@pytest.mark.parametrize(("port", "left_alone"), [("52:54:00:00:00:99", True), ("fe:ff:00:00:00:01", False)])
def test_a_bridge_with_a_lower_port_is_left_alone(port: str, left_alone: bool) -> None:
    """Our tap cannot change it, and if it follows its ports today it shall do so tomorrow."""
    facts = replace(FACTS, links={"br0": replace(FOREIGN, mtu=9000)}, ports={"br0": frozenset({port})})
    expected = [] if left_alone else [PinBridge("br0", FOREIGN.mac)]
    assert pinned(facts, nic(ON_BR0)) == expected


def test_a_bridge_of_ours_has_an_address_of_its_own() -> None:
    """Another lab's as well."""
    ours = replace(FOREIGN, altnames=("qemunet.net-other.bridge",))
    assert pinned(replace(FACTS, links={"br0": ours}), nic(ON_BR0)) == []


def test_a_point_to_point_tap_is_addressed_and_routed_and_forwards() -> None:
    """On its own interface; the guest's router advertisements are not listened to."""
    assert own(guest(nic(CABLE))) == [
        OpenTap("a:net0", "qn-a-net0", mark("vm/a", "net0"), "fe" + MAC[2:], 1500),
        SetSysctl("net.ipv6.conf.qn-a-net0.accept_ra", "0"),
        SetSysctl("net.ipv4.conf.qn-a-net0.forwarding", "1"),
        AddAddress("qn-a-net0", "10.0.0.1/30"),
        AddRoute("10.99.0.0/24", "qn-a-net0"),
    ]


def test_a_macvtap_has_the_guests_own_address_and_says_nothing_itself() -> None:
    """Anything else loses the replies; the host's IPv6 on it would look like the guest's double."""
    assert own(guest(nic(MACVTAP))) == [
        AddLink("qn-a-net0", MacvtapLink("eth1", MacvtapMode.VEPA, MAC, 1500), mark("vm/a", "net0")),
        SetSysctl("net.ipv6.conf.qn-a-net0.disable_ipv6", "1"),
        SetLink("qn-a-net0", up=True),
        OpenMacvtap("a:net0", "qn-a-net0"),
    ]


WAYS = (("192.0.2.11", "192.0.2.1"), ("2001:db8::11", "2001:db8::1"))
JOINED = replace(
    MACVTAP, mode=MacvtapMode.BRIDGE, host=HostMacvlan("qn-host-eth1", "52:54:00:00:00:aa", WAYS, ("2001:db8::1",))
)


def test_a_macvlan_of_the_host_is_shared_and_leads_to_each_address_of_a_guest() -> None:
    """The guest is told of, not asked for, or the LAN would learn a second address of the host by the question."""
    (part,) = shared(guest(nic(JOINED)))
    assert part.scope == "host/macvlan-eth1"
    assert part.steps == (
        AddLink("qn-host-eth1", MacvlanLink("eth1", "52:54:00:00:00:aa", 1500), mark(part.scope, "macvlan")),
        SetSysctl("net.ipv4.conf.qn-host-eth1.arp_filter", "1"),
        SetSysctl("net.ipv4.conf.qn-host-eth1.rp_filter", "1"),
        SetSysctl("net.ipv6.conf.qn-host-eth1.accept_ra", "0"),
        SetSysctl("net.ipv6.conf.qn-host-eth1.autoconf", "0"),
        SetSysctl("net.ipv6.conf.qn-host-eth1.proxy_ndp", "1"),
        SetSysctl("net.ipv6.conf.qn-host-eth1.forwarding", "1"),
        SetLink("qn-host-eth1", up=True),
        AddNeighbour("qn-host-eth1", "2001:db8::1"),
    )
    assert own(guest(nic(JOINED)))[-4:] == [
        AddNeighbour("qn-host-eth1", "192.0.2.11", MAC),
        AddRoute("192.0.2.11/32", "qn-host-eth1", source="192.0.2.1"),
        AddNeighbour("qn-host-eth1", "2001:db8::11", MAC),
        AddRoute("2001:db8::11/128", "qn-host-eth1", source="2001:db8::1"),
    ]


def test_a_macvlan_of_the_host_without_ipv6_has_none() -> None:
    """Not even of the kernel's making."""
    assert JOINED.host is not None
    (part,) = shared(guest(nic(replace(JOINED, host=replace(JOINED.host, answers=())))))
    found = [step.key for step in part.steps if isinstance(step, SetSysctl)]
    assert found[2:] == ["net.ipv6.conf.qn-host-eth1.disable_ipv6"]


def test_one_macvlan_of_the_host_serves_all_cards_on_a_parent() -> None:
    """Of one vm and of others, of which each card has a lease on it."""
    both = guest(nic(JOINED), nic(replace(JOINED, ifname="qn-a-net1"), id="net1", mac="52:54:00:00:00:02"))
    (part,) = shared(both)
    for card in ("net0", "net1"):
        assert claims(both).count(f"host/macvlan-eth1/users/a.{card}") == 1
    up = replace(FACTS, scopes={part.scope: part.fingerprint})
    assert shared(both, up) == ()
    assert {f"host/macvlan-eth1/users/a.{card}" for card in ("net0", "net1")} < set(claims(both, up))
    with pytest.raises(Taken, match="macvlan-eth1"):
        shared(both, replace(FACTS, scopes={part.scope: "else"}))


def test_a_card_in_user_mode_needs_nothing_of_the_host() -> None:
    """Not even a hook."""
    assert own(guest(nic(UserBackend(), hook=Hook("/up")))) == []


def test_vhost_is_opened_once_per_queue() -> None:
    """QEMU could not open it itself."""
    opened = [step for step in own(guest(nic(queues=2, vhost=True))) if isinstance(step, OpenFile)]
    assert opened == [
        OpenFile("a:net0.vhost0", "/dev/vhost-net", writable=True),
        OpenFile("a:net0.vhost1", "/dev/vhost-net", writable=True),
    ]


def test_a_hook_comes_last_and_learns_what_it_is_about() -> None:
    """The host side is ready when it runs."""
    last = unhurried(guest(nic(hook=Hook("/up", "/down"))))[-1]
    assert isinstance(last, RunHook)
    assert (last.up, last.down, last.interface) == ("/up", "/down", "qn-a-net0")
    assert dict(last.environment) == {
        "QEMUNET_LAB": "pentest",
        "QEMUNET_VM": "a",
        "QEMUNET_NIC": "net0",
        "QEMUNET_MAC": MAC,
        "QEMUNET_BRIDGE": "qn-lab",
        "QEMUNET_NETWORK": "lab",
    }


# ---------------------------------------------------------------- forwarding


HOME = replace(
    FACTS,
    links={"eth0.5": uplink("eth0.5"), "qn-x": uplink("qn-x", altnames=("qemunet.net-x.bridge",)), "on": uplink("on")},
    addresses={
        "lo": ("127.0.0.1/8",),
        "eth0.5": ("192.0.2.2/24",),
        "eth6": ("2001:db8::1/64",),
        "auto": ("169.254.1.1/16",),
        "on": ("192.0.2.3/24",),
        "qn-x": ("10.0.0.1/24",),
    },
    sysctls={f"net.ipv4.conf.{name}.forwarding": "0" for name in ("lo", "eth0/5", "eth6", "auto", "qn-x")}
    | {"net.ipv4.conf.on.forwarding": "1"},
)


def test_packets_may_come_back_by_every_uplink_that_does_not_forward_yet() -> None:
    """One scope for each, and never the switch that rewrites every interface."""
    assert shared(guest(nic(CABLE)), HOME) == (
        Part("host/forward-eth0.5", (SetSysctl("net.ipv4.conf.eth0/5.forwarding", "1"),), "1"),
    )
    assert "host/forward-eth0.5/users/a.net0" in claims(guest(nic(CABLE)), HOME)


def test_forwarding_that_another_guest_needs_is_leased_as_well() -> None:
    """It reads 1 because of the other; without a lease it would end with the other."""
    there = replace(HOME, sysctls={}, scopes={"host/forward-eth0.5": "1"})
    assert shared(guest(nic(CABLE)), there) == ()
    assert "host/forward-eth0.5/users/a.net0" in claims(guest(nic(CABLE)), there)


def test_nobody_else_switches_forwarding_on() -> None:
    """A card on a bridge needs none."""
    assert [part.scope for part in shared(guest(nic()), HOME)] == ["net/lab"]


# ---------------------------------------------------------------- the whole


def test_a_vm_claims_its_addresses_its_uid_and_its_places_first() -> None:
    """Two of anything can run at once."""
    vm = guest(nic(), nic(UserBackend(), id="net1", mac="52:54:00:00:00:02"), run_as=RunAs(64000, 64000))
    assert claims(vm) == [
        "claims/uid/64000",
        "claims/mac/52:54:00:00:00:01",
        "net/lab/users/a.net0",
        "claims/mac/52:54:00:00:00:02",
    ]
    steps = place(vm)
    assert [isinstance(step, Claim) for step in steps] == [True] * 4 + [False] * (len(steps) - 4)


def test_what_is_made_for_a_card_is_on_record_as_its_own() -> None:
    """It can go alone; what is the vm's, or the bridge's, belongs to none."""
    facts = replace(FACTS, links={"br0": FOREIGN})
    two = (
        nic(ON_BR0, vhost=True, hook=Hook("/up")),
        nic(replace(MACVTAP, ifname="qn-a-net1"), id="net1", mac="52:54:00:00:00:02"),
    )
    build = plan.build(lab(guest(*two, run_as=RunAs(64000, 64000))), facts)
    about = {
        name: [step for part in build.own if part.about == name for step in part.steps] for name in ("net0", "net1", "")
    }
    assert [type(step) for step in about["net0"]] == [Claim, OpenTap, OpenFile]
    assert [type(step) for step in about["net1"]] == [Claim, AddLink, SetSysctl, SetLink, OpenMacvtap]
    assert [type(step) for step in about[""]] == [Claim, PinBridge]
    assert [part.about for part in build.start if any(isinstance(step, RunHook) for step in part.steps)] == ["net0"]
    assert all(part.steps for part in build.parts())


def test_cards_of_one_vm_have_their_own_place_on_a_network() -> None:
    """One that is unplugged gives up its own only."""
    two = guest(nic(), nic(replace(TAP, ifname="qn-a-net1"), id="net1", mac="52:54:00:00:00:02"))
    assert [path for path in claims(two) if path.startswith("net/")] == ["net/lab/users/a.net0", "net/lab/users/a.net1"]


def test_what_another_vm_has_is_taken() -> None:
    """By whom is said."""
    with pytest.raises(Taken, match=f"mac {MAC} is in use by vm/other"):
        claims(guest(nic()), replace(FACTS, claims={f"mac/{MAC}": "vm/other"}))
    assert claims(guest(nic()), replace(FACTS, claims={f"mac/{MAC}": "vm/a"}))


def test_a_run_plans_the_same_steps_and_no_script() -> None:
    """Nobody prints them."""
    printed, run = plan.build(lab(guest(nic())), FACTS), plan.build(lab(guest(nic())), FACTS, scripted=False)
    (step,) = (step for part in run.start for step in part.steps if isinstance(step, StartQemu))
    (same,) = (step for part in printed.start for step in part.steps if isinstance(step, StartQemu))
    assert same.script
    assert step == replace(same, script=())
    assert (run.shared, run.own) == (printed.shared, printed.own)


def test_all_qemus_are_started_before_any_is_waited_for() -> None:
    """They come up side by side; a cable is pulled before its guest runs."""
    down = nic(replace(TAP, ifname="qn-b-net0"), mac="52:54:00:00:00:02", link=LinkState.DOWN)
    start = plan.build(lab(guest(nic()), guest(down, name="b")), FACTS).start
    assert [(part.scope, [type(step) for step in part.steps]) for part in start] == [
        ("vm/a", [StartQemu]),
        ("vm/b", [StartQemu]),
        ("vm/a", [AwaitQemu, Resume]),
        ("vm/b", [AwaitQemu, SetGuestLink, SetCarrier, Resume]),
    ]


@pytest.mark.parametrize(
    ("backend", "seen"),
    [
        (TAP, [SetCarrier("qn-a-net0", on=False)]),
        (CABLE, [SetCarrier("qn-a-net0", on=False)]),
        (MACVTAP, [SetLink("qn-a-net0", up=False)]),
        (UserBackend(), []),
    ],
)
def test_the_host_sees_a_pulled_cable_too(backend: Backend, seen: list[Step]) -> None:
    """By the carrier of a tap; a macvtap has none of its own."""
    release = plan.build(lab(guest(nic(backend, link=LinkState.DOWN))), FACTS).start[-1].steps
    assert release == (AwaitQemu("a"), SetGuestLink("a", "net0", up=False), *seen, Resume("a"))


def test_a_guest_that_is_to_wait_is_not_set_going() -> None:
    """The user's own `-S` is QEMU's, and so is the `cont` that he will give."""
    waits = replace(guest(nic(link=LinkState.DOWN)), qemu_args=("-S",))
    parts = plan.build(lab(waits), FACTS).start
    assert Resume not in {type(step) for part in parts for step in part.steps}
    (start,) = (step for part in parts for step in part.steps if isinstance(step, StartQemu))
    (orders,) = (text for text in start.script if text.endswith("/start.in"))
    assert "set_link net0 off" in orders
    assert "cont" not in orders.split()


def test_kernels_are_loaded_for_another_users_qemu_only() -> None:
    """The caller's own opens them itself."""
    loaded = [LoadFile("a:boot.kernel", "/k"), LoadFile("a:boot.initrd", "/i")]
    assert unhurried(guest(run_as=RunAs(1, 1))) == loaded
    assert unhurried(guest()) == []


@pytest.mark.parametrize(
    ("accel", "run_as", "groups"),
    [
        (Accel.KVM, RunAs(1, 1), (104,)),
        (Accel.TCG, RunAs(1, 1), ()),
        (Accel.KVM, None, ()),
        (Accel.AUTO, RunAs(1, 1), (104,)),
    ],
)
def test_another_users_qemu_is_in_the_group_of_kvm_only_if_it_may_need_it(
    accel: Accel, run_as: RunAs | None, groups: tuple[int, ...]
) -> None:
    """And in no other."""
    vm = replace(guest(run_as=run_as), accel=accel)
    steps = [step for part in plan.build(lab(vm), replace(FACTS, kvm_gid=104)).start for step in part.steps]
    (step,) = (step for step in steps if isinstance(step, StartQemu))
    assert (step.groups, step.directory) == (groups, f"{RUNTIME}/vm/a")


def test_a_name_that_the_file_does_not_have_is_not_found() -> None:
    """And the file's own are said."""
    with pytest.raises(NotFound, match='no vm "x"') as caught:
        plan.build(lab(guest()), FACTS, ["x"])
    assert "a" in caught.value.hint
