"""Notices that a card has lost whoever was at the other end of its connection: another QEMU, or its own passt."""

from __future__ import annotations

import typing

from qemunet.frozen import replace
from qemunet.host import daemons
from qemunet.plan.passt import named

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.records import NicRecord

DISCONNECTED = "disconnected"
_TOLD = "NETDEV_STREAM_DISCONNECTED"
_NETDEV = "host-"  # in front of the id of the card that has it


def as_it_is(directory: str, row: NicRecord) -> NicRecord:
    """Return the row of a card of the vm at `directory`; without its passt it is `disconnected`."""
    if row.mode != "passt" or row.state != "plugged" or daemons.alive(directory, named(row.id)):
        return row
    return replace(row, state=DISCONNECTED)


def loser(event: Message) -> str | None:
    """Return the card that has lost its connection, if an event of QEMU says so."""
    data = event.get("data")
    if event["event"] != _TOLD or not isinstance(data, dict):
        return None
    return str(data.get("netdev-id", "")).removeprefix(_NETDEV)


def remedy(vm: str, row: NicRecord) -> str:
    """Say what is wrong with a card that has lost its connection, and what brings it back."""
    if row.mode != "passt":
        return "the other end has gone"
    return f"its passt has ended; `qemunet nic del {vm} {row.id}` and `nic add` give it a new one"
