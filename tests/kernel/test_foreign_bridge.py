"""A bridge of somebody else's is the same with a guest, and when the guest has gone; seen by ip(8)."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.dump import VOLATILE_BRIDGE
from tests.world import World, machine

from .conftest import ip, quiet

NETWORK = '[network.lab]\nmode = "bridge"\nbridge = "br0"\n'
LABS = {
    "card": machine("one", card='bridge = "br0"'),
    "network": NETWORK + machine("one"),
    "two cards": NETWORK + machine("one") + '[[vm.one.nic]]\nbridge = "br0"\n',
}
# What the kernel works out by itself when the first port comes, and goes on to show when it has gone.
KERNELS_OWN = {"flags", "operstate", "tso_max_size", "tso_max_segs"}


def bridge() -> dict[str, Any]:
    shown = subprocess.run(["ip", "-j", "-d", "link", "show", "br0"], capture_output=True, text=True, check=True)
    (link,) = json.loads(shown.stdout)
    data = link["linkinfo"]["info_data"]
    link["linkinfo"]["info_data"] = {key: value for key, value in data.items() if not key.endswith("_timer")}
    return {key: value for key, value in link.items() if key not in KERNELS_OWN}


def stable(link: dict[str, Any]) -> dict[str, Any]:
    """Without what a spanning tree says of ports that come and go."""
    data = {key: value for key, value in link["linkinfo"]["info_data"].items() if not VOLATILE_BRIDGE.search(key)}
    return {**link, "linkinfo": {**link["linkinfo"], "info_data": data}}


@pytest.mark.parametrize("lab", LABS.values(), ids=LABS.keys())
@pytest.mark.parametrize("mtu", [1500, 1400, 9000])
def test_a_bridge_without_ports_is_not_altered(world: World, lab: str, mtu: int) -> None:
    """It has an address by chance and an MTU from its making, both of which it would give up for a port's."""
    ip("link", "add", "br0", "mtu", str(mtu), "type", "bridge")
    quiet("br0")
    ip("link", "set", "br0", "up")
    world.mark()
    before = bridge()
    world.succeeds("run", "-d", world.write(lab))
    assert stable(bridge()) == stable(before)
    world.succeeds("stop", "--force", "one")
    assert bridge() == before


def test_a_bridge_with_a_port_goes_on_to_follow_its_ports(world: World) -> None:
    """What its owner does with it later has the effect that he expects."""
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "add", "p0", "address", "02:00:00:00:00:09", "type", "veth", "peer", "name", "p0-peer")
    quiet("br0", "p0", "p0-peer")
    for words in ("p0 master br0", "br0 up", "p0 up", "p0-peer up"):
        ip("link", "set", *words.split())
    world.mark()
    before = bridge()
    world.succeeds("run", "-d", world.write(LABS["card"]))
    assert (bridge()["address"], bridge()["mtu"]) == (before["address"], before["mtu"]) == ("02:00:00:00:00:09", 1500)
    world.succeeds("stop", "--force", "one")
    assert bridge() == before
    assert not world.left()
    ip("link", "set", "p0", "address", "02:00:00:00:00:03", "mtu", "1300")
    assert (bridge()["address"], bridge()["mtu"]) == ("02:00:00:00:00:03", 1300)
    world.mark()


def test_the_plan_says_what_is_done_about_it(world: World) -> None:
    ip("link", "add", "br0", "address", "02:00:00:00:00:05", "type", "bridge")
    said = world.succeeds("plan", world.write(LABS["card"]))
    assert "  keep br0 at its address 02:00:00:00:00:05, whatever is plugged in\n" in said
    world.mark()
