"""Starts the vms of a lab in their order: each when those are ready that it depends on, and all that can at once.

Theory of operation. Who starts vms, and who watches them, is given; this decides what is next. The vms whose turn it is
are started together, as one attempt that comes true or is taken back. Then every goal is looked at until one is
reached, which may be the turn of others. A goal that is not reached in its time, or whose vm has ended, is an error:
without `keep_going` of everything, with it of that vm and of those that depend on it.

Of vms that tell when they are ready no more than `at_once` boot at the same time, as guests that share few processors
run into time limits of their own. One whose turn it is waits for a place; a place is free again when its vm is ready or
has ended, and after `_BOOT` in any case, as what it is to be ready for may be far away. So nobody fails by this, and a
vm's own time begins with its start.
"""

from __future__ import annotations

import select
import sys
import time
import typing

from qemunet.errors import Failed, QemunetError, TimedOut
from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qemunet.live.readiness import Watch
    from qemunet.model.ready import Ready

_GLANCE = 0.05  # seconds between two looks at those that are to become ready
_BOOT = 30.0  # seconds that a vm may keep others from booting


@frozen
class Goal:
    """A vm is to be ready in some way."""

    vm: str
    ready: Ready | None


class Helper(typing.Protocol):
    """Who does what is decided here."""

    def start(self, vms: Sequence[str]) -> None:
        """Start vms; raises QemunetError, then none of them runs."""

    def watch(self, goal: Goal) -> Watch:
        """Begin to look at a vm that runs."""

    def runs(self, vm: str) -> bool:
        """Tell whether a vm has not ended."""

    def tell(self, vm: str, state: str, detail: str = "") -> None:
        """Say how a vm is."""

    def check(self) -> None:
        """Raise whatever it is that ends all of it: nobody wants it any more."""


class Climb:
    """One way up. `order` are the vms that do not run yet, `after` whom each depends on, `own` when each is ready."""

    def __init__(
        self,
        helper: Helper,
        order: Sequence[str],
        after: Mapping[str, Iterable[str]],
        own: Mapping[str, Ready | None],
        *,
        seconds: float,
        keep_going: bool = False,
        at_once: int = sys.maxsize,
    ) -> None:
        self.failed: dict[str, QemunetError] = {}
        self.begun: list[str] = []
        self._helper = helper
        self._waiting = list(order)
        self._after = {name: set(others) for name, others in after.items()}
        self._own = own
        self._seconds = seconds
        self._keep_going = keep_going
        self._at_once = at_once
        self._booting: dict[str, float] = {}
        self._watches: dict[Goal, Watch] = {}
        self._deadlines: dict[str, float] = {}
        self._reached: set[Goal] = set()

    def run(self, goals: Iterable[Goal]) -> None:
        """Return when all vms run and all goals are reached; raises the first error unless it is to keep going."""
        needed = {Goal(one, self._own[one]) for name in self._waiting for one in self._after[name]}
        open_goals = needed | set(goals)
        while self._waiting or open_goals:
            self._start(self._next())
            open_goals = {goal for goal in open_goals if self._is_open(goal)}
            if self._waiting and len(self._booting) >= self._at_once:
                self._booting = {name: until for name, until in self._booting.items() if self._boots(name, until)}
            if open_goals or self._waiting:
                self._helper.check()
                select.select([], [], [], _GLANCE)

    def _next(self) -> list[str]:
        """Return whose turn it is, of those that have to boot as many as there are places."""
        free = self._at_once - len(self._booting)
        names = []
        for name in filter(self._has_its_turn, self._waiting):
            if self._own[name] is None or free > 0:
                names.append(name)
                free -= self._own[name] is not None
        return names

    def _boots(self, name: str, until: float) -> bool:
        """Tell whether a vm that was started keeps its place."""
        goal = Goal(name, self._own[name])
        if name in self.failed or goal in self._reached or time.monotonic() > until or not self._helper.runs(name):
            return False
        try:
            return not self._sees(goal)
        except QemunetError:  # for whoever waits for it to tell
            return False

    def _has_its_turn(self, name: str) -> bool:
        return all(Goal(one, self._own[one]) in self._reached for one in self._after[name])

    def _start(self, names: Sequence[str]) -> None:
        if not names:
            return
        try:
            self._helper.start(names)
        except QemunetError as error:
            if not self._keep_going:
                raise
            if len(names) > 1:  # one of them is at fault
                for name in names:
                    self._start([name])
            else:
                self._give_up(names[0], error)
            return
        for name in names:
            self._waiting.remove(name)
            self.begun.append(name)
            if self._own[name] is not None:
                self._booting[name] = time.monotonic() + _BOOT
            self._helper.tell(name, "started")

    def _is_open(self, goal: Goal) -> bool:
        """Look at a goal; tell whether it is still to be reached."""
        if goal.vm in self.failed or goal in self._reached:
            return False
        if goal.vm in self._waiting:
            return True
        try:
            return not self._look(goal)
        except QemunetError as error:
            if not self._keep_going:
                raise
            self._give_up(goal.vm, error)
            return False

    def _look(self, goal: Goal) -> bool:
        """Tell whether a goal is reached; raises TimedOut, and Failed if its vm has ended."""
        now = time.monotonic()
        deadline = self._deadlines.setdefault(goal.vm, now + self._seconds)
        if self._sees(goal):
            return True
        place, watch = f"vm.{goal.vm}", self._watches[goal]
        if not self._helper.runs(goal.vm):
            raise Failed(f"it ended before it was ready; {watch.seen}", where=place)
        if now > deadline:
            raise TimedOut(f"it is not ready after {self._seconds:g} s; {watch.seen}", where=place)
        return False

    def _sees(self, goal: Goal) -> bool:
        """Look; tell whether a goal is reached."""
        watch = self._watches.get(goal) or self._watches.setdefault(goal, self._helper.watch(goal))
        if watch.ready():
            self._reached.add(goal)
            self._helper.tell(goal.vm, "ready", watch.seen)
            return True
        return False

    def _give_up(self, name: str, error: QemunetError) -> None:
        """Note that a vm failed, and leave out those that depend on it."""
        self.failed[name] = error
        self._helper.tell(name, "failed", str(error))
        if name in self._waiting:
            self._waiting.remove(name)
        for other in [one for one in self._waiting if name in self._after[one]]:
            self._give_up(other, Failed(f"it was left out, as {name} failed", where=f"vm.{other}"))
