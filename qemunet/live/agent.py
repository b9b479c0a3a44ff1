"""What a guest with our agent says over a port of its own: its cards' names and addresses, and of commands in it.

Theory of operation. A virtio port of the guest carries lines both ways. Each is a kind, the number of the request
that it is about (0: nobody asked), and what the kind says::

    cards 7                                           we ask
    cards 7 eth0/52:54:00:00:00:01,1,10.0.0.2/24 …    it answers: name, MAC, whether there is a carrier, addresses

It says the same unasked when it has booted and when something has changed, but an address that is set by hand does not
wake it: who wants to know how things are now asks (`fresh`). Other kinds are about commands (`qemunet.live.calls`).

Nothing that comes here is believed: a guest may write what it likes. The port is read always, for a guest would wait
for us; what is kept is the beginning of one line and the last line about cards, at most `LINE` bytes each, which is
taken apart when somebody wants to know. Of that only what has the form of a name, a MAC or an address is passed on,
and nothing that a terminal would obey.

A keeper that was killed leaves the port to the next one: what the guest says meanwhile waits in the guest. The next one
has whatever commands ran for the last one ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import struct
import termios
import typing
from ipaddress import IPv6Interface, ip_interface

from qemunet.frozen import frozen
from qemunet.live.calls import Calls

if typing.TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from qemunet.live.client import Client

PATIENCE = 0.5  # seconds for an answer of a guest that runs
LINE = 1 << 19  # bytes; of a longer line only the beginning is looked at, and a card that is cut is left out
CARDS, ADDRESSES = 256, 32  # that are taken from a line, and from a card
_CHUNK = 65536  # bytes read at a time
_ODD = 4.0  # seconds within which a guest has seen that its keeper is another one: it looks every second
_KIND = b"cards"
_STARTED = b"started"
_NAME = 15  # bytes (IFNAMSIZ without the end)
_NUMBER = 9  # digits
_MAC = re.compile(rb"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


@frozen
class GuestCard:
    """A card as the guest knows it. Addresses are with their prefix, without those that follow from the MAC."""

    name: str
    mac: str
    carrier: bool
    addresses: tuple[str, ...]


class Agent:
    """The host's end of one guest's agent port; `sock` is connected. To be used in the loop's thread.

    `inherited`: another keeper had it before, and what ran for that is to end.
    """

    def __init__(self, sock: socket.socket, *, inherited: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._rest = b""  # the beginning of a line
        self._last = b""  # what was last said of the cards
        self._asked = self._answered = 0
        self._said = asyncio.Event()
        self._unsent = bytearray()
        self.calls = Calls(self._send)
        self._resuming: asyncio.TimerHandle | None = None
        self._settled = self._loop.time() + (_ODD if inherited else 0.0)
        sock.settimeout(0)
        self._loop.add_reader(sock, self._read)
        if inherited:
            self._send(b"\nreset 0\n")
            self._resuming = self._loop.call_later(2 * _ODD, self._resume)
        self.ask()

    @property
    def heard(self) -> bool:
        """Tell whether the guest has said anything of its cards since it booted."""
        return bool(self._last)

    def cards(self) -> dict[str, GuestCard]:
        """Return the cards by their MAC, as they were when the guest last spoke of them."""
        return parse(self._last)

    async def fresh(self, seconds: float = PATIENCE) -> dict[str, GuestCard]:
        """Ask, and return the cards as they are now; as they were last, if no answer comes in time."""
        wanted = self.ask()
        seconds = seconds if self.heard else max(seconds, self._settled - self._loop.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._answered < wanted and not self._closed():
                    await self._more()
        return self.cards()

    async def name(self, mac: str, seconds: float) -> str | None:
        """Return what the guest calls a card, as soon as it says so; None if it has not within `seconds`.

        A guest that has never spoken is not waited for.
        """
        found: str | None = None
        if not self.heard:
            return found
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                card = (await self.fresh(seconds)).get(mac)
                while card is None and not self._closed():
                    await self._more()
                    card = self.cards().get(mac)
                found = card.name if card else None
        return found

    def ask(self) -> int:
        """Ask for the cards; return the number of the request.

        If the guest has not read the last request yet, that one will do: it is not to find hundreds when it boots.
        """
        with contextlib.suppress(OSError):
            if not self._closed() and (self._asked == self._answered or not unread(self._sock)):
                self._asked += 1
                self._send(b"\n%s %d\n" % (_KIND, self._asked))
        return self._asked

    def _settle(self) -> None:
        """Whatever an earlier keeper has begun to say, nobody listens to it any more."""
        if self._resuming is not None:
            self._resuming.cancel()

    def _resume(self) -> None:
        """Say it again if the guest takes it for input that the last keeper had begun to send: let that be complete."""
        if not self.heard:
            self._send(b"\n" * LINE + b"reset 0\n%s %d\n" % (_KIND, self._asked))

    async def awake(self, seconds: float) -> bool:
        """Wait until the guest has said anything since it booted, `seconds` at most; tell whether it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.heard and not self._closed():
                    await self._more()
        return self.heard

    async def run(self, argv: Sequence[bytes], client: Client) -> int:
        """Run a command (`Calls.run`)."""
        return await self.calls.run(argv, client)

    def forget(self) -> None:
        """What was said is not so any more: the guest boots."""
        self._rest = self._last = b""
        self._unsent.clear()
        self._settle()
        self.calls.fail("the guest has rebooted meanwhile")

    def close(self) -> None:
        """Hang up; once is enough."""
        if self._closed():
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._settle()
        self._tell()
        self.calls.fail("the guest has ended meanwhile")

    # ---------------------------------------------------------------- speaking

    def _send(self, data: bytes) -> None:
        """Say something as soon as the guest takes it: calls have little under way, and nobody else says much."""
        self._unsent += data
        self._flush()

    def _flush(self) -> None:
        if self._closed():
            self._unsent.clear()
            return
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent[:_CHUNK])]
            self._loop.remove_writer(self._sock)
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._sock, self._flush)
        except OSError:  # reading will find that out
            self._loop.remove_writer(self._sock)
            self._unsent.clear()

    # ---------------------------------------------------------------- listening

    def _closed(self) -> bool:
        return self._sock.fileno() < 0

    async def _more(self) -> None:
        """Wait until something was said, or the port is closed."""
        await self._said.wait()

    def _tell(self) -> None:
        """Wake all who wait."""
        self._said.set()
        self._said = asyncio.Event()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[:LINE]
        said = [line for line in lines if self._take(line)]
        if said:
            self._last = said[-1][:LINE]
            self._tell()

    def _take(self, line: bytes) -> bool:
        """Tell whether a line is about cards; note which request it answers. If it is about a call, pass it on."""
        kind, number, rest = (*line[:LINE].split(b" ", 2), b"", b"")[:3]
        if kind == _STARTED:
            self.calls.fail("its agent was started again meanwhile")
            return False
        if kind != _KIND:
            self.calls.hear(kind, number, rest)
            return False
        if len(number) > _NUMBER or not number.isdigit():
            return False
        self._answered = max(self._answered, min(int(number), self._asked))
        return True


