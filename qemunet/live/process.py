"""One QEMU process as its keeper sees it: a pidfd for its life, a monitor, a console, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
import typing
from dataclasses import dataclass
from enum import StrEnum

from qemunet.errors import Failed, NotFound, TimedOut, describe_status
from qemunet.live.agent import Agent
from qemunet.live.capture import Captures
from qemunet.live.console import Console
from qemunet.live.control import connect
from qemunet.live.monitor import Monitor
from qemunet.live.prompt import Prompt

if typing.TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from qemunet.live.console import Say
    from qemunet.live.control import Message
    from qemunet.live.qga import Qga

    T = typing.TypeVar("T")

_LAST_LINES = 20  # of QEMU's own messages, when it did not end by itself
_RECONNECTS = 5  # of a monitor that broke while QEMU lives
_SILENCE = 2.0  # seconds for the last words on the monitor of a QEMU that has ended


class Reason(StrEnum):
    """Why a guest ended."""

    GUEST_SHUTDOWN = "guest-shutdown"  # it powered itself off
    GUEST_RESET = "guest-reset"  # it rebooted, which ends a QEMU with -no-reboot
    GUEST_PANIC = "guest-panic"
    QUIT = "quit"  # told so over its monitor
    HOST_SIGNAL = "host-signal"  # TERM, INT or HUP: an orderly end
    KILLED = "killed"  # a signal that it does not survive, sent by somebody
    CRASH = "crash"
    UNKNOWN = "unknown"  # nobody was there to see it


_OF_QEMU = {  # ShutdownCause of QEMU's qapi/run-state.json
    "guest-shutdown": Reason.GUEST_SHUTDOWN,
    "guest-reset": Reason.GUEST_RESET,
    "subsystem-reset": Reason.GUEST_RESET,
    "guest-panic": Reason.GUEST_PANIC,
    "host-qmp-quit": Reason.QUIT,
    "host-qmp-system-reset": Reason.GUEST_RESET,
    "host-signal": Reason.HOST_SIGNAL,
    "host-ui": Reason.QUIT,
    "host-error": Reason.CRASH,
}
_WORDS = {
    Reason.GUEST_SHUTDOWN: "powered itself off",
    Reason.GUEST_RESET: "rebooted, which ends it",
    Reason.GUEST_PANIC: "panicked",
    Reason.QUIT: "was ended",
    Reason.HOST_SIGNAL: "was ended by a signal",
    Reason.KILLED: "QEMU was killed",
    Reason.CRASH: "QEMU died",
    Reason.UNKNOWN: "ended while nobody watched",
}
_ORDERLY = frozenset({Reason.GUEST_SHUTDOWN, Reason.GUEST_RESET, Reason.QUIT, Reason.HOST_SIGNAL})


@dataclass(frozen=True, slots=True)
class Seen:
    """A QEMU to be taken care of; the sockets are connected already, or None: then they are by their paths."""

    vm: str
    pid: int
    start_time: int
    console: socket.socket | None = None
    qmp: socket.socket | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a guest ended: QEMU's exit status (negative for a signal, None if nobody saw it), why, and that in words."""

    vm: str
    status: int | None
    reason: Reason
    text: str


