"""Guests get addresses and names from their network, which goes on serving whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qemunet.host import daemons
from tests.guest.scene import QEMUNET, Scene, wait_for

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


def leases(scene: Scene) -> dict[str, dict[str, Any]]:
    """By the vm that has each."""
    return {one["vm"]: one for one in json.loads(scene.qemunet("net", "leases", "lab", "--json"))}


def state(scene: Scene) -> str:
    (network,) = json.loads(scene.qemunet("net", "list", "--json"))
    return str(network["state"])


def folder(scene: Scene) -> Path:
    return scene.runtime / "net" / "lab"


def test_guests_are_known_by_their_leases_and_names(scene: Scene, unchanged: None) -> None:
    """The pool's, the reserved one, and each by its vm's name; a card that comes later is one of them."""
    with scene.lab(LAB) as guests:
        wait_for(lambda: {"alice", "bob"} <= leases(scene).keys())
        lent = leases(scene)
        assert lent["bob"]["ip"] == "192.168.50.12"
        assert lent["alice"]["ip"] in {f"192.168.50.{number}" for number in range(100, 151)}
        assert (lent["alice"]["nic"], lent["alice"]["hostname"]) == ("net0", "alice")
        guests["alice"].pings("bob.lab.test")
        guests["bob"].pings("alice")
        assert "192.168.50.20" in guests["bob"].succeeds("nslookup db 192.168.50.1")
        added = json.loads(scene.qemunet("nic", "add", "bob", "--network", "lab", "--json"))
        assert (folder(scene) / "dnsmasq/hosts" / f"bob.{added['id']}").exists()
        wait_for(lambda: added["mac"] in scene.qemunet("net", "leases", "lab"))
        named = {one["mac"]: one["hostname"] for one in json.loads(scene.qemunet("net", "leases", "--json"))}
        assert named[added["mac"]] == f"bob-{added['id']}"
        scene.qemunet("nic", "del", "bob", added["id"])
        assert not (folder(scene) / "dnsmasq/hosts" / f"bob.{added['id']}").exists()


def test_a_server_that_dies_comes_back_and_is_told_of(scene: Scene, unchanged: None) -> None:
    """With what it has lent; whoever listens hears of it, and of new leases."""
    with scene.lab(LAB.replace("[vm.bob]", "[vm.bob]\nprofile = 'microvm'")) as guests:
        wait_for(lambda: {"alice", "bob"} <= leases(scene).keys())
        before = {name: one["ip"] for name, one in leases(scene).items()}
        argv = [QEMUNET, "events"]
        with subprocess.Popen(argv, env=scene.environment, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout is not None
            listener.stdout.readline()
            first = daemons.find(str(folder(scene)), "dnsmasq")
            assert first is not None
            os.kill(first, signal.SIGKILL)
            told = next(event for line in listener.stdout if (event := json.loads(line))["event"] == "network")
            assert (told["network"], told["what"], told["vm"]) == ("lab", "dhcp restarted", None)
            assert told["pid"] == daemons.find(str(folder(scene)), "dnsmasq") != first
            listener.send_signal(signal.SIGINT)
            listener.communicate()
        assert state(scene) == "up"
        assert {name: one["ip"] for name, one in leases(scene).items()} == before
        guests["alice"].pings("bob")


def test_it_goes_on_when_its_lab_has_a_new_keeper(scene: Scene, unchanged: None) -> None:
    """It is nobody's child then, and watched all the same."""
    with scene.lab(LAB.partition("[vm.bob]")[0]):
        keeper = int(next(scene.runtime.glob("lab/*/pid")).read_text())
        first = daemons.find(str(folder(scene)), "dnsmasq")
        assert first is not None
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{keeper}").exists())
        assert daemons.find(str(folder(scene)), "dnsmasq") == first
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not daemons.alive(str(folder(scene)), "dnsmasq"))
        assert state(scene) == "up, no dhcp"
        scene.qemunet("status", "alice")  # it starts a new keeper
        wait_for(lambda: state(scene) == "up")
