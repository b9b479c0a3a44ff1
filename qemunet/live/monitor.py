"""QEMU's control socket (QMP) of one guest: commands with deadlines, its run state, and why it shut down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import typing

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate
from qemu.qmp.message import Message

from qemunet.errors import Failed, NotFound, TimedOut
from qemunet.live.control import connect

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COMMAND = 10.0  # seconds that QEMU may take for a command
GREETING = 5.0  # seconds until it greets; a monitor that somebody else holds greets nobody

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it raises what it logs, and we say that


class MonitorError(Failed):
    """QEMU refused a command; `error_class` is QMP's, the message is QEMU's own."""

    kind = "qmp"

    def __init__(self, command: str, error: ExecuteError) -> None:
        super().__init__(str(error), where=command)
        self.error_class = error.error_class


class Monitor:
    """The connection to one QEMU. It keeps no event; `shutdown` remembers the last reason of a SHUTDOWN."""

    def __init__(self, path: str, hear: Callable[[Message], None] = lambda event: None) -> None:
        self.path = path
        self.shutdown = ""
        self._hear = hear
        self._client: QMPClient | None = None

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
        self, command: str, arguments: Mapping[str, object] | None = None, seconds: float = COMMAND
    ) -> object:
        """Return what QEMU answers; raises `MonitorError`, NotFound when QEMU is gone, or TimedOut."""
        if self._client is None:
            raise NotFound("QEMU's monitor is not connected", where=command)
        try:
            async with asyncio.timeout(seconds):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise MonitorError(command, error) from error
        except QMPError as error:
            raise NotFound(f"QEMU is gone ({error})", where=command) from error
        except TimeoutError:
            message = f"QEMU did not answer within {seconds:g} s"
            raise TimedOut(message, where=command, hint="is it stopped by a signal, or its disk stuck?") from None

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
