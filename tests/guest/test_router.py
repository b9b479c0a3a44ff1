"""A lab with a router comes up, is set up by its scripts, carries packets, and goes down: one command each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.cards import empty_stage
from tests.guest.managed import example

pytestmark = [pytest.mark.root, pytest.mark.guest]


def test_a_lab_is_up_when_its_scripts_have_made_a_router_of_it_and_goes_down_in_order(tmp_path: Path) -> None:
    """Guests and a namespace reach each other through a guest, and not without it."""
    with empty_stage(tmp_path) as stage:
        words = example("router", "gate", "client", "web")
        said = stage.succeeds("up", *words, "--wait", "ready").stderr
        told = [line.partition(" (")[0] for line in said.splitlines()]
        assert told[:2] == ["gate: started", "gate: ready"]
        assert sorted(told[2:]) == sorted(f"{vm}: {how}" for vm in ("client", "web") for how in ("started", "ready"))
        stage.succeeds("verify", *words)
        gate = stage.guest("gate")
        gate.succeeds("echo 0 >/proc/sys/net/ipv4/ip_forward")
        stage.fails(1, "verify", *words)
        stage.lose("gate")
        said = stage.succeeds("down", "router").stderr
        told = [line.partition(" (")[0] for line in said.splitlines()]
        assert sorted(told[:4]) == sorted(f"{vm}: {how}" for vm in ("client", "web") for how in ("stopping", "ended"))
        assert said.splitlines()[4:] == ["gate: stopping", "gate: ended (powered off)"]
