"""Whenever a `net up` or `net down` of cables and namespaces dies, the next command takes back all of it."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemunet.errors import QemunetError
from qemunet.host.linux import LinuxHost
from qemunet.live import nets, session
from qemunet.live.source import Source
from qemunet.live.thinker import Here
from qemunet.state import Runtime
from qemunet.steps import Step, bare
from tests import namespace
from tests.crash import covered
from tests.dump import Dump, dump, left_behind

CABLES = """
[lab]
name = "wired"
[network.one]
mode = "private"
[[cable]]
a = "network:one"
b = "free"
[[cable]]
a = "bridge:br0"
b = "host"
b-address = ["10.9.0.1/24", "fd09::1/64"]
b-routes = ["10.99.0.0/24 via 10.9.0.2"]
"""
SPACES = """
[lab]
name = "wired"
[netns.here]
address = { lo = "10.77.0.1/32" }
sysctls = { "net.ipv4.ip_forward" = 1 }
[netns.there]
named = false
[network.inner]
netns = "there"
address = ["10.8.1.254/24"]
[[cable]]
a = "netns:here"
b = "netns:there"
a-address = "10.8.0.1/24"
a-routes = ["default via 10.8.0.2"]
[[cable]]
a = "network:inner"
b = "netns:here"
b-address = "10.8.1.1/24"
"""
GUEST = """
[lab]
name = "wired"
[netns.sw1]
named = false
[network.inner]
mode = "private"
netns = "sw1"
[vm.one]
memory = "64M"
accel = "tcg"
netns = "sw1"
boot.kernel = "halt"
[[vm.one.nic]]
network = "inner"
guard = "mac"
rate = { out = "10mbit" }
"""
MAGIC, PLACED, AT = 0x1BADB002, 0x10000, 0x100000  # of the Multiboot specification
HALT = struct.pack("<8I", MAGIC, PLACED, -(MAGIC + PLACED) % 2**32, AT, AT, 0, 0, AT + 32) + b"\xfa\xf4\xeb\xfd"
DONE = 77  # the exit status of a child that met no fault


class Faulty(LinuxHost):
    """A host on which the step of one number is the last, or fails."""

    steps: typing.ClassVar[set[str]] = set()  # seen in this process

    def __init__(self, runtime: str, number: int, fault: str) -> None:
        super().__init__(runtime)
        self.left = number
        self.fault = fault

    def perform(self, step: Step) -> None:
        self.steps |= {type(step).__name__, type(bare(step)).__name__}
        self.left -= 1
        if self.left == 0 and self.fault != "kill-after":
            self._meet()
        super().perform(step)
        if self.left == 0:
            self._meet()

    def _meet(self) -> None:
        if self.fault != "fail":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(5, "as the test wants it")


class Scene:
    def __init__(self, folder: Path, lab: str) -> None:
        self.folder = folder
        self.runtime = Runtime(str(folder / "run"))
        (folder / "wired.toml").write_text(lab)
        (folder / "halt").write_bytes(HALT)
        self.before: Dump = {}

    def up(self, host: LinuxHost) -> None:
        nets.up(self.runtime, host, Source.read(str(self.folder / "wired.toml")), [], lambda text: None)

    def run(self, host: LinuxHost) -> None:
        source = Source.read(str(self.folder / "wired.toml"))
        session.start(self.runtime, host, Here(source), tethered=True)

    def stop(self, host: LinuxHost) -> None:
        session.take_back(self.runtime, host, ["one"])

    def down(self, host: LinuxHost) -> None:
        nets.down(self.runtime, host, nets.of_file(self.runtime, str(self.folder / "wired.toml")), lambda text: None)

    def victim(self, number: int, fault: str, action: Callable[[LinuxHost], None]) -> int:
        """Do it in a child with a fault at one step; return how that ended."""
        pid = os.fork()
        if pid == 0:
            status = DONE
            try:
                host = Faulty(self.runtime.path, number, fault)
                action(host)
                status = DONE if host.left > 0 else 1
            except (QemunetError, OSError):
                status = 1
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def gc(self) -> None:
        with contextlib.closing(LinuxHost(self.runtime.path)) as host:
            session.gc(self.runtime, host)

    def left(self) -> str:
        """What differs from the beginning, mounts and names of namespaces included; those of others come and go."""
        mounts = Path("/proc/thread-self/mountinfo").read_text().splitlines()
        places = [line.split()[4] for line in mounts if "nsfs" in line]
        held = [place for place in places if place.startswith((str(self.folder), "/run/"))]
        return left_behind(self.before, self.folder) or " ".join((*held, *os.listdir("/run")[1:]))


@pytest.fixture(params=[CABLES, SPACES], ids=["cables", "namespaces"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with made(tmp_path, request.param) as found:
        yield found


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Scene]:
    """A lab with a guest, whose QEMU and card are in a namespace."""
    with made(tmp_path, GUEST) as found:
        yield found


@contextlib.contextmanager
def made(tmp_path: Path, lab: str) -> Iterator[Scene]:
    if why := namespace.lack():
        pytest.skip(why)
    folder = tmp_path / "wired"
    folder.mkdir()
    with namespace.own_run(), namespace.fresh_namespace():
        namespace.ip("link add br0 address 02:00:00:00:00:01 type bridge")
        Path("/proc/sys/net/ipv6/conf/br0/disable_ipv6").write_text("1")
        namespace.ip("link set br0 up")
        found = Scene(folder, lab)
        found.before = dump(folder)
        yield found


@pytest.mark.parametrize("fault", ["kill-after", "fail"])
def test_a_bringing_up_that_dies_at_any_step_is_taken_back(scene: Scene, fault: str) -> None:
    """One that fails does that itself."""
    for number in range(1, 200):
        status = scene.victim(number, fault, scene.up)
        if status == DONE:
            break
        if fault != "fail":
            assert status == -signal.SIGKILL
            scene.gc()
        assert not scene.left(), f"{fault} at step {number}"
    assert number > 10
    with contextlib.closing(LinuxHost(scene.runtime.path)) as host:
        scene.down(host)
    assert not scene.left()


def test_the_steps_of_cables_and_namespaces_are_those_of_a_list(tmp_path: Path) -> None:
    """Which says that none is missing."""
    Faulty.steps.clear()
    for number, lab in enumerate((CABLES, SPACES)):
        (tmp_path / str(number)).mkdir()
        with made(tmp_path / str(number), lab) as scene:
            for action in (scene.up, scene.down):
                with contextlib.closing(Faulty(scene.runtime.path, 0, "")) as host:
                    action(host)
    assert Faulty.steps >= covered.WIRING


@pytest.mark.parametrize("fault", ["kill-before", "kill-after"])
def test_a_taking_down_that_dies_at_any_step_is_finished(scene: Scene, fault: str) -> None:
    """By whoever comes next."""
    for number in range(1, 200):
        with contextlib.closing(LinuxHost(scene.runtime.path)) as host:
            scene.up(host)
        status = scene.victim(number, fault, scene.down)
        if status == DONE:
            break
        scene.gc()
        assert not scene.left(), f"{fault} at step {number}"
    assert number > 5
    assert not scene.left()


@pytest.mark.parametrize("fault", ["kill-after", "fail"])
def test_a_start_in_a_namespace_that_dies_at_any_step_is_taken_back(guest: Scene, fault: str) -> None:
    """QEMU and tap among it; then nothing keeps the namespace."""
    for number in range(1, 200):
        status = guest.victim(number, fault, guest.run)
        if status == DONE:
            break
        if fault != "fail":
            assert status == -signal.SIGKILL
            guest.gc()
        assert not guest.left(), f"{fault} at step {number}"
    assert number > 20
    Faulty.steps.clear()
    with contextlib.closing(Faulty(guest.runtime.path, 0, "")) as host:
        guest.stop(host)
        guest.run(host)
        guest.stop(host)
    assert Faulty.steps >= covered.IN_A_NAMESPACE
    assert not guest.left()


def test_a_taking_back_in_a_namespace_that_dies_at_any_step_is_finished(guest: Scene) -> None:
    """By whoever comes next."""
    for number in range(1, 200):
        with contextlib.closing(LinuxHost(guest.runtime.path)) as host:
            guest.run(host)
        status = guest.victim(number, "kill-before", guest.stop)
        guest.gc()
        assert not guest.left(), f"at step {number}"
        if status == DONE:
            break
    assert number > 10
