"""The record of what was done, written before it is done, from which everything can be undone.

Theory of operation. A scope has one file of JSON lines. Before a step, a line says what will be done and what
undoes it (``do``, ``undo``); after it, a line says that it was (``done``) or failed (``failed``); taking it back adds
``undone``. A process may be killed between any two of these: a step without ``done`` may have happened or not, so
its undo is owed like any other, and undoing what is not there counts as done. Each line is one write(2) to a
file opened for appending, hence whole; a torn last line (a full disk) is as good as not written, because
nothing was done yet: an intent that cannot be written is an error. How it went is remembered here if it cannot be
written, because taking back must go on. The file lives in a runtime directory, which does not outlive the kernel: no
fsync.

``kept`` takes an undo off the record if the guest was started: it is for what the user gets for good. It is written
before the start is final, because afterwards there may be no room for it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import Any

from qemunet import steps
from qemunet.frozen import as_dict, frozen, is_frozen
from qemunet.steps import Step


@frozen
class Owed:
    """Something to be undone: the number of its record, what had been done, and what undoes it."""

    number: int
    what: str
    undo: Step


class Journal:
    """A scope's journal at `path`; made if it is not there, continued if it is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._number = sum("do" in record for record in _records(self._fd))
        self._unwritten: list[dict[str, Any]] = []

    def intent(self, step: Step, undo: Step | None) -> int:
        """Record that `step` is about to be done; return the number of the record."""
        self._number += 1
        self._write({"n": self._number, "do": step.describe(), "undo": undo and to_json(undo)})
        return self._number

    def mark(self, number: int, how: str) -> None:
        """Record how it went: ``done``, ``failed``, ``undone`` or ``kept``."""
        record = {"n": number, "is": how}
        try:
            self._write(record)
        except OSError:
            if how == "kept":  # whoever reads the journal later would take it from the user
                raise
            self._unwritten.append(record)

    def owed(self, *, started: bool = False) -> list[Owed]:
        """Return what has to be undone, newest first; `started`: the guest ran, so what is ``kept`` stays."""
        over = {"undone", "kept"} if started else {"undone"}
        owed: dict[int, Owed] = {}
        for record in self._records():
            if record.get("is") in over:
                owed.pop(record["n"], None)
            elif record.get("undo"):
                owed[record["n"]] = Owed(record["n"], record["do"], from_json(record["undo"]))
        return list(reversed(owed.values()))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _records(self) -> Iterator[dict[str, Any]]:
        yield from _records(self._fd)
        yield from self._unwritten

    def _write(self, record: dict[str, Any]) -> None:
        """Append a line, or raise OSError; what a full disk took of it is no line, nor part of the next one."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        data = b"\n" + line if _is_torn(self._fd) else line
        if os.write(self._fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)


def to_json(value: Any) -> Any:
    """Return a step as JSON values; a value type becomes an object with its type under ``_``."""
    if is_frozen(value):
        named = {name: to_json(item) for name, item in as_dict(value).items()}
        return {"_": type(value).__name__, **named}
    return [to_json(item) for item in value] if isinstance(value, tuple) else value


def from_json(value: Any) -> Any:
    """Return the step that `to_json` was given."""
    if isinstance(value, dict):
        kind = getattr(steps, value["_"])
        return kind(**{name: from_json(item) for name, item in value.items() if name != "_"})
    return tuple(from_json(item) for item in value) if isinstance(value, list) else value


def _is_torn(fd: int) -> bool:
    """Tell whether the last line has no end."""
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def _records(fd: int) -> Iterator[dict[str, Any]]:
    """Yield the whole records of an open journal; a torn last line is left out."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    for text in data.split(b"\n")[:-1]:
        try:
            yield json.loads(text)
        except ValueError:
            continue
