"""When a command that ends guests has returned, nothing of ours is there: nobody has to wait for the rest."""

from __future__ import annotations

import signal

import pytest

from tests import dump
from tests.world import NETWORK, World, finish, machine, until

ONE = NETWORK + machine("one")


@pytest.mark.parametrize("words", [("stop", "--force", "one"), ("down", "--force", "lab-lab")])
def test_after_an_end_no_process_of_ours_is_there(world: World, words: tuple[str, ...]) -> None:
    """The keeper's own process included, at the very moment that the command returns."""
    before = dump.processes()
    world.succeeds("run", "-d", world.write(ONE))
    world.keeper()
    world.succeeds(*words)
    assert dump.processes() == before


def test_after_an_interrupted_run_no_process_of_ours_is_there(world: World) -> None:
    """The keeper is the other half of the very process that was interrupted."""
    before = dump.processes()
    run = world.start("run", "--no-console", world.write(ONE))
    world.keeper()
    until(lambda: any(vm["state"] == "running" for vm in world.vms()), "it runs")
    run.send_signal(signal.SIGINT)
    assert finish(run).returncode == 130
    assert dump.processes() == before
