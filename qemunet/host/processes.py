"""Knows processes: waits for their end, ends them, and tells one from another that got its number."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from qemunet import interrupts
from qemunet.errors import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_EXITING = 0x4  # PF_EXITING of linux/sched.h, in the ninth field
_SLICE = 0.1  # seconds between looks at the interrupts; a signal does not end a poll by itself


def start_time(pid: int) -> int | None:
    """Return when a process started (field 22 of proc_pid_stat(5)): with its number, its identity. None if it is gone.

    A zombie is gone: it has let go of everything, and whoever should reap it may take his time. But as long as other
    threads of it are there, it has not: they share its descriptors.
    """
    fields = _stat(pid)
    gone = not fields or (fields[0] in (b"Z", b"X") and int(fields[17]) <= 1)
    return None if gone else int(fields[19])


def is_ending(pid: int) -> bool:
    """Tell whether a process is on its way out, from which nothing keeps it: it may take seconds to free its memory."""
    fields = _stat(pid)
    return bool(fields) and (fields[0] in (b"Z", b"X") or bool(int(fields[6]) & _EXITING))


def _stat(pid: int) -> list[bytes]:
    """Return the fields of proc_pid_stat(5) from the third on; nothing if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def all_pids() -> Iterator[int]:
    """Yield the numbers of all processes that can be seen."""
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())


def session(pid: int) -> int:
    """Return the session of a process, 0 if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def writes_errors_to(pid: int, file: os.stat_result) -> bool:
    """Tell whether the standard error of a process is that file."""
    return _is(f"/proc/{pid}/fd/2", file)


def holders(path: str) -> Iterator[int]:
    """Yield the processes, but not this one, that hold a lock on a file: by a descriptor of their own or inherited."""
    try:
        file = os.stat(path)
    except OSError:
        return
    for pid in all_pids():
        if pid != os.getpid() and any(_holds(pid, fd, file) for fd in _descriptors(pid)):
            yield pid


def holds(pid: int, path: str) -> bool:
    """Tell whether a process holds a lock on a file."""
    try:
        file = os.stat(path)
    except OSError:
        return False
    return any(_holds(pid, fd, file) for fd in _descriptors(pid))


def written(path: str) -> int | None:
    """Return the number of a process that was written to a file."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def ancestors() -> Iterator[int]:
    """Yield the processes from which this one stems, the nearest first."""
    pid = os.getppid()
    while pid:
        yield pid
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0


def is_locked_by_ancestor(path: str) -> bool:
    """Tell whether a process from which this one stems holds a lock on a file, so that it cannot be waited for."""
    return bool({*ancestors()}.intersection(holders(path)))


def _holds(pid: int, fd: str, file: os.stat_result) -> bool:
    """Tell whether a descriptor is of that file and has a lock on it; whoever only looks at it has none."""
    if not _is(f"/proc/{pid}/fd/{fd}", file):
        return False
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}") as info:
            return "OFDLCK" in info.read()
    except OSError:
        return False


def _descriptors(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def _is(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


class Ending:
    """The end of a process, waited for by a descriptor of it, so that no other can be meant. Use as a context."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = -1

    def __enter__(self) -> Self:
        """Take hold of the process; raises ProcessLookupError."""
        self._fd = os.pidfd_open(self.pid)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)

    def ask(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def hang_up(self) -> None:
        """Have it read its files again, if it is one that knows this."""
        self._send(signal.SIGHUP)

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def wait(self, seconds: float) -> int | None:
        """Wait until it has ended and reap it if it is a child; return its exit status if that can be known.

        Raises TimedOut.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        deadline = time.monotonic() + seconds
        while not poll.poll(_SLICE * 1000):
            interrupts.check()
            if time.monotonic() > deadline:
                raise TimedOut(f"process {self.pid} has not ended within {seconds:g} s")
        return reap(self.pid)


def reap(pid: int) -> int | None:
    """Return the exit status of a child that has ended (negative: the signal); None if it is not ours or still runs."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if done else None
