"""A kernel whose bridges do not tell VLANs apart: that is said before anything is done."""

from __future__ import annotations

import pytest

from qemunet.host import vlans
from tests.kernel.conftest import ip, quiet
from tests.world import World, machine

NETWORK = '[network.lab]\nmode = "private"\n{}\n'
CARD = 'network = "lab"\nvlan = {{ access = 10 }}\n{}'
KERNEL = "VLAN filtering of bridges in the kernel (BRIDGE_VLAN_FILTERING)"


@pytest.fixture(autouse=True)
def lacking() -> None:
    if vlans.is_able():
        pytest.skip("bridges of this kernel tell VLANs apart")


def test_all_that_is_lacking_is_told_at_once_and_nothing_is_done(world: World) -> None:
    """Also of a card on somebody else's bridge."""
    file = world.write(NETWORK.format("vlan-filtering = true") + machine("one", card=CARD.format('vhost = "on"')))
    assert f"error: this host lacks {KERNEL}; /dev/vhost-net" in world.fails(3, "run", "-d", file)
    assert KERNEL in world.fails(3, "net", "up", file)
    ip("link", "add", "br0", "type", "bridge")
    quiet("br0")
    card = machine("one", card='bridge = "br0"\nvlan = { access = 10 }')
    assert KERNEL in world.fails(3, "run", "-d", world.write(card))
    ip("link", "del", "br0")
    assert not world.runtime.exists() or not list(world.runtime.glob("*/*"))


def test_a_card_that_runs_is_left_as_it_is(world: World) -> None:
    """By `nic set` and by `apply` alike; so is its network."""
    file = world.write(NETWORK.format("") + machine("one", 'qemu-args = ["-S"]'))
    world.succeeds("run", "-d", file)
    problem = 'network "lab" does not tell VLANs apart'
    assert problem in world.fails(2, "nic", "set", "one", "net0", "--vlan", "10")
    world.write(NETWORK.format("vlan-filtering = true") + machine("one", card=CARD.format("")))
    assert KERNEL in world.fails(3, "apply", file)
    assert '"vlan": null' in world.succeeds("nic", "list", "one", "--json")
    world.succeeds("down", file)
