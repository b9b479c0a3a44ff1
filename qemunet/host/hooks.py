"""Runs the user's own programs for a card, as qemu-ifup scripts are run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import typing

from qemunet.errors import Failed, TimedOut, describe_status
from qemunet.host import processes

if typing.TYPE_CHECKING:
    from qemunet.steps import RunHook

DEADLINE = 30.0  # seconds
_TAIL = 2000  # characters of what it said, in an error


def run(step: RunHook) -> None:
    """Run the program with the interface as its argument. Raises Failed with what it said, OSError, TimedOut.

    What it writes is kept in a file, not a pipe: a program that it leaves behind would keep a pipe open.
    """
    if step.up is None:
        return
    said = os.memfd_create("hook", os.MFD_CLOEXEC)
    try:
        status = _ended(_started(step.up, step, said))
        if status != 0:
            text = os.pread(said, 1 << 16, 0).decode(errors="replace").strip()[-_TAIL:]
            problem = f"{step.up} {step.interface} ended with {describe_status(status)}"
            raise Failed(f"{problem}: {text}" if text else f"{problem} and said nothing")
    except TimedOut as error:
        raise TimedOut(f"{step.up} {step.interface} has not ended within {DEADLINE:g} s and was killed") from error
    finally:
        os.close(said)


def _started(program: str, step: RunHook, said: int) -> int:
    process = subprocess.Popen(
        [program, step.interface],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        env={**os.environ, **dict(step.environment)},
        start_new_session=True,
    )
    process.returncode = 0  # waited for by _ended, without the polling of Popen.wait
    return process.pid


def _ended(pid: int) -> int | None:
    with processes.Ending(pid) as ending:
        try:
            return ending.wait(DEADLINE)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # it leads a session: what it has started goes with it
            ending.wait(DEADLINE)
            raise
