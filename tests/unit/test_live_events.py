"""Events reach whom they concern, and nobody's mistake keeps them from anybody else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import typing
from pathlib import Path

import pytest

from qemunet.host import processes
from qemunet.live.events import Bus
from qemunet.live.linkwatch import Card, Roster
from qemunet.live.process import Guest, Seen
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.live.server import Peer


class Ear:
    """A connection that remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[Message] = []

    def tell(self, message: Message) -> None:
        self.heard.append(message)


def subscribed(bus: Bus, vm: str | None) -> Ear:
    ear = Ear()
    bus.subscribe(typing.cast("Peer", ear), vm)
    return ear


# ---------------------------------------------------------------- the bus


def test_an_event_says_what_when_and_where() -> None:
    bus = Bus("shop")
    ear = subscribed(bus, None)
    bus.tell("card", "db", {"nic": "net1", "what": "plugged"})
    (event,) = ear.heard
    assert typing.cast("float", event.pop("time")) > 1e9
    assert event == {"event": "card", "lab": "shop", "vm": "db", "nic": "net1", "what": "plugged"}


def test_who_asked_for_a_vm_hears_of_that_and_of_what_concerns_all() -> None:
    bus = Bus("shop")
    everything, only = subscribed(bus, None), subscribed(bus, "db")
    bus.tell("guest", "web", {"what": "ended"})
    bus.tell("guest", "db", {"what": "ended"})
    bus.tell("gap", None, {"what": "links"})
    assert [event["vm"] for event in everything.heard] == ["web", "db", None]
    assert [event["vm"] for event in only.heard] == ["db", None]


def test_who_has_gone_hears_nothing_and_then_nobody_listens() -> None:
    bus = Bus("shop")
    assert not bus
    first, second = subscribed(bus, None), subscribed(bus, None)
    bus.lost(typing.cast("Peer", first))
    assert bus
    bus.tell("guest", "db", {})
    bus.lost(typing.cast("Peer", second))
    bus.lost(typing.cast("Peer", second))
    assert not bus
    assert (len(first.heard), len(second.heard)) == (0, 1)


def test_who_comes_later_is_not_told_what_was_before() -> None:
    """No history is kept, so a keeper does not grow."""
    bus = Bus("shop")
    bus.tell("guest", "db", {})
    assert subscribed(bus, None).heard == []


# ---------------------------------------------------------------- listeners of a guest


def test_a_listener_that_fails_harms_neither_the_others_nor_the_monitor(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        said, heard = asyncio.run(with_a_bad_listener(tmp_path, process.pid))
        process.kill()
    assert heard == [{"event": "STOP", "data": {}}] * 2
    assert len(said) == 2
    assert all("the first listener's mistake" in text for text in said)


async def with_a_bad_listener(directory: Path, pid: int) -> tuple[list[str], list[Message]]:
    said: list[str] = []
    heard: list[Message] = []

    def bad(event: Message) -> None:
        raise ValueError("the first listener's mistake")

    guest = Guest(Seen("a", pid, processes.start_time(pid) or 0), str(directory), said.append)
    guest.hear += [bad, heard.append]
    for _ in range(2):
        guest.monitor._note({"event": "STOP", "data": {}})  # type: ignore[arg-type]
    await guest.leave()
    return said, heard


# ---------------------------------------------------------------- whose interface it is


def card(nic: str, ifname: str | None) -> NicRecord:
    return NicRecord(nic, "tap" if ifname else "user", "virtio-net-pci", "52:54:00:00:00:01", "up", ifname)


def save(runtime: Runtime, vm: str, *cards: NicRecord) -> None:
    scope = runtime.scope(f"vm/{vm}")
    if not scope.exists():
        scope.create()
    scope.save(VmRecord(vm, "shop", "/lab.toml", "q35", "tcg", cards))


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(str(tmp_path))


def test_an_interface_is_a_cards_by_its_name_or_its_mark(runtime: Runtime) -> None:
    save(runtime, "db", card("net0", None), card("net1", "qn-db-net1"))
    roster = Roster(runtime, ["db"])
    assert roster.owner(["qn-db-net1"]) == Card("db", "net1")
    assert roster.owner(["renamed", "qemunet.vm-db.net1"]) == Card("db", "net1")
    assert roster.owner(["eth0", ""]) is None
    assert roster.names("db") == ["qn-db-net1", "qemunet.vm-db.net1"]


def test_a_card_that_was_plugged_or_unplugged_meanwhile_is_noticed(runtime: Runtime) -> None:
    save(runtime, "db", card("net1", "tap1"))
    roster = Roster(runtime, ["db"])
    assert roster.owner(["tap1"]) == Card("db", "net1")
    save(runtime, "db", card("net2", "tap2"))
    assert roster.owner(["tap1"]) is None
    assert roster.owner(["tap2"]) == Card("db", "net2")
    assert not roster.has(Card("db", "net1"))


def test_a_guest_that_is_being_cleared_away_has_its_interfaces_to_the_end(runtime: Runtime) -> None:
    """Its record goes while the keeper still has it, and so that its last events have a name."""
    save(runtime, "db", card("net1", "tap1"))
    vms = {"db": 1}
    roster = Roster(runtime, vms.keys())
    assert roster.owner(["tap1"])
    os.unlink(runtime.scope("vm/db").path("record.json"))
    assert roster.owner(["tap1"]) == Card("db", "net1")
    vms.clear()
    assert roster.owner(["tap1"]) is None
    assert not roster.has(Card("db", "net1"))
