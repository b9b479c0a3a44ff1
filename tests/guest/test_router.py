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
        said = stage.succeeds("up", *example("router", "gate", "client", "web"), "--wait", "ready").stderr
        told = [line.partition(" (")[0] for line in said.splitlines()]
        assert told[:2] == ["gate: started", "gate: ready"]
        assert sorted(told[2:]) == sorted(f"{vm}: {how}" for vm in ("client", "web") for how in ("started", "ready"))
        stage.succeeds("exec", "outside", "--", "busybox", "ping", "-c", "1", "-W", "5", "10.48.1.2")
        client = stage.guest("client")
        assert client.wait_until("wget -q -O - http://10.48.2.2/").strip() == "web"
        stage.guest("gate").succeeds("echo 0 >/proc/sys/net/ipv4/ip_forward")
        client.cannot_ping("10.48.2.2")
        for vm in ("client", "gate"):
            stage.lose(vm)
        said = stage.succeeds("down", "router").stderr
        told = [line.partition(" (")[0] for line in said.splitlines()]
        assert sorted(told[:4]) == sorted(f"{vm}: {how}" for vm in ("client", "web") for how in ("stopping", "ended"))
        assert said.splitlines()[4:] == ["gate: stopping", "gate: ended (powered off)"]
