"""The frames between a command that runs in a guest and whoever asked for it, on a connection to the keeper.

A frame is its kind (one byte), the number of bytes that follow (four, the most significant first), and those bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum

HEADER = struct.Struct("!BI")
PIECE = 49152  # bytes that a guest sends at once, at most: it sends what there is
BULK = 1 << 18  # likewise, where it waits until there are so many; and bytes of input in a frame, at most
LONGEST = 1 << 20  # bytes of any frame


class Kind(IntEnum):
    """What a frame carries."""

    INPUT = 0  # to the command
    EOF = 1  # there is no more input
    KILL = 2  # the command is to end
    OUT = 3  # what it wrote
    ERR = 4  # and where errors go
    END = 5  # the last frame, JSON: ``{"status": N}``, or ``{"error": {kind, message, where, hint}}``


def frame(kind: Kind, data: bytes = b"") -> bytes:
    """Return a frame."""
    return HEADER.pack(kind, len(data)) + data


class Frames:
    """Takes apart what arrives; raises ValueError for what is no frame."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    def add(self, data: bytes) -> None:
        """Take in what came."""
        self._data += data

    def next(self) -> tuple[Kind, bytes] | None:
        """Return the next frame that is complete."""
        if len(self._data) < HEADER.size:
            return None
        kind, size = HEADER.unpack_from(self._data)
        if size > LONGEST:
            raise ValueError(f"a frame of {size} bytes")
        end = HEADER.size + size
        if len(self._data) < end:
            return None
        data = bytes(self._data[HEADER.size : end])
        del self._data[:end]
        return Kind(kind), data
