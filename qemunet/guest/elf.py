"""Reads what we need of an ELF file: its sections, whether it is static, and a kernel's loadable bytes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from qemunet.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"\x7fELF"
PT_LOAD, PT_INTERP = 1, 3
SHT_NOBITS = 8


@frozen
class Header:
    """Where the tables of a 64 bit ELF file lie: offset, size of one entry, number of entries."""

    segments: tuple[int, int, int]
    sections: tuple[int, int, int]
    names: int  # the section that holds the names of the sections


@frozen
class Segment:
    """One program header; `position` is where it lies in the file."""

    position: int
    kind: int
    offset: int
    size: int


def header(data: bytes) -> Header:
    """Read the file's header; ValueError when it is no 64 bit little-endian ELF file."""
    if data[:6] != MAGIC + b"\x02\x01":
        raise ValueError("not a 64 bit little-endian ELF file")
    segments, sections = struct.unpack_from("<QQ", data, 32)
    numbers = struct.unpack_from("<HHHHH", data, 54)
    return Header((segments, numbers[0], numbers[1]), (sections, numbers[2], numbers[3]), numbers[4])


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the program headers."""
    start, step, count = header(data).segments
    for position in range(start, start + step * count, step):
        (kind,) = struct.unpack_from("<I", data, position)
        offset, _virtual, _physical, size = struct.unpack_from("<QQQQ", data, position + 8)
        yield Segment(position, kind, offset, size)


def is_static(data: bytes) -> bool:
    """Whether the program needs no dynamic loader."""
    return all(segment.kind != PT_INTERP for segment in segments(data))


def section(data: bytes, wanted: bytes) -> bytes:
    """Return the content of a section, empty when there is none of that name."""
    head = header(data)
    start, step, count = head.sections
    (names,) = struct.unpack_from("<Q", data, start + head.names * step + 24)
    for position in range(start, start + step * count, step):
        name, kind = struct.unpack_from("<II", data, position)
        if kind != SHT_NOBITS and data.startswith(wanted + b"\0", names + name):
            offset, size = struct.unpack_from("<QQ", data, position + 24)
            return data[offset : offset + size]
    return b""


def trim(data: bytes) -> bytes:
    """Return a kernel without the zeros at its end and without its section table.

    A third of the file can be zeros (the kernel's unset variables), which QEMU would read at every start; the
    loader fills with zeros whatever a segment lacks in the file.
    """
    used = len(data[: _loaded_end(data)].rstrip(b"\0"))
    kernel = bytearray(data[:used])
    for segment in segments(data):
        if segment.kind == PT_LOAD and segment.offset + segment.size > used:
            struct.pack_into("<Q", kernel, segment.position + 32, max(0, used - segment.offset))
    struct.pack_into("<Q", kernel, 40, 0)
    struct.pack_into("<HHH", kernel, 58, 0, 0, 0)
    return bytes(kernel)


def _loaded_end(data: bytes) -> int:
    return max(segment.offset + segment.size for segment in segments(data) if segment.kind == PT_LOAD)
