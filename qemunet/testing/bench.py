"""A lab as tests use it: guests, namespaces and the host; their verbs are those of `qemunet.testing.seat`."""

from __future__ import annotations

import sys
import time
import typing

from qemunet.errors import QemunetError, TimedOut
from qemunet.testing.seat import PATIENCE, Outcome, Room, Seat, decoded, environment, glance, host, words

if typing.TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qemunet import sync
    from qemunet.api import Nic
    from qemunet.config.spec import LabSpec
    from qemunet.host.netns import Place
    from qemunet.live.guestspot import InGuest
    from qemunet.state import Runtime

    T = typing.TypeVar("T")

__all__ = ["Bench", "Guest", "Outcome", "Room", "Seat"]

READY = 120.0  # seconds from the start of a guest


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
        return [one.address.partition("/")[0] for nic in self.nics.values() for one in nic.addresses]

    @property
    def nics(self) -> Mapping[str, Nic]:
        """Its cards by their ids, as they are now."""
        self.vm.refresh()
        return self.vm.nics

    @property
    def console_log(self) -> str:
        """What it has said at its serial console since it was started."""
        return self._bench.text_of(self.name, "console.log")

    def execute(self, command: str | Sequence[str], timeout: float = PATIENCE) -> Outcome:
        from qemunet.live import inside

        done = self._bench.inside(lambda: inside.call(self._bench.runtime, self.name, words(command), timeout=timeout))
        return Outcome(done.status, decoded(done.stdout), decoded(done.stderr))

    def wait_for_console(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until its console shows what a regular expression finds, now or before; return the match."""
        __tracebackhide__ = True
        try:
            return self.vm.wait_for_console(pattern, timeout)
        except TimedOut as error:
            raise AssertionError(f"{self.name}: {error}") from None

    def wait_for_address(self, nic: str = "net0", version: int = 4, timeout: float = PATIENCE) -> str:
        """Wait until a card, named by its id, has an IP address of this version; return it without prefix length.

        What only the lab file says does not count.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        while True:
            known = [one for one in self.nics[nic].addresses if one.source != "file"]
            found = [one.address.partition("/")[0] for one in known if (":" in one.address) == (version == 6)]
            if found:
                return found[0]
            if time.monotonic() > deadline:
                seen = ", ".join(one.address for one in known) or "none"
                raise AssertionError(
                    f"{self.name}: no IPv{version} address of {nic} in {timeout:g} s; known are: {seen}"
                )
            glance()

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

    def start(self, timeout: float = READY) -> None:
        """Start it, and what it depends on, if it does not run; wait until it is ready."""
        self._bench.start(self.name, timeout=timeout)

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


class Bench:
    """A lab that runs: ``lab["web"]`` is a guest or a namespace, ``web, db = lab`` are all guests, in the file's order.

    `host` is the host, `lab` is the same one as `qemunet.sync` has it, `runtime` its runtime directory, `around` what
    the function of that name yielded.
    """

    def __init__(
        self,
        opened: Callable[[Sequence[str]], sync.Lab],
        vms: Sequence[str],
        spec: LabSpec,
        runtime: Runtime,
        home: Place,
        around: object = None,
    ) -> None:
        from qemunet.host import spaces

        self.lab = opened(vms)
        self.name = self.lab.name
        self.runtime = runtime
        self.around: typing.Any = around
        self.environment = environment(runtime)
        self._opened = opened
        self._spec = spec
        self._home = home
        self.host = host(runtime, home)
        self.guests = {name: Guest(self, vm) for name, vm in self.lab.vm.items()}
        enter = (sys.executable, "-P", "-m", "qemunet", "exec")
        rooms = ((one.name, spaces.place(runtime.path, one.name)) for one in spec.spaces)
        self.rooms = {name: Room(name, home, self.environment, place, (*enter, name, "--")) for name, place in rooms}

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

    def start(self, *vms: str, timeout: float = READY) -> None:
        """Start what of these, or of the lab file, does not run, in the order of `depends`; wait until they are ready.

        A guest that had ended is the same one here, and runs again. Raises any QemunetError.
        """
        if all(guest.vm.ending is not None for guest in self):  # with the last one the lab has ended
            self.lab = self._opened(vms)
        self.lab.up(vms, wait="ready", timeout=timeout)
        for name, vm in self.lab.vm.items():
            self.guests.setdefault(name, Guest(self, vm)).vm = vm
        order = [vm.name for vm in self._spec.vms]
        self.guests = {name: self.guests[name] for name in sorted(self.guests, key=order.index)}

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
            glance()

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
