"""Guests that wait for each other: what `up` says is ready, is."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import pytest

from qemunet.live.control import connect
from tests.guest.cards import empty_stage, finish, machine, until
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
    machine("router", "nic = []")
    + """
[[vm.router.script]]
expect = "# $"
fail = "Kernel panic"
send = "hostname {vm.name}-1; echo wait''ing"
[[vm.router.script]]
expect = "waiting"
[[vm.router.script]]
expect = "go ahead"
send = "hostname"
timeout = "120s"
[[vm.router.script]]
expect = "router-1"
"""
)


def test_a_script_is_finished_by_the_keeper_that_comes_after_a_killed_one(tmp_path: Path) -> None:
    """And `up` waits for that."""
    with empty_stage(tmp_path) as stage:
        file = str(stage.scene.write(SCRIPTED))
        stage.succeeds("up", file)
        until(lambda: "step 3 of 4" in stage.succeeds("status", "router").stdout, "it waits in its third step")
        kill(stage.keeper())
        up = stage.begin("up", file, "--wait", "ready")
        until(lambda: "step 3 of 4" in stage.succeeds("status", "router").stdout, "another one waits there")
        with contextlib.closing(connect(str(stage.scene.runtime / "vm/router/console.sock"))) as console:
            console.sendall(b"echo go ahead\n")
        assert finish(up).returncode == 0
        assert "script: its script is done" in stage.succeeds("status", "router").stdout
        assert stage.guest("router").succeeds("hostname").strip() == "router-1"


def test_a_script_that_fails_says_where_and_takes_the_lab_down(tmp_path: Path) -> None:
    with empty_stage(tmp_path) as stage:
        file = str(stage.scene.write(SCRIPTED.replace("waiting", "never")))
        said = stage.fails(5, "up", file, "--set", "vm.router.script[1].timeout=1s", "--wait", "ready")
        assert 'error: vm.router: step 2 of 4 of its script: no "never" within 1 s; last seen: ' in said
        assert json.loads(stage.succeeds("ps", "--json").stdout) == []
