"""A guest's serial console: read always, logged byte for byte, and shared by any number of clients.

Theory of operation. QEMU's end of the console blocks the guest when nobody reads it, so this end is read
whenever there is anything, and what was read is written to ``console.log`` before anybody else gets it.
``console.sock`` takes clients (socat will do): each gets the bytes from the moment it came, and what any of
them types goes to the guest. Somebody who wants to see what was before reads the log, or asks the control
socket (``console`` with ``replay``, ``tail``).

Nobody can hold up the guest, the log or another client: what a client does not take is kept up to
`CLIENT_BUFFER`, then it is dropped, with a line in the keeper's log; people and scripts get the newest of it instead.
In the other direction nothing is dropped: while the guest does not take its input, no client is read, so a long paste
waits in its sender; and what somebody typed before he hung up is read to its end.

A guest may ask the terminal something. Of the screens that people look at the one that came first may answer; answers
of others are left out (`queries`), and so are questions in what is shown again.

Secrets that a script types are masked in the log, and for whoever asks for that, as those do whose output people see
(`hide`); what may be the beginning of one is held back from these for a moment.

When QEMU has ended, all that it wrote before is still read and logged (`drain`). The log is bounded: when it is full it
becomes ``console.log.1``, in place of an older one, and a new one is begun; a runtime directory is memory.

Plain readiness callbacks instead of asyncio's streams: those would read on for a guest that does not take its
input, and buffer without bound for a client that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import typing

from qemunet.live import queries
from qemunet.live.consolelog import Log
from qemunet.live.control import listen
from qemunet.live.mask import PATIENCE, Mask

if typing.TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

CHUNK = 65536  # bytes read at a time
CLIENT_BUFFER = 1 << 20  # bytes that a client may be behind
INPUT_BUFFER = 65536  # bytes that may wait for the guest
LAST_WORDS = 1.0  # seconds that a client has for what it is behind when the guest has ended
CLIENTS = 64  # at the same console

Say = typing.Callable[[str], None]


class Client:
    """Somebody at the console: what he has not taken yet, and whether he still types and still listens.

    `masked`: he gets what the log gets, and is told what he misses. `newest`: of what he is behind with he gets the
    end, and the rest is `skipped`. `screen`: his terminal answers what it is asked, and `owed` are answers of his that
    nobody wants.
    """

    def __init__(self, sock: socket.socket, name: str, *, masked: bool, newest: bool, screen: bool) -> None:
        self.sock = sock
        self.name = name
        self.masked = masked
        self.newest = newest
        self.screen = screen
        self.skipped = 0  # bytes
        self.owed = 0
        self.waiting = bytearray()
        self.types = True
        self.listens = True

    def skip(self) -> None:
        """Leave out the older half of what he has not taken."""
        excess = len(self.waiting) - CLIENT_BUFFER // 2
        self.skipped += excess
        del self.waiting[:excess]
        if self.masked:
            self.waiting[:0] = f"\r\n[qemunet: {self.skipped} bytes left out]\r\n".encode()


class Console:
    """One guest's console: `sock` is QEMU's end, `directory` is where the log and the socket belong."""

    def __init__(self, sock: socket.socket, directory: str, say: Say) -> None:
        self._loop = asyncio.get_running_loop()
        self._guest = sock
        self._say = say
        self._clients: dict[int, Client] = {}
        self._count = 0
        self._input = bytearray()
        self._mask = Mask(())
        self._asked = queries.Asked()
        self._patience: asyncio.TimerHandle | None = None
        self._path = os.path.join(directory, "console.sock")
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.log = Log(os.path.join(directory, "console.log"), say)
        self._listener = listen(self._path)
        sock.settimeout(0)
        self._open_door()
        self._loop.add_reader(sock, self._from_guest)

    def mark(self, text: str) -> None:
        """Put a line of ours into the log; clients do not see it."""
        self._reveal()
        self.log.write(f"\r\n[qemunet: {text}]\r\n".encode())

    def hide(self, secrets: Iterable[bytes]) -> None:
        """Mask these from now on."""
        self._reveal()
        self._mask = Mask(secrets)

    def add(
        self,
        sock: socket.socket,
        replay: int = 0,
        name: str = "",
        *,
        masked: bool = False,
        newest: bool = False,
        screen: bool = False,
    ) -> Client:
        """Take somebody in; first he gets the last `replay` bytes of the log."""
        self._count += 1
        sock.settimeout(0)
        client = Client(sock, name or f"client {self._count}", masked=masked, newest=newest, screen=screen)
        self._clients[sock.fileno()] = client
        tail = self.log.tail(replay) if replay else b""
        if replay and not masked:
            tail += self._mask.held
        if screen:
            tail = queries.without(tail)
        if len(self._input) < INPUT_BUFFER:
            self._loop.add_reader(sock, self._from_client, client)
        self._give(client, tail)
        return client

    async def drain(self, seconds: float = 5.0) -> None:
        """Wait until all that an ended QEMU wrote is logged."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.ended)

    async def close(self) -> None:
        """Send the clients away, with their last bytes if they take them soon, and close everything."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._end()
        await asyncio.gather(*(self._last_words(client) for client in list(self._clients.values())))
        self.log.close()

    # ------------------------------------------------------------ the guest's side

    def _from_guest(self) -> None:
        try:
            data = self._guest.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._note_questions(data)
        self._show(self._mask.feed(data))
        for client in [one for one in self._clients.values() if not one.masked]:
            self._give(client, data)
        self._wait_for_more()

    def _note_questions(self, data: bytes) -> None:
        """All screens but the first owe answers that nobody wants."""
        asked = self._asked.count(data)
        for number, client in enumerate([one for one in self._clients.values() if one.screen] if asked else ()):
            client.owed = client.owed + asked if number else 0

    def _show(self, data: bytes) -> None:
        """Log what has no secret in it, and pass it on to those who want no other."""
        if data:
            self.log.write(data)
        for client in [one for one in self._clients.values() if one.masked]:
            self._give(client, data)

    def _wait_for_more(self) -> None:
        """Hold back what may be the beginning of a secret, but not for long."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._loop.call_later(PATIENCE, self._reveal) if self._mask.held else None

    def _reveal(self) -> None:
        self._show(self._mask.flush())

    def _end(self) -> None:
        """QEMU's end is gone."""
        if self._patience is not None:
            self._patience.cancel()
        if not self.ended.done():
            self._reveal()
            self._loop.remove_reader(self._guest)
            self._loop.remove_writer(self._guest)
            self._guest.close()
            self.ended.set_result(None)

    def _to_guest(self) -> None:
        """Pass on what was typed, as far as QEMU takes it."""
        if self.ended.done():
            self._input.clear()
            return
        full = len(self._input) >= INPUT_BUFFER
        sent = _send(self._guest, self._input)
        if sent is None:
            return  # broken: reading will find that out, after the last bytes
        self._watch(self._guest, bool(self._input), self._to_guest)
        if full and len(self._input) < INPUT_BUFFER:
            self._hear_again()

    # ------------------------------------------------------------ the clients' side

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # would be ready again at once, and for ever
                self._loop.remove_reader(self._listener)
                self._loop.call_later(1, self._open_door)
            return
        for client in list(self._clients.values()):
            if not client.types and _hung_up(client.sock):
                self._drop(client)
        if len(self._clients) >= CLIENTS:
            self._say(f"{self._path}: {CLIENTS} clients are there already, no more are taken")
            sock.close()
            return
        self.add(sock)

    def _open_door(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _from_client(self, client: Client) -> None:
        try:
            data = client.sock.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(client)
            return
        if not data:
            self._typed_all(client)
            return
        data, client.owed = queries.unanswered(data, client.owed)
        self._input += data
        self._to_guest()
        if len(self._input) >= INPUT_BUFFER:
            for one in self._clients.values():
                self._loop.remove_reader(one.sock)

    def _typed_all(self, client: Client) -> None:
        """He types no more; unless he hung up, he still listens (`socat -u`, a pipe at its end)."""
        client.types = False
        self._loop.remove_reader(client.sock)
        if _hung_up(client.sock):
            self._drop(client)

    def _listens_no_more(self, client: Client) -> None:
        """He hung up; what he typed before that is still to be read, and reading finds the end."""
        client.listens = False
        client.waiting.clear()
        self._loop.remove_writer(client.sock)
        if not client.types:
            self._drop(client)

    def _hear_again(self) -> None:
        for client in self._clients.values():
            if client.types:
                self._loop.add_reader(client.sock, self._from_client, client)

    def _give(self, client: Client, data: bytes) -> None:
        if not client.listens:
            return
        client.waiting += data
        self._to_client(client)
        if client.newest and len(client.waiting) > CLIENT_BUFFER:
            client.skip()
        if len(client.waiting) > CLIENT_BUFFER:
            self._say(f"{self._path}: {client.name} does not read and was dropped")
            self._drop(client)

    def _to_client(self, client: Client) -> None:
        if client.sock.fileno() < 0:
            return
        if _send(client.sock, client.waiting) is None:
            self._listens_no_more(client)
        else:
            self._watch(client.sock, bool(client.waiting), self._to_client, client)

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.sock.fileno(), None) is not None:
            self._loop.remove_reader(client.sock)
            self._loop.remove_writer(client.sock)
            client.waiting.clear()
            client.sock.close()

    async def _last_words(self, client: Client) -> None:
        self._loop.remove_reader(client.sock)
        self._loop.remove_writer(client.sock)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await self._loop.sock_sendall(client.sock, bytes(client.waiting))
        self._drop(client)

    def _watch(self, sock: socket.socket, wanted: bool, callback: Callable[..., None], *args: object) -> None:
        if wanted:
            self._loop.add_writer(sock, callback, *args)
        else:
            self._loop.remove_writer(sock)


def _send(sock: socket.socket, data: bytearray) -> int | None:
    """Send what the socket takes now, and remove it from `data`; None if the connection is broken."""
    total = 0
    try:
        while data:
            sent = sock.send(data[:CHUNK])
            del data[:sent]
            total += sent
    except (BlockingIOError, InterruptedError):
        pass
    except OSError:
        return None
    return total


def _hung_up(sock: socket.socket) -> bool:
    """Tell whether the other end is closed altogether, not only for writing."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
