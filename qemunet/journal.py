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

A record may say which card it is *about*, so that a card can be taken back alone. A live change is an *operation*: its
records have its number. A line ``prepare`` says that drafts of its files are written, and the line ``commit`` makes it
final, all at once: it names the records that are ``kept`` by that, and those that are ``over``, which are to be undone
now, and has records of its own of what it ``owes`` in their place. What an operation without one did is to be undone
by whoever comes next, and what is over as well. `compact` drops what is done with, or a guest whose cards come and go
would have an endless journal.
"""

from __future__ import annotations

import errno
import json
import os

from qemunet import steps
from qemunet.frozen import as_dict, frozen, is_frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from qemunet.steps import Step

_OPERATIONS = ("op", "prepare", "commit")  # where a record names one
_ROOM = 1 << 14  # bytes; a journal that is smaller is not worth the work
_SCRAPPED = b"~\n"  # after a torn line, of which only the end may be missing: it must not become a record


@frozen
class Owed:
    """Something to be undone: the number of its record, what had been done, what undoes it, and for which card.

    `operation` is the number of the live change that did it, 0 for the start.
    """

    number: int
    what: str
    undo: Step
    about: str = ""
    operation: int = 0


class Journal:
    """A scope's journal at `path`; made if it is not there, continued if it is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        records = list(_records(self._fd))
        made = [record for record in records if "do" in record]
        made += [one for record in records for one in record.get("owes", ())]
        self._number = max((record["n"] for record in made), default=0)
        self._operation = max((record.get(key, 0) for record in records for key in _OPERATIONS), default=0)
        self._unwritten: list[dict[str, Any]] = []

    def intent(self, step: Step, undo: Step | None, about: str = "", operation: int = 0) -> int:
        """Record that `step` is about to be done; return the number of the record."""
        self._number += 1
        record = {"n": self._number, "do": step.describe(), "undo": undo and to_json(undo)}
        record |= {"of": about} if about else {}
        self._write(record | {"op": operation} if operation else record)
        return self._number

    def begin(self) -> int:
        """Return the number of a new operation."""
        self._operation += 1
        return self._operation

    def prepare(self, operation: int) -> None:
        """Record that an operation is about to be final: drafts that are found from now on are its own."""
        self._write({"prepare": operation})

    def commit(
        self,
        operation: int,
        *,
        kept: Iterable[int] = (),
        over: Iterable[int] = (),
        owes: Iterable[tuple[str, Step, str]] = (),
    ) -> None:
        """Record that an operation is final, and with it which records are kept and which are over.

        `owes` is what is to be undone from then on: what it is, what undoes it, and for which card. Raises OSError if
        there is no room for that, and then it is not.
        """
        named: dict[str, object] = {"kept": sorted(kept), "over": sorted(over)}
        numbered = enumerate(owes, self._number + 1)
        new = [_record(Owed(number, what, undo, about)) for number, (what, undo, about) in numbered]
        named["owes"] = new
        self._write({"commit": operation, **{key: several for key, several in named.items() if several}})
        self._number += len(new)

    def is_committed(self) -> bool:
        """Tell whether nothing was done or prepared since an operation was made final."""
        records = list(self._records())
        return bool(records) and "commit" in records[-1]

    def unfinished(self) -> list[int]:
        """Return the numbers of the operations that did something and were neither made final nor taken back."""
        committed = {record["commit"] for record in self._records() if "commit" in record}
        return sorted({owed.operation for owed in self.owed(started=True)} - committed - {0})

    def overdue(self) -> list[Owed]:
        """Return what should have been undone by now, newest first: of operations not final, and what is over."""
        unfinished = self.unfinished()
        over = {number for record in self._records() for number in record.get("over", ())}
        return [one for one in self.owed(started=True) if one.number in over or one.operation in unfinished]

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
            elif "commit" in record:
                for number in record.get("kept", ()) if started else ():
                    owed.pop(number, None)
                owed |= {one["n"]: _owed(one) for one in record.get("owes", ())}
            elif record.get("undo"):
                owed[record["n"]] = _owed(record)
        return list(reversed(owed.values()))

    def compact(self) -> None:
        """Leave out what is over, of a guest that runs: the last thing to do before giving up the right to work on it.

        The lock goes with the old file; who waits for it looks again. What cannot be written stays as it is.
        """
        owed = list(reversed(self.owed(started=True)))
        if self.overdue() or self._unwritten or os.fstat(self._fd).st_size < _ROOM:
            return
        if _written(f"{self.path}.new", b"".join(_line(_record(one)) for one in owed)):
            os.rename(f"{self.path}.new", self.path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _records(self) -> Iterator[dict[str, Any]]:
        yield from _records(self._fd)
        yield from self._unwritten

    def _write(self, record: dict[str, Any]) -> None:
        """Append a line, or raise OSError; what a full disk took of it is no line, nor part of the next one."""
        line = _line(record)
        data = _SCRAPPED + line if _is_torn(self._fd) else line
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


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _owed(record: dict[str, Any]) -> Owed:
    return Owed(record["n"], record["do"], from_json(record["undo"]), record.get("of", ""), record.get("op", 0))


def _record(owed: Owed) -> dict[str, Any]:
    about = {"of": owed.about} if owed.about else {}
    return {"n": owed.number, "do": owed.what, "undo": to_json(owed.undo), **about}


def _written(path: str, data: bytes) -> bool:
    """Write a file of our own; tell whether there was room for all of it, and else leave none."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        whole = os.write(fd, data) == len(data)
    except OSError:
        whole = False
    finally:
        os.close(fd)
    if not whole:
        os.unlink(path)
    return whole


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
