"""Watches the host's side of the cards of one keeper's guests: what anybody does to these interfaces is told.

The kernel tells every change of every interface of a network namespace to whoever asks (RTNLGRP_LINK, rtnetlink(7)).
It is asked only while somebody listens. What it tells is the whole state of an interface, also when nothing changed
that anybody cares for; hence what was told last is remembered, and only a difference is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import typing

from qemunet.frozen import as_dict, frozen
from qemunet.host import links
from qemunet.host import netlink as nl
from qemunet.host.netns import Place
from qemunet.model.names import IFNAMSIZ, altname

if typing.TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from qemunet.state import Runtime

_GROUP_LINK = 1  # RTMGRP_LINK, as a bit for bind(2)
_EXT_MASK, _SKIP_STATS = 29, 8
_PROP_LIST, _ALT_IFNAME = 52, 53
_LOWER_UP = 0x10000  # netdevice(7): there is a carrier
_IFINFO = 16  # bytes of a struct ifinfomsg, before the attributes
_BUFFER = 4 << 20  # bytes that may wait; memory that is used only when they do
_RCVBUFFORCE = 33
AT_ONCE = 64  # datagrams between two looks at everything else


class Tell(typing.Protocol):
    """How an event is told (`qemunet.live.care.Keeper.tell`)."""

    def __call__(self, kind: str, vm: str | None, /, **details: object) -> None:
        """Tell it."""


@frozen
class Card:
    """A card of a guest that has an interface on the host."""

    vm: str
    nic: str


@frozen
class Link:
    """What is told of an interface; without a carrier nothing gets through, as when the guest's cable is out."""

    ifname: str
    up: bool
    carrier: bool
    master: str | None


class Roster:
    """Knows whose interface is whose, by the records of the `vms`, which are read again when they have changed.

    Interfaces in a namespace of a lab are none of its business: the kernel tells nothing of them here.
    """

    def __init__(self, runtime: Runtime, vms: Collection[str]) -> None:
        self._runtime = runtime
        self._vms = vms
        self._known: dict[str, tuple[object, dict[str, Card]]] = {}

    def owner(self, names: Collection[str]) -> Card | None:
        """Return the card whose interface has one of these names."""
        for vm in self._vms:
            cards = self._cards(vm)
            for name in names:
                if name in cards:
                    return cards[name]
        return None

    def has(self, card: Card) -> bool:
        """Tell whether there is such a card."""
        return card.vm in self._vms and card in self._cards(card.vm).values()

    def names(self, vm: str | None = None) -> list[str]:
        """Return the names and alternative names of the interfaces of a vm, or of all."""
        return [name for one in list(self._vms) if vm in (None, one) for name in self._cards(one)]

    def _cards(self, vm: str) -> dict[str, Card]:
        for gone in self._known.keys() - set(self._vms):
            del self._known[gone]
        scope = self._runtime.scope(f"vm/{vm}")
        before, cards = self._known.get(vm, (None, {}))
        try:
            found = os.stat(scope.path("record.json"))
        except OSError:
            return cards  # it is being cleared away: its interfaces are still its own
        version = (found.st_ino, found.st_mtime_ns)
        record = scope.record() if version != before else None
        if record is not None:
            named = [(nic.ifname, nic.id) for nic in record.nics if nic.ifname and not nic.netns]
            cards = {name: Card(vm, nic) for name, nic in named}
            cards |= {altname(scope.name, nic): Card(vm, nic) for _, nic in named}
            self._known[vm] = (version, cards)
        return cards


