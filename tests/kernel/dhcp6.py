"""Asks for an address by DHCPv6 and prints it: ``dhcp6.py INTERFACE MAC``, a program of its own."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time

SOLICIT, REQUEST = 1, 3
CLIENT_ID, SERVER_ID, IA_NA, IA_ADDRESS, ELAPSED = 1, 2, 3, 5, 8
PATIENCE = 10.0  # seconds


def option(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value


def options(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        kind, size = struct.unpack_from("!HH", data)
        found[kind], data = data[4 : 4 + size], data[4 + size :]
    return found


def ask(sock: socket.socket, index: int, kind: int, *more: bytes) -> dict[int, bytes]:
    """Ask all servers until one answers."""
    message = struct.pack("!I", kind << 24 | 0xABCDEF) + b"".join(more) + option(ELAPSED, b"\0\0")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            sock.sendto(message, ("ff02::1:2", 547, 0, index))
            return options(sock.recv(4096)[4:])
        except OSError:  # the link has no address yet, or nobody has answered
            continue
    sys.exit("nobody answers")


def main(interface: str, mac: str) -> None:
    index = socket.if_nametoindex(interface)
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.settimeout(0.2)
    sock.bind(("::", 546))
    me = option(CLIENT_ID, b"\0\3\0\1" + bytes.fromhex(mac.replace(":", "")))
    wish = option(IA_NA, struct.pack("!III", 7, 0, 0))
    offer = ask(sock, index, SOLICIT, me, wish)
    answer = ask(sock, index, REQUEST, me, option(SERVER_ID, offer[SERVER_ID]), option(IA_NA, offer[IA_NA]))
    print(ipaddress.ip_address(options(answer[IA_NA][12:])[IA_ADDRESS][:16]))


if __name__ == "__main__":
    main(*sys.argv[1:])
