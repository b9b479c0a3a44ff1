"""Runs the user's own programs for a card, as qemu-ifup scripts are run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import typing
from functools import partial

from qemunet.errors import Failed, TimedOut, describe_status
from qemunet.host import processes
from qemunet.locks import Lock

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    from qemunet.steps import RunHook

DEADLINE = 30.0  # seconds
_LOG = "hook.log"
_PR_SET_PDEATHSIG = 1
_TAIL = 2000  # characters of what it said, in an error


def run(step: RunHook, runtime: str) -> None:
    """Run the program with the interface as its argument. Raises Failed with what it said, OSError, TimedOut.

    What it writes is kept in a file, not a pipe: a program that it leaves behind would keep a pipe open. The file is
    locked, and all that the hook starts inherits it: as long as it has its name, who holds it belongs to a hook that
    `end_left` ends if we are killed.
    """
    if step.up is None:
        return
    log = os.path.join(runtime, "vm", dict(step.environment).get("QEMUNET_VM", ""), _LOG)
    said = _log(log)
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
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(log)


def end_left(directory: str) -> None:
    """End a hook of the guest in this directory that outlived whoever ran it, with all that it has begun."""
    log = os.path.join(directory, _LOG)
    sessions = {processes.session(pid) for pid in processes.holders(log)} - {0}
    for pid in processes.all_pids():
        if processes.session(pid) in sessions:
            with contextlib.suppress(ProcessLookupError), processes.Ending(pid) as ending:
                ending.kill()
                ending.wait(DEADLINE)


def _log(path: str) -> int:
    """Open a file for what a hook says; one without a name, if there is no room: that is no reason not to run it."""
    with contextlib.suppress(OSError):
        lock = Lock.take(path, create=True)
        if lock is not None:
            return lock.fd
    return os.memfd_create("hook", os.MFD_CLOEXEC)


def _started(program: str, step: RunHook, said: int) -> int:
    process = subprocess.Popen(
        [program, step.interface],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        pass_fds=[said],  # it may redirect the others
        env={**os.environ, **dict(step.environment)},
        start_new_session=True,
        preexec_fn=_die_with_us(),  # noqa: PLW1509 - it is one call into the C library, which needs no lock
    )
    process.returncode = 0  # waited for by _ended, without the polling of Popen.wait
    return process.pid


def _die_with_us() -> Callable[[], object]:
    """Return what has the kernel kill a new process with the thread that began it (prctl(2))."""
    import ctypes

    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def _ended(pid: int) -> int | None:
    with processes.Ending(pid) as ending:
        try:
            return ending.wait(DEADLINE)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # it leads a session: what it has started goes with it
            ending.wait(DEADLINE)
            raise
