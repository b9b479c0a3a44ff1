"""Tries to get through from a network namespace: pings, connections, datagrams, a question for DHCP.

All of it by sockets that are opened in that namespace, so that no program is needed there; each call blocks for the
seconds that it was given at most. A ping wants root's rights, or a group that may (icmp(7), ping_group_range).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
import typing
from enum import StrEnum

from qemunet import interrupts
from qemunet.errors import Taken
from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemunet.host.netns import Place

_AGAIN = 0.5  # seconds after which what may be lost is sent once more
_GLANCE = 0.1  # seconds between two looks whether somebody has interrupted
_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}  # types of ICMP's echo request (RFC 792, RFC 4443)
_ICMP = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_LARGEST = 65536
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.ENETDOWN, errno.EADDRNOTAVAIL)


class Reach(StrEnum):
    """How far something came."""

    THROUGH = "through"
    REFUSED = "refused"  # somebody said no: the target, or on its behalf
    SILENT = "silent"
    NO_WAY = "no way"  # who sends knows that it cannot be reached
    UNABLE = "unable"  # it could not be tried


@frozen
class Attempt:
    """What came of trying, and what was seen of that, for people."""

    reach: Reach
    seen: str


def ping(place: Place, address: str, seconds: float) -> Attempt:
    """Send echo requests until one is answered."""
    try:
        sock, raw = place.inside(lambda: _icmp_socket(_family(address)))
    except PermissionError:
        return Attempt(Reach.UNABLE, "this user may not ping")
    token = os.urandom(16)
    echo = _echo(_family(address), token)
    with sock:
        return _repeat(sock, (address, 0), echo, lambda data: _is_reply(data, token, raw=raw), seconds)


def resolved(place: Place, name: str) -> str | Attempt:
    """Return the first address that a name has there, or why there is none."""
    try:
        return str(place.inside(lambda: socket.getaddrinfo(name, None))[0][4][0])
    except OSError as error:
        return _failed(error, name)


def connect(place: Place, address: str, port: int, seconds: float) -> Attempt:
    """Open a connection, and close it again."""
    try:
        place.inside(lambda: socket.create_connection((address, port), timeout=seconds)).close()
    except TimeoutError:
        return Attempt(Reach.SILENT, f"no answer from {address}")
    except OSError as error:
        return _failed(error, address)
    return Attempt(Reach.THROUGH, f"{address} takes the connection")


def send(place: Place, address: str, port: int, token: bytes, seconds: float) -> Attempt:
    """Send datagrams until any is answered."""
    try:
        sock, target = place.inside(lambda: _udp_socket(address, port))
    except OSError as error:
        return _failed(error, address)
    with sock:
        return _repeat(sock, target, token, bool, seconds)


@contextlib.contextmanager
def listening(place: Place, address: str, port: int) -> Iterator[None]:
    """Take connections to a port of one address meanwhile: the kernel does, up to a few hundred. Raises Taken."""
    with _bound(place, address, port, socket.SOCK_STREAM) as sock:
        sock.listen(128)
        yield


@contextlib.contextmanager
def receiving(place: Place, address: str, port: int, token: bytes) -> Iterator[Callable[[], bool]]:
    """Yield what tells whether a datagram with the token has come to a port meanwhile. Raises Taken."""
    with _bound(place, address, port, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0)
        yield lambda: _has(sock, token)


# ---------------------------------------------------------------- how


def _repeat(
    sock: socket.socket, target: tuple[str, int], data: bytes, wanted: Callable[[bytes], bool], seconds: float
) -> Attempt:
    """Send again and again until what is wanted comes back."""
    address = target[0]
    deadline, due = time.monotonic() + seconds, 0.0
    sock.settimeout(_GLANCE)
    found = Attempt(Reach.SILENT, f"no answer from {address}")
    while True:
        interrupts.check()
        now = time.monotonic()
        try:
            if now >= due:
                due = now + _AGAIN
                sock.sendto(data, target)
            if wanted(sock.recv(_LARGEST)):
                return Attempt(Reach.THROUGH, f"{address} answers")
        except TimeoutError:
            pass
        except OSError as error:
            found = _failed(error, address)
            if error.errno != errno.EHOSTUNREACH:  # that may be over in a moment
                return found
        if now >= deadline:
            return found


def _failed(error: OSError, address: str) -> Attempt:
    why = error.strerror or str(error)
    if isinstance(error, socket.gaierror):
        return Attempt(Reach.UNABLE, f"{address} is not known: {why}")
    if error.errno == errno.ECONNREFUSED:
        return Attempt(Reach.REFUSED, f"{address} refuses it")
    if error.errno in _NO_WAY:
        return Attempt(Reach.NO_WAY, f"no way to {address}: {why}")
    return Attempt(Reach.SILENT, f"nothing from {address}: {why}")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _icmp_socket(family: socket.AddressFamily) -> tuple[socket.socket, bool]:
    """Return a socket for echoes, and whether it is raw: then it hears those of others, too, and behind a header."""
    try:
        return socket.socket(family, socket.SOCK_DGRAM, _ICMP[family]), False
    except PermissionError:
        return socket.socket(family, socket.SOCK_RAW, _ICMP[family]), family == socket.AF_INET


def _echo(family: socket.AddressFamily, token: bytes) -> bytes:
    """Return an echo request; the kernel makes the checksum where there is more to it than the message itself."""
    head = bytes((_REQUEST[family], 0))
    body = token[:4] + token
    return head + checksum(head + b"\0\0" + body) + body


def checksum(data: bytes) -> bytes:
    """Return the checksum of IPv4 and ICMP (RFC 1071)."""
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def _is_reply(data: bytes, token: bytes, *, raw: bool) -> bool:
    """Tell whether this is a reply to a request with our token."""
    message = data[(data[0] & 0x0F) * 4 :] if raw else data
    return len(message) > 8 and message[0] in (0, 129) and message[8:] == token


def _udp_socket(address: str, port: int) -> tuple[socket.socket, tuple[str, int]]:
    """Return a socket that is connected, so that it hears when somebody refuses, and where to."""
    family, kind, _protocol, _name, target = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind)
    try:
        sock.connect(target)
    except OSError:
        sock.close()
        raise
    return sock, (str(target[0]), port)


@contextlib.contextmanager
def _bound(place: Place, address: str, port: int, kind: socket.SocketKind) -> Iterator[socket.socket]:
    sock = place.inside(lambda: socket.socket(_family(address), kind))
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind is socket.SOCK_STREAM))
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise Taken(f"somebody has port {port} of {address}") from error
        yield sock


def _has(sock: socket.socket, token: bytes) -> bool:
    found = False
    with contextlib.suppress(BlockingIOError):
        while not found:
            found = token in sock.recv(_LARGEST)
    return found
