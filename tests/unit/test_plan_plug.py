"""The steps of live changes: what plugs a card in, what changes one in its slot, and what is given up for it."""

from __future__ import annotations

import json

import pytest

from qemunet.errors import Taken
from qemunet.facts import Facts, LinkFact
from qemunet.frozen import replace
from qemunet.model.lab import Lab
from qemunet.model.names import group
from qemunet.model.network import Dhcp, ForeignBridge, Network, NetworkMode, OwnBridge, Services
from qemunet.model.nic import (
    Backend,
    Forward,
    Hook,
    HostMacvlan,
    LinkState,
    MacvtapBackend,
    MacvtapMode,
    Nic,
    OnBridge,
    OnNetwork,
    PointToPoint,
    Rate,
    TapBackend,
    UserBackend,
)
from qemunet.model.vlan import Vlans
from qemunet.model.vm import Accel, DirectBoot, Firmware, Machine, NicBus, Vm
from qemunet.plan import links, plug, rates
from qemunet.steps import (
    AddCard,
    AddLink,
    AddNetdev,
    Claim,
    DelLink,
    Handle,
    Mark,
    OpenFile,
    OpenMacvtap,
    OpenTap,
    PinBridge,
    Reserve,
    RunHook,
    SetCarrier,
    SetForwards,
    SetGuestLink,
    SetLink,
    SetMaster,
    SetPort,
    SetVlans,
    Step,
    Unclaim,
    Unreserve,
    Word,
)

RUNTIME = "/run/qemunet"
MAC = "52:54:00:00:00:09"
OLD = LinkFact(9, "qn-a-net1", "tun", "fe" + MAC[2:], 1500, up=True, master="qn-lab")
FACTS = Facts(runtime=RUNTIME, machine_id="m", uid=0, can_switch_user=True, links={"qn-a-net1": OLD})
NEW = replace(FACTS, links={})
SEAT = {"bus": "rp.3", "addr": "0x0"}
TAP = TapBackend("qn-a-net1", 1500, OnNetwork("lab", "qn-lab"))
OTHER = TapBackend("qn-a-net1", 1500, OnNetwork("other", "qn-other"))
ON_BR0 = TapBackend("qn-a-net1", 1500, OnBridge("br0"))
CABLE = TapBackend("qn-a-net1", 1500, PointToPoint(("10.0.0.1/30",)))
MACVTAP = MacvtapBackend("qn-a-net1", "eth1", MacvtapMode.BRIDGE, 1500)
JOINED = replace(MACVTAP, host=HostMacvlan("qn-host-eth1", "52:54:00:00:00:aa", ()))
USER = UserBackend()
LAB_BRIDGE = OwnBridge("qn-lab", "52:54:00:aa:00:01", 1500, stp=False, forward_delay=0, ageing=300, addresses=())
OTHER_BRIDGE = replace(LAB_BRIDGE, ifname="qn-other", mac="52:54:00:aa:00:02")
BR0 = LinkFact(4, "br0", "bridge", "02:00:00:00:00:07", 1500, up=True)
DOWN = SetGuestLink("a", "net1", up=False)


def nic(backend: Backend = TAP, **changes: object) -> Nic:
    return replace(Nic("net1", "virtio-net-pci", MAC, backend), **changes)  # type: ignore[arg-type]


def guest(*nics: Nic) -> Vm:
    q35 = Machine("q35", "q35", NicBus.ROOT_PORTS, 8, "host", "")
    return Vm("a", q35, 1 << 27, 1, Accel.TCG, DirectBoot("/k", "/i", ""), Firmware.BIOS, (), nics)


def lab(*vms: Vm) -> Lab:
    switches = {"lab": LAB_BRIDGE, "other": OTHER_BRIDGE, "office": ForeignBridge("br0", 1500)}
    networks = tuple(Network(name, NetworkMode.PRIVATE, switch) for name, switch in switches.items())
    return Lab("pentest", "/l/pentest.toml", vms, networks)


