"""The order in which vms start: who waits for whom, and what becomes of the others when one fails."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from qemunet.errors import Failed, QemunetError, TimedOut
from qemunet.live import climb as climbs
from qemunet.live.climb import Climb, Goal
from qemunet.live.readiness import Watch
from qemunet.model.ready import LeaseReady, Ready


@dataclass
class Look:
    """Ready at the look that is `due`."""

    due: int
    seen: str = "nothing yet"

    def ready(self) -> bool:
        self.due -= 1
        return self.due <= 0


@dataclass
class Hand:
    """Writes down what it is told to do; guests become ready when they are looked at `looks` times."""

    looks: Mapping[str, int] = field(default_factory=dict)
    broken: Collection[str] = ()
    ended: Collection[str] = ()
    done: list[str] = field(default_factory=list)

    def start(self, vms: Sequence[str]) -> None:
        self.done.append(f"start {' '.join(vms)}")
        for name in vms:
            if name in self.broken:
                raise Failed("it is broken", where=f"vm.{name}")

    def watch(self, goal: Goal) -> Watch:
        return cast("Watch", Look(self.looks.get(goal.vm, 1)))

    def runs(self, vm: str) -> bool:
        return vm not in self.ended

    def tell(self, vm: str, state: str, detail: str = "") -> None:
        if state != "started":
            self.done.append(f"{vm} {state}")

    def check(self) -> None:
        pass


AFTER = {"web": ("router", "db"), "db": ("router",), "router": (), "idle": ()}
OWN = dict.fromkeys(AFTER, LeaseReady())


def climb(
    hand: Hand,
    order: Sequence[str] = tuple(AFTER),
    *,
    seconds: float = 20,
    keep_going: bool = False,
    own: Mapping[str, Ready | None] = OWN,
    at_once: int = 20,
) -> Climb:
    return Climb(hand, order, AFTER, own, seconds=seconds, keep_going=keep_going, at_once=at_once)


def test_each_starts_when_all_are_ready_that_it_depends_on() -> None:
    hand = Hand({"router": 3})
    climb(hand).run([])
    assert hand.done == ["start router idle", "router ready", "start db", "db ready", "start web"]


def test_nobody_is_waited_for_whom_nobody_needs() -> None:
    hand = Hand(ended=["idle"])
    climb(hand, ["idle"]).run([])
    assert hand.done == ["start idle"]


def test_all_goals_are_reached_in_the_end() -> None:
    hand = Hand({"idle": 4})
    climb(hand, ["idle", "router"]).run([Goal("idle", LeaseReady()), Goal("router", None)])
    assert hand.done == ["start idle router", "router ready", "idle ready"]


def test_what_runs_already_is_looked_at_and_not_started() -> None:
    """Whoever depends on it waits for it all the same."""
    hand = Hand({"router": 2})
    climb(hand, ["db"]).run([])
    assert hand.done == ["router ready", "start db"]


@pytest.mark.parametrize(
    ("hand", "seconds", "error", "said"),
    [
        (Hand(broken=["db"]), 20, Failed, "vm.db: it is broken"),
        (Hand({"router": 1000}, ended=["router"]), 20, Failed, "vm.router: it ended before it was ready; nothing yet"),
        (Hand({"router": 1000}), 0, TimedOut, "vm.router: it is not ready after 0 s; nothing yet"),
    ],
)
def test_what_fails_ends_it(hand: Hand, seconds: float, error: type[QemunetError], said: str) -> None:
    """Who was begun is known, to be taken back."""
    way = climb(hand, seconds=seconds)
    with pytest.raises(error, match=f"^{said}"):
        way.run([])
    assert way.begun == ["router", "idle"]
    assert "start web" not in hand.done


def test_who_keeps_going_leaves_out_what_depends_on_it() -> None:
    hand = Hand(broken=["db"])
    way = climb(hand, keep_going=True)
    way.run([Goal(name, LeaseReady()) for name in AFTER])
    assert way.begun == ["router", "idle"]
    assert {name: str(error) for name, error in way.failed.items()} == {
        "db": "vm.db: it is broken",
        "web": "vm.web: it was left out, as db failed",
    }


def test_of_several_that_start_at_once_the_others_start_without_the_broken_one() -> None:
    hand = Hand(broken=["router"])
    way = climb(hand, keep_going=True)
    way.run([])
    assert hand.done[:3] == ["start router idle", "start router", "router failed"]
    assert way.begun == ["idle"]
    assert set(way.failed) == {"router", "db", "web"}


def test_one_that_is_not_ready_in_time_runs_on_where_it_is_to_keep_going() -> None:
    hand = Hand({"router": 1000})
    way = climb(hand, seconds=0, keep_going=True)
    way.run([])
    assert way.begun == ["router", "idle"]
    assert set(way.failed) == {"router", "db", "web"}


def test_no_more_boot_at_once_than_there_are_places_for() -> None:
    """Each that is ready makes room for the next; nobody has asked for it to be waited for."""
    hand = Hand({"router": 3, "idle": 2})
    climb(hand, at_once=1).run([])
    assert hand.done == ["start router", "router ready", "start db", "db ready", "start web", "web ready", "start idle"]


def test_what_does_not_tell_when_it_is_ready_needs_no_place() -> None:
    hand = Hand({"router": 3})
    climb(hand, ["router", "idle"], own={**OWN, "idle": None}, at_once=1).run([])
    assert hand.done == ["start router idle"]


@pytest.mark.parametrize("hand", [Hand({"router": 10_000}), Hand({"router": 10_000}, ended=["router"])])
def test_one_that_is_never_ready_keeps_its_place_for_a_while(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked for it to be ready, so nothing has failed; one that has ended makes room at once."""
    if not hand.ended:
        monkeypatch.setattr(climbs, "_BOOT", 0.2)
    climb(hand, ["router", "idle"], at_once=1).run([])
    assert hand.done == ["start router", "start idle"]
