"""Where a capture goes: a file, a FIFO or standard output, each frame at once."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time

from qemunet import interrupts
from qemunet.errors import Failed, Interrupted, UsageError

_GLANCE = 0.1  # seconds between two looks whether the user interrupted
_GRACE = 2.0  # seconds that a reader has to go on when he did
_ATOMIC = 4096  # PIPE_BUF: what a pipe that is ready takes without blocking


class Sink:
    """An output: `path` "-" is standard output; a FIFO is waited for until somebody reads it.

    Raises UsageError for what is neither, nor a file, and OSError. A file is left alone until `begin`.
    """

    def __init__(self, path: str) -> None:
        check(path)
        self.path = path
        self.fd: int | None = None
        if path == "-":
            self.fd = sys.stdout.fileno()
        elif _is_fifo(path):
            self.fd = _open(path)
        self._regular = False
        self._good = 0

    def begin(self, data: bytes) -> None:
        """Write the first bytes. A file is emptied for that, and gets mode 0600 if it is new."""
        if self.fd is None:
            self.fd = _open(self.path)
        self._regular = stat.S_ISREG(os.fstat(self.fd).st_mode)
        if self._regular and self.path != "-":
            os.ftruncate(self.fd, 0)
        self.write(data)

    def write(self, data: bytes) -> None:
        """Write whole records; raises Failed (a full disk), BrokenPipeError, or Interrupted while nobody takes them."""
        assert self.fd is not None, "it has begun"
        if self._regular:
            self._store(self.fd, data)
        else:
            _pour(self.fd, data)

    def close(self) -> None:
        """Close it; standard output stays open."""
        if self.fd is not None and self.path != "-":
            os.close(self.fd)

    def _store(self, fd: int, data: bytes) -> None:
        """Write to a file; if it takes no more, no half record is left in it."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            if self.path != "-":
                os.ftruncate(fd, self._good)
            raise Failed(f"cannot write: {error.strerror}", where=self.path, hint="what was written is kept") from error
        self._good += len(data)


def _pour(fd: int, data: bytes) -> None:
    """Write to a pipe, never blocking for longer than the user wants."""
    view = memoryview(data)
    giving_up: float | None = None
    while view:
        if select.select([], [fd], [], _GLANCE)[1]:
            view = view[os.write(fd, view[:_ATOMIC]) :]
        elif giving_up is None:
            giving_up = time.monotonic() + _GRACE if interrupted() else None
        elif time.monotonic() > giving_up:
            raise Interrupted("nobody takes what was captured")


def interrupted() -> bool:
    """Tell whether ^C, TERM or HUP has come."""
    try:
        interrupts.check()
    except Interrupted:
        return True
    return False


def check(path: str) -> None:
    """Raise UsageError for what cannot be written a capture to; touches nothing."""
    if path == "-":
        if sys.stdout.isatty():
            raise UsageError("a capture is nothing for a terminal", hint="`-w FILE`, or `-w - | tcpdump -r -`")
        return
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise UsageError("is neither a file nor a FIFO", where=path, hint="`-w -` writes to standard output")


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _open(path: str) -> int:
    while True:
        check(path)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        interrupts.check()  # a FIFO that nobody reads yet
        select.select([], [], [], _GLANCE)
    os.set_blocking(fd, True)
    return fd
