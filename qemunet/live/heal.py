"""Notices that the bridge of a guest's card was deleted or made anew, and has it put right.

Theory of operation. As long as a guest has cards on bridges, the kernel is asked for every change of an interface
(RTNLGRP_LINK, rtnetlink(7)), whoever listens to events. Of most, nothing is read but the name. When one of these
bridges goes, or one of its name comes with another index, it is looked at a moment later, in the thread that may block
(`mend`): whoever deletes a bridge often makes it again himself, in several commands. What was found is written into
the keeper's log and told. Somebody who deletes it again and again has his way: it is put right so many times a minute,
and no more.
"""

from __future__ import annotations

import asyncio
import errno
import struct
import time
import typing

from qemunet.errors import QemunetError
from qemunet.host import links
from qemunet.host import netlink as nl
from qemunet.host.netns import Place
from qemunet.live import linkwatch, mend
from qemunet.live.mend import How

if typing.TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Collection, Coroutine

    from qemunet.live.console import Say
    from qemunet.live.linkwatch import Tell
    from qemunet.live.mend import Found
    from qemunet.state import Runtime

MOST, WITHIN = 6, 60.0  # times in so many seconds that a bridge is put right
AGAIN = 10.0  # seconds until the next try, if it could not be looked
GRACE = 1.0  # seconds for whoever makes a bridge again himself
_IFINFO = 16  # bytes of a struct ifinfomsg, before the attributes
_NAME = struct.Struct("=HH")


class Healer:
    """Watches the bridges of the `vms`. For the thread of the loop only.

    `look` puts right, in a thread, the bridges of these names (`mend.look`).
    """

    def __init__(
        self,
        runtime: Runtime,
        vms: Collection[str],
        look: Callable[[list[str], Collection[str]], Awaitable[list[Found]]],
        tell: Tell,
        say: Say,
        begin: Callable[[Coroutine[typing.Any, typing.Any, None]], None],
        place: Place | None = None,
    ) -> None:
        self._runtime = runtime
        self._vms = vms
        self._look = look
        self._tell = tell
        self._say = say
        self._begin = begin
        self._place = place or Place()
        self._known: dict[str, int | None] = {}  # a bridge's index; None: it is not there
        self._due: set[str] = set()
        self._healed: dict[str, list[float]] = {}
        self._told: dict[str, tuple[How, str]] = {}  # the last bad news of a bridge
        self._at_work = False
        self._sock: socket.socket | None = None
        self._later: dict[str, asyncio.TimerHandle] = {}

    def look(self) -> None:
        """Learn which bridges the guests are on now; one that was not watched until now is looked at."""
        there = mend.bridges(self._runtime, list(self._vms))
        for gone in self._known.keys() - there.keys():
            del self._known[gone]
        if there and self._sock is None:
            self._open()
        elif not there:
            self.close()
        for name in there.keys() - self._known.keys():
            self._known[name] = None
            self._wake(name)

    def close(self) -> None:
        """Watch no more."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        self._known.clear()
        self._due.clear()

    # ---------------------------------------------------------------- what the kernel tells

    def _open(self) -> None:
        try:
            self._sock = self._place.inside(linkwatch.listening)
        except OSError as error:
            self._say(f"bridges are not watched: {error.strerror}")
            return
        asyncio.get_running_loop().add_reader(self._sock, self._read)

    def _read(self) -> None:
        for _ in range(linkwatch.AT_ONCE):
            if self._sock is None:
                return
            try:
                data = self._sock.recv(nl.DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                for name in self._known:  # some news was lost
                    self._wake(name)
                continue
            for kind, _flags, _sequence, body in nl.messages(data):
                if kind in (nl.NEWLINK, nl.DELLINK) and not body[0]:  # not what a bridge says of its port
                    self._hear(_name(body), None if kind == nl.DELLINK else linkwatch.index_of(body))

    def _hear(self, name: str, index: int | None) -> None:
        if name in self._known and self._known[name] != index:
            self._known[name] = index
            self._wake(name)

    # ---------------------------------------------------------------- what is done about it

    def _wake(self, name: str) -> None:
        self._due.add(name)
        if not self._at_work:
            self._at_work = True
            self._begin(self._work())

    async def _work(self) -> None:
        try:
            while self._due:
                await asyncio.sleep(GRACE)
                names = [name for name in sorted(self._due) if not self._too_often(name)]
                self._due.clear()
                await self._look_at(names)
        finally:
            self._at_work = False

    async def _look_at(self, names: list[str]) -> None:
        try:
            every = await self._look(sorted(self._vms), names) if names else ()
        except (QemunetError, OSError) as error:
            self._say(f"bridges were not looked at: {error}")
            for name in names:
                self._look_later(name, AGAIN)
            return
        for found in every:
            self._judge(found)

    def _judge(self, found: Found) -> None:
        if found.bridge in self._known:
            self._known[found.bridge] = found.index
        if found.how is None:
            self._told.pop(found.bridge, None)
        elif found.how is How.HEALED:
            self._healed.setdefault(found.bridge, []).append(time.monotonic())
            self._told.pop(found.bridge, None)
            self._news(found, found.how, found.text)
        elif self._told.get(found.bridge) != (found.how, found.text):
            self._told[found.bridge] = (found.how, found.text)
            self._news(found, found.how, found.text)

    def _news(self, found: Found, how: How, text: str) -> None:
        self._say(f"bridge {found.bridge} {how.value}: {text}")
        details: dict[str, object] = {"network": found.network, "bridge": found.bridge, "vms": list(found.vms)}
        self._tell("network", None, what=how.value, **details, text=text)

    def _too_often(self, name: str) -> bool:
        """Tell whether a bridge was put right often enough for now; it is said, and looked at again later."""
        now = time.monotonic()
        recent = self._healed[name] = [when for when in self._healed.get(name, ()) if now - when < WITHIN]
        if len(recent) < MOST:
            return False
        if name not in self._later:
            taps = mend.bridges(self._runtime, list(self._vms)).get(name, [])
            text = f"somebody has taken it away {MOST} times within {WITHIN:g} s; it is left alone for a while"
            self._judge(mend.found(name, self._known.get(name), taps, How.FAILED, text))
            self._look_later(name, max(0.0, recent[0] + WITHIN - now))
        return True

    def _look_later(self, name: str, seconds: float) -> None:
        if name not in self._later:
            self._later[name] = asyncio.get_running_loop().call_later(seconds, self._once_more, name)

    def _once_more(self, name: str) -> None:
        self._later.pop(name)
        if name in self._known:
            self._wake(name)


def _name(body: bytes) -> str:
    """Return the name in a message about an interface; the kernel puts it first."""
    size, kind = _NAME.unpack_from(body, _IFINFO)
    if kind == links.IFNAME:
        return nl.string(body[_IFINFO + 4 : _IFINFO + size])
    return nl.string(nl.attributes(body[_IFINFO:]).get(links.IFNAME, b""))
