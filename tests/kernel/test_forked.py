"""A command that the tests have forked is like one that has a Python of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests import dump, forked
from tests.world import NETWORK, PATIENCE, World, finish, machine, until

SAY, DIE, STAY = (f"tests.kernel.test_forked:{name}" for name in ("say", "die", "stay"))


def say() -> int:
    """Say all that a process can tell from where it is."""
    spaces = [os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")]
    signals = [str(signal.getsignal(one)) for one in sorted(signal.valid_signals())]
    streams = [(one.fileno(), one.encoding, one.errors, one.isatty()) for one in (sys.stdin, sys.stdout, sys.stderr)]
    where = [os.getcwd(), os.getuid(), os.getpgrp(), os.umask(0o22), sys.stdin.read()]
    environment = {key: os.environ[key] for key in sorted(os.environ)}
    print(json.dumps([sys.argv[1:], spaces, signals, streams, where, environment, sorted(os.listdir("/proc/self/fd"))]))
    print("ö\r\n", file=sys.stderr)
    return 3


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def stay() -> int:
    print(os.getpid(), flush=True)
    signal.pause()
    return 0


def test_it_finds_everything_as_any_other_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces, directory, environment, signals, streams, and no descriptor more."""
    monkeypatch.chdir(world.folder)
    program = f"import sys; from {SAY.partition(':')[0]} import say; sys.exit(say())"
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    argv = [sys.executable, "-c", program, "a", "ö b"]
    started = subprocess.run(argv, env=world.environment, **pipes)
    done = forked.run(["say", "a", "ö b"], world.environment, PATIENCE, SAY)
    assert json.loads(done.stdout) == json.loads(started.stdout)
    assert (done.returncode, done.stderr) == (started.returncode, started.stderr) == (3, "ö\n\n")


@pytest.mark.parametrize("words", [("--version",), ("ps", "--json"), ("nonsense",), ("run", "nowhere.toml"), ("gc",)])
def test_it_says_and_ends_with_the_same(world: World, words: tuple[str, ...]) -> None:
    started, done = finish(world.start(*words)), world.qemunet(*words)
    assert (done.returncode, done.stdout, done.stderr) == (started.returncode, started.stdout, started.stderr)


def test_what_it_begins_has_nothing_of_the_tests(world: World) -> None:
    """Neither keeper nor QEMU."""
    world.succeeds("run", "-d", world.write(NETWORK + machine("one")))
    theirs = {line.rpartition(": ")[2] for line in dump.processes()}
    assert theirs & {*dump.descriptors()} <= {os.devnull}
    world.succeeds("stop", "--force", "one")


def test_of_one_that_is_killed_it_is_told_and_one_that_stays_too_long_is(world: World) -> None:
    assert forked.run(["die"], world.environment, PATIENCE, DIE).returncode == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        forked.run(["stay"], world.environment, 2, STAY)
    pid = int(caught.value.stdout or 0)
    until(lambda: not os.path.exists(f"/proc/{pid}"), "it is gone")
    assert forked.run(["say"], world.environment, PATIENCE, SAY).returncode == 3  # others still come
