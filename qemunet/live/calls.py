"""Commands in a guest by way of its agent: the keeper's side of what ``guest/files/agent.sh`` says about calls.

Theory of operation. Calls share the guest's one port, so none may fill it for the others: a call has at most `WINDOW`
pieces of each of its two outputs under way, and gets leave for another one when its client has taken one; likewise its
input. So a client that does not read holds up its own command, as a pipe would, and nobody else, and the keeper holds
some pieces of it at most. The port itself is read always.

A command's output ends with a mark that nobody can guess. A pipe's end would not do: what the command leaves running
in the background may have it open for ever.

Nothing that the guest says is believed to be right: numbers that are not ours are passed over, more than the window
ends the call.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import itertools
import secrets
import typing

from qemunet.errors import Failed, TimedOut
from qemunet.live.frames import BULK, PIECE, Kind

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemunet.live.client import Client

WINDOW = 4  # pieces under way, as in agent.sh
BEGIN = 30.0  # seconds that a guest whose agent has spoken has to begin a command
GRACE = 2.0  # seconds between TERM and KILL
DEATH = 10.0  # seconds from KILL until the command is given up
_STREAMS = {b"out": Kind.OUT, b"err": Kind.ERR}
_MANY = 64  # calls at once in one guest


class Stream:
    """One output of a command, in pieces; `mark` ends it."""

    def __init__(self, mark: bytes) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._mark = mark
        self._held = b""

    def cut(self, piece: bytes) -> tuple[bytes, bool]:
        """Return what of a piece is certainly output, with what was held back before, and whether it ends here."""
        data = self._held + piece
        before, mark, _ = data.partition(self._mark)
        if mark:
            return before, True
        held = next((n for n in range(len(self._mark) - 1, 0, -1) if data.endswith(self._mark[:n])), 0)
        self._held = data[len(data) - held :]
        return data[: len(data) - held], False


class Call:
    """One command in a guest."""

    def __init__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.mark = secrets.token_hex(8).encode()
        self.streams = {name: Stream(self.mark) for name in _STREAMS}
        self.free = asyncio.Semaphore(WINDOW)
        self.began: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.broken: asyncio.Future[None] = loop.create_future()

    def hear(self, kind: bytes, rest: bytes) -> None:
        """Take in what the guest says of it."""
        if kind == b"began" and not self.began.done():
            self.began.set_result(None)
        elif kind == b"took":
            self.free.release()
        elif kind == b"end" and rest.isdigit() and len(rest) <= 3 and not self.ended.done():
            self.ended.set_result(int(rest) & 255)
        elif kind == b"eof" and rest in _STREAMS:
            self.streams[rest].pieces.put_nowait(b"")
        elif kind == b"lost":
            self.lose()
        elif kind in _STREAMS:
            self._take(self.streams[kind], rest)

    def _take(self, stream: Stream, rest: bytes) -> None:
        try:
            piece = base64.b64decode(rest, validate=True)
        except binascii.Error:
            self.fail(Failed("its agent sends what is no base64"))
            return
        if stream.pieces.qsize() > WINDOW:
            self.fail(Failed("its agent sends more than it has leave to"))
        elif piece:
            stream.pieces.put_nowait(piece)

    def lose(self) -> None:
        """The guest has had no room for some of what went in or came out."""
        hint = "its agent needs some in /run/calls of the built-in guest, in /run of any other"
        self.fail(Failed("the guest has no room left for what goes into the command and comes out of it", hint=hint))

    def fail(self, error: Failed) -> None:
        """It will never end by itself."""
        if not self.broken.done():
            self.broken.set_exception(error)
            self.broken.exception()  # whoever waits is told; nobody may


class Calls:
    """The commands that run in one guest; `send` passes a line to its agent. To be used in the loop's thread."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(secrets.randbelow(1 << 29) + 1)  # not those of an earlier keeper

    def hear(self, kind: bytes, number: bytes, rest: bytes) -> None:
        """Take in a line of the guest that may be about a call."""
        call = self._calls.get(int(number)) if number.isdigit() and len(number) < 12 else None
        if call is not None:
            call.hear(kind, rest)

    def fail(self, why: str) -> None:
        """None of the calls will end any more."""
        for call in self._calls.values():
            call.fail(Failed(why))

    async def run(self, argv: Sequence[bytes], client: Client) -> int:
        """Run a command, with what goes in and out of it by way of `client`; return its exit status.

        When the client does not want it any more, it is killed. Raises Failed if the guest ends or reboots meanwhile.
        """
        if len(self._calls) >= _MANY:
            raise Failed(f"{_MANY} commands run in it at once", hint="wait for one of them")
        call = Call(next(self._numbers))
        self._calls[call.number] = call
        tasks = [asyncio.create_task(self._relay(call, name, client)) for name in _STREAMS]
        others = [asyncio.create_task(self._end(call, client))]
        if client.has_input:
            others.append(asyncio.create_task(self._feed(call, client)))
        try:
            self._send(_line(call, argv, client))
            await _within(BEGIN, call, call.began)
            status: int = await _or_broken(call, call.ended)
            await _or_broken(call, asyncio.gather(*tasks))
            if call.broken.done():
                call.broken.result()
            return status
        finally:
            self._forget(call)
            for task in (*tasks, *others):
                task.cancel()
            await asyncio.gather(*tasks, *others, return_exceptions=True)

    def _forget(self, call: Call) -> None:
        del self._calls[call.number]
        if not call.ended.done():
            self._tell(call, b"kill", b"KILL")
        self._tell(call, b"over")

    def _tell(self, call: Call, kind: bytes, rest: bytes = b"") -> None:
        self._send(b"%s %d %s\n" % (kind, call.number, rest))

    async def _relay(self, call: Call, name: bytes, client: Client) -> None:
        """Pass an output on, to its end."""
        stream, over = call.streams[name], False
        while not over:
            piece = await stream.pieces.get()
            if not piece:
                call.lose()
                return
            data, over = stream.cut(piece)
            if data:
                await client.give(_STREAMS[name], data)
            self._tell(call, b"more", name)

    async def _feed(self, call: Call, client: Client) -> None:
        """Pass the input on, to its end."""
        await call.began
        for slot in itertools.cycle(range(WINDOW)):
            data = await client.take()
            if not data:
                break
            await call.free.acquire()
            text = base64.b64encode(data)
            self._tell(call, b"in", b"%d %d\n%s" % (slot, len(text), text))
        self._tell(call, b"eof")

    async def _end(self, call: Call, client: Client) -> None:
        """Kill the command when nobody wants it any more."""
        await client.unwanted.wait()
        await call.began
        for signal, seconds in ((b"TERM", GRACE), (b"KILL", DEATH)):
            self._tell(call, b"kill", signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(call.ended), seconds)
                return
        call.fail(Failed("the command was killed in the guest and does not end"))


