"""Fifty starts and stops of a lab, with all that a network can have, leave a host as it was."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from qemunet.host.linux import LinuxHost
from qemunet.live import session
from qemunet.live.source import Source
from qemunet.live.thinker import Here
from qemunet.state import Runtime
from tests import namespace
from tests.dump import dump, left_behind

CYCLES = 50
LAB = """
[lab]
name = "cycles"

[vm.one]
profile = "microvm"
memory = "32M"
accel = "tcg"
qemu-args = ["-S"]
[[vm.one.nic]]
network = "out"
ip = ["10.6.0.9/24"]

[network.out]
mode = "nat"
address = ["10.6.0.1/24"]
dhcp = true
dns = { domain = "cycles.test" }
forward = ["tcp::8080:one:80", "udp::5000-5009:one:5000-5009"]
"""


def cycle(runtime: Runtime, source: Source) -> None:
    """Start the lab's guest, and everything that it needs, and take it back."""
    with contextlib.closing(LinuxHost(runtime.path)) as host:
        session.start(runtime, host, Here(source), tethered=True)
        assert runtime.scope("net/out").fingerprint() is not None
        failures = session.take_back(runtime, host, source.chosen(()))
    assert not failures


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_fifty_starts_and_stops_of_a_nat_network_leave_nothing(tmp_path: Path) -> None:
    """No link, address, rule, sysctl, process, file or descriptor; forwarding of the host is as it was."""
    if why := namespace.lack():
        pytest.skip(why)
    place = tmp_path / "host"
    place.mkdir()
    (tmp_path / "cycles.toml").write_text(LAB)
    source = Source.read(str(tmp_path / "cycles.toml"))
    runtime = Runtime(str(place / "run"))
    with namespace.fresh_namespace():
        cycle(runtime, source)  # what the kernel loads once, it has now
        before, held = dump(place), descriptors()
        for _ in range(CYCLES):
            cycle(runtime, source)
        found = left_behind(before, place, 10)
        assert not found, found
        assert descriptors() == held
