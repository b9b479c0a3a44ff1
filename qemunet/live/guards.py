"""Tells what the guards of a guest's cards have dropped, by what is counted in their tables."""

from __future__ import annotations

import typing
from functools import partial

from qemunet.errors import QemunetError
from qemunet.host import nft, spaces
from qemunet.model.guard import GuardLevel
from qemunet.plan import guards

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

    from qemunet.records import NicRecord


def dropped(runtime: str, vm: str, rows: Iterable[NicRecord]) -> dict[str, dict[str, int]]:
    """Return by card how many frames of each kind its guard has dropped since it was loaded; blocks for milliseconds.

    A card whose table somebody has deleted, or which has just gone, has dropped nothing that is known.
    """
    return {row.id: _of(runtime, vm, row) for row in rows if row.guard != GuardLevel.OFF}


def _of(runtime: str, vm: str, row: NicRecord) -> dict[str, int]:
    found: dict[str, int] = {}
    place = spaces.place(runtime, row.netns)
    for family, table in guards.places(vm, row.id, row.mode, bridged=row.bridge is not None, runtime=runtime):
        try:
            counted = place.inside(partial(nft.counters, family, table))
        except (QemunetError, OSError):
            continue
        found |= {name.removeprefix(guards.COUNTER): number for name, number in counted.items()}
    return found
