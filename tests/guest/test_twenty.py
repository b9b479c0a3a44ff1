"""A lab of twenty guests comes up with one command on whatever machine this is, and goes down with another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.cards import Stage, empty_stage, machine

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.slow]

NAMES = [f"g{number:02}" for number in range(20)]
NETWORK = '[lab]\nname = "many"\n[network.lan]\nmode = "isolated"\naddress = ["10.49.0.1/24"]\ndhcp = true\n'
LAB = NETWORK + "".join(machine(name, "hotplug-slots = 0", 'nic = [{ network = "lan" }]') for name in NAMES)
PATIENCE = 280  # seconds; it takes thirty where nobody else has work


def states(said: str) -> Iterator[tuple[str, str]]:
    """What is said of each vm, in order."""
    for line in said.splitlines():
        found = re.match(r"(g\d\d): (\w+)", line)
        assert found, line
        yield found[1], found[2]


def patiently(stage: Stage, *words: str) -> str:
    process = stage.begin(*words)
    try:
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return said


def test_twenty_guests_are_up_and_have_their_leases_a_few_at_a_time(tmp_path: Path) -> None:
    with empty_stage(tmp_path) as stage:
        file = str(stage.scene.write(LAB))
        told = list(states(patiently(stage, "up", file, "--wait", "ready", "--wait", "dhcp", "--timeout", "200s")))
        assert {vm for vm, state in told if state == "ready"} == set(NAMES)
        assert {vm for vm, state in told if state == "started"} == set(NAMES)
        leases = json.loads(stage.succeeds("net", "leases", "--json").stdout)
        assert len({one["ip"] for one in leases}) == len(NAMES)
        told = list(states(patiently(stage, "down", file)))
        assert {vm for vm, state in told if state == "ended"} == set(NAMES)
