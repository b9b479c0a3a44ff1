"""A capture by QEMU never holds up the guest, tells what was lost, and leaves nothing in QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import typing
from collections.abc import AsyncIterator

import pytest

from qemunet.errors import NotFound, Refused
from qemunet.host import pcap
from qemunet.live import capture
from qemunet.live.capture import Capture, Captures
from tests.pcap import parse

if typing.TYPE_CHECKING:
    from qemunet.live.monitor import Monitor

FRAME = bytes(60)


class Qemu:
    """A monitor, and behind it the filters and sockets that a QEMU would have."""

    def __init__(self) -> None:
        self.filters: dict[str, str] = {}
        self.sockets: dict[str, socket.socket] = {}
        self.descriptors: dict[str, int] = {}
        self.cards = {"host-net0"}
        self.gone = False

    async def give(self, fd: int) -> str:
        self.descriptors["fd1"] = os.dup(fd)
        return "fd1"

    async def forget(self, name: str) -> None:
        fd = self.descriptors.pop(name, None)
        if fd is not None:
            os.close(fd)

    async def execute(self, command: str, arguments: dict[str, typing.Any] | None = None) -> object:
        if self.gone:
            raise NotFound("QEMU is gone")
        words = arguments or {}
        match command:
            case "qom-list":
                return [{"name": "type"}, *({"name": name} for name in self.filters)]
            case "query-chardev":
                return [{"label": "qmp"}, *({"label": name} for name in self.sockets)]
            case "chardev-add":
                fd = self.descriptors.pop(words["backend"]["data"]["addr"]["data"]["str"])
                self.sockets[words["id"]] = socket.socket(fileno=fd)
            case "object-add":
                if words["netdev"] not in self.cards:
                    raise Refused(command, "Parameter 'netdev' expects a network backend id")
                self.filters[words["id"]] = words["netdev"]
            case "object-del":
                if self.filters.pop(words["id"], None) is None:
                    raise Refused(command, "object not found")
            case "chardev-remove":
                if words["id"] not in self.sockets:
                    raise Refused(command, "Chardev not found")
                self.sockets.pop(words["id"]).close()
        return {}

    def sees(self, *frames: bytes) -> None:
        for sock in self.sockets.values():
            sock.sendall(b"".join(struct.pack("!I", len(frame)) + frame for frame in frames))

    def nothing_left(self) -> bool:
        return not (self.filters or self.sockets or self.descriptors)


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[tuple[Qemu, Captures]]:
    qemu = Qemu()
    captures = Captures(typing.cast("Monitor", qemu), lambda text: None)
    try:
        yield qemu, captures
    finally:
        await captures.close()
        for sock in qemu.sockets.values():
            sock.close()


def attached(one: Capture) -> socket.socket:
    ours, theirs = socket.socketpair()
    one.attach(theirs)
    ours.settimeout(0)
    return ours


async def rest(client: socket.socket) -> tuple[list[bytes], dict[str, object]]:
    """Everything that comes, up to the end: the frames, and the last words."""
    loop = asyncio.get_running_loop()
    data = b""
    while more := await loop.sock_recv(client, 65536):
        data += more
    stream = pcap.Stream()
    records = stream.feed(data)
    assert stream.words is not None
    return [frame.data for frame in parse(pcap.HEADER + b"".join(records))], stream.words


def test_what_came_before_the_client_and_before_its_goodbye_is_all_there() -> None:
    async def go() -> None:
        async with bench() as (qemu, captures):
            one = await captures.begin("net0")
            qemu.sees(b"first" + FRAME)
            client = attached(one)
            qemu.sees(b"second" + FRAME, b"third" + FRAME)
            client.shutdown(socket.SHUT_WR)
            assert await rest(client) == (
                [b"first" + FRAME, b"second" + FRAME, b"third" + FRAME],
                {"reason": "stopped", "dropped": 0},
            )
            client.close()
            assert qemu.nothing_left()

    asyncio.run(go())


def test_a_client_that_does_not_read_loses_frames_and_qemu_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "WAITING", 50_000)
    frame = bytes(1400)

    async def go() -> None:
        async with bench() as (qemu, captures):
            client = attached(await captures.begin("net0"))
            (sock,) = qemu.sockets.values()
            sock.settimeout(0)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(10):
                for _ in range(2000):
                    await loop.sock_sendall(sock, struct.pack("!I", len(frame)) + frame)
            client.shutdown(socket.SHUT_WR)
            frames, words = await rest(client)
            client.close()
            assert set(frames) == {frame}
            assert 0 < len(frames) < 2000
            assert words["dropped"] == 2000 - len(frames)

    asyncio.run(go())


@pytest.mark.parametrize("how", ["hangs up", "is killed", "never comes"])
def test_nothing_is_left_when_the_client_vanishes(how: str) -> None:
    async def go() -> None:
        async with bench() as (qemu, captures):
            one = await captures.begin("net0")
            if how == "never comes":
                one.end("nobody wanted it")
            else:
                client = attached(one)
                qemu.sees(FRAME)
                if how == "is killed":  # with unread bytes, which resets the connection
                    await asyncio.sleep(0)
                client.close()
            await one.ended
            assert qemu.nothing_left()

    asyncio.run(go())


def test_several_at_one_card_end_each_for_itself() -> None:
    async def go() -> None:
        async with bench() as (qemu, captures):
            first, second = attached(await captures.begin("net0")), attached(await captures.begin("net0"))
            qemu.sees(b"both" + FRAME)
            first.shutdown(socket.SHUT_WR)
            assert (await rest(first))[0] == [b"both" + FRAME]
            qemu.sees(b"one" + FRAME)
            second.shutdown(socket.SHUT_WR)
            assert (await rest(second))[0] == [b"both" + FRAME, b"one" + FRAME]
            first.close()
            second.close()

    asyncio.run(go())


def test_a_card_that_goes_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its netdev takes the filter with it, and QEMU says nothing."""
    monkeypatch.setattr(capture, "_GLANCE", 0.01)

    async def go() -> None:
        async with bench() as (qemu, captures):
            client = attached(await captures.begin("net0"))
            qemu.sees(FRAME)
            qemu.filters.clear()
            assert await rest(client) == ([FRAME], {"reason": "the card is gone", "dropped": 0})
            client.close()
            assert qemu.nothing_left()

    asyncio.run(go())


