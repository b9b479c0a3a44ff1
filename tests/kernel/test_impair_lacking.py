"""A kernel that impairs nothing: that is said before anything is done."""

from __future__ import annotations

import pytest

from qemunet.host import qdiscs
from tests.world import NETWORK, World, machine

CARD = 'network = "lab"\nimpair = { delay = "20ms" }'


def test_what_is_lacking_is_told_and_nothing_is_done(world: World) -> None:
    """By `run` and for a card that runs; that one goes on as it was."""
    if not qdiscs.lacking_netem():
        pytest.skip("this kernel has sch_netem")
    said = "this host lacks sch_netem in the kernel, to impair what passes a card"
    assert said in world.fails(3, "run", "-d", world.write(NETWORK + machine("one", card=CARD)))
    assert not world.runtime.exists() or not list(world.runtime.glob("*/*"))
    file = world.write(NETWORK + machine("one", 'qemu-args = ["-S"]'))
    world.succeeds("run", "-d", file)
    assert said in world.fails(3, "nic", "set", "one", "net0", "--impair", "loss=1%")
    world.succeeds("down", file)
