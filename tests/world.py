"""A machine without guests' systems: a network namespace, a runtime directory, and qemunet run in them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qemunet.host import processes
from tests import forked, namespace
from tests.dump import Dump, dump, left_behind
from tests.patience import rest

TREE = Path(__file__).parents[1]
QEMUNET = str(Path(sys.executable).with_name("qemunet"))
PATIENCE = 60.0  # seconds

Done = subprocess.CompletedProcess[str]


def machine(name: str, *more: str, card: str = 'network = "lab"', rests: bool = True) -> str:
    """A vm that runs nothing but its firmware, which is the usual one unless it `rests`.

    `more` are lines of its own table, `card` those of its only card.
    """
    lines = [f"[vm.{name}]", 'memory = "64M"', 'accel = "tcg"', *more]
    if rests and not any(line.startswith("qemu-args") for line in more):
        lines.append(RESTS)
    return "\n".join([*lines, f"[[vm.{name}.nic]]", card, ""])


# A firmware that stops when it finds no kernel: the usual one looks for something to boot for ever, which costs a
# processor, emulated, more than everything else that a test does.
RESTS = 'qemu-args = ["-bios", "qboot.rom"]'
NETWORK = '[network.lab]\nmode = "private"\n'


@dataclass
class World:
    """Lab files and what they name are in `folder`; what qemunet keeps is in `folder`/host/run."""

    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    before: Dump = field(default_factory=dict)

    @property
    def runtime(self) -> Path:
        return self.folder / "host" / "run"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "QEMUNET_RUNTIME_DIR": str(self.runtime), "PYTHONPATH": str(TREE), **self.more}

    def write(self, text: str, name: str = "lab.toml") -> str:
        file = self.folder / name
        file.write_text(text)
        return str(file)

    def start(self, *words: str, before: Sequence[str] = (), **options: Any) -> subprocess.Popen[str]:
        """Begin a command, in a Python of its own; `before` are words in front of it."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        argv = [*before, QEMUNET, *words]
        return subprocess.Popen(argv, **{"env": self.environment, "text": True, **pipes, **options})

    def qemunet(self, *words: str, before: Sequence[str] = (), **options: Any) -> Done:
        """Run a command to its end, forked if nothing else is asked for. Whatever happens, nobody sees a traceback."""
        if before or options:
            return finish(self.start(*words, before=before, **options))
        return unbroken(forked.run(("qemunet", *words), self.environment, PATIENCE))

    def succeeds(self, *words: str, **options: Any) -> str:
        done = self.qemunet(*words, **options)
        assert done.returncode == 0, f"qemunet {' '.join(words)}: {done.returncode}: {done.stderr}"
        return done.stdout

    def fails(self, status: int, *words: str, **options: Any) -> str:
        """Run a command that must end with `status`; return what it said."""
        done = self.qemunet(*words, **options)
        assert done.returncode == status, f"qemunet {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stderr

    def pid(self, vm: str) -> int:
        return int((self.runtime / "vm" / vm / "pid").read_text())

    def keeper(self, lab: str = "*") -> int:
        """The process of a lab's keeper, of the only one if none is named, once it is there."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [file.read_text() for file in self.runtime.glob(f"lab/{lab}/pid")]
            return bool(found) and found[0].endswith("\n")

        until(there, f"the keeper of {lab}")
        (text,) = found
        return int(text)

    def vms(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.succeeds("ps", "--json"))
        return found

    def left(self, seconds: float = 20) -> str:
        """What differs from the beginning, when everything that ends by itself had time to."""
        return left_behind(self.before, self.folder / "host", seconds)

    def mark(self) -> None:
        """Call what is there now the beginning."""
        self.before = dump(self.folder / "host")

    def end_everything(self) -> None:
        """Never leave a QEMU of a failed test behind."""
        for file in [*self.runtime.glob("vm/*/pid"), *self.runtime.glob("lab/*/pid")]:
            with contextlib.suppress(ProcessLookupError, ValueError, FileNotFoundError):
                os.kill(int(file.read_text()), signal.SIGKILL)


def finish(process: subprocess.Popen[str]) -> Done:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return unbroken(subprocess.CompletedProcess(process.args, process.returncode, out, err))


def unbroken(done: Done) -> Done:
    """Return what a command has come to; none complains of itself."""
    assert "Traceback" not in done.stderr, done.stderr
    assert "a mistake in qemunet" not in done.stderr, done.stderr
    return done


def kill(*pids: int) -> None:
    """Kill processes and wait until they are dead."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(processes.start_time, pids)), "they are dead")


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something is true."""
    begun = time.monotonic()
    deadline = begun + seconds
    while not true():
        assert time.monotonic() < deadline, f"it never came true: {what}"
        rest(begun)
        begun = time.monotonic()


def status(pid: int) -> dict[str, list[str]]:
    """What /proc/PID/status says."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}


@contextlib.contextmanager
def fresh_world(folder: Path) -> Iterator[World]:
    """A world in a network namespace of its own."""
    with namespace.fresh_namespace():
        world = World(folder)
        try:
            yield world
        finally:
            world.end_everything()
