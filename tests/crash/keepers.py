"""Forks keepers that let something happen to them at the Nth thing that a live change does.

``keepers.py FAULT COUNT``: each line of its input is the argument of a keeper that is begun, its output the process of
that. When a keeper is about to do a thing, and when it has done it, it looks at the file FAULT, which has, or has not:

``{"case": any number, "number": N, "kind": KIND}``

and acts if it is the Nth thing since there is this case. Each thing is a line of the file COUNT. KIND is one of

* ``none``
* ``fail``: it fails with EIO, or for want of room, instead of being done
* ``kill-before``, ``kill-after``: SIGKILL to the keeper
* ``hold``: the keeper waits before it until FAULT says another case, and says so by a file COUNT.held
* ``end``: SIGKILL to QEMU, and the keeper goes on when that is dead

Things are steps, the line that makes a change final, the renames of its files, and each descriptor that QEMU is given.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qemunet import state
from qemunet.host import processes
from qemunet.host.linux import LinuxHost
from qemunet.journal import Journal
from qemunet.live import keeper
from qemunet.live.talk import Talk
from tests import forked

_GLANCE = 0.005


class Fault:
    """What happens at which thing."""

    def __init__(self, fault: Path, count: Path) -> None:
        self._fault = fault
        self._count = count
        self._case: object = None
        self._seen = 0

    def around(self, name: str, work: Callable[[], Any], error: int = errno.EIO) -> Any:
        """Do something, or let happen to it what is to happen."""
        order = self._order()
        if order is None:
            return work()
        if order["case"] != self._case:
            self._case, self._seen = order["case"], 0
        self._seen += 1
        with self._count.open("a") as file:
            file.write(f"{name}\n")
        kind = order["kind"] if self._seen == order["number"] else "none"
        self._before(kind, order, error)
        result = work()
        if kind == "kill-after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def _before(self, kind: str, order: dict[str, Any], error: int) -> None:
        match kind:
            case "fail":
                raise OSError(error, os.strerror(error))
            case "kill-before":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hold":
                self._count.with_suffix(".held").touch()
                while self._order() == order:
                    select.select([], [], [], _GLANCE)
            case "end":
                os.kill(order["pid"], signal.SIGKILL)
                while processes.start_time(order["pid"]):
                    select.select([], [], [], _GLANCE)

    def _order(self) -> dict[str, Any] | None:
        try:
            order: dict[str, Any] = json.loads(self._fault.read_text())
        except FileNotFoundError:
            return None
        return order


def arm(fault: Fault) -> None:
    """From now on this process is as its orders say."""
    perform, commit, rename, give = LinuxHost.perform, Journal.commit, os.rename, Talk.give

    def renamed(source: Any, target: Any) -> None:
        if str(target).endswith(tuple(f"/{name}" for name in state._DRAFTED)) and os.path.exists(source):
            return fault.around(f"rename {os.path.basename(target)}", lambda: rename(source, target))
        return rename(source, target)

    LinuxHost.perform = lambda host, step: fault.around(type(step).__name__, lambda: perform(host, step))  # type: ignore[method-assign]
    Journal.commit = lambda *words, **more: fault.around("commit", lambda: commit(*words, **more), errno.ENOSPC)  # type: ignore[method-assign]
    Talk.give = lambda talk, fd, name=None: fault.around("give", lambda: give(talk, fd, name))  # type: ignore[method-assign]
    os.rename = renamed


def main(fault: str, count: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    forked.load()  # once, for all
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            status = 70
            try:
                arm(Fault(Path(fault), Path(count)))
                status = keeper.main(line)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(pid, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
