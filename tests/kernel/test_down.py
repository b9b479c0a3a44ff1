"""A lab goes down in the reverse of the order in which it came up, whatever has become of its parts meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.world import NETWORK, World, kill, machine

CHAIN = machine("one") + machine("two", 'depends = ["one"]') + machine("three", 'depends = ["two"]')


def lab(*tables: str) -> str:
    return '[lab]\nname = "home"\n' + NETWORK + "".join(tables)


def down(world: World, *words: str) -> list[str]:
    """Take something down; return what is said."""
    done = world.qemunet("down", *words)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def steps(*names: str, how: str = "QEMU was told to quit") -> list[str]:
    return [line for name in names for line in (f"{name}: stopping", f"{name}: ended ({how})")]


def test_each_ends_after_those_that_depend_on_it_with_the_file_or_without(world: World) -> None:
    """Twice is as good as once."""
    file = world.write(lab(CHAIN))
    world.succeeds("up", file)
    assert down(world, "--force", file) == steps("three", "two", "one")
    assert world.left() == ""
    assert down(world, file) == [f"{file}: nothing of it runs"]
    world.succeeds("up", file)
    Path(file).unlink()
    assert down(world, "--force", "home") == steps("three", "two", "one")
    assert world.left() == ""
    assert 'no vm of a lab "home" runs (labs: none)' in world.fails(4, "down", "home")
    assert "no such file" in world.fails(4, "down", file)


def test_a_lab_that_is_half_up_goes_down_without_its_keeper(world: World) -> None:
    """What depends on one that is not there waits for nobody; one that is dead already is taken back.

    Nor does it matter that a script was under way when the keeper was killed.
    """
    script = '[[vm.idle.script]]\nexpect = "never said"\ntimeout = "1h"\n'
    file = world.write(lab(CHAIN, machine("idle", 'depends = ["two"]'), script))
    world.succeeds("up", file)
    world.succeeds("stop", "--force", "two")
    kill(world.keeper(), world.pid("one"))
    said = down(world, "--force", "home")
    assert sorted(said) == sorted(
        [*steps("three", "idle"), *steps("one", how="was dead already; what it had left was taken back")]
    )
    assert world.left() == ""


def test_one_that_hangs_is_killed_and_those_behind_it_have_their_turn(world: World) -> None:
    file = world.write(lab(machine("one"), machine("two", 'depends = ["one"]')))
    world.succeeds("up", file)
    os.kill(world.pid("two"), signal.SIGSTOP)
    assert down(world, "--force", file) == [*steps("two", how="QEMU was killed"), *steps("one")]
    assert world.left() == ""


def test_a_network_that_is_held_stays_and_that_is_said(world: World) -> None:
    file = world.write(lab(machine("one")))
    world.succeeds("net", "up", file)
    world.succeeds("up", file)
    said = down(world, "--force", file)
    assert said == [*steps("one"), "note: the network lab stays; `qemunet net down lab` takes it down"]
    world.succeeds("net", "down", "lab")
    assert world.left() == ""
