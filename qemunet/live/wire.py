"""An asynchronous connection to a keeper, with the same lines as the blocking one of `qemunet.live.control`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import typing
import weakref

from qemunet.errors import TimedOut
from qemunet.live.control import Lost, Message, connect, error_from

if typing.TYPE_CHECKING:
    import socket

_LONGEST = 16 << 20  # bytes of an answer; QEMU's description of its own commands has 300 kB
_GLANCE = 0.2  # seconds between two looks whether a keeper has got another guest
_wires: weakref.WeakSet[Wire] = weakref.WeakSet()


class Wire:
    """A connection on which requests are made one after the other; `events` are those that came in between."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.events: list[Message] = []
        _wires.add(self)

    @classmethod
    async def of(cls, sock: socket.socket) -> Wire:
        """Use a socket that is connected."""
        sock.settimeout(0)
        try:
            return cls(*await asyncio.open_unix_connection(sock=sock, limit=_LONGEST))
        except BaseException:  # cancelled before anybody had it
            sock.close()
            raise

    @classmethod
    async def to(cls, path: str) -> Wire:
        """Connect to ``keeper.sock`` at `path`; raises `Lost` if nobody listens there."""
        try:
            return await cls.of(connect(path))
        except OSError as error:
            raise Lost(f"no keeper answers ({error.strerror})", where=path) from error

    def send(self, message: Message) -> None:
        """Send one line; if nobody is there, that is seen when the answer is waited for."""
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if not self.writer.is_closing():
            self.writer.write(data)

    async def next(self) -> Message:
        """Return the next line; raises `Lost` at the end. May be cancelled without losing anything."""
        try:
            line = await self.reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Lost("the keeper has gone", hint="the guests run on; the next command finds them") from error
        message = json.loads(line)
        return message if isinstance(message, dict) else {}

    async def ask(self, do: str, *, within: float | None = 30.0, **arguments: object) -> Message:
        """Send a request and return what ``ok`` holds; raises what the keeper reports, `Lost`, or TimedOut."""
        self.send({"do": do, **arguments})
        try:
            async with asyncio.timeout(within):
                return await self.answer()
        except TimeoutError:
            hint = "its log is keeper.log beside its socket"
            raise TimedOut(f"waited too long for the keeper's answer to {do!r}", hint=hint) from None

    async def answer(self) -> Message:
        """Wait for the answer to a request; raises what the keeper reports, or `Lost`."""
        while "event" in (reply := await self.next()):
            self.events.append(reply)
        if "error" in reply:
            raise error_from(reply["error"])
        ok = reply.get("ok")
        return ok if isinstance(ok, dict) else {}

    async def see_off(self, within: float) -> bool:
        """Wait until a keeper that has no guest any more has let go of everything, and return True.

        Return False if it has some, or takes longer than `within` seconds.
        """
        try:
            async with asyncio.timeout(within):
                while not (await self.ask("ping"))["vms"]:
                    with contextlib.suppress(TimeoutError):  # somebody may have it start another one just now
                        await asyncio.wait_for(self.next(), _GLANCE)
        except Lost:
            return True
        except (TimeoutError, TimedOut):
            pass
        return False

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


def _let_go() -> None:
    """In the child of a fork: guests shall end with the process that holds them, not with one that stems from it."""
    if not _wires:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for wire in _wires:
        sock = wire.writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            os.dup2(null, sock.fileno(), inheritable=False)  # its number stays taken: the loop believes to own it
    os.close(null)


os.register_at_fork(after_in_child=_let_go)
