"""Captures at cards that have no interface on the host: QEMU itself mirrors their frames to the keeper.

Theory of operation. A filter of QEMU's (``filter-mirror``) copies each frame of a netdev to a socket of ours, with its
length in front (32 bits, network byte order). QEMU waits for whoever does not read that socket, and the guest and the
monitor with it; so the keeper reads it always, and a client that does not take its frames in time loses some, which
are counted. The frames go to the client as a pcap stream, which ends with a record that says how it ended
(`pcap.last_record`). Each capture has a filter and a socket of its own, named ``capture-…``.

When a keeper is killed its end of the socket closes: the guest goes on undisturbed, but QEMU complains about every
frame in its log. Hence the client of a keeper that vanishes has another one adopt the guest at once, which removes
what it finds (`tidy`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
import typing

from qemunet.errors import Failed, NotFound, Refused, TimedOut
from qemunet.host import pcap

if typing.TYPE_CHECKING:
    from qemunet.live.console import Say
    from qemunet.live.monitor import Monitor

PREFIX = "capture-"
WAITING = 8 << 20  # bytes that may wait for a client
_CHUNK = 1 << 18  # bytes read at a time
_IN_FLIGHT = 4 << 20  # bytes that QEMU may be ahead of us; it sleeps when that is full
_GLANCE = 1.0  # seconds between two looks whether the card is still there: QEMU does not tell
_FAREWELL = 10.0  # seconds that a client has to take the rest
_LENGTH = struct.Struct("!I")


class Capture:
    """One capture. `name` is that of QEMU's filter and of its socket; `ended` tells when nothing of it is left."""

    def __init__(self, name: str, qemu: socket.socket, monitor: Monitor) -> None:
        self._loop = asyncio.get_running_loop()
        self.name = name
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._monitor = monitor
        self._qemu = qemu
        self._data = b""
        self._client: socket.socket | None = None
        self._waiting = bytearray(pcap.HEADER)
        self._dropped = 0
        self._ending: asyncio.Task[None] | None = None
        qemu.settimeout(0)
        self._loop.add_reader(qemu, self._from_qemu)
        self._watching = asyncio.create_task(self._watch())

    def attach(self, client: socket.socket) -> None:
        """Send everything to this socket, until the other side closes it, be it only for writing."""
        if self.ended.done():
            client.close()
            return
        client.settimeout(0)
        self._client = client
        if self._ending is None:
            self._loop.add_reader(client, self._from_client)
            self._to_client()

    def end(self, reason: str) -> None:
        """Begin to end; the client gets what was captured up to now, and the reason."""
        if self._ending is None:
            self._watching.cancel()
            if self._client is not None:
                self._loop.remove_reader(self._client)
                self._loop.remove_writer(self._client)
            self._ending = asyncio.create_task(self._end(reason))

    def _from_qemu(self) -> None:
        try:
            data = self._qemu.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._qemu)
            self.end("the guest has ended")
            return
        self._take(data)
        self._to_client()

    def _take(self, data: bytes) -> None:
        """Put the frames that are complete now in line for the client."""
        now = time.time_ns()
        self._data += data
        at = 0
        while at + _LENGTH.size <= len(self._data):
            end = at + _LENGTH.size + _LENGTH.unpack_from(self._data, at)[0]
            if end > len(self._data):
                break
            record = pcap.record(now, self._data[at + _LENGTH.size : end])
            at = end
            if len(self._waiting) + len(record) > WAITING:
                self._dropped += 1
            else:
                self._waiting += record
        self._data = self._data[at:]

    def _from_client(self) -> None:
        """What it says is of no interest, only that it wants no more."""
        assert self._client is not None
        try:
            data = self._client.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.end("stopped")

    def _to_client(self) -> None:
        if self._client is None or self._ending is not None:
            return
        try:
            while self._waiting:
                del self._waiting[: self._client.send(self._waiting[:_CHUNK])]
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._client, self._to_client)
            return
        except OSError:
            self._waiting.clear()
            self.end("stopped")
        self._loop.remove_writer(self._client)

    async def _watch(self) -> None:
        """Notice that the card went away: its netdev takes the filter along."""
        while True:
            await asyncio.sleep(_GLANCE)
            with contextlib.suppress(Failed, NotFound, TimedOut):
                if self.name not in await _filters(self._monitor):
                    self.end("the card is gone")
                    return

    async def _end(self, reason: str) -> None:
        try:
            await _remove(self._monitor, self.name)  # we go on reading meanwhile, or we would wait for each other
            self._loop.remove_reader(self._qemu)
            with contextlib.suppress(OSError):
                while data := self._qemu.recv(_CHUNK):
                    self._take(data)
            if self._client is not None:
                await self._say_goodbye(self._client, reason)
        finally:
            self._qemu.close()
            self.ended.set_result(None)

    async def _say_goodbye(self, client: socket.socket, reason: str) -> None:
        last = pcap.last_record({"reason": reason, "dropped": self._dropped})
        with client, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._loop.sock_sendall(client, bytes(self._waiting) + last)


