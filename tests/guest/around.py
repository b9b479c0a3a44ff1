"""What is around a lab of the pytest plugin: a host on which nothing is left of it, and how that is looked at."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qemunet.testing.bench import Bench, Room, Seat
from tests.dump import dump, left_behind
from tests.guest.scene import QEMUNET


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
    """What of an example is set anew: its guests boot on any machine, and faster without ports for more cards."""
    return [f"vm.{vm}.{key}" for vm in vms for key in ("accel=tcg", "hotplug-slots=0")]


def emulated_with_room(*vms: str) -> list[str]:
    """Likewise for guests that get more cards."""
    return [f"vm.{vm}.accel=tcg" for vm in vms]


def refused(lab: Bench, status: int, *words: str) -> str:
    """What a command says that must end with `status`; nobody ever sees a traceback."""
    done = lab.host.execute([QEMUNET, *words])
    assert done.status == status, f"qemunet {' '.join(words)}: {done}"
    assert "Traceback" not in done.stderr, done
    return done.stderr


def shown(place: Seat, *words: str) -> list[dict[str, Any]]:
    """What ip(8) shows somewhere."""
    found: list[dict[str, Any]] = json.loads(place.succeeds(["ip", "-j", "-d", *words]))
    return found


def links(place: Seat) -> set[str]:
    """The interfaces that there are somewhere."""
    return {one["ifname"] for one in shown(place, "link")}