def up(*names: str, facts: Facts = FACTS) -> Facts:
    """The host with these networks up already."""
    scopes = {f"net/{name}": links.network_fingerprint(lab().network(name)) for name in names}
    return replace(facts, scopes=scopes)


def plugged(card: Nic, facts: Facts = NEW) -> plug.Live:
    return plug.add(lab(guest()), guest(), card, SEAT, facts)


def changed(old: Nic, new: Nic, facts: Facts = FACTS) -> plug.Live:
    return plug.change(lab(guest(old)), guest(old), old, new, facts)


def steps(live: plug.Live) -> list[Step]:
    return [step for part in (*live.own, *live.guest) for step in part.steps]


def properties(word: Word) -> dict[str, object]:
    """What a monitor is told, with handles in angle brackets."""
    found = json.loads(str(word))
    assert isinstance(found, dict)
    return found


def use(path: str) -> Claim:
    return Claim(f"{RUNTIME}/{path}/users/a.net1", "vm/a")


# ---------------------------------------------------------------- a card that comes

MINE = Claim(f"{RUNTIME}/claims/mac/{MAC}", "vm/a")


@pytest.mark.parametrize(
    ("backend", "shared", "made"),
    [
        (TAP, ["net/lab"], [Claim, Claim, OpenTap]),
        (replace(TAP, attach=OnNetwork("office", "br0")), [], [Claim, PinBridge, OpenTap]),
        (ON_BR0, [], [Claim, PinBridge, OpenTap]),
        (CABLE, [], [Claim, OpenTap]),
        (MACVTAP, [], [Claim, AddLink, SetLink, OpenMacvtap]),
        (JOINED, ["host/macvlan-eth1"], [Claim, Claim, AddLink, SetLink, OpenMacvtap]),
        (USER, [], [Claim]),
    ],
)
def test_a_card_that_comes_has_all_that_one_of_a_start_has(
    backend: Backend, shared: list[str], made: list[type]
) -> None:
    """Made and opened under the lock, claimed first; then QEMU gets the backend, and the card."""
    live = plugged(nic(backend), replace(NEW, links={"br0": BR0}))
    assert [part.scope for part in live.shared] == shared
    (own,), (inside,) = live.own, live.guest
    assert (own.scope, own.about, inside.scope, inside.about) == ("vm/a", "net1") * 2
    kinds = [type(step) for step in own.steps]
    assert [kind for kind in kinds if kind in made] == made
    assert own.steps[0] == MINE
    assert [type(step) for step in inside.steps] == [AddNetdev, AddCard]
    assert live.over == ()


def test_qemu_is_told_of_a_new_card_in_its_own_words() -> None:
    """The same as on the command line, at the place that is free, and without a boot ROM: the boot is over."""
    card = nic(acpi_index=7, boot_index=2, guest_mtu=1400, vhost=True, queues=2)
    netdev, device = plugged(card).guest[0].steps
    assert isinstance(netdev, AddNetdev)
    assert isinstance(device, AddCard)
    assert (netdev.vm, netdev.netdev, device.vm, device.nic) == ("a", "host-net1", "a", "net1")
    assert properties(netdev.properties) == {
        "type": "tap",
        "id": "host-net1",
        "fds": "<a:net1>",
        "vhost": True,
        "vhostfds": "<a:net1.vhost0>:<a:net1.vhost1>",
    }
    assert properties(device.properties) == {
        "driver": "virtio-net-pci",
        "id": "net1",
        "netdev": "host-net1",
        "mac": MAC,
        **SEAT,
        "mq": True,
        "vectors": 6,
        "host_mtu": 1400,
        "bootindex": 2,
        "acpi-index": 7,
        "romfile": "",
    }


@pytest.mark.parametrize("backend", [TAP, CABLE, ON_BR0, MACVTAP, USER])
def test_what_qemu_is_to_get_open_was_opened_before(backend: Backend) -> None:
    """Under the very names."""
    live = plugged(nic(backend, vhost=backend != USER, queues=2))
    opened = {step.handle for step in live.own[0].steps if isinstance(step, OpenTap | OpenMacvtap | OpenFile)}
    netdev = live.guest[0].steps[0]
    assert isinstance(netdev, AddNetdev)
    assert {part.name for part in netdev.properties.parts if isinstance(part, Handle)} == opened


