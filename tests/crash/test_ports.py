"""Whoever is killed while an uplink moves to a bridge, or back: the host is as it was, at the latest after `gc`.

Each step is tried on the real kernel, in a process that is forked for it and dies at that step.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemunet.host.linux import LinuxHost
from qemunet.live import nets, session
from qemunet.live.source import Source
from qemunet.state import Runtime
from qemunet.steps import Step
from tests import namespace
from tests.crash import covered
from tests.dump import Dump, difference, dump, program
from tests.world import until

LAB = """
[network.lan]
mode = "bridge"
ports = ["eth1", "eth0"]
move-address = true
"""
SET_UP = """
link add eth0 address 52:00:00:00:00:05 mtu 1400 type veth peer name far0
link add eth1 address 52:00:00:00:00:06 type veth peer name far1
link set eth0 addrgenmode none up
link set far0 up
link set eth1 addrgenmode none up
link set eth1 down
address add 192.0.2.5/24 dev eth0 valid_lft 36000 preferred_lft 36000
address add 192.0.2.6/24 dev eth0
address add 2001:db8::5/64 dev eth0 nodad
route add default via 192.0.2.1 dev eth0 src 192.0.2.5 metric 100
route add 198.51.100.0/24 via 192.0.2.1 dev eth0 table 99
"""
AT_WORK = 3  # exit status of one whose step never came
FAULTS = ["fail", "kill-before", "kill-after"]


class Place:
    """A host with an uplink and another interface, and how it was in the beginning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = str(folder / "lab.toml")
        self.steps = folder / "steps"
        Path(self.file).write_text(LAB)
        (folder / "host").mkdir()
        self.before: Dump = dump(folder / "host")

    def left(self) -> str:
        return difference(self.before, dump(self.folder / "host"))

    def up(self, runtime: Runtime, host: LinuxHost) -> object:
        return nets.up(runtime, host, Source.read(self.file), (), lambda _text: None)

    def down(self, runtime: Runtime, host: LinuxHost) -> object:
        return nets.down(runtime, host, ["lan"], lambda _text: None)

    def gc(self, runtime: Runtime, host: LinuxHost) -> object:
        return session.gc(runtime, host)

    def in_child(self, work: Callable[[Runtime, LinuxHost], object], number: int = 0, fault: str = "") -> int:
        """Do something in a process of its own, with a fault at its step of that number; return how it ended."""
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                reached = arm(number, fault, self.steps)
                host = LinuxHost(str(self.folder / "host" / "run"))
                work(Runtime(host.runtime), host)
                status = 0 if reached() or not number else AT_WORK
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def arm(number: int, fault: str, names: Path) -> Callable[[], bool]:
    """From now on steps are counted and written down; return what tells whether the one was there."""
    perform, seen = LinuxHost.perform, [0]

    def faulty(host: LinuxHost, step: Step) -> None:
        seen[0] += 1
        with open(names, "a") as file:
            file.write(f"{type(step).__name__}\n")
        if seen[0] == number and fault == "kill-before":
            os.kill(os.getpid(), signal.SIGKILL)
        if seen[0] == number and fault == "fail":
            raise OSError(errno.EIO, "injected")
        perform(host, step)
        if seen[0] == number and fault == "kill-after":
            os.kill(os.getpid(), signal.SIGKILL)

    LinuxHost.perform = faulty  # type: ignore[method-assign]
    return lambda: seen[0] >= number


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    if why := namespace.lack():
        pytest.skip(why)
    with namespace.fresh_namespace():
        for name in ("default", "all"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/router_solicitations").write_text("0")
        for line in SET_UP.strip().splitlines():
            program("ip", *line.split())
        for name in ("far0", "far1"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        until(lambda: "ff00::/8 dev eth0" in program("ip", "-6", "route", "show", "table", "all"), "its carrier")
        yield Place(tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_uplink_has_its_own_whatever_step_of_the_way_there_is_the_last(place: Place, fault: str) -> None:
    """One that fails takes back itself; after one that was killed it is `gc`."""
    for number in range(1, 100):
        status = place.in_child(place.up, number, fault)
        if status == AT_WORK:
            assert number > 15
            break
        assert status == (1 if fault == "fail" else -signal.SIGKILL)
        if fault != "fail":
            assert place.in_child(place.gc) == 0
        assert not (found := place.left()), f"{fault} at step {number}: {found}"
    assert place.in_child(place.down) == 0
    assert not (found := place.left()), found
    assert {*place.steps.read_text().split()} >= covered.UPLINKS


@pytest.mark.parametrize("fault", FAULTS)
def test_an_uplink_has_its_own_whatever_step_of_the_way_back_is_the_last(place: Place, fault: str) -> None:
    """The rest of it is done by `gc`."""
    for number in range(1, 100):
        assert place.in_child(place.up) == 0
        status = place.in_child(place.down, number, fault)
        if status == AT_WORK:
            assert number > 15
            break
        assert place.in_child(place.gc) == 0
        assert not (found := place.left()), f"{fault} at undo {number}: {found}"
    assert not (found := place.left()), found