def test_the_end_of_the_guest_ends_it() -> None:
    async def go() -> None:
        async with bench() as (qemu, captures):
            client = attached(await captures.begin("net0"))
            qemu.sees(FRAME)
            qemu.gone = True
            for sock in qemu.sockets.values():
                sock.close()
            assert await rest(client) == ([FRAME], {"reason": "the guest has ended", "dropped": 0})
            client.close()

    asyncio.run(go())


def test_a_keeper_that_leaves_ends_it() -> None:
    async def go() -> None:
        async with bench() as (qemu, captures):
            client = attached(await captures.begin("net0"))
            qemu.sees(FRAME)
            await asyncio.gather(captures.close(), rest(client))
            client.close()
            assert qemu.nothing_left()

    asyncio.run(go())


def test_a_refusal_leaves_nothing() -> None:
    async def go() -> None:
        async with bench() as (qemu, captures):
            with pytest.raises(Refused, match="expects a network backend id"):
                await captures.begin("net9")
            await captures.close()
            assert qemu.nothing_left()

    asyncio.run(go())


def test_what_an_earlier_keeper_left_is_removed_and_nothing_else() -> None:
    """Neither somebody else's objects nor a capture of our own."""

    async def go() -> None:
        async with bench() as (qemu, captures):
            for name in ("capture-net0-77-1", "mine"):
                qemu.filters[name] = "host-net0"
                qemu.sockets[name] = socket.socket()
            one = await captures.begin("net0")
            await captures.tidy()
            assert set(qemu.filters) == set(qemu.sockets) == {"mine", one.name}

    asyncio.run(go())
