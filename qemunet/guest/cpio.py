"""Writes an initramfs archive: the "newc" form of cpio, as the kernel unpacks it."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, TypeAlias

from qemunet.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
BLOCK = 512  # archives are padded to it, so that several can follow each other


@frozen
class Directory:
    """A directory; it must come before what lies in it."""

    path: str
    mode: int = 0o755


@frozen
class File:
    """A regular file with its content."""

    path: str
    content: bytes
    mode: int = 0o644


@frozen
class Symlink:
    """A symbolic link."""

    path: str
    target: str


@frozen
class CharDevice:
    """A character device node."""

    path: str
    major: int
    minor: int
    mode: int = 0o600


@frozen
class Fifo:
    """A named pipe."""

    path: str
    mode: int = 0o600


Entry: TypeAlias = Directory | File | Symlink | CharDevice | Fifo


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of these entries, in their order; the same entries give the same bytes."""
    parts = [_member(number, entry) for number, entry in enumerate(entries, start=1)]
    parts.append(_record(0, TRAILER, 0, b""))
    joined = b"".join(parts)
    return joined + bytes(-len(joined) % BLOCK)


def _member(number: int, entry: Entry) -> bytes:
    path = entry.path.strip("/")
    match entry:
        case Directory(mode=mode):
            return _record(number, path, stat.S_IFDIR | mode, b"", links=2)
        case File(content=content, mode=mode):
            return _record(number, path, stat.S_IFREG | mode, content)
        case Symlink(target=target):
            return _record(number, path, stat.S_IFLNK | 0o777, target.encode())
        case CharDevice(major=major, minor=minor, mode=mode):
            return _record(number, path, stat.S_IFCHR | mode, b"", device=(major, minor))
        case Fifo(mode=mode):
            return _record(number, path, stat.S_IFIFO | mode, b"")


def _record(
    number: int, path: str, mode: int, content: bytes, *, links: int = 1, device: tuple[int, int] = (0, 0)
) -> bytes:
    name = path.encode() + b"\0"
    owner, group, time, checksum = 0, 0, 0, 0
    fields = (number, mode, owner, group, links, time, len(content), 0, 0, *device, len(name), checksum)
    head = MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
