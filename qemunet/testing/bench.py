"""A lab as tests use it: guests, namespaces and the host, and what a test demands of them.

Every verb that demands something raises AssertionError, which says what was seen instead; every wait has a timeout in
seconds. A command is text for the shell there, or a list of words that are taken as they are.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import typing
from abc import ABC, abstractmethod

from qemunet.errors import QemunetError, TimedOut
from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Sequence

    from qemunet import sync
    from qemunet.config.spec import LabSpec
    from qemunet.host.netns import Place
    from qemunet.live.guestspot import InGuest
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
            done = self.execute(command, timeout)
            if done.status != 0:
                raise AssertionError(f"{self.name}: {command!r} fails: {done}")
            said += done.stdout
        return said

    def fails(self, *commands: str | Sequence[str], timeout: float = PATIENCE) -> str:
        """Run commands, each of which must end with anything but 0; return what they wrote, stderr too."""
        __tracebackhide__ = True
        said = ""
        for command in commands:
            done = self.execute(command, timeout)
            if done.status == 0:
                raise AssertionError(f"{self.name}: {command!r} succeeds: {done}")
            said += done.stdout + done.stderr
        return said

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
            _glance()

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
            _glance()


class Guest(Seat):
    """A guest. `vm` is the same one as `qemunet.sync` has it, for cards, QMP and the rest."""

    def __init__(self, bench: Bench, vm: sync.Vm) -> None:
        self.name = vm.name
        self.vm = vm
        self._bench = bench
        self._spot: InGuest | None = None

    def __repr__(self) -> str:
        return repr(self.vm)

    @property
    def addresses(self) -> list[str]:
        """The addresses that are known of it, without prefix lengths, those of its first card first."""
        self.vm.refresh()
        return [one.address.partition("/")[0] for nic in self.vm.nics.values() for one in nic.addresses]

    @property
    def console_log(self) -> str:
        """What it has said at its serial console since it was started."""
        return self._bench.text_of(self.name, "console.log")

    def execute(self, command: str | Sequence[str], timeout: float = PATIENCE) -> Outcome:
        from qemunet.live import inside

        done = self._bench.inside(lambda: inside.call(self._bench.runtime, self.name, words(command), timeout=timeout))
        return Outcome(done.status, _text(done.stdout), _text(done.stderr))

    def wait_for_console(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until its console shows what a regular expression finds, now or before; return the match."""
        __tracebackhide__ = True
        try:
            return self.vm.wait_for_console(pattern, timeout)
        except TimedOut as error:
            raise AssertionError(f"{self.name}: {error}") from None

    def send_console(self, text: str) -> None:
        """Type at its console."""
        with self.vm.console() as console:
            console.write(text.encode())

    def link_down(self, nic: str = "net0") -> None:
        """Pull the cable of a card, which is named by its id, its MAC or its network."""
        self.vm.set_link(nic, up=False)

    def link_up(self, nic: str = "net0") -> None:
        """Plug the cable of a card in again."""
        self.vm.set_link(nic, up=True)

    def shutdown(self, timeout: float = PATIENCE) -> None:
        """Press its power button, and wait for its end; it fails if it took more than that."""
        __tracebackhide__ = True
        how = self.vm.stop(timeout=timeout)
        if how != "powerdown":
            raise AssertionError(f"{self.name} did not shut down in {timeout:g} s, it took: {how}")

    def crash(self) -> None:
        """End it at once, as if its power had failed."""
        self.vm.stop(force=True)

    def _refusal(self, port: int, address: str) -> str:
        from qemunet.host.attempts import Reach
        from qemunet.live.guestspot import InGuest

        spot = self._spot = self._spot or InGuest(self._bench.runtime, self.name)
        found = self._bench.inside(lambda: spot.connect(address, port, 2))
        return "" if found.reach is Reach.THROUGH else found.seen


class Room(Seat):
    """A namespace of the lab; or the host, as the lab sees it: with the bridges, and the other ends of its cables."""

    def __init__(self, bench: Bench, name: str, place: Place, enter: Sequence[str] = ()) -> None:
        self.name = name
        self._bench = bench
        self._place = place
        self._enter = list(enter)

    def execute(self, command: str | Sequence[str], timeout: float = PATIENCE) -> Outcome:
        process = self._bench.inside(lambda: self._begin(command))
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise TimedOut(f"{command!r} has not ended after {timeout:g} s", where=self.name) from None
        return Outcome(process.returncode, _text(out), _text(err))

    def _begin(self, command: str | Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._enter, *words(command)],
            env=self._bench.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _refusal(self, port: int, address: str) -> str:
        from qemunet.host import attempts

        found = self._bench.inside(lambda: attempts.connect(self._place, address, port, 2))
        return "" if found.reach is attempts.Reach.THROUGH else found.seen


