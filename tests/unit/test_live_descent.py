"""The order in which vms end: who is waited for, and that nobody is kept by one that he has nothing to do with."""

from __future__ import annotations

import threading
from collections.abc import Collection

import pytest

from qemunet import interrupts
from qemunet.errors import Interrupted
from qemunet.live.descent import Descent

AFTER = {"web": ("router", "db"), "db": ("router",), "router": ("elsewhere",), "idle": ()}
PATIENCE = 20  # seconds


class Hand:
    """Ends vms, and writes down who had ended when one began to; some take until another one has ended."""

    def __init__(self, slow: Collection[str] = ()) -> None:
        self.gone: list[str] = []
        self.seen: dict[str, list[str]] = {}
        self.slow = slow
        self.go_on = threading.Event()

    def end(self, vm: str) -> str:
        self.seen[vm] = list(self.gone)
        if vm in self.slow:
            assert self.go_on.wait(PATIENCE)
        self.gone.append(vm)
        if vm == "router":
            self.go_on.set()
        return f"{vm} ended"


def test_each_ends_when_all_have_that_depend_on_it() -> None:
    hand = Hand()
    descent = Descent(AFTER, hand.end)
    descent.run()
    assert descent.ended == {name: f"{name} ended" for name in AFTER}
    assert [name for name in hand.gone if name != "idle"] == ["web", "db", "router"]
    assert "web" in hand.seen["db"]
    assert {"web", "db"} <= set(hand.seen["router"])


def test_one_that_takes_its_time_keeps_nobody_who_does_not_wait_for_it() -> None:
    hand = Hand(slow=["idle"])
    Descent(AFTER, hand.end).run()
    assert hand.gone == ["web", "db", "router", "idle"]


def test_those_that_depend_on_nothing_end_at_the_same_time() -> None:
    together = threading.Barrier(3)
    descent = Descent(dict.fromkeys("abc", ()), lambda _vm: together.wait(timeout=PATIENCE))
    descent.run()
    assert sorted(descent.ended.values()) == [0, 1, 2]


def test_who_runs_it_is_told_when_a_turn_comes_and_how_it_ended() -> None:
    """And nobody else: what tells may draw a table."""
    said: list[tuple[str, str | None, int]] = []
    Descent({"a": (), "b": ("a",)}, str.upper, lambda vm, how: said.append((vm, how, threading.get_ident()))).run()
    me = threading.get_ident()
    assert said == [("b", None, me), ("b", "B", me), ("a", None, me), ("a", "A", me)]


def test_a_circle_ends_all_the_same() -> None:
    """The file may have changed between two starts."""
    descent = Descent({"a": ("b",), "b": ("a",), "c": ("a",)}, str.upper)
    descent.run()
    assert descent.ended == {"a": "A", "b": "B", "c": "C"}


def test_whoever_interrupts_does_not_wait_for_a_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def end(_vm: str) -> bool:
        begun.set()
        return go_on.wait(PATIENCE)

    def check() -> None:
        if begun.is_set():
            raise Interrupted("interrupted by SIGINT")

    monkeypatch.setattr(interrupts, "check", check)
    descent = Descent({"a": (), "b": ("a",)}, end)
    with pytest.raises(Interrupted):
        descent.run()
    assert descent.ended == {}
    go_on.set()
