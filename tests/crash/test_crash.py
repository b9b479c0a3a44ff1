"""Whatever dies, and whenever: the host is as it was, at the latest after `qemunet gc`.

Together the labs have every kind of step that a start has. Each is started, and taken back, with a fault at each step
in turn, on the real kernel and with real QEMUs, in a network namespace of its own; then full dumps are compared. They
are several because what one takes grows with the square of its steps.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import forked, namespace
from tests.crash import covered
from tests.dump import Dump, difference, dump, program

FEWEST = 10  # steps that any of the labs takes
VICTIM = "tests.crash.victim:run"
TREE = Path(__file__).parents[2]

# The firmware is one that rests when it finds nothing to boot (see `tests.world`).
LABS = {
    "files, hooks and cards that stand alone": """
[vm.one]
memory = "64M"
accel = "tcg"
qemu-args = ["-bios", "qboot.rom"]

[[vm.one.disk]]
file = "new.qcow2"
size = "1M"

[[vm.one.disk]]
file = "old.raw"
snapshot = true

[[vm.one.nic]]
mode = "user"

[[vm.one.nic]]
mode = "tap"
address = "10.9.0.1/30"
routes = ["10.99.0.0/24"]
ifup = "hook"
ifdown = "hook"

[[vm.one.nic]]
mode = "macvtap"
parent = "up0"
guard = "mac"
""",
    "networks without services": """
[vm.one]
memory = "64M"
accel = "tcg"
qemu-args = ["-bios", "qboot.rom"]

[[vm.one.nic]]
network = "quiet"
link = "down"

[vm.two]
memory = "64M"
accel = "tcg"
qemu-args = ["-bios", "qboot.rom"]

[[vm.two.nic]]
network = "quiet"

[[vm.two.nic]]
network = "host-on-it"

[network.quiet]
mode = "private"

[network.host-on-it]
mode = "isolated"
address = ["10.8.0.1/24", "fd08::1/64"]
""",
    "a network with services": """
[vm.one]
memory = "64M"
accel = "tcg"
qemu-args = ["-bios", "qboot.rom"]

[[vm.one.nic]]
network = "by-cable"

[network.by-cable]
mode = "isolated"
address = ["10.7.0.1/24", "fd07::1/64"]
host = "veth"
dhcp = true
dns = { domain = "crash.test", hosts = { db = "10.7.0.9" } }
""",
    "what others made, and each other": """
[vm.one]
memory = "64M"
accel = "tcg"
qemu-args = ["-bios", "qboot.rom"]

[[vm.one.nic]]
mode = "stream"
listen = "unix:wire.sock"

[vm.two]
memory = "64M"
accel = "tcg"
qemu-args = ["-bios", "qboot.rom"]

[[vm.two.nic]]
mode = "stream"
connect = "unix:wire.sock"

[[vm.two.nic]]
ifname = "tap7"
adopt = true

