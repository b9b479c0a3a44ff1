"""The process that stays with a running lab: it holds consoles and monitors, sees the ends, and answers other commands.

Theory of operation. One keeper per lab; a flock on ``lab/NAME/lock`` says so. It is the very process that
started the guests, executed anew with nothing but the descriptors it needs (`qemunet.live.launch`), so QEMU is
its child and its exit status is seen. It reads every console all the time (`console`), has a monitor to every
QEMU (`monitor`), watches every process by a pidfd (`process`), and answers on ``keeper.sock`` (`control`,
`server`).

When a guest ends, its last words are read, how it ended is told to whoever watches, and what was done for it is
taken back by the same blocking code that any command uses, in a worker thread (`worker`). A keeper without
guests removes its directory and ends.

Guests do not need it. When it is killed, they run on (their consoles stall once a socket buffer is full), and
the next command starts a new one with ``"adopt": true``, which finds them by the runtime directory and connects
to their sockets: what they wrote meanwhile is lost, the log says so, and their exit status will be unknown.
SIGTERM is a deliberate way to the same: it ends the keeper and leaves the guests. INT and HUP mean nothing to
it.

A *tether* binds guests to a connection: when that closes without a ``detach``, they are ended. It is how a
guest in the foreground dies with its terminal, even when the terminal's process was killed.

The one argument is JSON: ``{"runtime", "lab", "guests": [{"vm", "pid", "start_time", "console", "qmp"}],
"lock", "tether", "adopt"}``, descriptors as numbers; a guest without descriptors is connected to by its
sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import typing
from dataclasses import dataclass, field

from qemunet import state
from qemunet.errors import TimedOut
from qemunet.live.care import Keeper
from qemunet.live.control import Control, Lost, listen
from qemunet.live.process import Seen
from qemunet.live.worker import Worker
from qemunet.locks import Lock

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message

_OTHER = 5.0  # seconds that another keeper of the lab has to answer or to end
_FILES = 65536  # descriptors; a guest needs six


@dataclass(frozen=True, slots=True)
class Handover:
    """What a keeper is begun with."""

    runtime: state.Runtime
    lab: str
    guests: tuple[Message, ...] = field(default=())
    lock: int | None = None
    tether: int | None = None
    adopt: bool = False

    @classmethod
    def from_json(cls, text: str) -> Handover:
        """Read the keeper's argument."""
        data = json.loads(text)
        return cls(**{**data, "runtime": state.Runtime(data["runtime"]), "guests": tuple(data["guests"])})

    def fds(self) -> set[int]:
        """Return the descriptors that are handed over."""
        named = [guest.get(key) for guest in self.guests for key in ("console", "qmp")]
        return {fd for fd in (*named, self.lock, self.tether) if isinstance(fd, int)}

    def seen(self) -> list[Seen]:
        """Return the guests that are handed over."""
        return [_seen(guest) for guest in self.guests]


def main(argument: str) -> int:
    """Be the keeper of a lab until its last guest has ended; return the exit status."""
    handover = Handover.from_json(argument)
    _only_these(handover.fds())
    deadline = time.monotonic() + _OTHER
    while (lock := _lock(handover)) is None:
        if _given_over(handover):
            return 0
        if time.monotonic() > deadline:
            print("error: the lab's keeper neither answers nor ends", file=sys.stderr)
            return TimedOut.exit_status
        select.select([], [], [], 0.02)  # it has just begun, or is about to end
    scope = handover.runtime.lab(handover.lab)
    _detach(scope.path("keeper.log"))
    with contextlib.suppress(OSError):  # for people, who can do without; the guests need their keeper
        state.write_private(scope.path("pid"), f"{os.getpid()}\n")
    asyncio.run(_keep(handover, scope, lock))
    return 0


async def _keep(handover: Handover, scope: state.Scope, lock: Lock) -> None:
    """Stay with the guests; who is still connected then finds everything gone when the connection closes."""
    worker = Worker(handover.runtime, handover.lab)
    keeper = Keeper(handover.lab, worker, _say)
    tether = None if handover.tether is None else socket.socket(fileno=handover.tether)
    seen = handover.seen() + (worker.living() if handover.adopt else [])
    try:
        await keeper.run(listen(scope.path("keeper.sock")), seen, tether)
    finally:
        await asyncio.to_thread(handover.runtime.leave_lab, handover.lab, lock)
        await keeper.server.close()


def _lock(handover: Handover) -> Lock | None:
    """Return the lock that makes this the lab's only keeper; None if there is one."""
    return handover.runtime.take_lab(handover.lab) if handover.lock is None else Lock(handover.lock)


def _given_over(handover: Handover) -> bool:
    """Let the keeper that has the lab adopt the guests; tell whether there is one."""
    try:
        control = Control.open(handover.runtime.lab(handover.lab).path("keeper.sock"))
        control.ask("adopt", within=_OTHER)
    except (Lost, TimedOut):
        return False
    return True


def _only_these(fds: set[int]) -> None:
    """Close every other descriptor: a forgotten one would keep somebody's pipe or lock for as long as guests run."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in fds:
            with contextlib.suppress(OSError):  # the one of the listing itself
                os.close(fd)
    for fd in fds:
        os.set_inheritable(fd, False)  # noqa: FBT003 - its own signature


def _detach(log: str) -> None:
    """Have nothing to do with any terminal: a session of our own, no standard streams, no interest in ^C."""
    with contextlib.suppress(PermissionError):  # we lead one already
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(file)
    os.chdir("/")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _FILES) if hard > 0 else _FILES, hard))


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a disk that is full costs the log, never the guests
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode(errors="backslashreplace"))


def _seen(guest: Message) -> Seen:
    def sock(key: str) -> socket.socket | None:
        fd = guest.get(key)
        return socket.socket(fileno=fd) if isinstance(fd, int) else None

    pid, start_time = guest["pid"], guest["start_time"]
    assert isinstance(pid, int), "a process has a number"
    assert isinstance(start_time, int), "in ticks"
    return Seen(str(guest["vm"]), pid, start_time, sock("console"), sock("qmp"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
