"""Fifty guests of one lab have one keeper, and another one when that is killed."""

from __future__ import annotations

from qemunet.live.control import Control
from tests.world import NETWORK, World, kill, machine

COUNT = 50


def answering(world: World) -> set[str]:
    """Those of whom their only keeper says that they run, as QEMU told it."""
    (path,) = world.runtime.glob("lab/*/keeper.sock")
    with Control.open(str(path)) as control:
        vms = control.ask("status")["vms"]
    assert isinstance(vms, list)
    return {one["vm"] for one in vms if one["state"] == "running"}


def test_fifty_guests_outlive_their_keeper(world: World) -> None:
    """The next command finds them all; a card can be added to any, and nothing is left when they are stopped."""
    names = [f"g{number}" for number in range(COUNT)]
    lab = world.write(NETWORK + "".join(machine(name, 'profile = "pc"') for name in names))
    world.mark()
    world.succeeds("run", "-d", lab)
    pids = {name: world.pid(name) for name in names}
    first = world.keeper()
    kill(first)
    world.succeeds("nic", "add", "g7", "--network", "lab", "--timeout", "1s")
    assert world.keeper() != first
    assert {name: world.pid(name) for name in names} == pids
    assert answering(world) == set(names)
    assert [len(vm["nics"]) for vm in world.vms() if vm["name"] in ("g7", "g8")] == [2, 1]
    world.succeeds("stop", "--force", *names)
    assert not world.left()