[[vm.two.nic]]
bridge = "br0"
guard = "clean"
port-isolation = true
""",
}

SET_UP = """
ip link add br0 address 02:00:00:00:00:01 type bridge
ip link add up0 address 02:00:00:00:00:02 type veth peer name far0 address 02:00:00:00:00:03
ip tuntap add dev tap7 mode tap vnet_hdr
sysctl -qw net.ipv6.conf.tap7.disable_ipv6=1
ip link set tap7 up
ip link add port0 type veth peer name port1
ip link add br-foreign address 02:00:00:00:00:04 group 77 type bridge
ip link set port0 master br0 addrgenmode none up
ip link set port1 addrgenmode none up
ip link set br0 addrgenmode none up
ip link set far0 addrgenmode none up
ip link set up0 addrgenmode none up
ip address add 192.0.2.1/24 dev up0
ip route add 198.51.100.0/24 via 192.0.2.254 table 99
"""


@dataclass
class Scene:
    """A host in its namespace, its runtime directory, and the lab file."""

    folder: Path
    runtime: Path
    lab: str
    before: Dump = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)  # of the last victim

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "QEMUNET_RUNTIME_DIR": str(self.runtime), "PYTHONPATH": str(TREE)}

    @property
    def title(self) -> str:
        return next(title for title, lab in LABS.items() if lab == self.lab)

    @property
    def file(self) -> str:
        return str(self.folder / "crash.toml")

    def victim(self, phase: str, number: int, fault: str) -> tuple[subprocess.CompletedProcess[str], int]:
        """Run the lab with a fault at one step; return how it ended and how many steps there were."""
        count = self.folder.parent.parent / "count"
        count.unlink(missing_ok=True)
        arguments = [self.file] if phase == "back" else ["-d", self.file]
        argv = ["victim", str(count), phase, str(number), fault, *arguments]
        done = forked.run(argv, self.environment, 60, VICTIM)
        self.steps = count.read_text().splitlines() if count.exists() else []
        return done, len(self.steps)

    def qemunet(self, *words: str) -> subprocess.CompletedProcess[str]:
        return forked.run(("qemunet", *words), self.environment, 60)

    def stop(self) -> subprocess.CompletedProcess[str]:
        """End every guest."""
        return self.qemunet("stop", "--force", *(name for name in ("one", "two") if f"[vm.{name}]" in self.lab))

    def remove_image(self) -> None:
        """Remove what the lab makes for good."""
        if "new.qcow2" in self.lab:
            (self.folder / "new.qcow2").unlink()

    def left(self) -> str:
        """What differs from the beginning."""
        return difference(self.before, dump(self.folder.parent))


@pytest.fixture(params=list(LABS.values()), ids=list(LABS))
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    if why := namespace.lack():
        pytest.skip(why)
    folder = tmp_path / "world" / "lab"
    folder.mkdir(parents=True)
    (folder / "crash.toml").write_text(request.param)
    (folder / "old.raw").write_bytes(bytes(1 << 20))
    (folder / "hook").write_text("#!/bin/sh\nexit 0\n")
    (folder / "hook").chmod(0o755)
    with namespace.fresh_namespace():
        for line in SET_UP.strip().splitlines():
            subprocess.run(line.split(), check=True)
        wait_for_carrier("br0", "port0", "port1", "far0", "up0")
        scene = Scene(folder, tmp_path / "world" / "run", request.param)
        scene.before = dump(scene.folder.parent)
        yield scene
        end_what_is_left(scene)


def wait_for_carrier(*names: str) -> None:
    """Wait until the kernel has noticed the carriers, up to a second later, and has made the routes that follow."""
    deadline = time.monotonic() + 30
    while not all(f"ff00::/8 dev {name}" in program("ip", "-6", "route", "show", "table", "all") for name in names):
        assert time.monotonic() < deadline, program("ip", "-6", "route", "show", "table", "all")
        select.select([], [], [], 0.05)


def end_what_is_left(scene: Scene) -> None:
    """Never leave a QEMU of a failed test behind; a good test has left none."""
    for pid in scene.runtime.glob("vm/*/pid"):
        os.kill(int(pid.read_text()), signal.SIGKILL)


def steps_of(scene: Scene, phase: str) -> range:
    """Run without a fault, end everything, and return the numbers of the steps that it took."""
    done, count = scene.victim(phase, 0, "none")
    assert done.returncode == 0, done.stderr
    assert {*scene.steps} >= {"run": covered.START, "back": covered.TAKING_BACK}[phase][scene.title]
    if phase == "run":
        assert scene.stop().returncode == 0
    scene.remove_image()
    assert not scene.left()
    assert count > FEWEST
    return range(1, count + 1)


@pytest.mark.parametrize("fault", ["fail", "int", "int2"])
def test_a_start_that_fails_or_is_interrupted_takes_everything_back_itself(scene: Scene, fault: str) -> None:
    """Exit status 1 or 130, one clear message, and not even `gc` is needed."""
    wanted = 1 if fault == "fail" else 130
    for number in steps_of(scene, "run"):
        done, _ = scene.victim("run", number, fault)
        assert "Traceback" not in done.stderr
        assert (done.returncode, scene.left()) == (wanted, ""), f"{fault} at step {number}: {done.stderr}"
    assert {*scene.steps} >= covered.FAILED_START.get(scene.title, set())


@pytest.mark.parametrize("fault", ["kill-before", "kill-after"])
def test_a_killed_start_is_taken_back_by_the_command_that_waits_for_it(scene: Scene, fault: str) -> None:
    for number in steps_of(scene, "run"):
        done, _ = scene.victim("run", number, fault)
        assert "Traceback" not in done.stderr
        assert (done.returncode, scene.left()) == (1, ""), f"{fault} at step {number}: {done.stderr}"


@pytest.mark.parametrize("fault", ["both-before", "both-after"])
def test_when_both_processes_are_killed_gc_takes_everything_back(scene: Scene, fault: str) -> None:
    for number in steps_of(scene, "run"):
        done, _ = scene.victim("run", number, fault)
        assert done.returncode == -signal.SIGKILL
        cleared = scene.qemunet("gc")
        assert (cleared.returncode, scene.left()) == (0, ""), f"{fault} at step {number}: {cleared.stderr}"


@pytest.mark.parametrize("fault", ["fail", "kill-before", "kill-after"])
def test_a_taking_back_that_fails_or_is_killed_is_finished_by_gc(scene: Scene, fault: str) -> None:
    for number in steps_of(scene, "back"):
        scene.victim("back", number, fault)
        cleared = scene.qemunet("gc")
        scene.remove_image()
        assert (cleared.returncode, scene.left()) == (0, ""), f"{fault} at undo {number}: {cleared.stderr}"
