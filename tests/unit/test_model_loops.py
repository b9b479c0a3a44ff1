"""Loops of bridges are found whatever joins them, and those that a spanning tree breaks are none."""

from __future__ import annotations

import random
from collections.abc import Sequence

from qemunet.model.loops import Wire, closed_by, story

NONE: frozenset[str] = frozenset()


def wires(*pairs: str) -> list[Wire]:
    """Wires by the letters of what they join."""
    return [Wire(one, other, f"{one}{other}") for one, other in pairs]


def names(loop: Sequence[Wire] | None) -> list[str] | None:
    return None if loop is None else [wire.name for wire in loop]


def test_a_tree_has_no_loop() -> None:
    """Whatever grows, as long as it never meets itself."""
    grown = wires("ab", "bc", "bd", "de")
    assert all(closed_by(wire, grown[:at], NONE) is None for at, wire in enumerate(grown))


def test_a_loop_is_told_from_end_to_end() -> None:
    """By the shortest way, without what hangs on it."""
    there = wires("ab", "bc", "cd", "bx")
    loop = closed_by(Wire("d", "a", "new"), there, NONE)
    assert names(loop) == ["new", "ab", "bc", "cd"]
    assert loop is not None
    assert story(loop[:2]) == "new (d to a), ab (a to b)"


def test_both_ends_on_one_bridge_are_a_loop() -> None:
    """The shortest there is."""
    assert names(closed_by(Wire("a", "a", "new"), wires("ab"), NONE)) == ["new"]
    assert closed_by(Wire("a", "a", "new"), [], frozenset("a")) is None


def test_a_bridge_with_a_spanning_tree_breaks_the_loops_that_it_is_in_and_no_other() -> None:
    """A second way past it stays a loop."""
    there = wires("ab", "bc")
    assert closed_by(Wire("c", "a", "new"), there, frozenset("b")) is None
    assert names(closed_by(Wire("c", "a", "new"), [*there, *wires("ca")], frozenset("b"))) == ["new", "ca"]


def test_whatever_is_taken_is_a_forest() -> None:
    """Of wires at random, as many are taken as a forest has."""
    chance = random.Random(7)
    for _ in range(50):
        bridges = [f"br{n}" for n in range(chance.randrange(1, 12))]
        taken: list[Wire] = []
        for n in range(30):
            wire = Wire(chance.choice(bridges), chance.choice(bridges), str(n))
            if closed_by(wire, taken, NONE) is None:
                taken.append(wire)
        groups = {bridge: {bridge} for bridge in bridges}
        for wire in taken:
            assert wire.one not in groups[wire.other]
            both = groups[wire.one] | groups[wire.other]
            groups |= dict.fromkeys(both, both)
