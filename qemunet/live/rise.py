"""Brings up, and down in its order, a lab that a program holds: the work of `up` and `down` beside its event loop.

What waits is done in a thread, which has the loop start and end guests; whoever cancels it waits until that has heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import typing

from qemunet.errors import Interrupted, QemunetError
from qemunet.live import ascent, begin
from qemunet.live.descent import Descent

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from qemunet.live.climb import Goal
    from qemunet.live.power import How
    from qemunet.live.readiness import Watch
    from qemunet.state import Runtime

    T = typing.TypeVar("T")

_log = logging.getLogger("qemunet")


class _Bridge:
    """The way from a thread to the loop, which can be closed from there."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._cancelled = False

    def cross(self, work: Coroutine[object, object, T]) -> T:
        """Have the loop do something, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def check(self) -> None:
        """Raise Interrupted if nobody waits any more."""
        if self._cancelled:
            raise Interrupted("it was cancelled")

    async def blocking(self, work: Callable[[], T]) -> T:
        """Do something in a thread; if this is cancelled, have that end, and wait for it."""
        task = asyncio.ensure_future(begin.blocking(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._cancelled = True
            with contextlib.suppress(Exception):
                await begin.finish(task)
            raise


class _Starter:
    """Starts vms by way of the loop."""

    def __init__(
        self,
        here: Runtime,
        lab: str,
        bridge: _Bridge,
        start: Callable[[Sequence[str]], Coroutine[object, object, None]],
    ) -> None:
        self._here = here
        self._lab = lab
        self._bridge = bridge
        self._start = start

    def start(self, vms: Sequence[str]) -> None:
        self._bridge.cross(self._start(vms))

    def watch(self, goal: Goal) -> Watch:
        return ascent.watch(self._here, goal)

    def runs(self, vm: str) -> bool:
        return ascent.runs(self._here, self._lab, vm)

    def tell(self, vm: str, state: str, detail: str = "") -> None:
        _log.info("%s: %s%s", vm, state, f" ({detail})" if detail else "")

    def check(self) -> None:
        self._bridge.check()

    def take_back(self, vms: Sequence[str]) -> list[str]:
        return [str(error) for error in self._bridge.cross(begin.end(self._here, self._lab, vms))]


async def up(
    here: Runtime,
    source: Callable[[], ascent.Ascent],
    start: Callable[[Sequence[str]], Coroutine[object, object, None]],
) -> list[str]:
    """Bring up what `source` says, which is called in a thread; return what `start` has started, or raise why not."""
    bridge = _Bridge()

    def work() -> list[str]:
        found = source()
        return found.run(_Starter(here, found.lab, bridge, start))

    return await bridge.blocking(work)


async def down(
    after: Mapping[str, Iterable[str]], stop: Callable[[str], Coroutine[object, object, How]]
) -> dict[str, How | QemunetError]:
    """End vms, each when all have ended that depend on it; return what it took, or what was wrong."""
    bridge = _Bridge()

    def end(vm: str) -> How | QemunetError:
        try:
            return bridge.cross(stop(vm))
        except QemunetError as error:
            return error

    descent = Descent(after, end, check=bridge.check)
    await bridge.blocking(descent.run)
    return descent.ended
