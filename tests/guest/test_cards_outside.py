"""Cards that others change behind our back, connections that go on beside them, and what is left after very many."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient

from tests.dump import descriptors
from tests.guest.cards import Stage, links, machine, rss, running, until
from tests.guest.scene import Guest, ip

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = """
[network.lab]
mode = "isolated"
address = ["10.77.1.1/24"]
[network.spare]
mode = "private"
"""
MUCH = 8 << 20  # bytes by which a process may grow after its first cards


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running(tmp_path_factory.mktemp("outside"), LAB + machine("one", "hotplug-slots = 4", "nic = []")) as stage:
        stage.guest("one")
        yield stage


@pytest.fixture
def one(stage: Stage) -> Iterator[Guest]:
    """A guest without any card, which has none afterwards, and neither has the host."""
    before = stage.look()
    yield stage.guest("one")
    stage.is_as(before)


def tell(stage: Stage, *commands: tuple[str, dict[str, Any]]) -> list[object]:
    """Tell QEMU something at the monitor that is for everybody."""

    async def talk() -> list[object]:
        client = QMPClient()
        await client.connect(str(stage.scene.runtime / "vm" / "one" / "monitor.sock"))
        answers = [await client.execute(command, arguments) for command, arguments in commands]
        await client.disconnect()
        return answers

    return asyncio.run(talk())


# ---------------------------------------------------------------- behind our back


def test_what_was_made_for_a_card_goes_with_it_whoever_unplugs_it(stage: Stage, one: Guest) -> None:
    tap = stage.add("one", "--network", "lab")["ifname"]
    with stage.heard("one", event="card", nic="net0", what="unplugged"):
        tell(stage, ("device_del", {"id": "net0"}))
    assert not stage.cards("one")
    assert tap not in links()
    assert "qn-lab" not in links()
    stage.add("one", "--network", "lab", "--id", "net0")
    stage.remove("one", "net0")


def test_a_card_of_somebody_else_is_listed_and_left_alone(stage: Stage, one: Guest) -> None:
    """Neither its id nor its slot is used again."""
    mac = "52:54:00:00:00:f1"
    place = {"bus": "rp.0", "addr": "0x0"}
    tell(
        stage,
        ("netdev_add", {"type": "user", "id": "theirs"}),
        ("device_add", {"driver": "virtio-net-pci", "id": "net0", "netdev": "theirs", "mac": mac, **place}),
    )
    (foreign,) = stage.scene.cards("one")
    assert (foreign["id"], foreign["mac"], foreign["slot"], foreign["state"]) == ("net0", mac, "rp.0", "foreign")
    ours = stage.add("one", "--network", "lab")
    assert ours["id"] == "net1"
    assert ours["slot"] != "rp.0"
    stage.fails(4, "nic", "del", "one", "net0")
    stage.fails(6, "nic", "add", "one", "--network", "lab", "--id", "net0")
    stage.remove("one", "net1")
    assert stage.has("one", mac)
    with stage.heard("one", event="qmp", name="DEVICE_DELETED"):
        tell(stage, ("device_del", {"id": "net0"}))
    until(lambda: not stage.cards("one"), "it is gone", 30)
    tell(stage, ("netdev_del", {"id": "theirs"}))


def test_a_card_whose_interface_or_backend_somebody_took_can_still_be_unplugged(stage: Stage, one: Guest) -> None:
    tap = stage.add("one", "--network", "lab")["ifname"]
    ip("link", "del", tap)
    stage.remove("one", "net0")
    stage.add("one", "--network", "lab")
    tell(stage, ("netdev_del", {"id": "host-net0"}))
    stage.remove("one", "net0")


def test_a_new_keeper_finishes_what_a_killed_one_had_begun(stage: Stage) -> None:
    """The guest lets go of its card while nobody is there to hear it."""
    before = stage.look()
    del before["processes"], before["descriptors"]  # another keeper, another console of ours
    stage.add("one", "--network", "lab")
    stage.add("one", "--network", "lab")
    stage.qmp("one", "stop")
    stage.fails(5, "nic", "del", "one", "net0", "--timeout", "1s")
    keeper = stage.keeper()
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{keeper}/fd").exists() or not descriptors(keeper), "the keeper is dead", 30)
    tell(stage, ("cont", {}))
    until(lambda: "net0" not in stage.cards("one"), "the new keeper has seen that it is gone", 20)
    stage.remove("one", "net1")
    stage.lose("one")
    stage.guests["one"] = stage.scene.guest("one")
    stage.guests["one"]._quieten()
    assert not stage.macs("one")
    stage.is_as(before)


# ---------------------------------------------------------------- beside each other


class Stream(threading.Thread):
    """Serves one download that lasts until it is told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.server = socket.create_server(("10.77.1.1", 0))
        self.over = threading.Event()
        self.digest = hashlib.md5()
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://10.77.1.1:{self.server.getsockname()[1]}/"

    def run(self) -> None:
        with self.server, self.server.accept()[0] as client:
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            while not self.over.wait(0.002):
                block = os.urandom(8192)
                client.sendall(block)
                self.digest.update(block)
                self.sent += len(block)


