"""Commands in a guest share one port: each has a window and an end of its own, and dies with its client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemunet.errors import Failed
from qemunet.live import agent as agents
from qemunet.live.agent import Agent
from qemunet.live.calls import WINDOW, Stream, quoted
from qemunet.live.client import Client
from qemunet.live.frames import Frames, Kind, frame

PATIENCE = 30.0  # seconds


class Port:
    """The guest's end of the port: what it hears, line by line, and what it says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, *lines: bytes) -> None:
        self.writer.write(b"".join(line + b"\n" for line in lines))

    async def hears(self, kind: bytes) -> list[bytes]:
        """The words of the next line of a kind; others are passed over."""
        async with asyncio.timeout(PATIENCE):
            while (words := (await self.reader.readline()).split())[:1] != [kind]:
                assert not self.reader.at_eof(), f"no {kind!r} came"
        return words

    async def begin(self, *, status: int | None = None) -> tuple[bytes, bytes]:
        """Begin the call that is asked for; return its number and its mark."""
        _, number, mark, *_ = await self.hears(b"run")
        self.say(b"began " + number)
        if status is not None:
            self.say(*(piece(name, number, mark) for name in (b"out", b"err")), b"end %s %d" % (number, status))
        return number, mark


def piece(name: bytes, number: bytes, data: bytes) -> bytes:
    return b" ".join((name, number, base64.b64encode(data)))


class Asker:
    """Who wants a command: his end of the connection, and the keeper's work for him."""

    _open: ClassVar[list[socket.socket]] = []

    @classmethod
    def close_all(cls) -> None:
        while cls._open:
            cls._open.pop().close()

    def __init__(self, agent: Agent, *, has_input: bool = False) -> None:
        self.sock, theirs = socket.socketpair()
        self._open.append(self.sock)
        self.sock.settimeout(0)
        client = Client(theirs, has_input=has_input)
        self.work = asyncio.create_task(client.serve(agent.calls.run([b"cmd"], client)))
        self.frames = Frames()

    async def gets(self) -> tuple[Kind, bytes]:
        async with asyncio.timeout(PATIENCE):
            while (found := self.frames.next()) is None:
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                assert data, "hung up"
                self.frames.add(data)
        return found

    async def end(self) -> dict[str, object]:
        """The last frame; output before it is passed over."""
        while (found := await self.gets())[0] is not Kind.END:
            pass
        await self.work
        report: dict[str, object] = json.loads(found[1])
        return report


@contextlib.asynccontextmanager
async def guest(*, inherited: bool = False) -> AsyncIterator[tuple[Agent, Port]]:
    ours, theirs = socket.socketpair()
    agent = Agent(ours, inherited=inherited)
    port = Port(*await asyncio.open_unix_connection(sock=theirs))
    try:
        yield agent, port
    finally:
        agent.close()
        port.writer.close()
        with contextlib.suppress(OSError):
            await port.writer.wait_closed()
        Asker.close_all()


def test_output_is_what_came_before_the_mark() -> None:
    """Whatever follows it is of somebody whom the command has left behind; the status is passed on."""

    async def main() -> None:
        async with guest() as (agent, port):
            asker = Asker(agent)
            number, mark = await port.begin()
            port.say(piece(b"out", number, b"hello" + mark[:5]), piece(b"out", number, mark[5:] + b"late"))
            port.say(piece(b"err", number, mark), b"end %s 7" % number)
            assert await asker.gets() == (Kind.OUT, b"hello")
            assert await asker.end() == {"status": 7}
            assert (await port.hears(b"over"))[1] == number

    asyncio.run(main())


@given(st.lists(st.binary(max_size=40)), st.binary(max_size=20))
def test_a_mark_is_found_wherever_pieces_are_cut(pieces: list[bytes], late: bytes) -> None:
    """Nothing of it, and nothing behind it, is output; nothing before it is lost."""
    mark = b"aabaabaac"
    text = b"".join(pieces).replace(mark, b"")
    whole = text + mark + late
    cuts = sorted({0, len(whole), *(len(one) * 3 % (len(whole) + 1) for one in pieces)})
    stream, said, over = Stream(mark), b"", False
    for start, end in itertools.pairwise(cuts):
        if not over:
            data, over = stream.cut(whole[start:end])
            said += data
    assert (said, over) == (text, True)


def test_a_client_that_does_not_read_gets_no_more_than_his_window() -> None:
    """Leave for another piece is given when one was taken, so the rest waits in the guest."""

    async def main() -> None:
        async with guest() as (agent, port):
            asker = Asker(agent)
            number, mark = await port.begin()
            big = bytes(48 << 10)
            for _ in range(WINDOW):
                port.say(piece(b"out", number, big))
            given = 0
            with contextlib.suppress(TimeoutError):  # as many as the connection itself holds
                while given < 100:
                    async with asyncio.timeout(1):
                        await port.reader.readuntil(b"more " + number + b" out\n")
                    given += 1
                    port.say(piece(b"out", number, big))
            assert given < 100
            asker.sock.close()
            await port.hears(b"kill")
            port.say(b"end %s 143" % number, piece(b"out", number, mark), piece(b"err", number, mark))
            await asker.work

    asyncio.run(main())


