"""Addresses that were lent belong to cards, and new ones are told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from qemunet.live.leases import Leased, LeaseWatch, of_cards, of_networks
from qemunet.live.sight import Source, combined
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime

MAC, STRANGER = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
CARD = NicRecord("net0", "tap", "virtio-net-pci", MAC, "up", "t0", network="lab", ips=("10.0.0.1/24",))
ALICE = VmRecord("alice", "lab", "/lab.toml", "q35", "tcg", (CARD,), 1, 1, started=True)
OURS = f"1795250000 {MAC} 192.168.50.100 alice *\n"
OTHERS = f"0 {STRANGER} 192.168.50.101 * *\n"


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    (tmp_path / "net" / "lab" / "dnsmasq").mkdir(parents=True)
    (tmp_path / "vm" / "alice").mkdir(parents=True)
    runtime = Runtime(str(tmp_path))
    runtime.scope("vm/alice").save(ALICE)
    lend(runtime, OURS + OTHERS)
    return runtime


def lend(runtime: Runtime, text: str) -> None:
    Path(runtime.scope("net/lab").path("dnsmasq", "leases")).write_text(text)


def test_a_lease_belongs_to_the_card_with_its_mac(runtime: Runtime) -> None:
    """On that network; others are strangers."""
    assert of_networks(runtime, ["lab", "none"], [ALICE]) == [
        Leased("lab", MAC, "192.168.50.100", "alice", "alice", "net0", 1795250000),
        Leased("lab", STRANGER, "192.168.50.101", None, None, None, None),
    ]


def test_a_card_has_the_address_that_it_was_lent(runtime: Runtime) -> None:
    """Before what the host has seen and the file says, behind what the guest itself says."""
    lent = of_cards(runtime.scope("vm/alice").directory, [CARD])
    assert lent == {MAC: ("192.168.50.100",)}
    sight = combined([CARD], {}, {MAC: ("10.9.9.9",)}, lent)[MAC]
    assert (sight.addresses, sight.source) == (("192.168.50.100",), Source.LEASE)


def test_changes_are_told_once(runtime: Runtime) -> None:
    """What was lent before somebody listened is no news; a stranger's lease concerns all."""
    told: list[tuple[str, str | None, dict[str, Any]]] = []

    async def listen() -> None:
        watch = LeaseWatch(runtime, ["alice"], lambda: {"lab"}, lambda kind, vm, **rest: told.append((kind, vm, rest)))
        watch.open()
        watch.look()
        assert told == []
        lend(runtime, OTHERS.replace("101", "102"))
        watch.look()
        watch.look()
        watch.close()

    asyncio.run(listen())
    told.sort(key=lambda one: (one[2]["what"], one[2]["ip"]))
    assert [(kind, vm, rest["what"], rest["ip"]) for kind, vm, rest in told] == [
        ("lease", "alice", "ended", "192.168.50.100"),
        ("lease", None, "ended", "192.168.50.101"),
        ("lease", None, "new", "192.168.50.102"),
    ]
    assert told[0][2] == {
        "network": "lab",
        "mac": MAC,
        "ip": "192.168.50.100",
        "hostname": "alice",
        "nic": "net0",
        "expires": 1795250000,
        "what": "ended",
    }


def test_a_lease_of_another_keepers_guest_is_his_to_tell(runtime: Runtime) -> None:
    told: list[str | None] = []

    async def listen() -> None:
        watch = LeaseWatch(runtime, [], lambda: {"lab"}, lambda _kind, vm, **_rest: told.append(vm))
        watch.open()
        lend(runtime, OTHERS)
        watch.look()
        watch.close()

    asyncio.run(listen())
    assert told == []
