"""The host's end of a guest's port for the QEMU guest agent: requests go one by one, each with its own answer.

Theory of operation. What is left of an earlier keeper's requests, or of one that was given up, is told from our own by
``guest-sync-delimited``: its answer comes behind a byte that is in no JSON, and has the number that we chose.

Nothing that comes here is believed: what has not the form of an answer ends the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import typing

from qemunet.errors import Failed, TimedOut
from qemunet.live.agent import unread
from qemunet.live.qgawords import answer, is_greeting, request

if typing.TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    T = typing.TypeVar("T")

SILENCE = 30.0  # seconds without a byte of an answer that is due
LONGEST = 48 << 20  # bytes of an answer: twice 16 MB in base64, and some words
_SLOW = 100_000  # bytes of a request that the slowest guest takes in within a second
_RETRY = 5.0  # seconds until the agent is greeted again, doubled each time
_CHUNK = 1 << 18  # bytes read at a time
_DELIMITER = b"\xff"


class Port:
    """One guest's port; `sock` is connected. To be used in the loop's thread.

    `closed` and `rebooted` fail when that happens.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._data = bytearray()  # what came and was not looked at
        self._is_synced = False
        self._lock = asyncio.Lock()
        self._numbers = itertools.count(secrets.randbelow(1 << 29) + 1)  # not those of an earlier keeper
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.rebooted: asyncio.Future[None] = self._loop.create_future()
        sock.settimeout(0)

    async def awake(self, seconds: float) -> bool:
        """Wait until the agent answers, `seconds` at most; tell whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.until(self._greet(), self.closed)
                return True
        return False

    async def ask(self, command: str, arguments: dict[str, object]) -> dict[str, object]:
        """Return what the agent answers; raises Refused, Failed, TimedOut."""
        text = request(command, arguments)
        try:
            async with self._lock:
                if not self._is_synced:
                    async with asyncio.timeout(SILENCE):
                        await self._sync()
                self._is_synced = False  # until the whole answer is here
                await self._send(text)
                line = await self._line(SILENCE + len(text) / _SLOW)
                self._is_synced = True
        except TimeoutError:
            hint = "it answered before: `qemunet console` shows more"
            raise TimedOut(f"its QEMU guest agent does not answer {command}", hint=hint) from None
        return answer(line, command)

    def forget(self) -> None:
        """The guest boots: what ran in it does not any more."""
        self._is_synced = False
        _fail(self.rebooted, "the guest has rebooted meanwhile")
        self.rebooted = self._loop.create_future()

    def close(self) -> None:
        """Hang up; once is enough."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            _fail(self.closed, "the guest has ended meanwhile")

    async def _greet(self) -> None:
        async with self._lock:
            await self._sync()

    async def _sync(self) -> None:
        """Have what comes next be the answer to what is asked next, however long that takes."""
        self._is_synced, number, patience = False, 0, _RETRY
        while not self._is_synced:
            if not number or not unread(self._sock):  # a guest that boots is not to find many of them
                number = next(self._numbers)
                await self._send(_DELIMITER + request("guest-sync-delimited", {"id": number}))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._heard(number)
                    self._is_synced = True
            patience *= 2

    async def _heard(self, number: int) -> None:
        """Pass over everything before the answer to a greeting."""
        while True:
            _, mark, rest = self._data.rpartition(_DELIMITER)
            self._data = mark + rest if mark and len(rest) < _CHUNK else bytearray()
            line, end, later = rest.partition(b"\n")
            if mark and end:
                self._data = later
                if is_greeting(bytes(line), number):
                    return
            await self._receive()

    async def _line(self, seconds: float) -> bytes:
        """Return the next line; raises TimeoutError if so long nothing of it comes, Failed if it is too long."""
        looked = 0
        while (end := self._data.find(b"\n", looked)) < 0:
            if len(self._data) > LONGEST:
                self._data.clear()
                raise Failed("its QEMU guest agent answers without an end")
            looked = len(self._data)
            async with asyncio.timeout(seconds):
                await self._receive()
            seconds = SILENCE
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        return line

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self._sock, _CHUNK)
        if not data:
            raise Failed("the guest has ended meanwhile")
        self._data += data

    async def _send(self, text: bytes) -> None:
        async with asyncio.timeout(SILENCE + len(text) / _SLOW):
            await self._loop.sock_sendall(self._sock, text)

    async def until(self, work: Coroutine[typing.Any, typing.Any, T], *ends: asyncio.Future[None]) -> T:
        """Return what comes of some work, as long as it can still come."""
        doing = asyncio.ensure_future(work)
        try:
            every: list[asyncio.Future[typing.Any]] = [doing, *ends]
            await asyncio.wait(every, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
            return doing.result()
        except TimeoutError:
            raise
        except (BrokenPipeError, ConnectionResetError):
            raise Failed("the guest has ended meanwhile") from None
        except OSError as error:
            raise Failed(f"its port for the QEMU guest agent broke: {error.strerror}") from None
        finally:
            doing.cancel()


def _fail(end: asyncio.Future[None], why: str) -> None:
    if not end.done():
        end.set_exception(Failed(why))
        end.exception()  # whoever waits is told; nobody may
