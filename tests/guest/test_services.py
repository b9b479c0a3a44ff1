"""Guests get addresses and names from their network, which goes on serving whatever dies."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from qemunet.host import daemons
from qemunet.testing.bench import Bench
from tests.guest.around import as_before, ping
from tests.guest.scene import Scene, wait_for

pytestmark = [pytest.mark.guest, pytest.mark.root]

LAB = """
[network.lab]
mode = "isolated"
address = ["192.168.50.1/24"]
dhcp = { range = ["192.168.50.100", "192.168.50.150"] }
dns = { domain = "lab.test", hosts = { db = "192.168.50.20" } }

[vm.alice]
profile = "microvm"
memory = "128M"
boot.guest = "tiny"
[[vm.alice.nic]]
network = "lab"

[vm.bob]
memory = "128M"
boot.guest = "tiny"
[[vm.bob.nic]]
network = "lab"
ip = ["192.168.50.12/24"]
"""


with_services = pytest.mark.qemunet_lab(LAB, around=as_before)


def leases(lab: Bench) -> dict[str, dict[str, Any]]:
    """By the card that has each."""
    return {f"{one['vm']} {one['nic']}": one for one in json.loads(lab.qemunet("net", "leases", "lab", "--json"))}


def folder(runtime: str | Path) -> Path:
    return Path(runtime, "net", "lab")


@with_services
def test_guests_are_known_by_their_leases_and_names(lab: Bench) -> None:
    """The pool's, the reserved one, and each by its vm's name; a card that comes later is one of them."""
    alice, bob = lab
    assert bob.wait_for_address() == "192.168.50.12"
    assert alice.wait_for_address() in {f"192.168.50.{number}" for number in range(100, 151)}
    lent = leases(lab)
    assert {name: one["ip"] for name, one in lent.items()} == {f"{one.name} net0": one.addresses[0] for one in lab}
    assert lent["alice net0"]["hostname"] == "alice"
    alice.succeeds(ping("bob.lab.test"))
    bob.succeeds(ping("alice"))
    assert "192.168.50.20" in bob.succeeds("nslookup db 192.168.50.1")
    added = bob.vm.add_nic(network="lab")
    name = f"bob {added.id}"
    assert (folder(lab.runtime.path) / "dnsmasq/hosts" / f"bob.{added.id}").exists()
    wait_for(lambda: name in leases(lab))
    assert (leases(lab)[name]["mac"], leases(lab)[name]["hostname"]) == (added.mac, f"bob-{added.id}")
    bob.vm.remove_nic(added)
    assert not (folder(lab.runtime.path) / "dnsmasq/hosts" / f"bob.{added.id}").exists()


@with_services
def test_a_server_that_dies_comes_back_and_is_told_of(lab: Bench) -> None:
    """With what it has lent; whoever listens hears of it."""
    alice, bob = lab
    assert alice.wait_for_address() != bob.wait_for_address()
    before = {name: one["ip"] for name, one in leases(lab).items()}
    with lab.lab.events() as events:
        first = daemons.find(str(folder(lab.runtime.path)), "dnsmasq")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        told = next(event for event in events if event.kind == "network")
    assert (told.details["network"], told.details["what"], told.vm) == ("lab", "dhcp restarted", None)
    assert told.details["pid"] == daemons.find(str(folder(lab.runtime.path)), "dnsmasq") != first
    (network,) = json.loads(lab.qemunet("net", "list", "--json"))
    assert network["state"] == "up"
    assert {name: one["ip"] for name, one in leases(lab).items()} == before
    alice.succeeds(ping("bob"))


def state(scene: Scene) -> str:
    (network,) = json.loads(scene.qemunet("net", "list", "--json"))
    return str(network["state"])


def test_it_goes_on_when_its_lab_has_a_new_keeper(scene: Scene, unchanged: None) -> None:
    """It is nobody's child then, and watched all the same."""
    with scene.lab(LAB.partition("[vm.bob]")[0]):
        keeper = int(next(scene.runtime.glob("lab/*/pid")).read_text())
        first = daemons.find(str(folder(scene.runtime)), "dnsmasq")
        assert first is not None
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{keeper}").exists())
        assert daemons.find(str(folder(scene.runtime)), "dnsmasq") == first
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not daemons.alive(str(folder(scene.runtime)), "dnsmasq"))
        assert state(scene) == "up, no dhcp"
        scene.qemunet("status", "alice")  # it starts a new keeper
        wait_for(lambda: state(scene) == "up")
