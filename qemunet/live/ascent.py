"""Brings a lab up for a command or a program: what is to start, in which order, and what is waited for."""

from __future__ import annotations

import os
import typing

from qemunet.config import ready
from qemunet.config.hints import Bad
from qemunet.errors import NotTakenBack, UsageError, raise_all
from qemunet.frozen import frozen
from qemunet.live import readiness
from qemunet.live.climb import Climb, Goal, Helper
from qemunet.model.ready import TcpReady

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemunet.config.spec import LabSpec
    from qemunet.live.readiness import Watch
    from qemunet.live.source import Source
    from qemunet.state import Runtime

TIMEOUT = 120.0  # seconds that a vm has to be ready
_LEAST_PLACES, _PLACES_PER_PROCESSOR = 4, 2


class Starter(Helper, typing.Protocol):
    """Who does what is decided here, and takes it back."""

    def take_back(self, vms: Sequence[str]) -> list[str]:
        """End vms at once, whatever else happens; return what was wrong with that."""


def watch(here: Runtime, goal: Goal) -> Watch:
    """Begin to look at a vm that runs; raises NotFound."""
    return readiness.watch(here, here.vm(goal.vm), goal.ready)


def runs(here: Runtime, lab: str, vm: str) -> bool:
    """Tell whether a vm of that lab has been started and has not ended."""
    found = here.scope(f"vm/{vm}").record()
    return found is not None and found.lab == lab and found.state == "running"


@frozen
class Wish:
    """What is wanted: these vms of a lab and all that they need, all of them if none is named; and what then holds."""

    vms: tuple[str, ...] = ()
    wait: tuple[str, ...] = ()
    seconds: float = TIMEOUT
    keep_going: bool = False


class Ascent:
    """One way up. `names` are all vms that are to run in the end, `order` those that do not yet.

    Raises UsageError, and ConfigError, for what cannot be meant.
    """

    def __init__(self, source: Source, wish: Wish) -> None:
        spec = source.spec
        if not spec.vms:
            hint = f"`qemunet net up {spec.file}` brings the rest of it up"
            raise UsageError(f"{spec.file} has no vm", hint=hint)
        self.lab = spec.name
        self.names = ready.with_all_needed(spec, source.chosen(wish.vms))
        self._wish = wish
        self._spec = spec
        self._goals = [goal for text in wish.wait for goal in _goals(text, spec, self.names)]

    def run(self, starter: Starter) -> list[str]:
        """Go all the way up, and return the vms that were started; or take back what was begun, and raise why.

        To keep going is to leave what runs: then the first error is raised in the end, with the others as its notes.
        """
        order = [name for name in self.names if not starter.runs(name)]
        for name in self.names:
            if name not in order:
                starter.tell(name, "running")
        after = {vm.name: vm.depends or () for vm in self._spec.vms}
        ways = {vm.name: ready.of(vm) for vm in self._spec.vms}
        seconds, keep_going = self._wish.seconds, self._wish.keep_going
        climb = Climb(starter, order, after, ways, seconds=seconds, keep_going=keep_going, at_once=_places())
        try:
            climb.run(self._goals)
        except BaseException as error:
            if left := starter.take_back(climb.begun):
                raise NotTakenBack([str(error), *left]) from error
            raise
        raise_all(list(climb.failed.values()))
        return climb.begun


def _places() -> int:
    """Return how many guests may boot at the same time here."""
    return max(_LEAST_PLACES, _PLACES_PER_PROCESSOR * len(os.sched_getaffinity(0)))


def _goals(text: str, spec: LabSpec, names: Sequence[str]) -> Iterator[Goal]:
    """Read one thing to wait for; raises UsageError."""
    if text == "ready":
        yield from (Goal(vm.name, ready.of(vm)) for vm in spec.vms if vm.name in names)
        return
    way, _, rest = text.partition("=")
    vm, colon, port = rest.partition(":")
    try:
        if way == "tcp" and colon:
            if vm not in names:
                raise UsageError(f'--wait {text}: "{vm}" is none of the vms', hint=f"they are {', '.join(names)}")
            yield Goal(vm, TcpReady(ready.port(port)))
            return
        wanted = ready.read(text)
    except Bad as bad:
        hint = bad.hint if way == "tcp" and colon else 'as in ready, dhcp, "console=login: " and tcp=web:80'
        raise UsageError(f"--wait {text}: {bad.problem}", hint=hint) from bad
    yield from (Goal(name, wanted) for name in names)