def test_a_network_that_is_up_is_used_and_not_made() -> None:
    live = plugged(nic(), up("lab", facts=NEW))
    assert live.shared == ()
    assert use("net/lab") in live.own[0].steps


def test_a_network_that_is_up_otherwise_is_taken() -> None:
    with pytest.raises(Taken, match="up with other settings"):
        plugged(nic(), replace(NEW, scopes={"net/lab": "else"}))


def test_an_address_that_another_vm_has_is_taken() -> None:
    with pytest.raises(Taken, match="in use by vm/b"):
        plugged(nic(), replace(NEW, claims={f"mac/{MAC}": "vm/b"}))


@pytest.mark.parametrize(
    ("backend", "seen"),
    [
        (TAP, [SetCarrier("qn-a-net1", on=False)]),
        (MACVTAP, [SetLink("qn-a-net1", up=False)]),
        (USER, []),
    ],
)
def test_a_card_whose_cable_is_out_never_has_it_in(backend: Backend, seen: list[Step]) -> None:
    """It is pulled right after, before the guest has a driver for it. With the card goes the cable: nothing to undo."""
    inside = plugged(nic(backend, link=LinkState.DOWN)).guest[0].steps
    assert [type(step) for step in inside[:2]] == [AddNetdev, AddCard]
    assert list(inside[2:]) == [DOWN, *seen]
    assert all(step.inverse(NEW) is None for step in inside[2:])


def test_the_hook_of_a_card_runs_before_the_guest_has_it() -> None:
    """And not under the lock, for it may call qemunet."""
    live = plugged(nic(hook=Hook("/up", "/down")))
    assert not any(isinstance(step, RunHook) for step in live.own[0].steps)
    assert [type(step) for step in live.guest[0].steps] == [RunHook, AddNetdev, AddCard]


def test_a_rate_is_there_before_the_card() -> None:
    card = nic(rate=Rate(8_000_000, 1_000_000))
    limits = rates.limit(guest(), card, NEW)
    made = plugged(card).own[0].steps
    assert limits
    assert made[-len(limits) :] == limits


# ---------------------------------------------------------------- a card that moves


def test_a_card_that_moves_bounces_its_cable_so_that_the_guest_asks_again() -> None:
    """What it is plugged into is changed while the cable is out, as both sides see it."""
    live = changed(nic(), nic(OTHER), up("lab"))
    assert [part.scope for part in live.shared] == ["net/other"]
    assert live.own[0].steps == (use("net/other"),)
    assert live.guest[0].steps == (
        SetGuestLink("a", "net1", up=False, was=True, hold=0.2),
        SetCarrier("qn-a-net1", on=False, was=True),
        SetMaster("qn-a-net1", "qn-other"),
        SetGuestLink("a", "net1", up=True, was=False),
        SetCarrier("qn-a-net1", on=True, was=False),
    )
    assert live.over == (Unclaim(use("net/lab").path, "vm/a"),)


def test_a_move_is_undone_step_by_step_to_how_it_was() -> None:
    """Newest first; at the end the cable is in as before, on the old bridge."""
    live = changed(nic(), nic(OTHER), up("lab", "other"))
    undos = [undo for step in reversed(live.guest[0].steps) if (undo := step.inverse(FACTS)) is not None]
    assert undos == [
        SetCarrier("qn-a-net1", on=False),
        SetGuestLink("a", "net1", up=False),
        SetMaster("qn-a-net1", "qn-lab"),
        SetCarrier("qn-a-net1", on=True),
        SetGuestLink("a", "net1", up=True),
    ]


@pytest.mark.parametrize(
    ("model", "hold"),
    [("virtio-net-pci", 0.2), ("vmxnet3", 0.2), ("rtl8139", 0.2), ("e1000e", 0.2), ("e1000", 3.0), ("pcnet", 3.0)],
)
def test_the_cable_is_out_until_the_driver_sees_it(model: str, hold: float) -> None:
    """Some only look every two seconds."""
    first = changed(nic(model=model), nic(OTHER, model=model)).guest[0].steps[0]
    assert first == SetGuestLink("a", "net1", up=False, was=True, hold=hold)


