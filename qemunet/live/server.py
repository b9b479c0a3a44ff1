"""The keeper's side of the control socket: connections, requests, tethers (the protocol: `qemunet.live.control`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import typing
from dataclasses import dataclass

from qemunet.errors import QemunetError, UsageError
from qemunet.live.control import MAX_LINE, Message

if typing.TYPE_CHECKING:
    from collections.abc import Callable

UNREAD = 4 << 20  # bytes that may wait for a client; one that leaves more unread is gone for us
CLIENTS = 256
_FAREWELL = 2.0  # seconds for the last replies when the keeper ends


@dataclass(frozen=True, slots=True)
class Takeover:
    """The answer to a request that makes the connection into something else.

    After the reply, `take` gets its socket; if the reply does not arrive, `forsake` is called instead.
    """

    take: Callable[[socket.socket], object]
    forsake: Callable[[], None] = lambda: None


class Handler(typing.Protocol):
    """Who answers."""

    async def answer(self, peer: Peer, request: Message) -> Message | Takeover:
        """Do what is asked; raises QemunetError."""

    def lost(self, peer: Peer) -> None:
        """The connection has ended, whether it said goodbye or not."""


class Peer:
    """One connection; `vms` are those whose events it gets, `holds` tells whether they end with it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.vms: set[str] = set()
        self.holds = False
        self.failures: list[str] = []

    def gone(self) -> bool:
        """Tell whether the other side has hung up; may be asked from any thread."""
        return self._reader.at_eof() or self._writer.is_closing()

    def tell(self, message: Message) -> None:
        """Send a line; who does not read what he is sent is hung up on."""
        if self._writer.is_closing():
            return
        self._writer.write(json.dumps(message).encode() + b"\n")
        if self._writer.transport.get_write_buffer_size() > UNREAD:
            self._writer.transport.abort()

    async def serve(self, handler: Handler) -> None:
        """Answer requests until the connection ends."""
        try:
            while request := await self._read():
                if not await self._answer(handler, request):
                    break
        except OSError:
            pass
        finally:
            handler.lost(self)
            await self.hang_up()

    async def hang_up(self) -> None:
        """Close, once the other side has taken what was told to it, or after a while anyhow."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                self._writer.close()
                await self._writer.wait_closed()
        self._writer.transport.abort()

    async def _read(self) -> bytes:
        """Return the next line that is not empty; nothing at the end."""
        try:
            while line := await self._reader.readline():
                if line.strip():
                    return line
        except ValueError:  # longer than the stream's limit
            self.tell({**UsageError(f"a request may not be longer than {MAX_LINE} bytes").as_json()})
        return b""

    async def _answer(self, handler: Handler, line: bytes) -> bool:
        """Answer one request; tell whether there may be more on this connection."""
        number: Message = {}
        try:
            request = _parse(line)
            number = {"id": request["id"]} if "id" in request else {}
            reply = await handler.answer(self, request)
        except QemunetError as error:
            self.tell({**error.as_json(), **number})
            return True
        if isinstance(reply, Takeover):
            await self._give_away(reply, number)
            return False
        self.tell({"ok": reply, **number})
        return True

    async def _give_away(self, takeover: Takeover, number: Message) -> None:
        transport = typing.cast("asyncio.Transport", self._writer.transport)
        try:
            transport.pause_reading()  # what comes after the reply is not for us
            transport.set_write_buffer_limits(0)
            self.tell({"ok": {}, **number})
            await self._writer.drain()
            sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except BaseException:
            takeover.forsake()
            raise
        takeover.take(sock)


class Server:
    """Accepts connections on a listening socket and serves them."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._peers: dict[Peer, asyncio.Task[None]] = {}

    async def open(self, listener: socket.socket) -> None:
        """Begin to accept."""
        self._server = await asyncio.start_unix_server(self._welcome, sock=listener, limit=MAX_LINE)

    async def add(self, sock: socket.socket) -> Peer:
        """Serve a connection that exists already."""
        sock.settimeout(0)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE)
        return self._serve(Peer(reader, writer))

    def peers(self) -> list[Peer]:
        """Return the connections."""
        return list(self._peers)

    def close_door(self) -> None:
        """Accept nobody any more."""
        if self._server:
            self._server.close()

    async def close(self) -> None:
        """Accept nobody any more, and hang up on everybody."""
        self.close_door()
        tasks = list(self._peers.values())
        await asyncio.gather(*(peer.hang_up() for peer in self.peers()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._peers) >= CLIENTS:
            writer.transport.abort()
        else:
            self._serve(Peer(reader, writer))

    def _serve(self, peer: Peer) -> Peer:
        task = asyncio.create_task(peer.serve(self._handler))
        self._peers[peer] = task
        task.add_done_callback(lambda _: self._peers.pop(peer, None))
        return peer


def _parse(line: bytes) -> Message:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not a line of JSON: {error}") from None
    if not isinstance(request, dict):
        raise UsageError("a request is a JSON object")
    return request
