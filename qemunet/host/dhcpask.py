"""Asks for DHCP on an interface without taking what is offered (RFC 2131): a DISCOVER, and the first OFFER to it.

Nothing is requested, so no server lends anything: it holds the address back for a moment at most. The question is that
of the interface's own card, so the answer is what a client there would get.
"""

from __future__ import annotations

import os
import socket
import struct
import time
import typing

from qemunet import interrupts
from qemunet.host.attempts import Attempt, Reach, checksum

if typing.TYPE_CHECKING:
    from qemunet.host.netns import Place

_AGAIN, _GLANCE = 1.0, 0.1  # seconds: between two questions, between two looks whether somebody has interrupted
_IP = 0x0800
_BROADCAST = b"\xff" * 6
_COOKIE = b"\x63\x82\x53\x63"
_BOOTP = struct.Struct("!BBBBIHHIIII16s64s128s")  # RFC 951, up to the options
_HEADER = struct.Struct("!BBHHHBBH4s4s")  # of IPv4
_PORTS = struct.Struct("!HHHH")  # of UDP
_CLIENT, _SERVER = 68, 67
_TYPE, _DISCOVER, _OFFER, _WHO = 53, 1, 2, 54
_ASK_BROADCAST = 0x8000


def offered(place: Place, ifname: str, seconds: float) -> Attempt:
    """Ask until somebody offers an address. Raises OSError, if there is no such interface for one."""
    sock = place.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_IP)))
    with sock:
        sock.bind((ifname, _IP))
        sock.settimeout(_GLANCE)
        mac: bytes = sock.getsockname()[4]
        number = int.from_bytes(os.urandom(4), "big")
        deadline, due = time.monotonic() + seconds, 0.0
        while (now := time.monotonic()) < deadline:
            interrupts.check()
            if now >= due:
                due = now + _AGAIN
                sock.sendto(_packet(_discover(mac, number)), (ifname, _IP, 0, 0, _BROADCAST))
            try:
                found = _offer(sock.recv(2048), number)
            except TimeoutError:
                continue
            if found:
                return Attempt(Reach.THROUGH, f"{ifname} is offered {found}")
    return Attempt(Reach.SILENT, f"nobody offers {ifname} an address")


def _discover(mac: bytes, number: int) -> bytes:
    head = _BOOTP.pack(1, 1, 6, 0, number, 0, _ASK_BROADCAST, 0, 0, 0, 0, mac, b"", b"")
    return head + _COOKIE + bytes((_TYPE, 1, _DISCOVER, 255))


def _packet(data: bytes) -> bytes:
    """Return a datagram from nowhere to everybody; its own checksum may be left out."""
    size = _PORTS.size + len(data)
    parts = (0x45, 0, _HEADER.size + size, 0, 0, 64, socket.IPPROTO_UDP)
    ends = (bytes(4), b"\xff" * 4)
    head = _HEADER.pack(*parts, int.from_bytes(checksum(_HEADER.pack(*parts, 0, *ends)), "big"), *ends)
    return head + _PORTS.pack(_CLIENT, _SERVER, size, 0) + data


def _offer(packet: bytes, number: int) -> str:
    """Return what a packet offers, and who; nothing if it is no answer to our question."""
    body = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
    data = body[_PORTS.size :]
    if len(data) < _BOOTP.size + 4 or packet[9] != socket.IPPROTO_UDP or _PORTS.unpack_from(body)[1] != _CLIENT:
        return ""
    values = _BOOTP.unpack_from(data)
    options = _options(data[_BOOTP.size + 4 :])
    if values[0] != 2 or values[4] != number or options.get(_TYPE) != bytes((_OFFER,)):
        return ""
    server = options.get(_WHO, packet[12:16])
    return f"{socket.inet_ntoa(struct.pack('!I', values[8]))} by {socket.inet_ntoa(server[:4].ljust(4, bytes(1)))}"


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 1 < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        size = data[at + 1]
        found[data[at]] = data[at + 2 : at + 2 + size]
        at += 2 + size
    return found