def test_another_mtu_is_set_while_the_tap_is_on_no_bridge() -> None:
    """Or a bridge that goes by its ports would follow it."""
    live = changed(nic(), nic(replace(OTHER, mtu=9000)), up("lab", "other"))
    assert live.guest[0].steps[2:5] == (
        SetMaster("qn-a-net1", None),
        SetLink("qn-a-net1", mtu=9000),
        SetMaster("qn-a-net1", "qn-other"),
    )


@pytest.mark.parametrize(
    ("was", "wanted", "expected"),
    [
        (LinkState.DOWN, LinkState.DOWN, [SetMaster]),
        (LinkState.DOWN, LinkState.UP, [SetMaster, SetGuestLink, SetCarrier]),
        (LinkState.UP, LinkState.DOWN, [SetGuestLink, SetCarrier, SetMaster]),
    ],
)
def test_a_cable_that_is_out_needs_no_bounce(was: LinkState, wanted: LinkState, expected: list[type]) -> None:
    """It is put in at last if it shall be, and left out if not."""
    found = changed(nic(link=was), nic(OTHER, link=wanted)).guest[0].steps
    assert [type(step) for step in found] == expected
    cables = [step.up for step in found if isinstance(step, SetGuestLink)]
    assert cables == ([] if was is wanted else [wanted is LinkState.UP])


def test_the_bridge_of_somebody_else_is_kept_as_it_is_before_a_card_moves_to_it() -> None:
    """As before a start; it is nobody's lease, and the old network's is given up."""
    live = changed(nic(), nic(ON_BR0), replace(up("lab"), links={"br0": BR0, "qn-a-net1": OLD}))
    assert live.own[0].steps == (PinBridge("br0", BR0.mac),)
    assert live.over == (Unclaim(use("net/lab").path, "vm/a"),)
    back = changed(nic(ON_BR0), nic(), up("lab"))
    assert (back.own[0].steps, back.over) == ((use("net/lab"),), ())


def test_a_move_to_a_network_that_is_up_otherwise_is_taken() -> None:
    """Before anything was done."""
    with pytest.raises(Taken, match="up with other settings"):
        changed(nic(), nic(OTHER), replace(FACTS, scopes={"net/other": "else"}))


# ---------------------------------------------------------------- where addresses are given

POOL = Dhcp("10.0.0.128", "10.0.0.254", 3600, gateway=True)


def served(*nics: Nic, both: bool = True) -> Lab:
    """The same networks, of which the host serves one or both."""
    found = lab(guest(*nics))
    names = ("lab", "other") if both else ("lab",)
    services = Services(POOL, None, None, (), 1500)
    networks = (
        replace(one, mode=NetworkMode.NAT, services=services, switch=replace(one.switch, addresses=("10.0.0.1/24",)))
        if one.name in names
        else one
        for one in found.networks
    )
    return replace(found, networks=tuple(networks))


def is_up(lab: Lab, *names: str) -> Facts:
    return replace(FACTS, scopes={f"net/{name}": links.network_fingerprint(lab.network(name)) for name in names})


def told(network: str, text: str) -> Reserve:
    return Reserve("dnsmasq", f"{RUNTIME}/net/{network}", "hosts/a.net1", text)


def forgotten(network: str) -> Unreserve:
    return Unreserve("dnsmasq", f"{RUNTIME}/net/{network}", "hosts/a.net1")


def test_a_card_that_comes_is_known_to_the_network_before_it_can_ask() -> None:
    """With its address, and by the name of its vm; a second card of the vm there has a name of its own."""
    card = nic(ips=("10.0.0.9/24", "192.0.2.9/24"))
    first = replace(nic(), id="net0", mac="52:54:00:00:00:08")
    for vm, name in ((guest(), "a"), (guest(first), "a-net1")):
        live = plug.add(served(*vm.nics), vm, card, SEAT, NEW)
        assert live.own[0].steps[1:3] == (use("net/lab"), told("lab", f"{MAC},10.0.0.9,{name}\n"))
        assert live.own[0].steps[2].inverse(NEW) == forgotten("lab")


