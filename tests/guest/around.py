"""What is around a lab of the pytest plugin: a host on which nothing is left of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from qemunet.testing.bench import Room
from tests.dump import dump, left_behind


@contextlib.contextmanager
def as_before(host: Room) -> Iterator[None]:
    """Whatever is there before the lab is there and the same after it."""
    runtime = Path(host.environment["QEMUNET_RUNTIME_DIR"])
    before = dump(runtime)
    yield
    found = left_behind(before, runtime)
    assert not found, found


def ping(address: str, seconds: int = 5) -> str:
    """The command that asks once whether somebody is there, in guests and elsewhere."""
    return f"busybox ping -c 1 -W {seconds} {address}"


def emulated(*vms: str) -> list[str]:
    """What of an example is set anew, so that its guests boot on any machine."""
    return [f"vm.{vm}.accel=tcg" for vm in vms]
