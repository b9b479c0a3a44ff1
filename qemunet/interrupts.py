"""Turns ^C, TERM and HUP into a flag that is looked at between steps, so that none ever falls into the middle of one.

A wait inside a step looks at the flag too, by `check` in its loop. While things are taken back nobody looks:
a second ^C waits for the end of that. Whoever works for another process can watch a socket of its: when that
closes, the other one was killed, which counts as an interrupt.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

from qemunet.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_seen: list[int] = []
_lifelines: list[socket.socket] = []
_deferred: list[None] = []


def install() -> None:
    """Collect the signals from now on instead of dying of them; main thread only."""
    for number in _SIGNALS:
        signal.signal(number, _note)


def check() -> None:
    """Raise `Interrupted` if one of the signals has arrived, unless they are deferred."""
    if _deferred:
        return
    if _seen:
        raise Interrupted(f"interrupted by {signal.Signals(_seen[0]).name}")
    if any(map(_is_closed, _lifelines)):
        raise Interrupted("the process that asked for this is gone")


def pending() -> bool:
    """Tell whether one of the signals has arrived."""
    return bool(_seen)


def watch(lifeline: socket.socket) -> None:
    """Take the other side's closing of this socket as an interrupt."""
    _lifelines.append(lifeline)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let nobody be interrupted within: for taking things back."""
    _deferred.append(None)
    try:
        yield
    finally:
        _deferred.pop()


def forget() -> None:
    """Forget what has arrived and what is watched."""
    _seen.clear()
    _lifelines.clear()


def _note(number: int, _frame: object) -> None:
    _seen.append(number)


def _is_closed(lifeline: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError):
        return not lifeline.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False