def test_a_client_that_dies_has_his_command_killed() -> None:
    """First it is asked to end; what does not is killed."""

    async def main() -> None:
        async with guest() as (agent, port):
            asker = Asker(agent)
            number, _ = await port.begin()
            asker.sock.close()
            assert await port.hears(b"kill") == [b"kill", number, b"TERM"]
            assert await port.hears(b"kill") == [b"kill", number, b"KILL"]
            agent.close()
            await asker.work

    asyncio.run(main())


@pytest.mark.parametrize("end", ["reboot", "close", "restart"])
def test_a_guest_that_goes_ends_its_calls_with_one_line(end: str) -> None:
    """It may have begun them or not; and maybe only its agent has gone, and come back."""

    async def main() -> None:
        async with guest() as (agent, port):
            begun, waiting = Asker(agent), Asker(agent)
            await port.begin()
            {"reboot": agent.forget, "close": agent.close, "restart": lambda: port.say(b"started 0")}[end]()
            for asker in (begun, waiting):
                report = await asker.end()
                assert "error" in report
                assert "meanwhile" in str(report["error"])

    asyncio.run(main())


@pytest.mark.parametrize("told", [b"eof %s out", b"lost %s"])
def test_what_the_guest_has_no_room_for_is_no_success(told: bytes) -> None:
    """An output that ends without its mark is not whole; nor is what went in, if the guest says so."""

    async def main() -> None:
        async with guest() as (agent, port):
            asker = Asker(agent)
            number, mark = await port.begin()
            port.say(piece(b"out", number, b"hel"), told % number, piece(b"err", number, mark), b"end %s 0" % number)
            assert await asker.gets() == (Kind.OUT, b"hel")
            assert "no room" in str((await asker.end())["error"])
            assert (await port.hears(b"over"))[1] == number

    asyncio.run(main())


def test_input_goes_in_pieces_for_which_there_is_room() -> None:
    """And then its end."""

    async def main() -> None:
        async with guest() as (agent, port):
            asker = Asker(agent, has_input=True)
            number, mark = await port.begin()
            for part in (b"one", b"two"):
                await asyncio.get_running_loop().sock_sendall(asker.sock, frame(Kind.INPUT, part))
            await asyncio.get_running_loop().sock_sendall(asker.sock, frame(Kind.EOF))
            for slot, part in enumerate((b"one", b"two")):
                text = base64.b64encode(part)
                assert await port.hears(b"in") == [b"in", number, b"%d" % slot, b"%d" % len(text)]
                assert (await port.reader.readline()).strip() == text
            assert await port.hears(b"eof") == [b"eof", number]
            port.say(piece(b"out", number, mark), piece(b"err", number, mark), b"end %s 0" % number)
            assert await asker.end() == {"status": 0}

    asyncio.run(main())


def test_a_guest_that_sends_more_than_its_window_is_not_believed() -> None:
    """It would fill the keeper's memory."""

    async def main() -> None:
        async with guest() as (agent, port):
            ours, theirs = socket.socketpair()
            client = Client(theirs, has_input=False)
            task = asyncio.create_task(agent.calls.run([b"cmd"], client))
            number, _ = await port.begin()
            call = agent.calls._calls[int(number)]
            for _ in range(WINDOW + 3):
                call.hear(b"out", base64.b64encode(b"x"))
            with pytest.raises(Failed, match="more than"):
                await task
            client.close()
            ours.close()

    asyncio.run(main())


WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=30, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=4))
def test_words_come_out_of_a_shell_as_they_went_in(words: list[str]) -> None:
    """In one line, whatever is in them."""
    line = b" ".join(quoted(word.encode()) for word in words)
    assert b"\n" not in line
    script = b"nl='\n'; eval \"set -- $1\"; printf '%s\\0' \"$@\""
    said = subprocess.run(["busybox", "sh", "-c", script, "sh", line], capture_output=True, check=True).stdout
    assert said == b"".join(word.encode() + b"\0" for word in words)


def test_the_next_keeper_has_what_ran_for_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that does not answer may wait for the rest of what the last one has begun to say: it gets lines' ends."""
    monkeypatch.setattr(agents, "_ODD", 0.05)

    async def main() -> None:
        async with guest(inherited=True) as (agent, port):
            assert await port.hears(b"reset") == [b"reset", b"0"]
            assert await port.hears(b"cards") == [b"cards", b"1"]
            assert await port.hears(b"reset") == [b"reset", b"0"]
            assert not agent.heard

    asyncio.run(main())


def test_a_guest_that_boots_has_heard_nothing_of_an_earlier_keeper() -> None:
    """It would read the lines' ends one by one, which takes it longer than its boot."""

    async def main() -> None:
        async with guest(inherited=True) as (agent, _):
            assert agent._resuming is not None
            agent.forget()
            assert agent._resuming.cancelled()

    asyncio.run(main())
