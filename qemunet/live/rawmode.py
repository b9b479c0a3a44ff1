"""Puts a terminal into raw mode and back, whatever happens in between, and lets signals end a wait.

Theory of operation. A process that is killed cannot put anything back. So a child of it, which does nothing else and
has nothing open but the terminal, waits for the end of a pipe: if no word came before, it finds out whether the
terminal is still as it was left, since a shell may have put it right already, and puts it back. It is in a session of
its own: signals for the terminal's processes are not for it, and no rule of job control stops it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import termios
import tty
import typing
from dataclasses import dataclass

from qemunet import interrupts

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

_CALM = (  # what firmware and guests leave behind
    b"\x1b[0m\x1b(B\x0f\x1b[?25h\x1b[?7h\x1b[4l"  # plain letters, cursor on, lines wrap, nothing is pushed aside
    b"\x1b[?1l\x1b>\x1b[?2004l"  # keys and what is pasted as usual
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l"  # the mouse is the terminal's
    b"\x1b[?1047l\x1b7\x1b[r\x1b8"  # the screen with the shell's lines, all of which scroll
)


@dataclass(frozen=True, slots=True)
class Guard:
    """The process that restores a terminal if this one cannot; `pipe` tells it that it need not."""

    pid: int
    pipe: int

    @classmethod
    def begin(cls, terminal: int, before: list[typing.Any]) -> Guard | None:
        """Start it, while the terminal is still as it was `before`; without one if there is no room for a process."""
        theirs, ours = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(theirs)
            os.close(ours)
            return None
        if pid == 0:
            _watch_over(terminal, before, theirs)
        os.close(theirs)
        return cls(pid, ours)

    def end(self) -> None:
        """Let it go: the terminal is in order."""
        with contextlib.suppress(OSError):
            os.write(self.pipe, b"\n")
        os.close(self.pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _watch_over(terminal: int, before: list[typing.Any], pipe: int) -> typing.NoReturn:
    """Be the guard: nothing of the process that was forked is used, and none of its files held."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        keep = os.dup(terminal)
        wait = os.dup(pipe)
        os.dup2(keep, 0)
        os.dup2(wait, 1)
        os.closerange(2, os.sysconf("SC_OPEN_MAX"))
        if not os.read(1, 1) and not termios.tcgetattr(0)[3] & (termios.ICANON | termios.ISIG):
            os.write(0, _CALM + b"\r\n")
            termios.tcsetattr(0, termios.TCSAFLUSH, before)
    finally:
        os._exit(0)


@dataclass(slots=True)
class Raw:
    """Raw mode of a terminal, if stdin is one."""

    stdin: int
    stdout: int
    column_zero: bool = True
    _before: list[typing.Any] | None = None
    _guard: Guard | None = None

    def __enter__(self) -> typing.Self:
        self.on()
        return self

    def __exit__(self, *_: object) -> None:
        self.off()

    def on(self) -> None:
        if os.isatty(self.stdin):
            self._before = termios.tcgetattr(self.stdin)
            self._guard = Guard.begin(self.stdin, self._before)
            tty.setraw(self.stdin, termios.TCSADRAIN)

    def off(self) -> None:
        """Restore; input that nobody read is a terminal's answer to a guest's question and not for the shell."""
        if self._before is not None:
            with contextlib.suppress(OSError, termios.error):  # the terminal is gone
                if os.isatty(self.stdout):
                    os.write(self.stdout, _CALM + (b"" if self.column_zero else b"\r\n"))
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self.stdin, termios.TCSAFLUSH, self._before)
            self._before = None
        if self._guard is not None:
            self._guard.end()
            self._guard = None

    @property
    def is_tty(self) -> bool:
        return self._before is not None


@contextlib.contextmanager
def wakeups() -> Iterator[int]:
    """Let signals end a select(2): collect them as `interrupts` does, and give a descriptor that tells of them."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(0)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
    before = {number: signal.getsignal(number) for number in numbers}
    wakeup_before = signal.set_wakeup_fd(ends[1].fileno(), warn_on_full_buffer=False)
    interrupts.install()
    signal.signal(signal.SIGTSTP, lambda number, frame: None)
    try:
        yield ends[0].fileno()
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        for end in ends:
            end.close()
