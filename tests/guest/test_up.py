"""Guests that wait for each other: what `up` says is ready, is."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.live.control import connect
from tests.guest.cards import Stage, empty_stage, finish, machine, until
from tests.guest.managed import example
from tests.world import kill

pytestmark = [pytest.mark.root, pytest.mark.guest]


def test_a_guest_starts_when_the_other_is_ready_and_the_lab_is_up_when_it_answers(tmp_path: Path) -> None:
    """What is said to be ready is so at once, without another wait."""
    with empty_stage(tmp_path) as stage:
        said = stage.succeeds("up", *example("in-order", "router", "web"), "--wait", "ready").stderr
        told = [line.partition(" (")[0] for line in said.splitlines()]
        assert told == ["router: started", "router: ready", "web: started", "web: ready"]
        leases = json.loads(stage.succeeds("net", "leases", "--json").stdout)
        address = {one["vm"]: one["ip"] for one in leases}
        assert set(address) == {"router", "web"}
        with socket.create_connection((address["web"], 80), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as answer:
                assert answer.read().endswith(b"web\n")
        stage.succeeds("up", *example("in-order", "router", "web"), "--wait", "dhcp", "--wait", "console=ready: ")


SCRIPTED = (
    machine("still", "nic = []", 'qemu-args = ["-S"]', 'script-file = "steps.toml"', 'secret.word = { env = "WORD" }')
    + machine("router", "hotplug-slots = 0", "nic = []", 'login.recipe = "tiny"')
    + """
[vm.router.secret]
word = { env = "WORD" }
other = { file = "other" }
[[vm.router.script]]
send = "hostname {vm.name}-1; echo wait''ing {secret.word}"
[[vm.router.script]]
expect = "waiting"
[[vm.router.script]]
expect = "go ahead"
send = "hostname; echo {secret.other}{secret.word} > /tmp/word"
timeout = "120s"
[[vm.router.script]]
expect = "router-1"
"""
)
STEPS = """
[[script]]
expect = "what it never says"
send = "{secret.word}"
timeout = "300s"
"""
WORD, OTHER = "hunter2", "correct-horse"


@contextlib.contextmanager
def scripted(folder: Path, text: str = SCRIPTED) -> Iterator[tuple[Stage, str]]:
    """A lab with scripts, and its file."""
    with empty_stage(folder) as stage:
        file = stage.scene.write(text)
        (file.parent / "steps.toml").write_text(STEPS)
        (file.parent / "other").write_text(f"{OTHER}\n")
        yield stage, str(file)


def files_with(stage: Stage, word: str) -> list[str]:
    """The files of the runtime directory that have a word in them."""
    found = []
    for file in stage.scene.runtime.rglob("*"):
        with contextlib.suppress(OSError):  # a socket, a directory, a draft that has its name by now
            if word.encode() in file.read_bytes():
                found.append(file.relative_to(stage.scene.runtime).as_posix())
    return found


def test_a_script_is_finished_by_the_keeper_that_comes_after_a_killed_one(tmp_path: Path) -> None:
    """`up` waits for that, `down` takes all of it down, and the secrets that it types are in no log."""
    with scripted(tmp_path) as (stage, file):
        said = stage.fails(2, "up", file)
        assert f"error: {file}: vm.still.secret.word: the environment variable WORD is not set\n" in said
        assert not stage.scene.runtime.exists()
        stage.scene.environment["WORD"] = WORD
        assert finish(stage.begin("up", file, "router")).returncode == 0  # not forked: for environ
        until(lambda: "step 4 of 5" in stage.succeeds("status", "router").stdout, "it waits in its fourth step")
        assert files_with(stage, WORD) == ["vm/router/secrets.json"]
        every = [stage.keeper(), *(one["pid"] for one in json.loads(stage.succeeds("ps", "--json").stdout))]
        assert not any(WORD.encode() in Path(f"/proc/{pid}/environ").read_bytes() for pid in every)
        kill(stage.keeper())
        del stage.scene.environment["WORD"]
        up = stage.begin("up", file, "router", "--wait", "ready")
        until(lambda: "step 4 of 5" in stage.succeeds("status", "router").stdout, "another one waits there")
        with contextlib.closing(connect(str(stage.scene.runtime / "vm/router/console.sock"))) as console:
            console.sendall(b"echo go ahead\n")
        assert finish(up).returncode == 0
        assert "script: its script is done" in stage.succeeds("status", "router").stdout
        assert "*" * len(WORD) in stage.succeeds("logs", "router").stdout
        assert (files_with(stage, WORD), files_with(stage, OTHER)) == ([], [])
        assert stage.guest("router").succeeds("hostname; cat /tmp/word").split() == ["router-1", OTHER + WORD]
        stage.scene.environment["WORD"] = WORD
        stage.succeeds("up", file)
        assert files_with(stage, WORD) == ["vm/still/secrets.json"]
        kill(stage.keeper())
        stage.succeeds("down", file)
        until(lambda: not stage.scene.runtime.exists(), "nothing is left")


def test_a_script_that_fails_says_where_and_takes_the_lab_down(tmp_path: Path) -> None:
    """Unless it is to be left: then what runs goes on, and says so again."""
    with scripted(tmp_path, SCRIPTED.replace("waiting", "never")) as (stage, file):
        stage.scene.environment["WORD"] = WORD
        words = "up", file, "router", "--set", "vm.router.script[1].timeout=1s", "--wait", "ready"
        for more, left in (("--keep-going",), ["router"]), ((), ["router"]), ((), []):
            said = stage.fails(5, *words, *more)
            assert 'error: vm.router: step 3 of 5 of its script: no "never" within 1 s; last seen: ' in said
            assert f"wait''ing {'*' * len(WORD)}" in said
            assert [one["name"] for one in json.loads(stage.succeeds("ps", "--json").stdout)] == left
            assert files_with(stage, WORD) == []
            if more == () and left:
                stage.succeeds("stop", "router", "--force")