class Bench:
    """A lab that runs: ``lab["web"]`` is a guest or a namespace, ``web, db = lab`` are all guests, in the file's order.

    `host` is the host, `lab` is the same one as `qemunet.sync` has it, `runtime` its runtime directory.
    """

    def __init__(self, lab: sync.Lab, spec: LabSpec, runtime: Runtime, home: Place) -> None:
        from qemunet.host import spaces

        self.lab = lab
        self.name = lab.name
        self.runtime = runtime
        self.environment = {**os.environ, "QEMUNET_RUNTIME_DIR": runtime.path}
        self._spec = spec
        self._home = home
        self.host = Room(self, "host", spaces.place(runtime.path, None))
        self.guests = {name: Guest(self, vm) for name, vm in lab.vm.items()}
        enter = (sys.executable, "-P", "-m", "qemunet", "exec")
        rooms = ((one.name, spaces.place(runtime.path, one.name)) for one in spec.spaces)
        self.rooms = {name: Room(self, name, place, (*enter, name, "--")) for name, place in rooms}

    def __getitem__(self, name: str) -> Seat:
        found = {**self.guests, **self.rooms}
        if name not in found:
            raise KeyError(f"{self.name} has no vm and no namespace {name!r}; it has {', '.join(found)}")
        return found[name]

    def __iter__(self) -> Iterator[Guest]:
        return iter(self.guests.values())

    def __len__(self) -> int:
        return len(self.guests)

    def __repr__(self) -> str:
        return f"<lab {self.name}: {', '.join([*self.guests, *self.rooms])}>"

    def guest(self, name: str) -> Guest:
        """Return a guest."""
        return self.guests[name]

    def verify(self) -> None:
        """Try every ``[[expect]]`` of the lab file; all of them must hold."""
        __tracebackhide__ = True
        from qemunet.config import expects
        from qemunet.live.spots import Spots
        from qemunet.live.verify import Verdict, judge_all

        wanted = expects.all_of(self._spec)
        if not wanted:
            raise AssertionError(f"{self._spec.file} expects nothing")
        ends = [end for one in wanted for end in (one.source, one.target) if end is not None]
        results = self.inside(lambda: judge_all(wanted, Spots(self.runtime, self._spec, ends).find))
        wrong = [f"{one.expect.path}: {one.complaint}" for one in results if one.verdict is not Verdict.HOLDS]
        if wrong:
            raise AssertionError("\n".join(wrong))

    def qemunet(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """Run a command, as ``lab.qemunet("cable", "pull", "uplink")``; return what it wrote to stdout."""
        __tracebackhide__ = True
        return self.host.succeeds([sys.executable, "-P", "-m", "qemunet", *arguments], timeout=timeout)

    # ---------------------------------------------------------------- for the fixture

    def inside(self, action: Callable[[], T]) -> T:
        """Do something where the lab is: in its own network namespace, if it has one."""
        return self._home.inside(action)

    def await_ready(self, seconds: float) -> None:
        """Wait until every guest is ready, as its file has it; raises TimedOut, which says what was last seen."""
        from qemunet.config import ready
        from qemunet.live import readiness

        deadline = time.monotonic() + seconds
        ways = {vm.name: ready.of(vm) for vm in self._spec.vms if vm.name in self.guests}
        watches = [readiness.watch(self.runtime, self.runtime.vm(name), way) for name, way in ways.items()]
        while open_ones := [one for one in watches if not self.inside(one.ready)]:
            watches = open_ones
            for one in watches:
                ending = self.guests[one.vm.name].vm.ending
                if ending is not None:
                    raise QemunetError(f"it ended before it was ready: {ending.text}", where=f"vm.{one.vm.name}")
            if time.monotonic() > deadline:
                seen = "; ".join(f"{one.vm.name}: {one.seen}" for one in watches)
                raise TimedOut(f"not ready after {seconds:g} s: {seen}", where=self.name)
            _glance()

    def is_whole(self) -> bool:
        """Tell whether all its guests still run."""
        return all(guest.vm.ending is None for guest in self.guests.values())

    def text_of(self, vm: str, file: str) -> str:
        """Return a log of a guest; nothing once that is taken back."""
        try:
            with open(self.runtime.scope(f"vm/{vm}").path(file), encoding="utf-8", errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""


def words(command: str | Sequence[str]) -> list[str]:
    """Return a command as what is executed: text is for the shell."""
    return ["sh", "-c", command] if isinstance(command, str) else list(command)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _glance() -> None:
    from qemunet import interrupts

    interrupts.check()
    select.select([], [], [], _GLANCE)
