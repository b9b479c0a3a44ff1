"""Reads a pcap file as its format says, for tests; nothing of the code under test helps it."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """One frame with the nanosecond of its record."""

    time: int
    data: bytes

    @property
    def to(self) -> str:
        return self.data[:6].hex(":")

    @property
    def by(self) -> str:
        return self.data[6:12].hex(":")

    @property
    def kind(self) -> int:
        return int.from_bytes(self.data[12:14], "big")

    @property
    def payload(self) -> bytes:
        return self.data[14:]


def parse(data: bytes) -> list[Frame]:
    """Return the frames of a classic pcap of Ethernet; it must be whole to the last byte."""
    magic, major, minor, zone, figures, longest, kind = struct.unpack_from("<IHHiIII", data)
    assert magic == 0xA1B23C4D, "nanoseconds, in this machine's byte order"
    assert (major, minor, zone, figures, longest, kind) == (2, 4, 0, 0, 262144, 1)
    frames = []
    at = 24
    while at < len(data):
        seconds, rest, size, length = struct.unpack_from("<IIII", data, at)
        assert rest < 1_000_000_000
        assert size <= length <= 262144
        assert at + 16 + size <= len(data), "the last record is whole"
        frames.append(Frame(seconds * 1_000_000_000 + rest, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return frames


def pings(frames: list[Frame]) -> list[tuple[str, str, int]]:
    """Return from whom to whom, and the type, of each ICMP echo (8: request, 0: reply)."""
    echoes = [frame for frame in frames if frame.kind == 0x0800 and frame.payload[9] == 1]
    return [(frame.by, frame.to, frame.payload[(frame.payload[0] & 15) * 4]) for frame in echoes]