def _line(call: Call, argv: Sequence[bytes], client: Client) -> bytes:
    size, whole = (BULK, b"fullblock") if client.is_bulk else (PIECE, b"''")
    words = b" ".join(quoted(word) for word in argv)
    settings = b"%s %d %s %s" % (call.mark, size, b"in" if client.has_input else b"-", whole)
    return b"run %d %s %s\n" % (call.number, settings, words)


def quoted(word: bytes) -> bytes:
    """Return a word in a shell's quotes, without a line's end in it."""
    return b"'" + word.replace(b"'", b"'\\''").replace(b"\n", b"'\"$nl\"'") + b"'"


async def _or_broken(call: Call, wanted: asyncio.Future[typing.Any]) -> typing.Any:
    """Wait for something, as long as it can still come."""
    await asyncio.wait((wanted, call.broken), return_when=asyncio.FIRST_COMPLETED)
    if not wanted.done():
        call.broken.result()
    return wanted.result()


async def _within(seconds: float, call: Call, wanted: asyncio.Future[typing.Any]) -> None:
    try:
        async with asyncio.timeout(seconds):
            await _or_broken(call, wanted)
    except TimeoutError:
        hint = "its agent spoke before and does not now: `qemunet console` shows more"
        raise TimedOut(f"the guest has not begun the command after {seconds:g} s", hint=hint) from None
