"""Whoever wants a command run in a guest, as the keeper sees him: a connection with frames both ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import typing

from qemunet.errors import Interrupted, QemunetError
from qemunet.live.frames import Frames, Kind, frame

if typing.TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from qemunet.live.control import Message

    T = typing.TypeVar("T")

_CHUNK = 65536  # bytes
_LAST = 30.0  # seconds for the last frame to be taken


class Client:
    """One connection. To be used in the loop's thread; `unwanted` is set when the command is to end.

    `has_input`: some will come; `is_typed`: if somebody types it. `is_bulk`: its output is worth nothing before its
    end.
    """

    def __init__(self, sock: socket.socket, *, has_input: bool, is_typed: bool = False, is_bulk: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        sock.settimeout(0)
        self.has_input = has_input
        self.is_typed = is_typed
        self.is_bulk = is_bulk
        self.unwanted = asyncio.Event()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._ignores = False
        self._giving = asyncio.Lock()
        self._gone = asyncio.Event()
        self._hangups = select.epoll()
        self._hangups.register(sock, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
        self._loop.add_reader(self._hangups, self._hung_up)

    async def serve(self, work: Coroutine[typing.Any, typing.Any, int]) -> None:
        """Do the work that was asked for, tell how it ended, and hang up."""
        hearing = asyncio.create_task(self._hear())
        try:
            await self._tell(await self._report(work))
        finally:  # also after a mistake of ours: nobody is to wait for ever
            await ended(hearing)
            self.close()

    async def _report(self, work: Coroutine[typing.Any, typing.Any, int]) -> Message:
        try:
            return {"status": await work}
        except QemunetError as error:
            return {**error.as_json()}

    async def _tell(self, report: Message) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST):
                await self.give(Kind.END, json.dumps(report).encode())

    async def give(self, kind: Kind, data: bytes) -> None:
        """Send a frame; returns when the connection has taken it, or has ended."""
        async with self._giving:
            sending = asyncio.ensure_future(self._send(frame(kind, data)))
            gone = asyncio.ensure_future(self._gone.wait())
            try:
                await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await ended(sending, gone)

    async def while_wanted(self, work: Coroutine[typing.Any, typing.Any, T]) -> T:
        """Return what comes of some work; raises Interrupted if it is not wanted any more before that."""
        doing, unwanted = asyncio.ensure_future(work), asyncio.ensure_future(self.unwanted.wait())
        try:
            await asyncio.wait((doing, unwanted), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Interrupted("nobody wants it any more")
            return doing.result()
        finally:
            await ended(doing, unwanted)

    async def take(self) -> bytes:
        """Return the next piece of input; nothing at its end."""
        return await self._pieces.get()

    def ignore(self) -> None:
        """Nobody takes input: it is not to stand in the way of what else is said."""
        self._ignores = True
        with contextlib.suppress(asyncio.QueueEmpty):
            self._pieces.get_nowait()

    def close(self) -> None:
        """Hang up; once is enough."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._hangups)
            self._hangups.close()
            self._sock.close()

    async def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # he has gone, which is seen elsewhere
            await self._loop.sock_sendall(self._sock, data)

    def _hung_up(self) -> None:
        self._loop.remove_reader(self._hangups)
        self._gone.set()
        self.unwanted.set()

    async def _hear(self) -> None:
        """Take in frames; input waits until the guest has room for it."""
        frames = Frames()
        with contextlib.suppress(OSError, ValueError):
            while data := await self._loop.sock_recv(self._sock, _CHUNK):
                frames.add(data)
                while (found := frames.next()) is not None:
                    await self._obey(*found)
        self.unwanted.set()

    async def _obey(self, kind: Kind, data: bytes) -> None:
        if kind is Kind.KILL:
            self.unwanted.set()
        elif not self._ignores and (kind is Kind.EOF or (kind is Kind.INPUT and data)):
            await self._pieces.put(data if kind is Kind.INPUT else b"")


async def ended(*tasks: asyncio.Future[typing.Any]) -> None:
    """Cancel tasks and wait until they have ended.

    Until then the loop watches for the socket that one waited for: if that were closed before, whoever gets its number
    next would not be watched for.
    """
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
