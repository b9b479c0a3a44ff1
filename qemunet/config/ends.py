"""How the other end of a card is written where that is no interface of this host: addresses of sockets, groups."""

from __future__ import annotations

import re

from qemunet.config import units
from qemunet.config.hints import Bad
from qemunet.model.remote import Address, InetAddress, UnixAddress

UNIX = "unix:"
LONGEST = 107  # bytes of a socket's path (unix(7))
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_DEVICE = re.compile(r"([0-9a-f]{4}:)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])")
_EXAMPLE = 'as in "127.0.0.1:5000", "[::1]:5000" or "unix:/run/a.sock"'


def address(text: str) -> Address:
    """Read ``ADDR:PORT``, ``[ADDR]:PORT`` or ``unix:PATH``; without ADDR it is all of them. Raises Bad."""
    if text.startswith(UNIX):
        path = text.removeprefix(UNIX)
        if not path or len(path.encode()) > LONGEST:
            raise Bad(f'"{text}" is not a path of 1 to {LONGEST} bytes', 'as in "unix:/run/a.sock"')
        return UnixAddress(path)
    return inet(text)


def inet(text: str) -> InetAddress:
    """Read ``ADDR:PORT`` or ``[ADDR]:PORT``; raises Bad."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not port.isascii() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise Bad(f'"{text}" is not an address with a port', _EXAMPLE)
    if host.startswith("[") and host.endswith("]"):
        host = units.ip(host[1:-1])
        if ":" not in host:
            raise Bad(f'"{text}" has brackets around an IPv4 address', f'write "{host}:{port}"')
    elif ":" in host:
        raise Bad(f'"{text}" is not an address with a port', 'an IPv6 address has brackets, as in "[::1]:5000"')
    elif host and not _NAME.fullmatch(host):
        raise Bad(f'"{text}" is not an address with a port', _EXAMPLE)
    elif re.fullmatch(r"[0-9.]+", host):
        units.ip(host)
    return InetAddress(host, int(port))


def group(text: str) -> InetAddress:
    """Read a multicast group of IPv4 with its port; raises Bad."""
    found = inet(text)
    first = found.host.partition(".")[0]
    if not re.fullmatch(r"[0-9.]+", found.host) or not 224 <= int(first) <= 239:
        raise Bad(f'"{text}" is not a multicast group of IPv4 with a port', 'as in "230.0.0.1:1234"')
    return found


def device(text: str) -> str:
    """Read where a PCI device is, ``DDDD:BB:DD.F`` or ``BB:DD.F``, and return all of it; raises Bad."""
    found = _DEVICE.fullmatch(text.lower())
    if found is None:
        raise Bad(f'"{text}" is not the address of a PCI device', 'as in "0000:03:00.1"; `lspci -D` lists them')
    return f"{found[1] or '0000:'}{found[2]}"