class Guest:
    """A QEMU that is taken care of until it has ended. Raises ProcessLookupError if it is not there."""

    def __init__(self, seen: Seen, directory: str, say: Say) -> None:
        self.vm = seen.vm
        self.pid = seen.pid
        self.start_time = seen.start_time
        self.since = _started_at(seen.start_time)
        self.directory = directory
        self.adopted = seen.console is None
        self.scripted: Message = {}  # how its script has ended
        self.has_script = os.path.exists(os.path.join(directory, "script.json"))
        self.hear: list[Callable[[Message], None]] = []  # called in the loop with every event of QEMU, as it comes
        self.missed: list[Callable[[], None]] = []  # likewise, when some may have been missed
        self.monitor = Monitor(os.path.join(directory, "qmp.sock"), self._heard)
        self.captures = Captures(self.monitor, say)
        self.console: Console | None = None
        self.agent: Agent | None = None  # ours, as the built-in guest has it
        self.qga: Qga | None = None  # or QEMU's
        self.prompt = Prompt(self)  # for want of both
        loop = asyncio.get_running_loop()
        self.over: asyncio.Future[list[str]] = loop.create_future()
        self.ending: Ending | None = None  # when it has ended, until it is over
        self._say = say
        self._minder: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._log = _open(os.path.join(directory, "qemu.log"))
        self._pidfd = _hold(seen)
        self._left = False
        loop.add_reader(self._pidfd, self._note_end)

    async def attend(self, seen: Seen) -> None:
        """Take the console and the monitor; what cannot be had is said and the guest goes on without it."""
        try:
            sock = seen.console or connect(os.path.join(self.directory, "serial.sock"))
            self.console = Console(sock, self.directory, self._say)
            if self.has_script:
                from qemunet.live import secrets

                self.console.hide(map(secrets.as_bytes, secrets.recall(self.directory).values()))
        except OSError as error:
            self._say(f"{self.vm}: no console: {error.strerror}")
        if self.adopted and self.console:
            self.console.mark(f"read again since {_now()}; what was written before that is missing here")
        self.agent = self._at_port("agent.sock", lambda sock: Agent(sock, inherited=self.adopted))
        self.qga = self._at_port("qga.sock", _qga)
        await self._take_monitor(seen.qmp)
        if self.adopted:
            await self.captures.tidy()
        self._minder = asyncio.create_task(self._mind_monitor())

    async def execute(self, command: str, seconds: float = 10.0, arguments: dict[str, object] | None = None) -> object:
        """Tell QEMU something (`Monitor.execute`)."""
        return await self.monitor.execute(command, arguments, seconds)

    async def run_state(self) -> str:
        """Return QEMU's run state."""
        return await self.monitor.run_state()

    def kill(self) -> None:
        """Send SIGKILL."""
        if not self._gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the process, `seconds` at most; tell whether it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        return self._gone.is_set()

    async def end(self) -> Ending:
        """Wait for the end of the process, hear its last words, and say how it ended."""
        await self._gone.wait()
        status = self._reap()
        if self.console:
            await self.console.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE):
                await self.monitor.lost()
        reason = _reason(self.monitor.shutdown, status)
        return Ending(self.vm, status, reason, self._told(reason, status))

    async def leave(self) -> None:
        """Let go of everything; the process, if it still runs, does not notice. Once is enough."""
        if self._left:
            return
        self._left = True
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._minder:
            self._minder.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._minder
        await self.captures.close()
        await self.monitor.close()
        for agent in (self.agent, self.qga):
            if agent:
                agent.close()
        if self.console:
            await self.console.close()
        os.close(self._pidfd)
        if self._log is not None:
            os.close(self._log)

    def _at_port(self, name: str, make: Callable[[socket.socket], T]) -> T | None:
        """Return the agent of a guest that has a port for it."""
        try:
            return make(connect(os.path.join(self.directory, name)))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._say(f"{self.vm}: no agent: {error.strerror}")
            return None

    def _note_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._gone.set()

    def _reap(self) -> int | None:
        """Take the exit status; only a parent gets it."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return None
        return os.waitstatus_to_exitcode(status) if pid else None

    def _told(self, reason: Reason, status: int | None) -> str:
        if reason in _ORDERLY:
            return _WORDS[reason]
        return "\n".join([f"{_WORDS[reason]} ({describe_status(status)})", *self._last_lines()])

    def _last_lines(self) -> list[str]:
        if self._log is None:
            return []
        size = os.fstat(self._log).st_size
        text = os.pread(self._log, 8192, max(0, size - 8192)).decode(errors="replace")
        return text.splitlines()[-_LAST_LINES:]

    async def _take_monitor(self, sock: socket.socket | None) -> None:
        try:
            if sock is not None:
                await self.monitor.take(sock)
                await self.monitor.execute("query-status")  # it is in order, and nothing half-read was left on it
            else:
                await self.monitor.connect()
        except (OSError, Failed, NotFound, TimedOut) as error:
            await self.monitor.close()
            self._say(f"{self.vm}: no monitor: {error}")

    async def _mind_monitor(self) -> None:
        """Connect anew when the monitor breaks and QEMU lives on."""
        for _ in range(_RECONNECTS):
            await self.monitor.lost()
            if await self.wait(1.0):
                return
            self._say(f"{self.vm}: the monitor's connection broke; connecting anew")
            await self._take_monitor(None)
            for listener in list(self.missed):
                self._guarded(listener)

    def _heard(self, event: Mapping[str, object]) -> None:
        if event.get("event") == "RESET":
            for agent in (self.agent, self.qga):
                if agent:
                    agent.forget()
        for listener in list(self.hear):
            self._guarded(listener, dict(event))

    def _guarded(self, listener: Callable[..., None], *arguments: object) -> None:
        """Call a listener; a mistake of one must not harm the others, nor the monitor."""
        try:
            listener(*arguments)
        except Exception:
            self._say(f"{self.vm}: {traceback.format_exc()}")


def _qga(sock: socket.socket) -> Qga:
    from qemunet.live.qga import Qga  # few guests have it

    return Qga(sock)


def _reason(shutdown: str, status: int | None) -> Reason:
    if shutdown in _OF_QEMU and (status is None or status >= 0):
        return _OF_QEMU[shutdown]
    if status is None:
        return Reason.UNKNOWN
    if status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        return Reason.KILLED
    return Reason.CRASH if status else Reason.UNKNOWN


def _hold(seen: Seen) -> int:
    """Return a pidfd of that very process, not of a later one with its number."""
    fd = os.pidfd_open(seen.pid)
    try:
        with open(f"/proc/{seen.pid}/stat") as file:
            start_time = int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        start_time = -1
    if start_time != seen.start_time:
        os.close(fd)
        raise ProcessLookupError(f"process {seen.pid} is not QEMU of {seen.vm} any more")
    return fd


def _started_at(start_time: int) -> float:
    """Return when a process started, in seconds since the epoch, from its ticks after boot (proc(5), field 22)."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - start_time / os.sysconf("SC_CLK_TCK")
    return round(time.time() - age, 2)


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
