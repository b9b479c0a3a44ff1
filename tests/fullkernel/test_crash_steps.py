"""Whoever dies at a step about VLANs or an impairment has all of it led back by the next one."""

from __future__ import annotations

from pathlib import Path

from qemunet.facts import Wanted
from qemunet.host.linux import LinuxHost
from qemunet.model.impair import ALL, Impairment
from qemunet.model.nic import OnBridge, TapBackend
from qemunet.model.vlan import Vlans
from qemunet.steps import FilterVlans, SetVlans
from tests.crash import covered
from tests.crash.steps import led_back
from tests.dump import Dump, links, program, qdiscs
from tests.frames import Player


def glance() -> Dump:
    """What these steps are about: to look at all of a host takes long in a guest."""
    return {"links": links(), "qdiscs": qdiscs(), "vlans": program("bridge", "vlan", "show").splitlines()}


def test_what_only_this_kernel_does_is_led_back_whoever_dies_at_it(host: LinuxHost, tmp_path: Path) -> None:
    """The bridge, and a card on it."""
    folder = tmp_path / "journals"
    folder.mkdir()
    facts = host.photograph(Wanted(links=frozenset({"br0"})))
    steps = (FilterVlans("br0"), SetVlans("br0", Vlans(20), own=True))
    seen = led_back(steps, facts, host, folder, glance)
    for step in steps:
        host.perform(step)
    player = Player(host, "a", "52:54:00:00:00:01", TapBackend("qn-a-net0", 1500, OnBridge("br0")))
    live = player.planned(vlans=Vlans(10, (20,)), impair=Impairment(loss=ALL))
    steps_of_card = tuple(step for part in live.guest for step in part.steps)
    seen |= led_back(steps_of_card, player.facts(), host, folder, glance)
    player.take_back()
    host.perform(SetVlans("br0", None, own=True))
    host.perform(FilterVlans("br0", on=False))
    assert seen >= covered.FULL_KERNEL
    folder.rmdir()
