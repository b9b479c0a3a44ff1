"""A network's bridge goes and comes back under guests that run; what they see of it is that a ping is late."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.guest.scene import Scene, ip

pytestmark = pytest.mark.guest

VM = """
[vm.{0}]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 0
[[vm.{0}.nic]]
network = "lan"
ip = ["10.77.0.{1}/24"]
"""
LAN = """
[network.lan]
mode = "isolated"
address = ["10.77.0.1/24"]
keep = true
"""
# The other bridge has another address, and a guest believes for most of a minute in the one that it knows.
PING_ANEW = "ip neigh flush dev eth0 && ping -c 1 -W 1 10.77.0.1"
EXTERNAL = "[network.lan]\nexternal = true\n"


def test_a_guest_pings_again_within_seconds_after_its_bridge_was_deleted(scene: Scene, unchanged: None) -> None:
    """By whatever hand: deleted, deleted and made anew by somebody; and the network, which is kept, outlives it."""
    with scene.lab(LAN + VM.format("one", 2)) as guests:
        one = guests["one"]
        one.pings("10.77.0.1")
        ip("link", "del", "qn-lan")
        one.wait_until("ping -c 1 -W 1 10.77.0.1", timeout=30)
        ip("link", "del", "qn-lan")
        ip("link", "add", "qn-lan", "type", "bridge")
        ip("address", "add", "10.77.0.1/24", "dev", "qn-lan")
        ip("link", "set", "qn-lan", "up")
        one.wait_until(PING_ANEW, timeout=30)
        ip("link", "del", "qn-lan")
        one.wait_until(PING_ANEW, timeout=30)
    (network,) = json.loads(scene.qemunet("net", "list", "--json"))
    assert (network["name"], network["guests"], network["keep"]) == ("lan", [], True)
    scene.qemunet("net", "down", "lan")


def test_guests_of_two_labs_meet_on_one_network_before_and_after_its_bridge_was_deleted(
    scene: Scene, unchanged: None, tmp_path: Path
) -> None:
    """It is held by `net up`, made by nobody who is on it, and when it is let go of it goes with the last of them."""
    nets, user = tmp_path / "nets.toml", tmp_path / "user.toml"
    nets.write_text(LAN.replace("keep = true\n", ""))
    user.write_text(EXTERNAL + VM.format("two", 3))
    scene.qemunet("net", "up", str(nets))
    scene.qemunet("run", "-d", str(user))
    with scene.lab(LAN.replace("keep = true\n", "") + VM.format("one", 2)) as guests:
        one = guests["one"]
        one.wait_until("ping -c 1 -W 1 10.77.0.3", timeout=60)
        ip("link", "del", "qn-lan")
        one.wait_until("ping -c 1 -W 1 10.77.0.3", timeout=30)
        scene.qemunet("net", "down", "lan")
        one.wait_until("ping -c 1 -W 1 10.77.0.3", timeout=30)