class LinkWatch:
    """Tells what happens to the interfaces of the `roster`, as ``link`` events, between `open` and `close`."""

    def __init__(self, roster: Roster, tell: Tell, place: Place | None = None) -> None:
        self._roster = roster
        self._tell = tell
        self._place = place or Place()
        self._known: dict[int, tuple[Card, Link]] = {}  # by interface index
        self._sock: socket.socket | None = None
        self._asking: nl.Netlink | None = None

    def open(self) -> None:
        """Begin to watch; what is there now is no news. That it cannot be done is told, too."""
        if self._sock is not None:
            return
        try:
            self._asking = nl.Netlink(self._place.inside(nl.open_socket))
            self._sock = self._place.inside(listening)
        except OSError as error:
            self.close()
            self._tell("gap", None, what="links", text=f"interfaces are not watched: {error.strerror}")
            return
        asyncio.get_running_loop().add_reader(self._sock, self._read)
        self.learn()

    def close(self) -> None:
        """Watch no more."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
        if self._asking is not None:
            self._asking.close()
        self._sock = self._asking = None
        self._known.clear()

    def learn(self, vm: str | None = None) -> None:
        """Look how the interfaces of a vm are that was taken in now, or of all; nothing is told."""
        for index, body in self._look(vm):
            values = nl.attributes(body[_IFINFO:])
            if card := self._owner(index, values):
                self._known[index] = (card, self._link(body, values))

    def read(self) -> None:
        """Tell what has happened until now."""
        while self._sock is not None and self._read():
            pass

    def _read(self) -> bool:
        """Tell what has come, some of it if it is much; tell whether there may be more."""
        for _ in range(AT_ONCE):
            if self._sock is None:
                return False
            try:
                data = self._sock.recv(nl.DATAGRAM)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._discard(self._sock)
                self._catch_up()
                continue
            for kind, _flags, _sequence, body in nl.messages(data):
                if kind in (nl.NEWLINK, nl.DELLINK):
                    self._hear(kind, body)
        return True

    def _hear(self, kind: int, body: bytes) -> None:
        if body[0] != socket.AF_UNSPEC:
            return  # what a bridge says of its port; another message says what became of the interface
        if kind == nl.DELLINK:
            self._deleted(index_of(body))
        else:
            self._seen(index_of(body), body)

    def _seen(self, index: int, body: bytes) -> None:
        values = nl.attributes(body[_IFINFO:])
        if links.MTU not in values:
            return  # it does not have the whole state: a wireless driver's own news
        card = self._owner(index, values)
        before = self._known.pop(index, None)
        if card is None:
            return
        link = self._link(body, values)
        self._known[index] = (card, link)
        if before is None or before[0] != card:
            self._say(card, link, "new", [])
        elif before[1] != link:
            old, new = as_dict(before[1]), as_dict(link)
            self._say(card, link, "changed", [key for key in new if new[key] != old[key]])

    def _deleted(self, index: int) -> None:
        if index in self._known:
            card, link = self._known.pop(index)
            self._say(card, Link(link.ifname, up=False, carrier=False, master=None), "deleted", [])

    def _say(self, card: Card, link: Link, what: str, changed: list[str]) -> None:
        self._tell("link", card.vm, nic=card.nic, what=what, changed=changed, **as_dict(link))

    def _discard(self, sock: socket.socket) -> None:
        """Forget what waits: the newest is what was lost, and after a look at what is, the rest would be old news."""
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    sock.recv(nl.DATAGRAM)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise

    def _catch_up(self) -> None:
        """The kernel had more to tell than there was room for: say so, and compare what is with what was."""
        self._tell("gap", None, what="links", text="more happened to interfaces than could be heard")
        there = dict(self._look(None))
        for index in self._known.keys() - there.keys():
            self._deleted(index)
        for index, body in there.items():
            self._seen(index, body)

    def _look(self, vm: str | None) -> Iterator[tuple[int, bytes]]:
        """Give index and description of the interfaces of a vm, or of all, as they are now."""
        for name in self._roster.names(vm) if self._asking else []:
            assert self._asking is not None, "as long as it is open"
            key = nl.text(links.IFNAME if len(name.encode()) <= IFNAMSIZ else _ALT_IFNAME, name)
            request = nl.Request(nl.GETLINK, 0, links.ifinfo() + key + nl.number(_EXT_MASK, _SKIP_STATS))
            with contextlib.suppress(OSError):  # there is none of that name (yet, or any more)
                body = self._asking.ask(request)
                yield index_of(body), body

    def _owner(self, index: int, values: dict[int, bytes]) -> Card | None:
        """Return whose interface it is; one that somebody gave another name is still the card's."""
        properties = nl.each_attribute(values.get(_PROP_LIST, b""))
        names = [values[links.IFNAME], *(value for kind, value in properties if kind == _ALT_IFNAME)]
        card = self._roster.owner([nl.string(name) for name in names])
        if card is None and index in self._known and self._roster.has(self._known[index][0]):
            return self._known[index][0]
        return card

    def _link(self, body: bytes, values: dict[int, bytes]) -> Link:
        flags = int(struct.unpack_from("=I", body, 8)[0])
        master = self._name(nl.integer(values[links.MASTER])) if links.MASTER in values else None
        return Link(nl.string(values[links.IFNAME]), bool(flags & links.UP), bool(flags & _LOWER_UP), master)

    def _name(self, index: int) -> str | None:
        with contextlib.suppress(OSError):  # it is gone by now, or in another namespace
            return self._asking.name(index) if self._asking else None
        return None


def index_of(body: bytes) -> int:
    """Return the index in a message about an interface."""
    return int(struct.unpack_from("=i", body, 4)[0])


def listening() -> socket.socket:
    """Return a socket that the kernel tells every change of an interface in the calling thread's namespace."""
    sock = nl.open_socket()
    try:
        sock.setblocking(False)  # noqa: FBT003 - its own signature
        try:
            sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind((0, _GROUP_LINK))
    except OSError:
        sock.close()
        raise
    return sock
