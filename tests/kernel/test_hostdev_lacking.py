"""A device of the host that is not there: that is said before anything is done, at the start and while a guest runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.world import World, machine

DEVICE = "ffff:ff:1f.7"
CARD = f'mode = "hostdev"\ndevice = "{DEVICE}"'


@pytest.fixture(autouse=True)
def lacking() -> None:
    assert not Path(f"/sys/bus/pci/devices/{DEVICE}").exists(), "an address that no machine has"


def test_no_such_device_is_told_with_all_else_that_is_lacking_and_nothing_is_done(world: World) -> None:
    file = world.write(machine("one", card=CARD) + '[[vm.one.nic]]\nmode = "vde"\npath = "/nowhere"\n')
    said = world.fails(3, "run", "-d", file)
    assert f"error: this host lacks the PCI device {DEVICE}; a vde_switch at /nowhere" in said
    assert "lspci -D" in said
    assert not world.runtime.exists() or not list(world.runtime.glob("*/*"))
    assert f'"host":"{DEVICE}"' in world.succeeds("plan", "--shell", file)


def test_a_guest_that_runs_is_left_as_it_is(world: World) -> None:
    file = world.write(machine("one", 'qemu-args = ["-S"]', card='mode = "user"'))
    world.succeeds("run", "-d", file)
    before = world.succeeds("nic", "list", "one", "--json")
    said = world.fails(3, "nic", "add", "one", "--mode", "hostdev", "--device", DEVICE)
    assert f"the PCI device {DEVICE}" in said
    said = world.fails(2, "nic", "add", "one", "--mode", "hostdev", "--device", DEVICE, "--link", "down")
    assert "nothing is between the device and its cable" in said
    said = world.fails(3, "nic", "set", "one", "net0", "--mode", "hostdev", "--device", DEVICE)
    assert f"the PCI device {DEVICE}" in said
    assert world.succeeds("nic", "list", "one", "--json") == before
    world.succeeds("down", file)
