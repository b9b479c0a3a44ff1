"""A lab whose guests run while keepers die: what it takes to hurt it at a chosen moment, and how it is afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from qemunet import state
from qemunet.errors import QemunetError
from qemunet.frozen import as_dict
from qemunet.guest import image
from qemunet.host import processes
from qemunet.live import devices
from qemunet.live.control import Control, Lost, connect
from tests import dump
from tests.guest import bare
from tests.world import PATIENCE, TREE, World, fresh_world, until

ZYGOTE = Path(__file__).with_name("keepers.py")
READY = "qemunet guest ready:"
_SYSCTLS = Path("/proc/sys/net/ipv6/conf")
State = dict[str, list[str]]

LAB = """
[lab]
name = "live"

[vm.one]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 1
shared-memory = true

[[vm.one.nic]]
network = "first"

[network.first]
mode = "private"

[network.second]
mode = "isolated"
address = ["10.8.0.1/24"]
"""

SET_UP = """
ip link add br0 address 02:00:00:00:00:01 type bridge
ip link add up0 address 02:00:00:00:00:02 type veth peer name far0 address 02:00:00:00:00:03
ip link add port0 type veth peer name port1
"""
UP = ("port0 master br0", "port1", "br0", "far0", "up0")


class ByKeeper:
    """A guest's monitor, by way of its keeper (see `host.cards.Monitor`)."""

    def __init__(self, live: Live, vm: str) -> None:
        self.live = live
        self.vm = vm

    def execute(self, command: str, **arguments: object) -> object:
        return self.live.ask("qmp", vm=self.vm, execute=command, arguments=arguments)["return"]

    def give(self, fd: int, name: str | None = None) -> str:
        raise AssertionError("for looking only")

    def forget(self, name: str) -> None:
        raise AssertionError("for looking only")

    def unplug(self, nic: str) -> None:
        raise AssertionError("for looking only")


