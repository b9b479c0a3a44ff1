"""Puts a terminal into raw mode and back, whatever happens in between, and lets signals end a wait."""

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

_CALM = b"\x1b[0m\x1b[?25h\x1b[?7h"  # colours off, cursor on, lines wrap: what firmware and guests leave behind


@dataclass(slots=True)
class Raw:
    """Raw mode of a terminal, if stdin is one."""

    stdin: int
    stdout: int
    column_zero: bool = True
    _before: list[typing.Any] | None = None

    def __enter__(self) -> typing.Self:
        self.on()
        return self

    def __exit__(self, *_: object) -> None:
        self.off()

    def on(self) -> None:
        if os.isatty(self.stdin):
            self._before = termios.tcgetattr(self.stdin)
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
