"""QEMUs that are not there, for a host in memory."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from qemunet.errors import Failed, Refused
from qemunet.host.links import Vanished
from qemunet.steps import SetForwards


@dataclass(slots=True)
class FakeGuest:
    """A QEMU that is not there. `taps` of a backend live as long as that, those of no backend as long as QEMU."""

    directory: str
    taps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    answered: bool = False
    running: bool = False
    netdevs: set[str] = field(default_factory=set)
    chardevs: set[str] = field(default_factory=set)
    cards: set[str] = field(default_factory=set)
    forwards: set[str] = field(default_factory=set)


def add_to(known: set[str], name: str) -> None:
    """Note what has a name, or refuse a second one as QEMU does."""
    if name in known:
        raise Refused("add", f"Duplicate ID '{name}'")
    known.add(name)


def change_forwards(guest: FakeGuest, step: SetForwards) -> None:
    """Open and close ports of a backend; raises Failed if QEMU has none such."""
    if step.netdev not in guest.netdevs:
        raise Failed(f"unrecognized netdev id '{step.netdev}'")
    guest.forwards = (guest.forwards - set(step.remove)) | set(step.add)


def take_from(known: set[str], name: str) -> None:
    """Forget what has a name; raises Vanished."""
    if name not in known:
        raise Vanished(errno.ENODEV, f"there is no {name}")
    known.remove(name)
