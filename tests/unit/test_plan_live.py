"""What it takes to make a guest that runs another one: cards that come, go or change, and what takes a restart."""

from __future__ import annotations

import pytest

from qemunet.frozen import fields, replace
from qemunet.model.guard import Guard, GuardLevel
from qemunet.model.impair import Impairment
from qemunet.model.nic import (
    Backend,
    Forward,
    Hook,
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
from qemunet.model.ready import LeaseReady
from qemunet.model.script import FromFile, ScriptStep, Secret
from qemunet.model.vlan import Vlans
from qemunet.model.vm import (
    Accel,
    DirectBoot,
    Disk,
    Firmware,
    FirmwareBoot,
    GuestAgent,
    ImageFile,
    Machine,
    NicBus,
    RunAs,
    Vm,
    VncDisplay,
)
from qemunet.plan.live import Add, Change, Difference, Disruption, Remove, Replug, Restart, behind, differences, settled

TAP = TapBackend("qn-a-net0", 1500, OnNetwork("lab", "qn-lab"))
CABLE = TapBackend("qn-a-net0", 1500, PointToPoint(("10.0.0.1/30",)))
MACVTAP = MacvtapBackend("qn-a-net0", "eth1", MacvtapMode.VEPA, 1500)
USER = UserBackend()
WEB = Forward("tcp", "127.0.0.1", (8080, 8080), None, (80, 80))
Q35 = Machine("q35", "q35", NicBus.ROOT_PORTS, 8, "host", "")
MICROVM = Machine("microvm", "microvm", NicBus.MMIO, 0, "host", "")


def nic(backend: Backend = TAP, **changes: object) -> Nic:
    return replace(Nic("net0", "virtio-net-pci", "52:54:00:00:00:01", backend), **changes)  # type: ignore[arg-type]


def guest(*nics: Nic, **changes: object) -> Vm:
    vm = Vm("a", Q35, 1 << 27, 1, Accel.TCG, DirectBoot("/k", "/i", ""), Firmware.BIOS, (), nics)
    return replace(vm, **changes)


def between(old: Nic, new: Nic, machine: Machine = Q35) -> tuple[Difference, ...]:
    return differences(guest(old, machine=machine), guest(new, machine=machine))


# ---------------------------------------------------------------- one card

OF_A_CARD: dict[str, tuple[object, type[Difference]]] = {
    "model": ("e1000", Replug),
    "mac": ("52:54:00:00:00:02", Replug),
    "queues": (2, Replug),
    "vhost": (True, Replug),
    "guest_mtu": (1400, Replug),
    "boot_index": (1, Replug),
    "acpi_index": (7, Replug),
    "link": (LinkState.DOWN, Change),
    "ips": (("10.0.0.9/24",), Change),
    "gateways": (("10.0.0.1",), Change),
    "hook": (Hook("/up"), Change),
    "rate": (Rate(8_000_000), Change),
    "impair": (Impairment(delay=1000), Change),
    "port_isolation": (True, Change),
    "vlans": (Vlans(10), Change),
    "guard": (Guard(GuardLevel.MAC), Change),
    "port_profile": ("students", Change),
}


def test_every_property_of_a_card_is_tried_below() -> None:
    """A new one has to be added to the list; the id is which card it is, and backends have a list of their own."""
    assert OF_A_CARD.keys() | {"id", "backend"} == set(fields(Nic))


@pytest.mark.parametrize(("field", "value", "kind"), [(key, *rest) for key, rest in OF_A_CARD.items()])
def test_a_property_changes_in_place_or_by_another_card(field: str, value: object, kind: type[Difference]) -> None:
    """Both ways alike; what of it changes is said."""
    old, new = nic(), nic(**{field: value})
    words = {"ips": "ip", "hook": "ifup, ifdown", "link": "cable out", "port_isolation": "port-isolation"}
    word = (words | {"gateways": "gateway", "vlans": "vlan", "port_profile": "port-profile"}).get(field, field)
    for one, other in ((old, new), (new, old)):
        (found,) = between(one, other)
        assert found == (Change if kind is Change else Replug)("a", one, other)
    assert word.replace("_", "-") in between(old, new)[0].describe()


BACKENDS: list[tuple[Backend, Backend, type[Difference], str]] = [
    (TAP, replace(TAP, attach=OnNetwork("other", "qn-other")), Change, "net0: from network lab to network other"),
    (TAP, replace(TAP, attach=OnBridge("br0")), Change, "net0: from network lab to bridge br0"),
    (TAP, replace(TAP, attach=OnBridge("br0"), mtu=9000), Change, "net0: from network lab to bridge br0"),
    (TAP, replace(TAP, mtu=9000), Replug, "unplug net0 and plug it in again (backend)"),
    (TAP, replace(TAP, ifname="t1"), Replug, "unplug net0 and plug it in again (backend)"),
    (TAP, CABLE, Replug, "unplug net0 and plug it in again (backend)"),
    (CABLE, replace(CABLE, attach=PointToPoint(("10.0.0.5/30",))), Replug, "(backend)"),
    (CABLE, replace(CABLE, attach=PointToPoint(("10.0.0.1/30",), ("10.9.0.0/24",))), Replug, "(backend)"),
    (TAP, USER, Replug, "unplug net0 and plug it in again (network lab to user)"),
    (USER, MACVTAP, Replug, "(user to macvtap vepa on eth1)"),
    (TAP, MACVTAP, Replug, "(network lab to macvtap vepa on eth1)"),
    (MACVTAP, replace(MACVTAP, mode=MacvtapMode.BRIDGE), Replug, "(backend)"),
    (MACVTAP, replace(MACVTAP, parent="eth2"), Replug, "(backend)"),
    (USER, replace(USER, forwards=(WEB,)), Change, "net0: forwards"),
    (replace(USER, forwards=(WEB,)), USER, Change, "net0: forwards"),
    (USER, replace(USER, subnet="10.0.3.0/24"), Replug, "(backend)"),
    (USER, replace(USER, restrict=True), Replug, "(backend)"),
]


@pytest.mark.parametrize(("old", "new", "kind", "said"), BACKENDS)
def test_a_card_moves_from_bridge_to_bridge_and_all_else_behind_it_takes_another_one(
    old: Backend, new: Backend, kind: type[Difference], said: str
) -> None:
    """Only taps on bridges are plugged elsewhere; forwards come and go by themselves."""
    (found,) = between(nic(old), nic(new))
    assert isinstance(found, kind)
    assert said in found.describe()


def test_a_change_says_all_that_changes() -> None:
    """In one line; never an empty one."""
    new = nic(replace(TAP, attach=OnBridge("br0")), link=LinkState.DOWN, rate=Rate(1), ips=("10.0.0.1/24",))
    (found,) = between(nic(), new)
    assert found.describe() == "net0: from network lab to bridge br0; cable out; rate; ip"


def test_several_properties_of_one_card_take_one_replug() -> None:
    """And what could change in place comes with it."""
    new = nic(model="e1000", mac="52:54:00:00:00:02", link=LinkState.DOWN)
    (found,) = between(nic(), new)
    assert found == Replug("a", nic(), new)
    assert found.describe() == "unplug net0 and plug it in again (model, mac, link)"


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        (USER, "user"),
        (TAP, "network lab"),
        (replace(TAP, attach=OnBridge("br0")), "bridge br0"),
        (CABLE, "point to point"),
        (MACVTAP, "macvtap vepa on eth1"),
    ],
)
def test_what_is_behind_a_card_is_said_in_a_few_words(backend: Backend, said: str) -> None:
    assert behind(nic(backend)) == said