def unread(sock: socket.socket) -> int:
    """Return how much memory holds what the other end has not read yet."""
    (count,) = struct.unpack("=i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(count)


def parse(line: bytes) -> dict[str, GuestCard]:
    """Return the cards that a line tells of, by MAC; of two with the same MAC the first. What is no card is left out.

    A blank after a card shows that it is whole.
    """
    found: dict[str, GuestCard] = {}
    cut = len(line) >= LINE
    words = line.rstrip(b"\r").split(b" ", CARDS + 2)[2 : CARDS + 2]
    for word in words[:-1] if cut and len(words) < CARDS else words:
        card = _card(word)
        if card is not None:
            found.setdefault(card.mac, card)
    return found


def _card(word: bytes) -> GuestCard | None:
    name, _, facts = word.partition(b"/")
    mac, _, rest = facts.partition(b",")
    carrier, *addresses = rest.split(b",", ADDRESSES + 1)[: ADDRESSES + 1]
    if not 0 < len(name) <= _NAME or not _MAC.fullmatch(mac):
        return None
    every = (_address(one) for one in addresses)
    return GuestCard(printable(name), mac.decode(), carrier == b"1", tuple(one for one in every if one))


def _address(word: bytes) -> str:
    """Return an address as Python writes it; nothing for what is none, or follows from the MAC (fe80::/10)."""
    try:
        found = ip_interface(word[:64].decode("ascii"))
    except ValueError:
        return ""
    if isinstance(found, IPv6Interface) and (found.is_link_local or found.scope_id):
        return ""
    return str(found)


def printable(name: bytes) -> str:
    """Return a name that a terminal only shows: whatever else is in it is spelled out."""
    text = name.decode(errors="surrogateescape")
    return "".join(one if one.isprintable() and one != "\\" else ascii(one)[1:-1] for one in text)
