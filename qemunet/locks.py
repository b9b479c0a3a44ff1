"""Locks that die with their holders, on files and on directories.

A lock on a file belongs to an open file description (F_OFD_SETLK, fcntl(2)): like a flock it is inherited and ends with
its last holder, and unlike a flock it can be asked about without being taken. A directory cannot be opened for writing,
which such a lock needs: it gets a flock.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from functools import partial

from qemunet import interrupts
from qemunet.errors import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE, _GLANCE = 120.0, 0.005  # seconds to wait for a lock, and between two tries
_FLOCK = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid
_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class Lock:
    """A lock on a file that still has its name."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, path: str, *, wait: bool = False, create: bool = False) -> Lock | None:
        """Lock the file; None if somebody else has it (without `wait`), or if it is not there (without `create`).

        A file that was removed between opening and locking is not the one that others will look at: again.
        Raises FileNotFoundError when it should be created and its directory is gone.
        """
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
            except FileNotFoundError:
                if create:
                    raise
                return None
            try:
                _try(partial(fcntl.fcntl, fd, fcntl.F_OFD_SETLK, _WHOLE_FILE), path, wait=wait)
            except BlockingIOError:
                os.close(fd)
                return None
            except BaseException:
                os.close(fd)
                raise
            if _is_at(fd, path):
                return cls(fd)
            os.close(fd)

    def release(self) -> None:
        """Close the file; the lock goes with its last descriptor, an inherited one included."""
        os.close(self.fd)


def is_locked(path: str) -> bool:
    """Tell whether somebody holds a lock on the file; only asks, so that nobody else is ever refused for it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _refuses(fd, _WHOLE_FILE)
    finally:
        os.close(fd)


def is_byte_locked(fd: int, byte: int) -> bool:
    """Tell whether somebody holds a lock on a byte of an open file; only asks. No, where there are no such locks."""
    try:
        return _refuses(fd, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except OSError:
        return False


def _refuses(fd: int, wanted: bytes) -> bool:
    kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted))[0]
    return kind != fcntl.F_UNLCK


def hold_directory(fd: int, path: str) -> bool:
    """Wait for the lock on an open directory; return False if it has lost its name meanwhile."""
    try:
        _try(partial(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB), path, wait=True)
    except BaseException:
        os.close(fd)
        raise
    return _is_at(fd, path)


def _try(lock: Callable[[], object], path: str, *, wait: bool) -> None:
    """Lock something; if `wait`, try until it can be had, the user interrupts, or it takes too long.

    Neither kind of lock can be waited for in a way that a signal ends. Raises BlockingIOError, Interrupted, TimedOut.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            lock()
        except BlockingIOError:
            if not wait:
                raise
        else:
            return
        interrupts.check()
        if time.monotonic() > deadline:
            raise TimedOut(f"somebody has worked on it for {_PATIENCE:g} s", where=path)
        select.select([], [], [], _GLANCE)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
