"""QEMU, keepers and commands die of SIGKILL and of themselves: it is told, and taken back by whoever is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

from qemunet.live.control import connect
from tests.world import NETWORK, World, finish, kill, machine, until

TWO = NETWORK + machine("one") + machine("two")
ONE = NETWORK + machine("one")


def test_a_killed_qemu_is_taken_back_by_the_keeper_alone(world: World) -> None:
    """No command is needed, and the other guest does not notice."""
    world.succeeds("run", "-d", world.write(TWO))
    world.keeper()
    kill(world.pid("one"))
    until(lambda: not (world.runtime / "vm/one").exists(), "the keeper has cleared up")
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert "qn-one-net0" not in links
    assert "qn-two-net0" in links
    assert [vm["state"] for vm in world.vms()] == ["running"]
    kill(world.pid("two"))
    assert not world.left(60)


def test_a_qemu_killed_in_the_foreground_is_told(world: World) -> None:
    """Exit status 1, and why."""
    run = world.start("run", "--no-console", world.write(ONE))
    world.keeper()
    until(lambda: any(vm["state"] == "running" for vm in world.vms()), "it runs")
    kill(world.pid("one"))
    done = finish(run)
    assert done.returncode == 1
    assert "vm.one: QEMU was killed (signal 9)" in done.stderr
    assert not world.left()


@pytest.mark.parametrize("detach", [["-d"], ["--no-console"]])
def test_a_qemu_that_dies_at_start_is_told_in_full(world: World, detach: list[str]) -> None:
    """Its exit status, what it said last, and the command line."""
    file = world.write(NETWORK + machine("one", 'qemu-args = ["-device", "nope"]'))
    said = world.fails(1, "run", *detach, file)
    assert "exit status 1" in said
    assert "'nope' is not a valid device model name" in said
    assert "-device nope" in said
    assert "qemu-system-x86_64 \\\n      -S \\\n" in said
    assert not world.left()


def test_a_qemu_that_dies_at_start_takes_its_whole_lab_back(world: World) -> None:
    file = world.write(NETWORK + machine("one") + machine("two", 'qemu-args = ["-device", "nope"]'))
    assert "vm.two" in world.fails(1, "run", "-d", file)
    assert not world.left()


def test_a_missing_qemu_is_something_that_the_host_lacks(world: World) -> None:
    said = world.fails(3, "run", "-d", world.write(ONE), env={**world.environment, "PATH": "/nonexistent"})
    assert "qemu-system-x86_64" in said
    assert "qemu-system-x86" in said.partition("hint")[2]


def test_a_qemu_that_is_no_qemu_is_told_too(world: World) -> None:
    """A wrapper that fails, and one that is no program at all."""
    folder = world.folder / "bin"
    folder.mkdir()
    program = folder / "qemu-system-x86_64"
    path = {**world.environment, "PATH": f"{folder}:{os.environ['PATH']}"}
    program.write_text("#!/bin/sh\necho no such luck >&2\nexit 7\n")
    program.chmod(0o755)
    folder.parent.chmod(0o755)
    said = world.fails(1, "run", "-d", world.write(ONE), env=path)
    assert "exit status 7" in said or "Permission denied" in said
    program.write_bytes(b"\x7fELF nonsense")
    assert "could not start QEMU of one" in world.fails(1, "run", "-d", world.write(ONE), env=path)
    assert not world.left()


# ---------------------------------------------------------------- keepers


@pytest.fixture
def orphans(world: World) -> World:
    """Two guests whose keeper was killed."""
    world.succeeds("run", "-d", world.write(TWO))
    kill(world.keeper())
    return world


def test_guests_outlive_their_keeper_and_are_adopted(orphans: World) -> None:
    """They are listed, their consoles are served again, and they can be stopped one by one."""
    assert {vm["state"] for vm in orphans.vms()} == {"running"}
    assert "one: running" in orphans.succeeds("status", "one")
    orphans.succeeds("stop", "--force", "two")
    orphans.keeper()
    assert [vm["name"] for vm in orphans.vms()] == ["one"]
    with connect(str(orphans.runtime / "vm/one/console.sock")) as console:
        console.settimeout(60)
    orphans.succeeds("stop", "--force", "one")


def test_an_adopted_guest_that_dies_is_taken_back_too(orphans: World) -> None:
    orphans.succeeds("stop", "--force", "two")
    orphans.keeper()
    kill(orphans.pid("one"))
    assert not orphans.left(60)


def test_gc_leaves_guests_that_run_alone(orphans: World) -> None:
    assert "nothing" in orphans.qemunet("gc").stderr
    assert {vm["state"] for vm in orphans.vms()} == {"running"}
    orphans.succeeds("stop", "--force", "one", "two")


def test_another_vm_of_the_lab_is_started_beside_orphans(world: World) -> None:
    file = world.write(TWO)
    world.succeeds("run", "-d", file, "one")
    kill(world.keeper())
    world.succeeds("run", "-d", file, "two")
    world.keeper()
    assert {vm["name"]: vm["state"] for vm in world.vms()} == {"one": "running", "two": "running"}
    world.succeeds("stop", "--force", "one", "two")


def test_gc_takes_back_what_keeper_and_qemus_left(orphans: World) -> None:
    """First it says so and does nothing, then it does just that."""
    kill(orphans.pid("one"), orphans.pid("two"))
    before = orphans.left(0)
    would = orphans.succeeds("gc", "--dry-run").splitlines()
    assert would == ["take back vm one", "take back vm two", "take down net/lab"]
    until(lambda: orphans.left(0) == before, "it is all as it was")
    assert json.loads(orphans.succeeds("gc", "--dry-run", "--json")) == would
    assert orphans.succeeds("gc").splitlines() == would
    assert not orphans.left()


def test_the_next_start_takes_back_what_the_dead_left(orphans: World) -> None:
    """Without a word: the same lab runs again."""
    kill(orphans.pid("one"), orphans.pid("two"))
    orphans.succeeds("run", "-d", orphans.write(TWO))
    assert {vm["state"] for vm in orphans.vms()} == {"running"}
    orphans.succeeds("stop", "--force", "one", "two")


# ---------------------------------------------------------------- the terminal


def test_a_guest_in_the_foreground_ends_with_its_killed_terminal(world: World) -> None:
    """SIGKILL to `run`: the keeper ends the guest and takes all back, without gc."""
    run = world.start("run", "--no-console", world.write(ONE))
    world.keeper()
    until(lambda: any(vm["state"] == "running" for vm in world.vms()), "it runs")
    run.kill()
    run.communicate()
    assert not world.left(60)


def test_a_guest_in_the_foreground_ends_when_its_whole_session_is_killed(world: World) -> None:
    """Terminal and keeper at the same moment: then it is for gc."""
    run = world.start("run", "--no-console", world.write(ONE))
    keeper = world.keeper()
    until(lambda: any(vm["state"] == "running" for vm in world.vms()), "it runs")
    os.kill(run.pid, signal.SIGSTOP)
    kill(keeper)
    run.kill()
    run.communicate()
    world.succeeds("gc")
    assert not world.left()
