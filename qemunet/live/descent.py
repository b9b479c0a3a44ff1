"""Ends vms in the reverse of their order: each when all have ended that depend on it, and all that can at once.

Theory of operation. How a vm is ended is given; this decides whose turn it is. Each is ended in a thread of its own, so
that one that takes its time keeps nobody but those that it depends on, and these until it was ended by force at the
latest. One that could not be ended is told of, and keeps nobody.
"""

from __future__ import annotations

import queue
import threading
import typing

from qemunet import interrupts

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_GLANCE = 0.1  # seconds between two looks at whether the user interrupted

Result = typing.TypeVar("Result")


class Descent(typing.Generic[Result]):
    """One way down. `after` are the vms that are to end, each with those that it depends on.

    `end` is called in a thread of its own for each; it has deadlines of its own, and never raises. `tell` is called by
    who runs this: without a result when a vm's turn comes, and with it in the end. `check` raises if nobody wants it
    any more, as when the user has interrupted.
    """

    def __init__(
        self,
        after: Mapping[str, Iterable[str]],
        end: Callable[[str], Result],
        tell: Callable[[str, Result | None], None] = lambda vm, result: None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.ended: dict[str, Result] = {}
        self._needed_by: dict[str, set[str]] = {name: set() for name in after}
        for name, others in after.items():
            for other in self._needed_by.keys() & set(others):
                self._needed_by[other].add(name)
        self._end = end
        self._tell = tell
        self._check = check or interrupts.check
        self._waiting = list(after)
        self._busy: set[str] = set()
        self._news: queue.SimpleQueue[tuple[str, Result]] = queue.SimpleQueue()

    def run(self) -> None:
        """Return when all are through, with what became of them in `ended`; raises what `check` does."""
        while self._waiting or self._busy:
            for name in self._due():
                self._waiting.remove(name)
                self._busy.add(name)
                self._tell(name, None)
                threading.Thread(target=self._work, args=(name,), daemon=True).start()
            self._hear()

    def _due(self) -> list[str]:
        """Return whose turn it is: of a circle, which files that changed in between can make, everybody's."""
        there = {*self._waiting, *self._busy}
        due = [name for name in self._waiting if not self._needed_by[name] & there]
        return due if due or self._busy else list(self._waiting)

    def _work(self, name: str) -> None:
        self._news.put((name, self._end(name)))

    def _hear(self) -> None:
        self._check()
        try:
            name, result = self._news.get(timeout=_GLANCE)
        except queue.Empty:
            return
        self.ended[name] = result
        self._busy.remove(name)
        self._tell(name, result)