@pytest.mark.slow
def test_a_connection_on_one_card_does_not_notice_another_one(stage: Stage, one: Guest) -> None:
    """Plugged in and unplugged five times; not a byte of a long download is lost or wrong."""
    first = stage.add("one", "--network", "lab")
    stage.give("one", first["mac"], "10.77.1.10/24")
    stage.reaches("one", "10.77.1.1")
    stream = Stream()
    stream.start()
    one.succeeds(f"(wget -q -O - {stream.url} | md5sum >/run/sum 2>&1 &)")
    for model in ("virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"):
        until(lambda so_far=stream.sent: stream.sent > so_far, "the download goes on", 30)
        stage.add("one", "--network", "spare", "--model", model, "--id", "other")
        stage.remove("one", "other")
    stream.over.set()
    stream.join(20)
    one.wait_until("grep -q . /run/sum", timeout=10)
    one.succeeds(f"grep {stream.digest.hexdigest()} /run/sum")
    assert stream.sent > 1 << 20
    stage.remove("one", "net0")


# ---------------------------------------------------------------- very many


@pytest.mark.slow
def test_a_hundred_cards_later_nothing_has_grown(stage: Stage, one: Guest) -> None:
    """Neither QEMU nor the keeper, in descriptors and memory; no interface is left, and the journal stays small."""
    keeper, qemu = stage.keeper(), stage.pid("one")
    with stage.control() as control:
        cycles(control, 10)
        fds = [held(pid) for pid in (keeper, qemu)]
        sizes = [rss(pid) for pid in (keeper, qemu)]
        there = links()
        cycles(control, 100)
        assert [held(pid) for pid in (keeper, qemu)] == fds
        assert links() == there
        grown = [rss(pid) - before for pid, before in zip((keeper, qemu), sizes, strict=True)]
    assert all(more < MUCH for more in grown), grown
    assert (stage.scene.runtime / "vm" / "one" / "journal.jsonl").stat().st_size < 2 << 14
    log = next((stage.scene.runtime / "lab").glob("*/keeper.log"))
    assert log.stat().st_size < 1 << 20


def held(pid: int) -> int:
    """How many descriptors a process has that does nothing: after each card the keeper has a look at the host."""
    counts = []
    for _ in range(20):
        counts.append(len(descriptors(pid)))
        select.select([], [], [], 0.05)
    return min(counts)


def cycles(control: Any, number: int) -> None:
    for _ in range(number):
        added = control.ask("nic-add", vm="one", keys={"network": "lab"}, timeout=20, within=60)
        assert added["presence"] == "there"
        control.ask("nic-del", vm="one", nic=added["nic"]["id"], timeout=20, within=60)
