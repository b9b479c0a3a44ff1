"""Finds out whether a guest has a card: a driver of its kernel uses it, or it cannot be known, and why not.

No event of QEMU's tells. A virtio card says itself that a driver has it. For the others there is one sign that fits
every model and every state: the driver's probe lets the card reach the memory (bus master), which no firmware does.
"""

from __future__ import annotations

import asyncio
import typing
from enum import StrEnum

from qemunet.errors import Refused
from qemunet.live import devices

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    from qemunet.live.process import Guest

_GLANCE = 0.05  # seconds between two looks; one costs QEMU some milliseconds


class Presence(StrEnum):
    """Whether the guest has a card."""

    THERE = "there"  # a driver uses it
    PAUSED = "paused"  # the guest does not run; it will find the card when it does
    NOT_BOOTED = "not-booted"  # no driver of the guest uses anything yet; its kernel will find the card
    UNSEEN = "unseen"  # it runs, and has not taken the card


async def wait(
    guest: Guest, nic: str, model: str, seconds: float, check: Callable[[], None] = lambda: None
) -> Presence:
    """Return when the guest has the card, or after `seconds` why not; raises NotFound if QEMU is gone.

    `check` is called at every look, and ends the wait by what it raises.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while not await _has_driver(guest, nic, model):
        check()
        if await guest.run_state() not in ("running", "unknown"):
            return Presence.PAUSED
        if clock() > deadline:
            return Presence.UNSEEN if await _is_up(guest) else Presence.NOT_BOOTED
        await asyncio.sleep(_GLANCE)
    return Presence.THERE


async def is_plugged(guest: Guest, nic: str) -> bool:
    """Tell whether QEMU has the card, whoever else does; raises as `Guest.execute` does."""
    nodes = await guest.execute("qom-list", arguments={"path": "/machine/peripheral"})
    return any(node["name"] == nic for node in typing.cast("list[dict[str, str]]", nodes))


async def _has_driver(guest: Guest, nic: str, model: str) -> bool:
    if model.startswith("virtio"):
        path: dict[str, object] = {"path": f"/machine/peripheral/{nic}/virtio-backend"}
        try:
            return devices.virtio_driver(await guest.execute("x-query-virtio-status", arguments=path))
        except Refused:  # another QEMU may not have this command
            pass
    return devices.bus_master(await _memory_tree(guest), nic)


async def _is_up(guest: Guest) -> bool:
    """Tell whether a driver of the guest's uses any PCI device: its kernel is up then."""
    return devices.any_bus_master(await _memory_tree(guest))


async def _memory_tree(guest: Guest) -> str:
    return str(await guest.execute("human-monitor-command", arguments={"command-line": "info mtree -o"}))