def test_a_reservation_moves_with_its_card() -> None:
    """The new network knows it before the cable is in; the old one forgets it once the change is final."""
    old, new = nic(ips=("10.0.0.9/24",)), nic(OTHER, ips=("10.0.0.7/24",))
    both = served(old)
    live = plug.change(both, guest(old), old, new, is_up(both, "lab", "other"))
    assert live.shared == ()
    assert live.own[0].steps == (use("net/other"), told("other", f"{MAC},10.0.0.7,a\n"))
    assert live.over == (Unclaim(use("net/lab").path, "vm/a"), forgotten("lab"))


def test_a_network_hears_of_another_address_of_a_card_that_stays() -> None:
    """What is taken back leads to the address that it had; the end of the card is what it was."""
    old, new = nic(ips=("10.0.0.9/24",)), nic(ips=("10.0.0.7/24",))
    one = served(old)
    live = plug.change(one, guest(old), old, new, is_up(one, "lab"))
    (step,) = live.own[0].steps
    assert step == replace(told("lab", f"{MAC},10.0.0.7,a\n"), was=f"{MAC},10.0.0.9,a\n")
    assert step.inverse(FACTS) == told("lab", f"{MAC},10.0.0.9,a\n")
    assert (live.shared, live.over) == ((), ())


def test_where_nothing_is_served_nobody_is_told() -> None:
    """Neither of a card that comes from there, nor of one that goes there."""
    one = served(nic(), both=False)
    facts = is_up(one, "lab", "other")
    there = plug.change(one, guest(nic()), nic(), nic(OTHER), facts)
    assert (there.own[0].steps, there.over[1:]) == ((use("net/other"),), (forgotten("lab"),))
    back = plug.change(one, guest(nic(OTHER)), nic(OTHER), nic(), facts)
    assert (back.own[0].steps[1:], back.over[1:]) == ((told("lab", f"{MAC},a\n"),), ())


# ---------------------------------------------------------------- a card that changes where it is


@pytest.mark.parametrize(
    ("backend", "seen"),
    [
        (TAP, [SetCarrier("qn-a-net1", on=False, was=True)]),
        (CABLE, [SetCarrier("qn-a-net1", on=False, was=True)]),
        (MACVTAP, [SetLink("qn-a-net1", up=False)]),
        (USER, []),
    ],
)
def test_a_cable_is_pulled_at_both_ends(backend: Backend, seen: list[Step]) -> None:
    """Nothing is held: it stays out. Its way back is to be in again."""
    live = changed(nic(backend), nic(backend, link=LinkState.DOWN))
    assert steps(live) == [SetGuestLink("a", "net1", up=False, was=True), *seen]
    assert live.guest[0].steps[0].inverse(FACTS) == SetGuestLink("a", "net1", up=True)
    back = changed(nic(backend, link=LinkState.DOWN), nic(backend))
    assert [type(step) for step in steps(back)] == [type(step) for step in steps(live)]


def test_forwards_that_stay_are_not_touched() -> None:
    """A connection over one is not broken by another; a range is as many rules as it has ports."""
    web = Forward("tcp", "127.0.0.1", (8080, 8081), "", (80, 81))
    ssh = Forward("tcp", "", (2222, 2222), "", (22, 22))
    dns = Forward("udp", "127.0.0.1", (53, 53), "", (53, 53))
    live = changed(nic(replace(USER, forwards=(web, ssh))), nic(replace(USER, forwards=(ssh, dns))))
    assert steps(live) == [
        SetForwards(
            "a",
            "host-net1",
            add=("udp:127.0.0.1:53-:53",),
            remove=("tcp:127.0.0.1:8080-:80", "tcp:127.0.0.1:8081-:81"),
        )
    ]
    assert steps(changed(nic(replace(USER, forwards=(ssh, dns))), nic(replace(USER, forwards=(dns, ssh))))) == []


