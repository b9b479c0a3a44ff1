"""Reads a file that grows, as `tail -f` does, by inotify(7), until it is removed."""

from __future__ import annotations

import contextlib
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MODIFY, _ATTRIB, _MOVED_TO, _CREATE, _DELETE_SELF, _MOVE_SELF = 0x2, 0x4, 0x80, 0x100, 0x400, 0x800
_CHUNK = 1 << 16


def follow(path: str) -> Iterator[bytes]:
    """Yield what the file holds and then what is added, until it is unlinked; waits for one that is not there yet.

    When another file takes its place, as logs do that have become too long, that one is followed; if that was moved
    aside as well, to the same name with ``.1``, that comes first. It ends at once if the file's directory is not there
    either.
    """
    renamed, before = True, None
    while renamed and (fd := _opened(path)) is not None:
        try:
            if before is not None:
                yield from _between((before, os.fstat(fd)), f"{path}.1")
            yield from _to_the_end(fd, path)
            before = os.fstat(fd)
            renamed = before.st_nlink > 0 or os.path.exists(path)
        finally:
            os.close(fd)


def _between(known: tuple[os.stat_result, os.stat_result], older: str) -> Iterator[bytes]:
    """Yield what is in the file that was moved aside last, unless it is one of those that are read anyway."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(older, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not any(os.path.samestat(one, os.fstat(fd)) for one in known):
                yield from _rest(fd)
        finally:
            os.close(fd)


def _to_the_end(fd: int, path: str) -> Iterator[bytes]:
    """Yield what is in an open file, until it has its name no more."""
    with _watching(f"/proc/self/fd/{fd}", _MODIFY | _ATTRIB | _MOVE_SELF) as changes:
        while True:
            last = not _is_at(fd, path)  # before reading: what was written before that is still read
            yield from _rest(fd)
            if last:
                return
            _wait(changes)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _opened(path: str) -> int | None:
    """Open the file as soon as it is there; None if its directory goes away."""
    directory = os.path.dirname(path)
    try:
        with _watching(directory, _CREATE | _MOVED_TO | _DELETE_SELF) as changes:
            while os.path.isdir(directory):
                with contextlib.suppress(FileNotFoundError):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                _wait(changes)
    except FileNotFoundError:
        pass
    return None


def _rest(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, _CHUNK):
        yield data


@contextlib.contextmanager
def _watching(path: str, mask: int) -> Iterator[int]:
    """Yield a descriptor that becomes readable when what `mask` names happens to `path`."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(path), mask) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)


def _wait(changes: int) -> None:
    """Wait for the next changes, as long as it takes: the user ends it, or the guest does."""
    select.select([changes], [], [])
    with contextlib.suppress(BlockingIOError):
        while os.read(changes, _CHUNK):
            pass
