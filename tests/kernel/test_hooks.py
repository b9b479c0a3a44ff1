"""A user's hook may call qemunet, but never so that each waits for the other; and it dies with who runs it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests import dump
from tests.world import NETWORK, QEMUNET, World, kill, machine, until

QUICK = 20.0  # seconds, of the 30 that a hook has


def lab(world: World, key: str, script: str) -> str:
    """Write a lab whose card has a hook; what that says is in ``hook.said``."""
    hook = world.folder / "hook"
    hook.write_text(f"#!/bin/sh\nexec >>{world.folder}/hook.said 2>&1\n{script}\n")
    hook.chmod(0o755)
    return world.write(NETWORK + machine("one", card=f'network = "lab"\n{key} = "hook"'))


def said(world: World) -> str:
    return (world.folder / "hook.said").read_text()


@pytest.mark.parametrize("command", ["gc", "stop --force one", "down --force lab-lab"])
def test_a_hook_that_would_wait_for_itself_is_told_so_at_once(world: World, command: str) -> None:
    """While the guest starts: the command fails in one line, and the hook can go on."""
    file = lab(world, "ifup", f"{QEMUNET} {command}; echo status $?")
    started = time.monotonic()
    world.succeeds("run", "-d", file)
    assert time.monotonic() - started < QUICK
    assert " was called by a hook that " in said(world)
    assert "status 1" in said(world)
    world.succeeds("stop", "--force", "one")


@pytest.mark.parametrize("command", ["gc", "stop --force one"])
def test_so_is_one_that_runs_when_the_guest_ends(world: World, command: str) -> None:
    """Then it is the keeper that waits for the hook."""
    world.succeeds("run", "-d", lab(world, "ifdown", f"{QEMUNET} {command}; echo status $?"))
    world.keeper()
    started = time.monotonic()
    world.succeeds("stop", "--force", "one")
    assert time.monotonic() - started < QUICK
    assert " was called by a hook that " in said(world)
    assert "status 1" in said(world)


def test_a_hook_may_look_and_may_start_other_labs(world: World) -> None:
    other = world.write(machine("two", card='mode = "user"'), "other.toml")
    file = lab(world, "ifup", f"{QEMUNET} ps -q; {QEMUNET} run -d {other}; echo status $?")
    world.succeeds("run", "-d", file)
    assert "status 0" in said(world)
    world.succeeds("stop", "--force", "one", "two")


def test_a_hook_may_leave_it_to_somebody_who_outlives_it(world: World) -> None:
    """As the message says."""
    world.succeeds("run", "-d", lab(world, "ifup", f"({QEMUNET} gc &)"))
    until(lambda: "nothing was left behind" in said(world), "gc is through")
    world.succeeds("stop", "--force", "one")


@pytest.mark.parametrize("script", ["sleep 300 & sleep 301", "exec sleep 300", "(exec >&- 2>&-; sleep 300) | cat"])
def test_a_killed_start_takes_its_hook_with_it(world: World, script: str) -> None:
    """The process and the one that it starts in: after gc nothing of the hook is there, nor of what it has begun."""
    before = dump.processes()
    hook = world.folder / "hook"
    hook.write_text(f"#!/bin/sh\necho $$ >{world.folder}/hook.pid\n{script}\n")
    hook.chmod(0o755)
    run = world.start("run", "-d", world.write(machine("one", card='mode = "tap"\nifup = "hook"')))
    pid = world.folder / "hook.pid"
    until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the hook runs")
    worker = parent(int(pid.read_text()))
    os.kill(run.pid, signal.SIGSTOP)  # or it would clear up by itself
    kill(worker)
    run.kill()
    run.communicate()
    world.succeeds("gc")
    assert dump.processes() == before


def test_what_a_hook_leaves_running_when_it_is_done_is_the_users(world: World) -> None:
    world.succeeds("run", "-d", lab(world, "ifup", f"sleep 300 & echo $! >{world.folder}/pid"))
    left = int((world.folder / "pid").read_text())
    world.succeeds("stop", "--force", "one")
    world.succeeds("gc")
    kill(left)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_card_that_gets_another_ifdown_while_its_guest_runs_has_that_one_at_its_end(world: World) -> None:
    """The old one is not run any more, and none is run for the change; with none there is none."""
    file = lab(world, "ifdown", "echo old")
    other = world.folder / "other"
    other.write_text(f'#!/bin/sh\nexec >>{world.folder}/hook.said 2>&1\necho "other of $1"\n')
    other.chmod(0o755)
    text = Path(file).read_text()
    for words, expected in (
        (("nic", "set", "one", "net0", "--ifdown", str(other)), "other of qn-one-net0\n"),
        (("apply", file), ""),
    ):
        (world.folder / "hook.said").write_text("")
        world.succeeds("run", "-d", world.write(text))
        world.write(text.replace("ifdown", "#"))
        world.succeeds(*words)
        assert said(world) == ""
        world.succeeds("stop", "--force", "one")
        assert said(world) == expected
        assert not world.left()


def test_an_ifdown_is_told_where_its_card_is_at_its_end(world: World) -> None:
    """It may have moved since it came."""
    file = lab(world, "ifdown", 'echo "$QEMUNET_BRIDGE $QEMUNET_IP"')
    text = Path(file).read_text() + '[network.red]\nmode = "private"\n'
    world.succeeds("run", "-d", world.write(text))
    world.succeeds("nic", "set", "one", "net0", "--network", "red", "--ip", "10.0.0.9/24")
    world.succeeds("stop", "--force", "one")
    assert said(world) == "qn-red 10.0.0.9/24\n"