# ---------------------------------------------------------------- cards of a vm


def test_first_goes_what_goes_and_a_restart_comes_last() -> None:
    """A slot, a MAC or a port that is given up is there for who comes."""
    stays, goes, moves = nic(), nic(USER, id="net1"), nic(id="net2", mac="52:54:00:00:00:03")
    comes = nic(id="net3", mac="52:54:00:00:00:04")
    moved = replace(moves, backend=replace(TAP, attach=OnBridge("br0")))
    found = differences(guest(stays, moves, goes), guest(comes, stays, moved, cpus=2))
    assert found == (
        Remove("a", goes),
        Add("a", comes),
        Change("a", moves, moved),
        Restart("a", "cpus: 1 to 2"),
    )
    assert [one.disruption for one in found] == [Disruption.LIVE] * 3 + [Disruption.RESTART]


def test_what_comes_and_goes_is_named_with_where_it_is() -> None:
    assert Add("a", nic()).describe() == "plug in net0 (virtio-net-pci, network lab, 52:54:00:00:00:01)"
    assert Remove("a", nic(USER)).describe() == "unplug net0 (user, 52:54:00:00:00:01)"


def test_there_is_nothing_to_do_twice() -> None:
    """Nor for cards that only stand in another order."""
    first, second = nic(), nic(USER, id="net1")
    assert differences(guest(first, second), guest(second, first)) == ()
    assert differences(guest(), guest()) == ()


# ---------------------------------------------------------------- what only a restart changes