@dataclass
class Live:
    """A lab that runs in a world of its own, with a keeper that does what it is told by `trap`."""

    world: World
    lab: str = "live"
    text: str = LAB
    _zygote: subprocess.Popen[str] | None = None
    _case: int = 0
    pids: list[int] = field(default_factory=list)

    # ---------------------------------------------------------------- keepers and guests

    def run(self) -> None:
        """Run the lab; when its guests with a system are up, have its keeper replaced by one of ours."""
        self.world.succeeds("run", "-d", self.world.write(self.text))
        self.await_guests()
        self.kill_keeper()
        self.keep()

    def ensure(self) -> None:
        """Have the lab run, and a keeper of ours with it, whatever became of them."""
        if not self.runtime.scope("vm/one").exists():
            self.run()
        elif not self._answers():
            self.keep()

    def await_guests(self) -> None:
        """Wait until every guest with a console has its shell; the first keeper may not have opened their logs yet."""
        for log in [guest / "console.log" for guest in self.world.runtime.glob("vm/*")]:
            try:
                until(partial(_has, log, READY), f"ready in {log}")
            except AssertionError as error:
                error.add_note(self._logs())
                raise
        self.world.keeper(self.lab)

    def keep(self) -> int:
        """Begin a keeper that adopts what runs; return its process."""
        if self._zygote is None:
            argv = [sys.executable, str(ZYGOTE), str(self._fault), str(self._count)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": self.world.environment}
            self._zygote = subprocess.Popen(argv, text=True, **pipes)  # type: ignore[call-overload]
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(bare.handover(str(self.world.runtime), self.lab) + "\n")
        self._zygote.stdin.flush()
        self.pids.append(int(self._zygote.stdout.readline()))
        until(self._answers, "the keeper answers")
        return self.pids[-1]

    def kill_keeper(self, number: signal.Signals = signal.SIGKILL) -> None:
        pid = self.world.keeper(self.lab)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        self.await_death(pid)

    def await_death(self, pid: int) -> None:
        try:
            until(lambda: not processes.start_time(pid), f"process {pid} is dead")
        except AssertionError as error:
            error.add_note(self._logs())
            error.add_note(Path(f"/proc/{pid}/stat").read_text())
            raise

    def _logs(self) -> str:
        logs = self.world.runtime.glob("*/*/*.log")
        return "\n".join(f"{log}: {log.read_text(errors='replace')[-1000:]}" for log in logs)

    def control(self) -> Control:
        return Control.open(self.runtime.lab(self.lab).path("keeper.sock"))

    def ask(self, do: str, **arguments: object) -> dict[str, Any]:
        with self.control() as control:
            return control.ask(do, within=PATIENCE, **arguments)

    def type(self, vm: str, line: str) -> None:
        """Type a line at a guest's console, and see it there."""
        seen = ""
        with connect(str(self.world.runtime / "vm" / vm / "console.sock")) as console:
            console.sendall(f"{line}\n".encode())
            console.settimeout(PATIENCE)
            while line not in seen:
                data = console.recv(4096)
                assert data, f"the console of {vm} ended: {seen!r}"
                seen += data.decode(errors="replace")

    # ---------------------------------------------------------------- faults

    @contextlib.contextmanager
    def trap(self, number: int, kind: str, vm: str = "one") -> Iterator[None]:
        """Have something happen at the Nth thing that is done meanwhile; `things` has what was done."""
        self._case += 1
        self._count.unlink(missing_ok=True)
        order = {"case": self._case, "number": number, "kind": kind, "pid": self.world.pid(vm)}
        self._order(order)
        try:
            yield
        finally:
            self._fault.unlink(missing_ok=True)
            self._held.unlink(missing_ok=True)

    def things(self) -> list[str]:
        """What was done since the last trap was set."""
        return self._count.read_text().splitlines() if self._count.exists() else []

    def is_held(self) -> bool:
        """Tell whether the keeper waits in a trap."""
        return self._held.exists()

    def go_on(self) -> None:
        """Let it go on."""
        self._fault.unlink()

    def hurt(self, number: int, kind: str, do: str, **arguments: object) -> QemunetError | None:
        """Ask for something that is hurt by a fault; return the error. A keeper that was killed has a successor."""
        keeper = self.world.keeper(self.lab)
        error: QemunetError | None = None
        with self.trap(number, kind):
            try:
                self.ask(do, **arguments)
            except QemunetError as caught:
                error = caught
        if isinstance(error, Lost):
            self.await_death(keeper)
            self.keep()
        return error

    # ---------------------------------------------------------------- how it is

    @property
    def runtime(self) -> state.Runtime:
        return state.Runtime(str(self.world.runtime))

    def state(self, vm: str = "one") -> State:
        """Everything that a change of a vm changes, as whoever looks sees it: files, host, QEMU, keeper."""
        shown = self.ask("nics", vm=vm)  # first: a new keeper answers when it has led back what it found
        scope = self.runtime.scope(f"vm/{vm}")
        record = scope.record()
        assert record is not None
        journal = scope.journal()
        try:
            owed = [f"{one.about}: {one.what}: {one.undo}" for one in journal.owed(started=True)]
            unfinished = journal.unfinished()
        finally:
            journal.close()
        monitor = ByKeeper(self, vm)
        shared = [f"{one.name} {one.users()} {one.fingerprint()}" for one in self.runtime.scopes(*state.SHARED_KINDS)]
        there = sorted(path.relative_to(scope.directory).as_posix() for path in Path(scope.directory).rglob("*"))
        netdevs, rules = str(_told(monitor, "info network")), str(_told(monitor, "info usernet"))
        return {
            "record": [str(as_dict(row)) for row in record.nics],
            "vm.toml": Path(scope.path("vm.toml")).read_text().splitlines(),
            "nics": [str(row) for row in shown["nics"]],
            "foreign": [str(row) for row in shown["foreign"]],
            "cards": sorted(map(str, devices.cards(monitor))),
            "netdevs": sorted(re.sub(r",?(fds?|restrict)=[^,\r\n]*", "", netdevs).splitlines()),
            "forwards": [" ".join(line.split()[3:]) for line in rules.splitlines() if "HOST_FORWARD" in line],
            "claims": [f"{key} {by}" for key, by in sorted(self.runtime.claims().items())],
            "shared": shared,
            "owed": sorted(owed),
            "unfinished": [str(unfinished)],
            "files": there,
            "links": [re.sub(r"'carrier_changes': \d+, ?", "", line) for line in dump.links()],
            "addresses": dump.addresses(),
            "fdb": dump.forwarding(),
            "qdiscs": dump.qdiscs(),
            "sysctls": [f"{path} {path.read_text()}" for path in sorted(_SYSCTLS.glob("*/disable_ipv6"))],
            "taps": self._taps(vm),
        }

    def _taps(self, vm: str) -> list[str]:
        """What of taps a QEMU has open."""
        return [target for target in dump.descriptors(self.world.pid(vm)) if re.match(r"/dev/(net/tun|.*tap)", target)]

    def _answers(self) -> bool:
        try:
            self.ask("ping")
        except Lost:
            return False
        return True

    def _order(self, order: dict[str, object]) -> None:
        draft = self._fault.with_suffix(".new")
        draft.write_text(json.dumps(order))
        draft.rename(self._fault)

    @property
    def _fault(self) -> Path:
        return self.world.folder / "fault"

    @property
    def _count(self) -> Path:
        return self.world.folder / "count"

    @property
    def _held(self) -> Path:
        return self._count.with_suffix(".held")

    def left(self) -> str:
        """What differs from the beginning."""
        self.close()
        return self.world.left()

    def close(self) -> None:
        """Let no more keepers be begun."""
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.communicate()
            self._zygote = None


def _has(log: Path, text: str) -> bool:
    return log.exists() and text in log.read_text(errors="replace")


def _told(monitor: ByKeeper, line: str) -> object:
    return monitor.execute("human-monitor-command", **{"command-line": line})


@contextlib.contextmanager
def live_world(folder: Path) -> Iterator[Live]:
    """A world with bridges and interfaces of others, where nothing may be left."""
    image.build(print)
    (folder / "host").mkdir(exist_ok=True)
    with fresh_world(folder) as world:
        for line in SET_UP.strip().splitlines():
            subprocess.run(line.split(), check=True)
        for words in UP:
            name = words.split()[0]
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")  # its routes come with the carrier
            subprocess.run(["ip", "link", "set", *words.split(), "up"], check=True)
        (folder / "hook").write_text("#!/bin/sh\nexit 0\n")
        (folder / "hook").chmod(0o755)
        live = Live(world)
        try:
            yield live
        finally:
            live.close()


def differs(one: State, other: State) -> str:
    """What differs between two states, as a diff by section."""
    return dump.difference(one, other)


def until_state(look: Callable[[], State], *wanted: State) -> tuple[State | None, str]:
    """Wait a moment until it is one of these states; return which, and else how it differs from the nearest of them."""
    there: list[State] = []
    found = ""

    def is_there() -> bool:
        nonlocal found
        try:
            seen = look()
        except (QemunetError, FileNotFoundError) as error:  # a keeper has just begun, a link just gone
            found = str(error)
            return False
        apart = [differs(one, seen) for one in wanted]
        there[:] = [one for one, text in zip(wanted, apart, strict=True) if not text]
        found = min(apart, key=len)
        return bool(there)

    with contextlib.suppress(AssertionError):
        until(is_there, "the state", 20)
    return (there[0], "") if there else (None, found)


__all__ = ["LAB", "PATIENCE", "TREE", "Live", "State", "differs", "live_world", "until_state"]
