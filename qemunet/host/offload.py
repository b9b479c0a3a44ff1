"""Sets what an interface leaves to its hardware, by ethtool's own system call."""

from __future__ import annotations

import fcntl
import socket
import struct
from array import array

_SIOCETHTOOL = 0x8946
_GTXCSUM, _STXCSUM = 0x16, 0x17  # linux/ethtool.h: checksums of what is sent


def sends_unfinished(name: str) -> bool:
    """Tell whether checksums of what is sent by an interface are left to it."""
    return bool(_ask(name, _GTXCSUM, 0))


def set_checksums(name: str, *, on: bool) -> None:
    """Leave checksums of what is sent to an interface, or have them made before; raises OSError."""
    _ask(name, _STXCSUM, int(on))


def _ask(name: str, command: int, value: int) -> int:
    said = array("I", (command, value))  # struct ethtool_value
    address, _ = said.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    return said[1]