OF_STARTS: dict[str, object] = {"depends": ("router",), "ready": LeaseReady()}
OF_A_VM: dict[str, tuple[object, str]] = {
    "machine": (replace(Q35, hotplug_slots=16), "machine: other settings to other settings"),
    "memory": (1 << 28, "memory: 134217728 to 268435456"),
    "cpus": (2, "cpus: 1 to 2"),
    "accel": (Accel.KVM, "accel: tcg to kvm"),
    "boot": (FirmwareBoot(), "boot: other settings to other settings"),
    "firmware": (Firmware.UEFI, "firmware: bios to uefi"),
    "disks": ((Disk(ImageFile("/d", "raw")),), "disks: none to other settings"),
    "display": (VncDisplay("127.0.0.1", 1), "display: none to other settings"),
    "run_as": (RunAs(1, 1), "run-as: none to other settings"),
    "script": ((ScriptStep("login: ", None, "root", enter=True, timeout=60),), "script: none to other settings"),
    "secrets": ((Secret("secret.root", FromFile("/p")),), "secrets: none to other settings"),
    "agent": (GuestAgent.QEMU, "agent: none to qemu"),
    "shared_memory": (True, "shared-memory: false to true"),
    "qemu_args": (("-rtc", "base=utc"), "qemu-args: none to other settings"),
    "netns": ("sw1", "netns: none to sw1"),
}


def test_every_property_of_a_vm_is_tried_below() -> None:
    """A new one has to be added to the list."""
    assert OF_A_VM.keys() | {"name", "nics", *OF_STARTS} == set(fields(Vm))


def test_when_vms_start_concerns_none_that_runs() -> None:
    assert differences(guest(nic()), guest(nic(), **OF_STARTS)) == ()


@pytest.mark.parametrize(("field", "value", "said"), [(key, *rest) for key, rest in OF_A_VM.items()])
def test_all_but_the_cards_takes_a_restart(field: str, value: object, said: str) -> None:
    """It is said, and not done."""
    assert differences(guest(nic()), guest(nic(), **{field: value})) == (Restart("a", said),)


@pytest.mark.parametrize(
    ("old", "new"), [((), (nic(),)), ((nic(),), ()), ((nic(),), (nic(model="virtio-net-device"),))]
)
def test_cards_of_a_microvm_neither_come_nor_go(old: tuple[Nic, ...], new: tuple[Nic, ...]) -> None:
    """That its machine is why is said, with the card that it is about."""
    (found,) = differences(guest(*old, machine=MICROVM), guest(*new, machine=MICROVM))
    assert isinstance(found, Restart)
    assert (found.nic, found.disruption) == ("net0", Disruption.RESTART)
    assert found.describe().endswith("the cards of this machine are fixed while it runs")


def test_what_changes_in_place_does_so_on_a_microvm_too() -> None:
    """A cable is nothing of the machine."""
    assert between(nic(), nic(link=LinkState.DOWN), MICROVM) == (Change("a", nic(), nic(link=LinkState.DOWN)),)


# ---------------------------------------------------------------- a move and the guest's MTU


@pytest.mark.parametrize(
    ("told", "room", "wanted", "kept"),
    [
        (None, 9000, 9000, 1500),  # it goes on with what it uses; its old value was left unsaid
        (1400, 1500, None, 1400),
        (1400, 9000, 9000, 1400),
        (None, 1400, 1400, 1400),  # what it uses does not fit there: another card, with less
        (9000, 1500, None, None),
        (1400, 1400, 1400, 1400),
    ],
)
def test_a_card_that_moves_keeps_the_mtu_that_its_guest_uses_where_it_fits(
    told: int | None, room: int, wanted: int | None, kept: int | None
) -> None:
    """It is told when the card is plugged in, and never again."""
    elsewhere = TapBackend("qn-a-net0", room, OnNetwork("other", "qn-other"))
    moved = settled(nic(guest_mtu=told), nic(elsewhere, guest_mtu=wanted), left_open=True)
    assert moved.guest_mtu == kept
    assert differences(guest(moved), guest(settled(moved, nic(elsewhere, guest_mtu=wanted), left_open=True))) == ()


def test_an_mtu_that_somebody_chose_is_had_where_a_card_moves_to() -> None:
    """By another card, if the guest uses another one."""
    elsewhere = TapBackend("qn-a-net0", 9000, OnNetwork("other", "qn-other"))
    new = nic(elsewhere, guest_mtu=4000)
    assert settled(nic(), new, left_open=False) == new
    assert isinstance(between(nic(), new)[0], Replug)


def test_a_card_that_stays_gets_the_mtu_that_was_chosen_for_it() -> None:
    """And one that becomes another kind the one that it should have."""
    for backend in (USER, MACVTAP, CABLE):
        assert settled(nic(), nic(backend, guest_mtu=1400), left_open=True).guest_mtu == 1400
    assert settled(nic(), nic(model="e1000e", guest_mtu=1400), left_open=True).guest_mtu == 1400
    assert settled(nic(), nic(guest_mtu=1400), left_open=False).guest_mtu == 1400
    assert settled(nic(), nic(guest_mtu=1400), left_open=True) == nic()


def test_to_choose_what_a_guest_uses_anyway_changes_nothing() -> None:
    """1500 is what it uses without a word."""
    assert settled(nic(), nic(guest_mtu=1500), left_open=False) == nic()
    assert settled(nic(guest_mtu=1500), nic(), left_open=True) == nic(guest_mtu=1500)
