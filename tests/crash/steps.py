"""Somebody who is killed before a step, or after the last one: what the journal says leads back from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from qemunet import runner
from qemunet.facts import Facts
from qemunet.host.linux import LinuxHost
from qemunet.journal import Journal
from qemunet.steps import Step, bare
from tests.dump import Dump, difference, dump


class Witness(LinuxHost):
    """A host that knows which steps were done on it, and of which one is deadly."""

    def __init__(self, runtime: str, number: int = 0, fault: str = "") -> None:
        super().__init__(runtime)
        self.number = number
        self.fault = fault
        self.done: list[str] = []

    def perform(self, step: Step) -> None:
        self.done += [type(step).__name__, type(bare(step)).__name__]
        at = len(self.done) // 2 == self.number
        if at and self.fault == "kill-before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().perform(step)
        if at and self.fault == "kill-after":
            os.kill(os.getpid(), signal.SIGKILL)


def led_back(
    steps: tuple[Step, ...], facts: Facts, host: LinuxHost, folder: Path, look: Callable[[], Dump] = dump
) -> set[str]:
    """Have somebody die at each of these steps; whoever comes then has it as before. Return the steps of both.

    What the host holds open he has too, and it outlives him, as taps in the hands of QEMU do.
    """
    seen = {type(step).__name__ for step in steps}
    before = look()
    ends = [(number, "kill-before") for number in range(1, len(steps) + 1)] + [(len(steps), "kill-after")]
    for number, fault in ends:
        path = str(folder / f"journal-{number}-{fault}")
        assert _dies(path, steps, facts, Witness(host.runtime, number, fault), host) == -signal.SIGKILL
        seen |= _unwound(path, host)
        found = difference(before, look())
        assert not found, f"{fault} at {number}, {steps[number - 1].describe()}: {found}"
    return seen


def _unwound(path: str, host: LinuxHost) -> set[str]:
    journal, next_one = Journal(path), Witness(host.runtime)
    next_one.handles.update(host.handles)
    try:
        failures = runner.unwind(journal, next_one)
        assert not failures, failures
    finally:
        journal.close()
        next_one.handles.clear()
        next_one.close()
        os.unlink(path)
    return set(next_one.done)


def _dies(path: str, steps: tuple[Step, ...], facts: Facts, victim: Witness, host: LinuxHost) -> int:
    victim.handles.update(host.handles)
    pid = os.fork()
    if pid == 0:
        try:
            runner.apply(steps, facts, victim, Journal(path))
        finally:
            os._exit(0)
    victim.handles.clear()
    victim.close()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


__all__ = ["Witness", "led_back"]
