"""Whoever dies at a step of a card that others hold open has all of it led back by the next one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.facts import Wanted
from qemunet.host import qdiscs
from qemunet.host.linux import LinuxHost
from qemunet.model.guard import Guard, GuardLevel
from qemunet.model.nic import OnBridge, Rate, TapBackend
from qemunet.steps import AddLink, AddNeighbour, AddRoute, MacvlanLink, Mark, SetLink, SetSysctl
from tests import namespace
from tests.crash import covered
from tests.crash.steps import led_back
from tests.dump import dump, left_behind
from tests.frames import Player
from tests.kernel.conftest import fresh_bridge

MAC = "52:54:00:00:00:01"
BARE = {"rate": Rate(), "guard": Guard(), "port_isolation": False}
DRESSED = {"rate": Rate(8_000_000, 8_000_000), "guard": Guard(GuardLevel.MAC), "port_isolation": True}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LinuxHost]:
    """This machine in a namespace of its own, which in the end is as it was."""
    if why := namespace.lack():
        pytest.skip(why)
    if lacks := ", ".join(sorted(qdiscs.lacking())):
        pytest.skip(f"this kernel has no {lacks}")
    with fresh_bridge():
        before = dump()
        host = LinuxHost(str(tmp_path))
        yield host
        host.close()
        assert not (found := left_behind(before)), found


def test_a_change_of_a_cards_port_that_dies_at_any_step_is_led_back(host: LinuxHost, tmp_path: Path) -> None:
    """Guard, rates and isolation, as they come and as they go."""
    player = Player(host, "a", MAC, TapBackend("qn-a-net0", 1500, OnBridge("br0")))
    seen: set[str] = set()
    for more in (DRESSED, BARE):
        facts = player.facts()
        steps = tuple(step for part in player.planned(**more).guest for step in part.steps)
        seen |= led_back(steps, facts, host, tmp_path)
        player.change(**more)
    player.take_back()
    assert seen >= covered.PORT


def test_a_macvlan_beside_a_card_that_dies_at_any_step_is_led_back(host: LinuxHost, tmp_path: Path) -> None:
    """With what leads to the guest by it."""
    steps = (
        AddLink("qn-beside", MacvlanLink("eth1", "52:54:00:00:00:09", 1500), Mark("host/m", "macvlan", 0x4000_0009)),
        SetSysctl("net.ipv6.conf.qn-beside.disable_ipv6", "1"),
        SetLink("qn-beside", up=True),
        AddNeighbour("qn-beside", "192.0.2.11", MAC),
        AddRoute("192.0.2.11/32", "qn-beside"),
    )
    facts = host.photograph(Wanted(links=frozenset({"eth1"})))
    assert led_back(steps, facts, host, tmp_path) >= covered.MACVLAN