class Captures:
    """The captures at the cards of one guest, by its `monitor`."""

    def __init__(self, monitor: Monitor, say: Say) -> None:
        self._monitor = monitor
        self._say = say
        self._running: set[Capture] = set()
        self._count = 0

    async def begin(self, nic: str) -> Capture:
        """Have the frames of a card from now on; raises Refused (QEMU), NotFound or TimedOut, and then nothing is."""
        self._count += 1
        name = f"{PREFIX}{nic}-{os.getpid()}-{self._count}"
        ours, theirs = socket.socketpair()
        _widen(theirs)
        capture = Capture(name, ours, self._monitor)
        self._running.add(capture)
        capture.ended.add_done_callback(lambda _: self._running.discard(capture))
        try:
            with theirs:
                await self._connect(name, theirs)
            filter_ = {"qom-type": "filter-mirror", "id": name, "netdev": f"host-{nic}", "queue": "all", "outdev": name}
            await self._monitor.execute("object-add", filter_)
        except BaseException:
            capture.end("it never began")
            raise
        return capture

    async def tidy(self) -> None:
        """Remove what the captures of an earlier keeper left in QEMU."""
        with contextlib.suppress(Failed, NotFound, TimedOut):
            known = {capture.name for capture in self._running}
            left = (await _filters(self._monitor) | await _sockets(self._monitor)) - known
            for name in sorted(left):
                self._say(f"removing {name}, which an earlier keeper left")
                await _remove(self._monitor, name)

    async def close(self) -> None:
        """End all of them."""
        running = list(self._running)
        for capture in running:
            capture.end("the keeper has let go of the guest")
        await asyncio.gather(*(asyncio.shield(capture.ended) for capture in running))

    async def _connect(self, name: str, theirs: socket.socket) -> None:
        """Give QEMU its end."""
        fd = await self._monitor.give(theirs.fileno())
        address = {"type": "fd", "data": {"str": fd}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        try:
            await self._monitor.execute("chardev-add", {"id": name, "backend": backend})
        except BaseException:
            await self._monitor.forget(fd)
            raise


def _widen(sock: socket.socket) -> None:
    """Let QEMU be further ahead, so that it hardly ever waits for us."""
    force = 32  # SO_SNDBUFFORCE
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, _IN_FLIGHT)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _IN_FLIGHT)  # as much as the system allows


async def _filters(monitor: Monitor) -> set[str]:
    """Return the names of the filters of captures."""
    return _names(await monitor.execute("qom-list", {"path": "/objects"}), "name")


async def _sockets(monitor: Monitor) -> set[str]:
    """Return the names of their sockets."""
    return _names(await monitor.execute("query-chardev"), "label")


def _names(rows: object, key: str) -> set[str]:
    found = [str(row.get(key, "")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {name for name in found if name.startswith(PREFIX)}


async def _remove(monitor: Monitor, name: str) -> None:
    """Remove a filter and its socket, each if it is there."""
    for command in ("object-del", "chardev-remove"):
        with contextlib.suppress(Refused, NotFound, TimedOut):
            await monitor.execute(command, {"id": name})
