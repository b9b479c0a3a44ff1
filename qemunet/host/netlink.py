"""Speaks rtnetlink: a small codec, and a socket that asks and listens.

A request is refused with the kernel's own words where it has some (``NLM_F_ACK_TLVS``). Several requests go in one
system call; the kernel does them in order and does *not* stop at one that it refuses, so only such requests may
travel together of which each is right whatever became of the others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from qemunet.frozen import frozen

NEWLINK, DELLINK, GETLINK, SETLINK = 16, 17, 18, 19
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWLINKPROP = 108

CREATE, EXCLUSIVE, APPEND, REPLACE = 0x400, 0x200, 0x800, 0x100
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_DUMP_INTERRUPTED, _CAPPED, _ACK_TLVS = 0x10, 0x100, 0x200
_ERROR, _DONE = 2, 3
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_GIFNAME, _GIFINDEX = 0x8910, 0x8933  # netdevice(7)

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BATCH = 64  # the acknowledgements of more might not fit the socket's buffer
DATAGRAM = 1 << 16  # bytes; the kernel sends none that is longer
_DEADLINE = 30  # seconds; the kernel answers within the system call, so only a lost answer comes here
_ATTEMPTS = 20  # at a dump that is not torn by somebody's change


# ---------------------------------------------------------------- writing


def raw(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """Return an attribute of 32 bits."""
    return raw(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that is a string."""
    return raw(kind, value.encode() + b"\0")


def mac(kind: int, value: str) -> bytes:
    """Return an attribute that is an Ethernet address."""
    return raw(kind, bytes.fromhex(value.replace(":", "")))


def nested(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute made of attributes."""
    return raw(kind | _NESTED, b"".join(attributes))


@frozen
class Request:
    """A message to the kernel: its type, the flags beyond the usual ones, and its content."""

    kind: int
    flags: int
    body: bytes


# ---------------------------------------------------------------- reading


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes in `data` by type; of equal ones the last."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> list[tuple[int, bytes]]:
    """Return the attributes in `data` in order."""
    found = []
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            break
        found.append((kind & _TYPE_MASK, data[at + 4 : at + size]))
        at += size + 3 & ~3
    return found


def messages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return the messages of one datagram: type, flags, sequence number, content."""
    found = []
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            break
        found.append((kind, flags, sequence, data[at + _HEADER.size : at + size]))
        at += size + 3 & ~3
    return found


def string(value: bytes) -> str:
    """Return a string attribute as text."""
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def integer(value: bytes) -> int:
    """Return an integer attribute, whatever its width."""
    return int.from_bytes(value, "little" if struct.pack("=H", 1)[0] else "big")


def colons(value: bytes) -> str:
    """Return an Ethernet address as text."""
    return value.hex(":")


# ---------------------------------------------------------------- the socket


def open_socket() -> socket.socket:
    """Open a netlink socket in the network namespace of the calling thread; it keeps that for life."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_CAP_ACK, _EXT_ACK, _STRICT):
        sock.setsockopt(_SOL_NETLINK, option, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _DEADLINE, 0))
    return sock


class Netlink:
    """A conversation with the kernel of one network namespace over `sock`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def do(self, *requests: Request) -> None:
        """Have all requests done, in order; raises the OSError of the first that was refused."""
        for start in range(0, len(requests), _BATCH):
            self._do(requests[start : start + _BATCH])

    def ask(self, request: Request) -> bytes:
        """Return the content of the one message that answers; raises the kernel's OSError."""
        sequence = self._send((request,), 0)
        while True:
            for kind, _flags, number, body in self._receive():
                if number == sequence:
                    if kind == _ERROR:
                        _raise(body, 0)
                    return body

    def dump(self, request: Request) -> list[bytes]:
        """Return the contents of all messages that answer, taken again if something changed meanwhile."""
        for _ in range(_ATTEMPTS):
            sequence = self._send((request,), _DUMP)
            found, torn = self._collect(sequence)
            if not torn:
                return found
        raise OSError(errno.EINTR, "what is listed changes faster than it can be read")

    def index(self, name: str) -> int:
        """Return the index of an interface; raises OSError (ENODEV)."""
        if len(name.encode()) > 15:  # only an alternative name can be that long, and the ioctl would cut it
            body = self.ask(Request(GETLINK, 0, bytes(16) + text(53, name)))
            return int(struct.unpack_from("=i", body, 4)[0])
        try:
            answer = fcntl.ioctl(self._sock, _GIFINDEX, struct.pack("=16si20x", name.encode(), 0))
        except OSError as error:
            raise OSError(error.errno, f"there is no interface {name}") from None
        return int(struct.unpack_from("=i", answer, 16)[0])

    def name(self, index: int) -> str:
        """Return the name of an interface; raises OSError (ENODEV)."""
        answer = fcntl.ioctl(self._sock, _GIFNAME, struct.pack("=16si20x", b"", index))
        return string(answer[:16].partition(b"\0")[0])

    def _do(self, requests: tuple[Request, ...]) -> None:
        last = self._send(requests, _ACK)
        first = last - len(requests) + 1
        refused: tuple[bytes, int] | None = None
        waiting = len(requests)
        while waiting:
            for kind, flags, number, body in self._receive():
                if kind == _ERROR and first <= number <= last:
                    waiting -= 1
                    if refused is None and struct.unpack_from("=i", body)[0]:
                        refused = body, flags
        if refused is not None:
            _raise(*refused)

    def _send(self, requests: tuple[Request, ...], flags: int) -> int:
        """Send in one system call; return the sequence number of the last."""
        packed = []
        for one in requests:
            self._sequence += 1
            size = _HEADER.size + len(one.body)
            packed += [_HEADER.pack(size, one.kind, _REQUEST | flags | one.flags, self._sequence, 0), one.body]
        self._sock.send(b"".join(packed))
        return self._sequence

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """Return the messages of one datagram."""
        return messages(self._sock.recv(DATAGRAM))

    def _collect(self, sequence: int) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        torn = False
        while True:
            for kind, flags, number, body in self._receive():
                if number != sequence:
                    continue
                torn = torn or bool(flags & _DUMP_INTERRUPTED)
                if kind == _ERROR:
                    _raise(body, flags)
                if kind == _DONE:
                    return found, torn
                found.append(body)


def _raise(body: bytes, flags: int) -> None:
    """Raise what an NLMSG_ERROR says."""
    code = -struct.unpack_from("=i", body)[0]
    extra = attributes(body[4 + 16 :]) if flags & _ACK_TLVS and flags & _CAPPED else {}
    words = string(extra.get(1, b"")).strip(" .")
    raise OSError(code, f"{os.strerror(code)}: {words}" if words else os.strerror(code))
