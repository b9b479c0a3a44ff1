"""A switch of cards in mode vhost-user, for tests: ``vhost_user.py SOCKET…`` serves one at each, and says so.

It speaks the vhost-user protocol as the backend that listens, and moves frames between split virtqueues in memory that
the guests share with it; what one sends all others get. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

VERSION, REPLY = 1, 4
FEATURES = 1 << 32 | 1 << 30 | 1 << 22  # virtio 1, protocol features, several queues
(GET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK) = (
    1, 5, 8, 9, 10, 11, 12,
)  # fmt: skip
SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM = 13, 14, 15, 17
QUEUES_FEATURE, QUEUES = 1, 8
HEADER = 12  # bytes of a virtio_net_hdr of virtio 1
NEXT = 1  # a descriptor is not the last of its chain


@dataclass(frozen=True)
class Region:
    """A piece of a guest's memory: where the guest has it, where QEMU has it, and here."""

    guest: int
    size: int
    qemu: int
    offset: int
    memory: mmap.mmap


@dataclass
class Ring:
    """A virtqueue; addresses are those of QEMU."""

    num: int = 0
    desc: int = 0
    used: int = 0
    avail: int = 0
    taken: int = 0  # of what is available
    kick: int | None = None
    call: int | None = None


@dataclass
class Card:
    """A connection to a QEMU, for one card."""

    sock: socket.socket
    regions: list[Region] = field(default_factory=list)
    rings: dict[int, Ring] = field(default_factory=dict)

    def ring(self, index: int) -> Ring:
        return self.rings.setdefault(index, Ring())

    # ---------------------------------------------------------------- memory

    def place(self, address: int, *, of_qemu: bool) -> tuple[mmap.mmap, int]:
        for one in self.regions:
            start = one.qemu if of_qemu else one.guest
            if start <= address < start + one.size:
                return one.memory, one.offset + address - start
        raise ValueError(f"{address:#x} is in no region")

    def read(self, layout: str, address: int) -> tuple[int, ...]:
        memory, at = self.place(address, of_qemu=True)
        return struct.unpack_from(layout, memory, at)

    def write(self, layout: str, address: int, *values: int) -> None:
        memory, at = self.place(address, of_qemu=True)
        struct.pack_into(layout, memory, at, *values)

    def chain(self, ring: Ring, head: int) -> Iterator[tuple[mmap.mmap, int, int]]:
        """The buffers of a chain of descriptors: memory, place, length."""
        flags = NEXT
        while flags & NEXT:
            address, length, flags, following = self.read("<QIHH", ring.desc + 16 * head)
            yield (*self.place(address, of_qemu=False), length)
            head = following

    def pop(self, ring: Ring) -> int | None:
        if ring.kick is None or ring.avail == 0 or self.read("<H", ring.avail + 2)[0] == ring.taken:
            return None
        (head,) = self.read("<H", ring.avail + 4 + 2 * (ring.taken % ring.num))
        ring.taken = (ring.taken + 1) % 65536
        return head

    def push(self, ring: Ring, head: int, length: int) -> None:
        (number,) = self.read("<H", ring.used + 2)
        self.write("<II", ring.used + 4 + 8 * (number % ring.num), head, length)
        self.write("<H", ring.used + 2, (number + 1) % 65536)
        if ring.call is not None:
            os.eventfd_write(ring.call, 1)

    # ---------------------------------------------------------------- frames

    def sent(self, ring: Ring) -> Iterator[bytes]:
        while (head := self.pop(ring)) is not None:
            data = b"".join(memory[at : at + length] for memory, at, length in self.chain(ring, head))
            self.push(ring, head, 0)
            yield data[HEADER:]

    def deliver(self, frame: bytes) -> None:
        ring = self.ring(0)
        head = self.pop(ring)
        if head is None:
            return  # no room: it is lost
        data = struct.pack("<10xH", 1) + frame
        rest = data
        for memory, at, length in self.chain(ring, head):
            piece, rest = rest[:length], rest[length:]
            memory[at : at + len(piece)] = piece
        self.push(ring, head, len(data))

    # ---------------------------------------------------------------- protocol

    def serve(self) -> int | None:
        """Answer one message; return the number of a ring that has a new kick. Raises EOFError."""
        header, fds, _, _ = socket.recv_fds(self.sock, 12, 8)
        if len(header) < 12:
            raise EOFError
        request, _, size = struct.unpack("<III", header)
        body = self.sock.recv(size, socket.MSG_WAITALL) if size else b""
        answers = {GET_FEATURES: FEATURES, GET_PROTOCOL_FEATURES: QUEUES_FEATURE, GET_QUEUE_NUM: QUEUES}
        if request in answers:
            self.reply(request, struct.pack("<Q", answers[request]))
        elif request == SET_MEM_TABLE:
            self.remember(body, fds)
        elif request in (SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR):
            return self.descriptor(request, body, fds)
        else:
            self.vring(request, body)
        return None

    def reply(self, request: int, body: bytes) -> None:
        self.sock.sendall(struct.pack("<III", request, VERSION | REPLY, len(body)) + body)

    def remember(self, body: bytes, fds: list[int]) -> None:
        self.regions = []
        for number, fd in enumerate(fds):
            guest, size, qemu, offset = struct.unpack_from("<QQQQ", body, 8 + 32 * number)
            self.regions.append(Region(guest, size, qemu, offset, mmap.mmap(fd, offset + size)))
            os.close(fd)

    def descriptor(self, request: int, body: bytes, fds: list[int]) -> int | None:
        index, fd = body[0], fds[0] if fds else None
        ring = self.ring(index)
        if request == SET_VRING_KICK:
            ring.kick = fd
            return index if fd is not None else None
        if request == SET_VRING_CALL:
            ring.call = fd
        return None

    def vring(self, request: int, body: bytes) -> None:
        if request == SET_VRING_ADDR:
            index, _, desc, used, avail = struct.unpack_from("<IIQQQ", body)
            ring = self.ring(index)
            ring.desc, ring.used, ring.avail = desc, used, avail
        elif request in (SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE):
            index, value = struct.unpack_from("<II", body)
            ring = self.ring(index)
            if request == SET_VRING_NUM:
                ring.num = value
            elif request == SET_VRING_BASE:
                ring.taken = value
            else:
                ring.kick = None
                self.reply(request, struct.pack("<II", index, ring.taken))


