"""Where tests run commands: the verbs, for guests, namespaces and the host.

Every verb that demands something raises AssertionError, which says what was seen instead; every wait has a timeout in
seconds. A command is text for the shell there, or a list of words that are taken as they are.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import typing
from abc import ABC, abstractmethod

from qemunet.errors import TimedOut
from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from qemunet.host.netns import Place
    from qemunet.state import Runtime

    T = typing.TypeVar("T")

PATIENCE = 60.0  # seconds: emulated guests on a busy machine take their time
_GLANCE = 0.2  # seconds between two tries
_SHOWN = 4000  # characters of an output in a message


@frozen
class Outcome:
    """What became of a command: its exit status, and what it wrote."""

    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        parts = (("stdout", self.stdout), ("stderr", self.stderr))
        said = "".join(f"\n  {name}: {text.strip()[-_SHOWN:]}" for name, text in parts if text.strip())
        return f"status {self.status}{said or ', and it said nothing'}"


class Seat(ABC):
    """Where commands are run. `name` is what the lab file calls it, ``host`` for the host."""

    name: str

    @abstractmethod
    def execute(self, command: str | Sequence[str], timeout: float = PATIENCE) -> Outcome:
        """Run a command; return what became of it. Raises TimedOut and other errors of qemunet."""

    def succeeds(self, *commands: str | Sequence[str], timeout: float = PATIENCE) -> str:
        """Run commands one after the other, each of which must end with 0; return what they wrote to stdout."""
        __tracebackhide__ = True
        said = ""
        for command in commands:
            done = self._in_time(command, timeout)
            if done.status != 0:
                raise AssertionError(f"{self.name}: {command!r} fails: {done}")
            said += done.stdout
        return said

    def fails(self, *commands: str | Sequence[str], timeout: float = PATIENCE) -> str:
        """Run commands, each of which must end with anything but 0; return what they wrote, stderr too."""
        __tracebackhide__ = True
        said = ""
        for command in commands:
            done = self._in_time(command, timeout)
            if done.status == 0:
                raise AssertionError(f"{self.name}: {command!r} succeeds: {done}")
            said += done.stdout + done.stderr
        return said

    def _in_time(self, command: str | Sequence[str], timeout: float) -> Outcome:
        __tracebackhide__ = True
        try:
            return self.execute(command, timeout)
        except TimedOut as error:
            raise AssertionError(f"{self.name}: {command!r} has not ended after {timeout:g} s: {error}") from None

    def wait_until(self, command: str | Sequence[str], timeout: float = PATIENCE) -> str:
        """Repeat a command until it succeeds; return what it wrote to stdout then."""
        __tracebackhide__ = True
        return self._repeat(command, timeout, lambda done: done.status == 0, "succeeds").stdout

    def wait_until_fails(self, command: str | Sequence[str], timeout: float = PATIENCE) -> str:
        """Repeat a command until it fails; return what it wrote to stderr then."""
        __tracebackhide__ = True
        return self._repeat(command, timeout, lambda done: done.status != 0, "fails").stderr

    def wait_for_file(self, path: str, timeout: float = PATIENCE) -> None:
        """Wait until a file is there."""
        __tracebackhide__ = True
        self.wait_until(["test", "-e", path], timeout)

    def wait_for_port(self, port: int, address: str = "127.0.0.1", timeout: float = PATIENCE) -> None:
        """Wait until a connection from here to a port is taken, of this place itself or of another address."""
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        while seen := self._refusal(port, address):
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: port {port} of {address} after {timeout:g} s: {seen}")
            glance()

    @abstractmethod
    def _refusal(self, port: int, address: str) -> str:
        """Say why a port takes no connection; nothing if it does."""

    def _repeat(
        self, command: str | Sequence[str], timeout: float, wanted: Callable[[Outcome], bool], what: str
    ) -> Outcome:
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        while True:
            try:
                done = self.execute(command, max(deadline - time.monotonic(), 1.0))
            except TimedOut as error:
                raise AssertionError(f"{self.name}: {command!r} never {what} in {timeout:g} s: {error}") from None
            if wanted(done):
                return done
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: {command!r} never {what} in {timeout:g} s: {done}")
            glance()


class Room(Seat):
    """A namespace of the lab; or the host, as the lab sees it: with the bridges, and the other ends of its cables."""

    def __init__(
        self, name: str, home: Place, environment: Mapping[str, str], place: Place, enter: Iterable[str] = ()
    ) -> None:
        self.name = name
        self._home = home
        self.environment = environment
        self._place = place
        self._enter = list(enter)

    def inside(self, action: Callable[[], T]) -> T:
        """Call a function of the test's in this network namespace, in a thread of its own; return what it returns."""
        return self._home.inside(lambda: self._place.inside(action))

    def execute(self, command: str | Sequence[str], timeout: float = PATIENCE) -> Outcome:
        process = self._home.inside(lambda: self._begin(command))
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with all that holds its output open
            process.communicate()
            raise TimedOut(f"{command!r} has not ended after {timeout:g} s", where=self.name) from None
        return Outcome(process.returncode, decoded(out), decoded(err))

    def _begin(self, command: str | Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._enter, *words(command)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _refusal(self, port: int, address: str) -> str:
        from qemunet.host import attempts

        found = self._home.inside(lambda: attempts.connect(self._place, address, port, 2))
        return "" if found.reach is attempts.Reach.THROUGH else found.seen


def environment(runtime: Runtime) -> dict[str, str]:
    """Return the environment of commands about a lab: that of the tests, with its runtime directory."""
    return {**os.environ, "QEMUNET_RUNTIME_DIR": runtime.path}


def host(runtime: Runtime, home: Place) -> Room:
    """Return the host as a lab sees it, before there is one."""
    from qemunet.host import spaces

    return Room("host", home, environment(runtime), spaces.place(runtime.path, None))


def words(command: str | Sequence[str]) -> list[str]:
    """Return a command as what is executed: text is for the shell."""
    return ["sh", "-c", command] if isinstance(command, str) else list(command)


def decoded(data: bytes) -> str:
    """Return what a command wrote as text."""
    return data.decode(errors="replace")


def glance() -> None:
    """Let some time pass between two tries."""
    from qemunet import interrupts

    interrupts.check()
    select.select([], [], [], _GLANCE)
