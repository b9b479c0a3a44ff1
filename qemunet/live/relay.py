"""Joins this process's standard input and outputs with a command in a guest, until that ends."""

from __future__ import annotations

import contextlib
import os
import select
import time
import typing

from qemunet import interrupts
from qemunet.errors import Interrupted
from qemunet.live.frames import BULK, Kind
from qemunet.live.inside import Expired
from qemunet.live.rawmode import wakeups

if typing.TYPE_CHECKING:
    from qemunet.live.inside import Command

_OUTPUTS = {Kind.OUT: 1, Kind.ERR: 2}


def join(command: Command, stdin: int | None, timeout: float | None = None) -> int:
    """Pass on what comes and goes; return the command's exit status.

    `stdin` is a descriptor, or None if the command was begun without input. What is not taken here waits in the guest.
    Raises Expired after `timeout` seconds, Interrupted on a signal, BrokenPipeError when nobody reads the output any
    more; the command has been killed then.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with wakeups() as wakeup:
        try:
            while command.status is None:
                interrupts.check()
                if deadline is not None and time.monotonic() > deadline:
                    raise Expired(f"the command was killed after {timeout:g} s", where=command.place)
                stdin = _turn(command, stdin, wakeup, deadline)
        except (Interrupted, Expired, BrokenPipeError):
            command.kill()
            raise
        return command.status


def _turn(command: Command, stdin: int | None, wakeup: int, deadline: float | None) -> int | None:
    """Wait until something can be done, and do it; return where input comes from, None once that has ended."""
    hearing = [wakeup, command.sock.fileno()]
    hearing += [stdin] if stdin is not None and not command.full else []
    telling = [command.sock.fileno()] if command.full else []
    patience = None if deadline is None else max(0.0, deadline - time.monotonic())
    ready, writable, _ = select.select(hearing, telling, [], patience)
    if wakeup in ready:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 256)
    if writable:
        command.flush()
    if command.sock.fileno() in ready:
        for kind, data in command.frames():
            _write(_OUTPUTS[kind], data)
    if stdin is not None and stdin in ready and command.status is None:
        return _read(command, stdin)
    return stdin


def _read(command: Command, stdin: int) -> int | None:
    try:
        data = os.read(stdin, BULK)
    except BlockingIOError:
        return stdin
    except OSError:  # a terminal that is gone, a directory
        data = b""
    command.send(Kind.INPUT if data else Kind.EOF, data)
    return stdin if data else None


def _write(fd: int, data: bytes) -> None:
    """Write all of it, as long as that takes: meanwhile the command waits, too."""
    view = memoryview(data)
    while view:
        interrupts.check()
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [], 0.2)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Interrupted(f"nobody reads the output any more ({error.strerror})") from None
