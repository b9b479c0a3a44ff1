"""A descriptor that is handed to QEMU gets the name it was asked for, whatever else is going on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator

import pytest

from qemunet.errors import NotFound, Refused, TimedOut, UsageError
from qemunet.live import monitor
from qemunet.live.monitor import Monitor


class Qemu:
    """Has one place for a descriptor that came, as QEMU has, and names it when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending: int | None = None
        self.named: dict[str, int] = {}
        self.data = b""
        self.answers = asyncio.Event()
        self.answers.set()
        self.heard: list[str] = []

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while await self._receive(loop):
            while b"\n" in self.data:
                line, _, self.data = self.data.partition(b"\n")
                await self.answers.wait()
                reply = self.do(json.loads(line))
                await loop.sock_sendall(self.sock, json.dumps(reply).encode() + b"\r\n")

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bool:
        ready = asyncio.Event()
        loop.add_reader(self.sock, ready.set)
        await ready.wait()
        loop.remove_reader(self.sock)
        data, fds, _, _ = socket.recv_fds(self.sock, 65536, 8)
        for fd in fds:
            self.drop()
            self.pending = fd
        self.data += data.replace(b"}{", b"}\n{").replace(b"} {", b"}\n{")
        if self.data.endswith(b"}"):
            self.data += b"\n"
        return bool(data)

    def do(self, command: dict[str, object]) -> dict[str, object]:
        self.heard.append(str(command["execute"]))
        arguments = command.get("arguments", {})
        assert isinstance(arguments, dict)
        name = str(arguments.get("fdname"))
        if command["execute"] == "getfd" and self.pending is not None:
            self.named[name], self.pending = self.pending, None
        elif command["execute"] == "closefd" and name in self.named:
            os.close(self.named.pop(name))
        elif command["execute"] != "query-name":
            return {"error": {"class": "GenericError", "desc": "no such descriptor"}, "id": command["id"]}
        return {"return": {}, "id": command["id"]}

    def drop(self) -> None:
        if self.pending is not None:
            os.close(self.pending)
            self.pending = None

    def inode(self, name: str) -> int:
        return os.fstat(self.named[name]).st_ino


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[tuple[Monitor, Qemu]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    qemu = Qemu(theirs)
    serving = asyncio.create_task(qemu.serve())
    talk = Monitor("")
    await talk.take(ours)
    try:
        yield talk, qemu
    finally:
        await talk.close()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        theirs.close()
        qemu.drop()
        for fd in qemu.named.values():
            os.close(fd)


def files(count: int) -> list[int]:
    return [os.memfd_create(str(number)) for number in range(count)]


def test_many_at_once_get_each_its_own_name() -> None:
    """QEMU has room for one descriptor at a time: the second would take the first one's name."""

    async def go() -> None:
        async with connection() as (talk, qemu):
            fds = files(10)
            inodes = [os.fstat(fd).st_ino for fd in fds]
            names = await asyncio.gather(*map(talk.give, fds))
            assert [qemu.inode(name) for name in names] == inodes
            assert all(name[0].isalpha() for name in names)
            for fd in fds:
                os.close(fd)

    asyncio.run(go())


def test_who_gave_up_waiting_does_not_mix_up_the_next() -> None:
    """His is named first, whenever QEMU gets to it, and closed again; the next one gets his own."""

    async def go() -> None:
        async with connection() as (talk, qemu):
            first, second = files(2)
            qemu.answers.clear()
            impatient = asyncio.create_task(talk.give(first))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
            inode = os.fstat(second).st_ino
            os.close(first)  # his number may stand for something else now
            giving = asyncio.create_task(talk.give(second))
            await asyncio.sleep(0)
            qemu.answers.set()
            name = await giving
            assert qemu.inode(name) == inode
            await talk.execute("query-name")
            assert list(qemu.named) == [name], "the first one's is closed"
            os.close(second)

    asyncio.run(go())


def test_a_qemu_that_does_not_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "COMMAND", 0.05)

    async def go() -> None:
        async with connection() as (talk, qemu):
            (fd,) = files(1)
            qemu.answers.clear()
            with pytest.raises(TimedOut, match=r"did not take a descriptor within 0\.05 s"):
                await talk.give(fd)
            qemu.answers.set()
            os.close(fd)

    asyncio.run(go())


def test_a_name_is_forgotten_once_and_an_unknown_one_at_once() -> None:
    async def go() -> None:
        async with connection() as (talk, qemu):
            (fd,) = files(1)
            name = await talk.give(fd)
            await talk.forget(name)
            await talk.forget(name)
            await talk.forget("nobody-s")
            assert not qemu.named
            assert qemu.heard == ["getfd", "closefd", "closefd", "closefd"]
            os.close(fd)

    asyncio.run(go())


def test_who_is_not_there_takes_nothing() -> None:
    """Neither before a connection, nor when QEMU has gone."""

    async def go() -> None:
        (fd,) = files(1)
        with pytest.raises(NotFound, match="not connected"):
            await Monitor("").give(fd)
        async with connection() as (talk, qemu):
            qemu.sock.shutdown(socket.SHUT_RDWR)
            with pytest.raises((NotFound, Refused)):
                await talk.give(fd)
            await talk.forget("fd1")
        os.close(fd)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("stop", {"a": float("nan")}),
        ("stop", {"a": [1e999]}),
        ("stop", {"\ud800": 1}),
        ("\udcff", {}),
        ("a", {"a": b""}),
    ],
)
def test_what_is_no_json_does_not_reach_qemu(command: str, arguments: dict[str, object]) -> None:
    """Its answer would have no number, and end the connection of everybody."""

    async def go() -> None:
        async with connection() as (talk, qemu):
            with pytest.raises(UsageError, match="cannot be said in JSON"):
                await talk.execute(command, arguments)
            assert await talk.execute("query-name", {}) == {}
            assert qemu.heard == ["query-name"]

    asyncio.run(go())