class Switch:
    """All the cards, and what they wait for."""

    def __init__(self) -> None:
        self.waiting = selectors.DefaultSelector()
        self.cards: list[Card] = []

    def run(self, paths: list[str]) -> None:
        for path in paths:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen()
            self.waiting.register(listener, selectors.EVENT_READ, listener)
        self.waiting.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in self.waiting.select():
                self.handle(key.fileobj, key.data)

    def handle(self, source: object, data: object) -> None:
        if data is None:
            sys.exit()  # whoever started this has ended
        elif isinstance(data, Card):
            self.talk(data)
        elif isinstance(data, socket.socket):
            card = Card(data.accept()[0])
            self.cards.append(card)
            self.waiting.register(card.sock, selectors.EVENT_READ, card)
        elif isinstance(data, tuple) and isinstance(source, int):
            self.kicked(source, *data)

    def talk(self, card: Card) -> None:
        before = {ring.kick for ring in card.rings.values()}
        try:
            index = card.serve()
        except (EOFError, ConnectionError):
            self.cards.remove(card)
            self.waiting.unregister(card.sock)
            card.sock.close()
            index, card.rings = None, {}
        for gone in before - {ring.kick for ring in card.rings.values()} - {None}:
            with contextlib.suppress(KeyError):
                self.waiting.unregister(gone)
            os.close(gone)
        if index is not None and (kick := card.ring(index).kick) is not None:
            self.waiting.register(kick, selectors.EVENT_READ, (card, index))
            os.eventfd_write(kick, 1)  # what was sent before

    def kicked(self, fd: int, card: Card, index: int) -> None:
        os.eventfd_read(fd)
        if index % 2:
            for frame in card.sent(card.ring(index)):
                for other in self.cards:
                    if other is not card:
                        other.deliver(frame)


if __name__ == "__main__":
    Switch().run(sys.argv[1:])
