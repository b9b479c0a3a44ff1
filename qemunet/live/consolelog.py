"""The log of a guest's console: appended to byte for byte, and moved aside when it is full."""

from __future__ import annotations

import contextlib
import os
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Callable

LOG_LIMIT = 64 << 20  # bytes


class Log:
    """The console log at `path`.

    `total` counts all bytes from the beginning of the file that was there when this was made; `turned` is what that was
    when the present file, of inode number `inode`, was begun.
    """

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self.path = path
        self.turned = 0
        self._say = say
        self._fd = self._open()
        self.total = os.fstat(self._fd).st_size
        self.inode = os.fstat(self._fd).st_ino
        self._failed = False

    def write(self, data: bytes) -> None:
        """Append; a disk that is full costs the log, never the guest."""
        if self.size + len(data) > LOG_LIMIT:
            self._turn()
        self.total += len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._say(f"{self.path}: bytes are missing from here on: {error.strerror}")
            self._failed = True

    @property
    def size(self) -> int:
        """How many bytes are in the file."""
        return self.total - self.turned

    def tail(self, size: int) -> bytes:
        """Return the last bytes, at most `size`."""
        size = max(0, min(size, os.fstat(self._fd).st_size))
        return os.pread(self._fd, size, os.fstat(self._fd).st_size - size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _turn(self) -> None:
        with contextlib.suppress(OSError):
            os.rename(self.path, f"{self.path}.1")
            full, self._fd = self._fd, self._open()
            os.close(full)
            self.turned, self.inode = self.total, os.fstat(self._fd).st_ino
