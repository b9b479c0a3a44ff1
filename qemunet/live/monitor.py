"""QEMU's control socket (QMP) of one guest: commands with deadlines, descriptors, its run state, why it shut down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import typing

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp.message import Message

from qemunet.errors import Failed, NotFound, Refused, TimedOut, UsageError
from qemunet.live.control import connect

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

COMMAND = 10.0  # seconds that QEMU may take for a command
_NAMES = 512  # of descriptors that wait to be used up; a card has up to 256 queues
GREETING = 5.0  # seconds until it greets; a monitor that somebody else holds greets nobody

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it raises what it logs, and we say that


class Monitor:
    """The connection to one QEMU. It keeps no event; `shutdown` remembers the last reason of a SHUTDOWN."""

    def __init__(self, path: str, hear: Callable[[Message], None] = lambda event: None) -> None:
        self.path = path
        self.shutdown = ""
        self._hear = hear
        self._client: QMPClient | None = None
        self._handing = asyncio.Lock()
        self._given = 0
        self._leftovers: set[asyncio.Task[None]] = set()

    async def take(self, sock: socket.socket) -> None:
        """Use a connection on which the greeting and the negotiation are over. No event is lost by that."""
        sock.settimeout(0)
        client = self._new()
        client.await_greeting = client.negotiate = False
        await client.connect(sock)
        self._client = client

    async def connect(self) -> None:
        """Connect to the socket at `path`; raises OSError, or TimedOut when QEMU does not greet."""
        client = self._new()
        sock = connect(self.path)
        sock.settimeout(0)
        try:
            async with asyncio.timeout(GREETING):
                await client.connect(sock)
        except TimeoutError:
            sock.close()
            raise TimedOut("QEMU does not greet on its monitor", where=self.path) from None
        except QMPError as error:
            raise ConnectionResetError(str(error)) from error
        self._client = client

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, seconds: float | None = COMMAND
    ) -> object:
        """Return what QEMU answers; raises `Refused`, UsageError, NotFound when QEMU is gone, or TimedOut.

        With `seconds` None it may take as long as it lives.
        """
        if self._client is None:
            raise NotFound("QEMU's monitor is not connected", where=command)
        _refuse_no_json(command, arguments)
        try:
            async with asyncio.timeout(seconds):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise Refused(command, str(error), error.error_class) from error
        except QMPError as error:
            raise NotFound(f"QEMU is gone ({error})", where=command) from error
        except TimeoutError:
            message = f"QEMU did not answer within {seconds:g} s"
            raise TimedOut(message, where=command, hint="is it stopped by a signal, or its disk stuck?") from None

    async def give(self, fd: int, name: str | None = None) -> str:
        """Hand QEMU a copy of a descriptor; return the name by which it knows it, until something uses it up.

        With a `name` it is known by that for good, which must never be used again. `fd` stays the caller's, who may
        close it at once. A name that no command used up is to be given to `forget`.
        Raises as `execute` does; then QEMU has nothing.
        """
        handing = asyncio.create_task(self._hand(os.dup(fd), name))
        try:
            async with asyncio.timeout(COMMAND):
                return await asyncio.shield(handing)
        except BaseException as error:
            self._begin(self._take_back(handing))
            if isinstance(error, TimeoutError):
                raise TimedOut(f"QEMU did not take a descriptor within {COMMAND:g} s", where="getfd") from None
            raise

    async def forget(self, name: str) -> None:
        """Have QEMU close a descriptor that `give` named; one that it does not have (any more) is no error."""
        with contextlib.suppress(Refused, NotFound):
            await self.execute("closefd", {"fdname": name})

    async def tidy(self) -> None:
        """Have QEMU close what an earlier connection gave it that nothing has used up."""
        await asyncio.gather(*(self.forget(f"fd{number}") for number in range(_NAMES)))

    async def run_state(self, seconds: float = 2.0) -> str:
        """Return QEMU's run state (``running``, ``paused``, …), or ``unknown`` if it does not say."""
        try:
            answer = await self.execute("query-status", seconds=seconds)
        except (Failed, NotFound, TimedOut):
            return "unknown"
        return str(answer.get("status")) if isinstance(answer, dict) else "unknown"

    async def lost(self) -> None:
        """Wait until the connection has ended and all that QEMU said on it was heard."""
        client = self._client
        if client is None:
            return
        while client.runstate is Runstate.RUNNING:
            await client.runstate_changed()
        await self.close()

    async def close(self) -> None:
        """End the connection; what broke it is of no interest any more."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(QMPError, EOFError, OSError):
                await client.disconnect()

    async def _hand(self, fd: int, name: str | None) -> str:
        """Send a descriptor and have it named, in one piece: QEMU keeps only the last that came, for the next name.

        Hence the lock is held until QEMU has answered, however long whoever wanted it is gone.
        """
        try:
            async with self._handing:
                self._given += 1
                name = (
                    name or f"fd{self._given % _NAMES}"
                )  # of an earlier connection's names QEMU closes what has the same
                self._send(fd)
                await self.execute("getfd", {"fdname": name}, None)
                return name
        finally:
            os.close(fd)

    def _send(self, fd: int) -> None:
        if self._client is None:
            raise NotFound("QEMU's monitor is not connected", where="getfd")
        try:
            self._client.send_fd_scm(fd)
        except BlockingIOError as error:
            raise Failed("QEMU does not read its monitor", where="getfd") from error
        except (QMPError, OSError) as error:
            raise NotFound(f"QEMU is gone ({error})", where="getfd") from error

    async def _take_back(self, handing: asyncio.Task[str]) -> None:
        """Have closed what was handed over when nobody waited for it any more."""
        with contextlib.suppress(Failed, NotFound, TimedOut):
            await self.forget(await handing)

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._leftovers.add(task)
        task.add_done_callback(self._leftovers.discard)

    def _new(self) -> QMPClient:
        client = QMPClient()
        client.events.event_filter = self._note
        return client

    def _note(self, event: Message) -> bool:
        """Look at an event as it comes and refuse it: the library keeps whatever is accepted for ever."""
        if event["event"] == "SHUTDOWN":
            data = event.get("data")
            self.shutdown = str(data.get("reason", "")) if isinstance(data, dict) else ""
        self._hear(event)
        return False


def _refuse_no_json(command: str, arguments: Mapping[str, object] | None) -> None:
    """Raise UsageError for what is JSON to Python alone: QEMU's answer to that ends the connection for everybody."""
    try:
        json.dumps([command, arguments], ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        raise UsageError(f"this cannot be said in JSON: {error}", where=ascii(command)[1:-1]) from None
