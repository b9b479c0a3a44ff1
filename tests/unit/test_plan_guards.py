"""Guards of cards: which tables they have, and when one is loaded, replaced or dropped."""

from __future__ import annotations

import pytest

from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.model.guard import Guard, GuardLevel
from qemunet.model.nic import Backend, MacvtapBackend, MacvtapMode, Nic, OnBridge, PointToPoint, TapBackend, UserBackend
from qemunet.model.vm import Accel, Firmware, FirmwareBoot, Machine, NicBus, Vm
from qemunet.plan import guards, links
from qemunet.steps import AddLink, DropTable, LoadTable, OpenMacvtap, OpenTap, SetLink, Step

FACTS = Facts(runtime="/run/qemunet", machine_id="m", uid=0, can_switch_user=True)
TAP = TapBackend("qn-a", 1500, OnBridge("br0"))
CABLE = TapBackend("qn-a", 1500, PointToPoint(("10.0.0.1/30",)))
MACVTAP = MacvtapBackend("qn-a", "eth1", MacvtapMode.BRIDGE, 1500)
MAC, CLEAN, STRICT = (Guard(level, ("10.0.0.9",)) for level in [*GuardLevel][1:])


def nic(guard: Guard = CLEAN, backend: Backend = TAP) -> Nic:
    return Nic("net0", "virtio-net-pci", "52:54:00:00:00:01", backend, guard=guard)


def vm(card: Nic) -> Vm:
    q35 = Machine("q35", "q35", NicBus.ROOT_PORTS, 8, "host", "")
    return Vm("a", q35, 1 << 27, 1, Accel.TCG, FirmwareBoot(), Firmware.BIOS, (), (card,))


def loaded(card: Nic) -> list[Step]:
    return list(guards.load(vm(card), card, FACTS))


def changed(old: Nic, new: Nic) -> list[Step]:
    return list(guards.change(old, new, vm(old), FACTS))


def test_a_card_without_a_guard_has_no_table() -> None:
    assert loaded(nic(Guard())) == []
    assert loaded(nic(backend=UserBackend())) == []


@pytest.mark.parametrize(("backend", "families"), [(TAP, ["bridge"]), (MACVTAP, ["netdev"]), (CABLE, ["inet", "arp"])])
def test_each_kind_of_card_has_the_tables_that_see_its_guest(backend: Backend, families: list[str]) -> None:
    """They are found again by what the tables of qemunet say of a card."""
    tables = [step for step in loaded(nic(backend=backend)) if isinstance(step, LoadTable)]
    assert [step.family for step in tables] == families
    assert all(step.rules.startswith(f"table {step.family} {step.name} {{") for step in tables)
    mode = "macvtap" if backend is MACVTAP else "tap"
    known = guards.places("a", "net0", mode, bridged=backend is TAP, runtime=FACTS.runtime)
    assert list(known) == [(step.family, step.name) for step in tables]


@pytest.mark.parametrize("backend", [TAP, MACVTAP, CABLE])
def test_a_guard_is_there_before_its_link_is_up(backend: Backend) -> None:
    """That of a macvtap after the link, which has to be there."""
    card = nic(backend=backend)
    steps = links.card(vm(card), card, FACTS)
    at = max(number for number, step in enumerate(steps) if isinstance(step, LoadTable))
    assert not any(is_up(step) for step in steps[:at])
    assert any(is_up(step) for step in steps[at:])
    assert any(isinstance(step, AddLink) for step in steps[:at]) == (backend is MACVTAP)


def is_up(step: Step) -> bool:
    return isinstance(step, OpenTap | OpenMacvtap) or (isinstance(step, SetLink) and step.up is True)


@pytest.mark.parametrize("backend", [TAP, MACVTAP, CABLE])
def test_a_guard_that_changes_is_replaced_and_knows_its_way_back(backend: Backend) -> None:
    for old, new in ((MAC, CLEAN), (CLEAN, STRICT), (STRICT, replace(STRICT, addresses=("10.0.0.10",)))):
        found = changed(nic(old, backend), nic(new, backend))
        assert found
        assert all(isinstance(step, LoadTable) and step.was is not None for step in found)
        assert [step.inverse(FACTS) for step in found] == changed(nic(new, backend), nic(old, backend))


@pytest.mark.parametrize("backend", [TAP, MACVTAP, CABLE])
def test_a_guard_that_goes_can_come_back(backend: Backend) -> None:
    dropped = changed(nic(CLEAN, backend), nic(Guard(), backend))
    assert all(isinstance(step, DropTable) for step in dropped)
    assert [step.inverse(FACTS) for step in dropped] == loaded(nic(CLEAN, backend))
    assert changed(nic(Guard(), backend), nic(CLEAN, backend)) == loaded(nic(CLEAN, backend))


def test_an_address_that_matters_to_no_rule_changes_nothing() -> None:
    assert changed(nic(MAC), nic(replace(MAC, addresses=("10.0.0.10",)))) == []