def test_a_card_is_isolated_without_a_pulled_cable() -> None:
    """The same the other way; what takes a failed change back knows how it was."""
    for old, new in ((False, True), (True, False)):
        found = steps(changed(nic(port_isolation=old), nic(port_isolation=new)))
        assert found == [SetPort("qn-a-net1", isolated=new, was=old)]


@pytest.mark.parametrize("isolated", [(True, True), (True, False), (False, True)])
def test_isolation_moves_with_a_card_behind_its_pulled_cable(isolated: tuple[bool, bool]) -> None:
    """A port forgets it with its bridge, on the way back as well."""
    old, new = isolated
    found = steps(changed(nic(port_isolation=old), nic(OTHER, port_isolation=new), up("lab", "other")))
    ports = [step for step in found if isinstance(step, SetPort | SetMaster)]
    before = [SetPort("qn-a-net1", isolated=False, was=True)] if old else []
    after = [SetPort("qn-a-net1", isolated=True, was=False)] if new else []
    assert ports == [*before, SetMaster("qn-a-net1", "qn-other"), *after]
    assert found.index(ports[-1]) < found.index(SetGuestLink("a", "net1", up=True, was=False))


def test_vlans_change_without_a_pulled_cable() -> None:
    """What takes a failed change back knows which they were."""
    for old, new in ((None, Vlans(10)), (Vlans(10), Vlans(1, (10,))), (Vlans(10), None)):
        assert steps(changed(nic(vlans=old), nic(vlans=new))) == [SetVlans("qn-a-net1", new, was=old)]


@pytest.mark.parametrize("vlans", [(Vlans(10), Vlans(10)), (Vlans(10), None), (None, Vlans(20))])
def test_vlans_move_with_a_card_behind_its_pulled_cable(vlans: tuple[Vlans | None, Vlans | None]) -> None:
    """A port forgets them with its bridge, on the way back as well."""
    old, new = vlans
    found = steps(changed(nic(vlans=old), nic(OTHER, vlans=new), up("lab", "other")))
    ports = [step for step in found if isinstance(step, SetVlans | SetMaster)]
    before = [SetVlans("qn-a-net1", None, was=old)] if old else []
    after = [SetVlans("qn-a-net1", new)] if new else []
    assert ports == [*before, SetMaster("qn-a-net1", "qn-other"), *after]
    assert found.index(ports[-1]) < found.index(SetGuestLink("a", "net1", up=True, was=False))


def test_a_rate_changes_as_rates_do() -> None:
    slow, fast = nic(rate=Rate(8_000_000, None)), nic(rate=Rate(80_000_000, 1_000_000))
    for old, new in ((nic(), slow), (slow, fast), (fast, nic())):
        live = changed(old, new)
        assert (*steps(live), *live.over) == rates.change(old, new, guest(old), FACTS)
        assert [type(step) for step in live.over] == ([DelLink] if new == nic() else [])


@pytest.mark.parametrize("field", ["ips", "gateways", "hook"])
def test_what_is_only_noted_of_a_card_takes_no_step(field: str) -> None:
    """A hook has run already."""
    value = Hook(None, None) if field == "hook" else ("10.0.0.9",)
    live = changed(nic(hook=Hook("/up")), nic(**{"hook": Hook("/up"), field: value}))
    assert (steps(live), live.shared, live.over) == ([], (), ())


def test_all_that_is_done_for_a_card_is_about_it() -> None:
    """Its journal is what takes it back when it goes."""
    for live in (plugged(nic()), changed(nic(), nic(OTHER)), changed(nic(), nic(link=LinkState.DOWN))):
        assert {(part.scope, part.about) for part in (*live.own, *live.guest)} == {("vm/a", "net1")}


def test_the_mark_of_a_new_tap_is_that_of_its_card() -> None:
    (tap,) = [step for step in plugged(nic()).own[0].steps if isinstance(step, OpenTap)]
    assert tap.mark == Mark("vm/a", "net1", group(RUNTIME, "vm/a"))
    assert tap.handle == "a:net1"
