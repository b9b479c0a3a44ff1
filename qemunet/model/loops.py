"""Finds loops of bridges that are joined by cables, before anything goes round in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qemunet.frozen import frozen


@frozen
class Wire:
    """Something that joins two bridges, and what it is called."""

    one: str
    other: str
    name: str


class _Groups:
    """Bridges that are joined, directly or by others: a union-find."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, bridge: str) -> str:
        """Return what stands for all bridges that this one is joined with."""
        while (above := self._parents.setdefault(bridge, bridge)) != bridge:
            bridge = above
        return bridge

    def join(self, one: str, other: str) -> None:
        self._parents[self.find(one)] = self.find(other)


def closed_by(wire: Wire, there: Sequence[Wire], stp: frozenset[str]) -> tuple[Wire, ...] | None:
    """Return the loop that a wire closes with those that are there; None if it closes none.

    Nor does it if a bridge in the loop is in `stp`: that one blocks a port when its own messages come back to it, and
    the others pass them on (br_handle_frame in net/bridge/br_input.c).
    """
    bare = [one for one in (wire, *there) if not {one.one, one.other} & stp]
    if wire not in bare:
        return None
    groups = _Groups()
    for one in bare[1:]:
        groups.join(one.one, one.other)
    if groups.find(wire.one) != groups.find(wire.other):
        return None
    return (wire, *_path(wire.other, wire.one, bare[1:]))


def story(loop: Iterable[Wire]) -> str:
    """Say who joins what: ``x (br0 to br1), y (br1 to br0)``."""
    return ", ".join(f"{wire.name} ({wire.one} to {wire.other})" for wire in loop)


def _path(start: str, end: str, wires: Sequence[Wire]) -> tuple[Wire, ...]:
    """Return the shortest way from a bridge to another; there is one."""
    ways: dict[str, tuple[Wire, ...]] = {start: ()}
    heads = [start]
    for bridge in heads:
        if bridge == end:
            return ways[bridge]
        for wire in wires:
            for near, far in ((wire.one, wire.other), (wire.other, wire.one)):
                if near == bridge and far not in ways:
                    ways[far] = (*ways[bridge], wire)
                    heads.append(far)
    raise AssertionError("they are joined")
