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
import signal
import socket
import sys
import time
import traceback
import typing
from dataclasses import dataclass, field

from qemunet import state
from qemunet.errors import Failed, NotTakenBack, QemunetError
from qemunet.live import power
from qemunet.live.control import Control, Lost, listen
from qemunet.live.process import Ending, Guest, Seen
from qemunet.live.server import Peer, Server
from qemunet.live.verbs import Verbs

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.live.worker import Wish, Worker

_FILES = 65536  # descriptors; a guest needs six


class Keeper:
    """The guests of one lab and whoever watches them."""

    def __init__(self, lab: str, worker: Worker, say: typing.Callable[[str], None]) -> None:
        self.lab = lab
        self.worker = worker
        self.say = say
        self.guests: dict[str, Guest] = {}
        self.server = Server(Verbs(self))
        self.leaving = False
        self._busy = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

    async def run(self, listener: socket.socket, seen: list[Seen], tether: socket.socket | None) -> None:
        """Take care of these guests, and of all that come, until there is none."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave)
        await self.take(seen)
        await self.server.open(listener)
        if tether is not None:
            self.bind(await self.server.add(tether), list(self.guests), holds=True)
        while not self.leaving and (self.guests or self._busy):
            self._changed.clear()
            await self._changed.wait()
        await self.server.close()
        for guest in list(self.guests.values()):
            await guest.leave()

    async def take(self, seen: list[Seen]) -> list[str]:
        """Take care of these guests too; return the names of those that are there."""
        taken = []
        for one in seen:
            if one.vm in self.guests:
                continue
            try:
                guest = Guest(one, self.worker.runtime.scope(f"vm/{one.vm}").directory, self.say)
            except ProcessLookupError as error:
                self.say(f"{one.vm}: {error}")
                self.begin(self._clear_up(one.vm))
                continue
            self.guests[one.vm] = guest
            await guest.attend(one)
            self.begin(self._accompany(guest))
            taken.append(one.vm)
        return taken

    async def start(self, wish: Wish) -> list[str]:
        """Start more guests and take care of them; return their names."""
        return await self.take(await self.blocking(self.worker.start, wish))

    async def stop(self, guest: Guest, seconds: float, *, force: bool) -> power.How:
        """End a guest; returns when all was taken back, raises `NotTakenBack` if something was not."""
        how = await power.stop(guest, seconds, force=force)
        failures = await asyncio.shield(guest.over)
        if failures:
            raise NotTakenBack(failures)
        return how

    def bind(self, peer: Peer, vms: list[str], *, holds: bool) -> None:
        """Let a connection hear of these guests, and end them with it if it `holds` them."""
        peer.vms |= set(vms)
        peer.holds = peer.holds or holds
        peer.tell({"event": "watching", "vms": sorted(peer.vms)})
        if not peer.vms:
            peer.tell({"event": "over", "failures": []})

    def lost(self, peer: Peer) -> None:
        """A connection has ended: so do the guests that it held."""
        if not peer.holds or self.leaving:
            return
        for vm in peer.vms & self.guests.keys():
            self.say(f"{vm}: its terminal is gone; ending it")
            self.begin(self._end_forsaken(self.guests[vm]))

    async def blocking(self, work: typing.Callable[..., typing.Any], *arguments: object) -> typing.Any:
        """Do something that blocks, in a thread; one such thing at a time."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(work, *arguments)

    def begin(self, work: typing.Coroutine[typing.Any, typing.Any, None]) -> None:
        """Do something beside everything else, and keep it from being forgotten."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    @contextlib.contextmanager
    def busy(self) -> typing.Iterator[None]:
        """Keep the keeper from ending meanwhile."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._changed.set()

    async def _accompany(self, guest: Guest) -> None:
        """Stay with a guest to its end, and clear up after it."""
        ending = await guest.end()
        self.say(f"{guest.vm}: {ending.text}")
        self._tell_ended(ending)
        await guest.leave()
        failures = await self._take_back(guest.vm)
        with self.busy():
            del self.guests[guest.vm]
            guest.over.set_result(failures)
            self._tell_over(guest.vm, failures)

    async def _clear_up(self, vm: str) -> None:
        with self.busy():
            await self._take_back(vm)

    async def _take_back(self, vm: str) -> list[str]:
        failures: list[str]
        try:
            failures = await self.blocking(self.worker.take_back, vm)
        except Exception as error:  # whatever it is, the other guests need their keeper
            self.say(traceback.format_exc())
            failures = [f"{vm}: {error}"]
        for failure in failures:
            self.say(f"{vm}: not taken back: {failure}")
        return failures

    def _tell_ended(self, ending: Ending) -> None:
        event: Message = {"event": "ended", "vm": ending.vm, "status": ending.status}
        event |= {"reason": ending.reason.value, "text": ending.text}
        for peer in self._watchers(ending.vm):
            peer.tell(event)

    def _tell_over(self, vm: str, failures: list[str]) -> None:
        for peer in self._watchers(vm):
            peer.vms.discard(vm)
            peer.failures += failures
            if not peer.vms:
                peer.tell({"event": "over", "failures": peer.failures})
                peer.holds = False

    def _watchers(self, vm: str) -> list[Peer]:
        return [peer for peer in self.server.peers() if vm in peer.vms]

    async def _end_forsaken(self, guest: Guest) -> None:
        with contextlib.suppress(QemunetError):  # what was not taken back is in the log already
            await self.stop(guest, 0, force=True)

    def _leave(self) -> None:
        self.say(f"told to go; left running: {', '.join(self.guests) or 'no guest'}")
        self.leaving = True
        self._changed.set()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.say("".join(traceback.format_exception(error)))


# ---------------------------------------------------------------- the process


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
    lock = _lock(handover)
    if lock is None:
        return _give_over(handover)
    scope = handover.runtime.lab(handover.lab)
    _detach(scope.path("keeper.log"))
    state.write_private(scope.path("pid"), f"{os.getpid()}\n")
    try:
        asyncio.run(_keep(handover, scope))
    finally:
        handover.runtime.leave_lab(handover.lab, lock)
    return 0


async def _keep(handover: Handover, scope: state.Scope) -> None:
    from qemunet.live.worker import Worker

    worker = Worker(handover.runtime, handover.lab)
    keeper = Keeper(handover.lab, worker, _say)
    tether = None if handover.tether is None else socket.socket(fileno=handover.tether)
    seen = handover.seen() + (worker.living() if handover.adopt else [])
    await keeper.run(listen(scope.path("keeper.sock")), seen, tether)


def _lock(handover: Handover) -> state.Lock | None:
    """Return the lock that makes this the lab's only keeper; None if there is one."""
    if handover.lock is not None:
        return state.Lock(handover.lock)
    with handover.runtime.exclusive():
        scope = handover.runtime.lab(handover.lab)
        if not scope.exists():
            scope.create()
        return state.Lock.take(scope.path("lock"), create=True)


def _give_over(handover: Handover) -> int:
    """Another keeper has the lab: let it adopt the guests."""
    try:
        control = Control.open(handover.runtime.lab(handover.lab).path("keeper.sock"))
        control.ask("adopt")
    except Lost as error:
        print(error, file=sys.stderr)
        return Failed.exit_status
    return 0


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
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


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
