"""The pcap format: Ethernet frames with the nanosecond at which each was seen (pcap-savefile(5))."""

from __future__ import annotations

import json
import struct
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

SNAPLEN = 262_144  # bytes; no frame is longer, whatever was offloaded
_MAGIC = 0xA1B2_3C4D  # times have nanoseconds
_ETHERNET = 1  # LINKTYPE_ETHERNET
_BILLION = 1_000_000_000
_NO_TIME = 0xFFFF_FFFF

# In this machine's byte order; the magic number tells a reader which that is.
_HEADER = struct.Struct("=IHHiIII")
_RECORD = struct.Struct("=IIII")

HEADER = _HEADER.pack(_MAGIC, 2, 4, 0, 0, SNAPLEN, _ETHERNET)


def record(time: int, frame: bytes | bytearray | memoryview, length: int = 0) -> bytes:
    """Return the record of a frame seen at `time` (ns since the epoch); `length`: its own, if more than is there."""
    seconds, rest = divmod(time, _BILLION)
    return _RECORD.pack(seconds & _NO_TIME, rest, len(frame), max(length, len(frame))) + frame


def last_record(words: dict[str, object]) -> bytes:
    """Return what ends a stream between us: a record at no time, whose content is JSON; it is not for a file."""
    text = json.dumps(words).encode()
    return _RECORD.pack(_NO_TIME, _NO_TIME, len(text), len(text)) + text


class Stream:
    """Takes a pcap stream apart as it comes; `words` is what its last record says, once that was there."""

    def __init__(self) -> None:
        self._data = b""
        self._begun = False
        self.words: dict[str, object] | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the records that are complete now, each with its header; raises ValueError if it is no such stream."""
        self._data += data
        return list(self._records())

    def _records(self) -> Iterator[bytes]:
        at = 0
        if not self._begun:
            if len(self._data) < len(HEADER):
                return
            if not self._data.startswith(HEADER):
                raise ValueError("not a stream of frames")
            at, self._begun = len(HEADER), True
        while (end := self._end(at)) <= len(self._data):
            one = self._data[at:end]
            at = end
            if _RECORD.unpack_from(one)[:2] == (_NO_TIME, _NO_TIME):
                self.words = json.loads(one[_RECORD.size :])
                break
            yield one
        self._data = self._data[at:]

    def _end(self, at: int) -> int:
        """Return where the record at `at` ends, which may be beyond what has come."""
        if at + _RECORD.size > len(self._data):
            return len(self._data) + 1
        size: int = _RECORD.unpack_from(self._data, at)[2]
        if size > SNAPLEN:
            raise ValueError(f"a frame of {size} bytes")
        return at + _RECORD.size + size
