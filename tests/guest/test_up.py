"""Guests that wait for each other: what `up` says is ready, is."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.guest.cards import empty_stage
from tests.guest.managed import example

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
