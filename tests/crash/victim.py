"""Runs qemunet and lets something happen to it before or after the Nth thing that it does to the host.

`tests.forked` runs it with ``COUNT PHASE NUMBER FAULT ARGS…``: COUNT is a file that gets a line for each step
performed; PHASE is ``run`` (``qemunet run ARGS``), ``net``, ``apply`` or ``gc`` (likewise) or ``back`` (start the lab
ARGS, then take it back, the steps counted from there); FAULT is one of

* ``none``
* ``fail``: the step fails with EIO instead of being done
* ``kill-before``, ``kill-after``: SIGKILL to the process that performs it
* ``both-before``, ``both-after``: SIGKILL to that one and to the command that waits for it
* ``int``, ``int2``: ^C, and again ^C at every step of taking back
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from qemunet import state
from qemunet.cli import main
from qemunet.host.linux import LinuxHost
from qemunet.live import session
from qemunet.live.source import Source
from qemunet.live.thinker import Here
from qemunet.steps import Step

COMMAND = os.getpid()


class Fault:
    """Wraps the performing of steps."""

    def __init__(self, count: str, number: int, kind: str) -> None:
        self.count = count
        self.number = number
        self.kind = kind
        self.seen = 0

    def arm(self, *, spare: int | None = None) -> None:
        """From now on each step is counted, in every process but the one to spare."""
        perform = LinuxHost.perform

        def faulty(host: LinuxHost, step: Step) -> None:
            if os.getpid() == spare:
                return perform(host, step)
            self.seen += 1
            with open(self.count, "a") as file:
                file.write(f"{type(step).__name__}\n")
            if self.seen == self.number:
                self._before()
            elif self.seen > self.number and self.kind == "int2":
                os.kill(os.getpid(), signal.SIGINT)
            perform(host, step)
            if self.seen == self.number:
                self._after()
            return None

        LinuxHost.perform = faulty  # type: ignore[method-assign]

    def _before(self) -> None:
        if self.kind == "fail":
            raise OSError(errno.EIO, "injected")
        if self.kind in {"int", "int2"}:
            os.kill(os.getpid(), signal.SIGINT)
        if self.kind.endswith("-before"):
            self._kill()

    def _after(self) -> None:
        if self.kind.endswith("-after"):
            self._kill()

    def _kill(self) -> None:
        if self.kind.startswith("both") and os.getpid() != COMMAND:
            os.kill(COMMAND, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def take_back(fault: Fault, file: str) -> int:
    """Start a lab in this process, then take it back with the fault armed."""
    runtime = state.Runtime(state.locate())
    host = LinuxHost(runtime.path)
    source = Source.read(file)
    session.start(runtime, host, Here(source, tell=print), tethered=True)
    fault.arm()
    return len(session.take_back(runtime, host, source.chosen(())))


def run() -> int:
    """Do as the command line says; return the exit status."""
    count, phase, number, kind, *rest = sys.argv[1:]
    fault = Fault(count, int(number), kind)
    if phase == "back":
        return take_back(fault, *rest)
    fault.arm(spare=None if phase in ("net", "apply", "gc") else COMMAND)
    sys.argv = ["qemunet", phase, *rest]
    return main.main()
