"""``up``: starts what of a lab does not run yet, each vm in its turn, and returns when all is as it was wanted."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_overrides, seconds
from qemunet.errors import NotTakenBack, QemunetError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from qemunet.cli.parser import Commands, Parser
    from qemunet.cli.progress import Progress
    from qemunet.config.spec import LabSpec
    from qemunet.live.climb import Climb, Goal
    from qemunet.live.readiness import Watch
    from qemunet.state import Runtime

_TIMEOUT = 120.0


def _up_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the lab file")
    parser.add_argument("vms", metavar="VM", nargs="*", default=[], help="only these vms, and those they depend on")
    parser.add_argument(
        "--wait",
        metavar="WHAT",
        action="append",
        default=[],
        help="return when all of them are ready, dhcp or console=REGEX, or one takes connections: tcp=VM:PORT",
    )
    parser.add_argument(
        "--timeout", metavar="TIME", type=seconds, default=_TIMEOUT, help="how long a vm may take for that (default 2m)"
    )
    parser.add_argument("--keep-going", action="store_true", help="leave what runs, and start what does not need more")
    add_overrides(parser)


def _up(args: Namespace) -> int:
    from qemunet import interrupts
    from qemunet.config import ready
    from qemunet.live.climb import Climb
    from qemunet.live.source import Source

    interrupts.install()
    source = Source.read(args.file, args.overrides)
    spec = source.spec
    if not spec.vms:
        raise UsageError(f"{args.file} has no vm", hint=f"`qemunet net up {args.file}` brings the rest of it up")
    names = ready.with_all_needed(spec, source.chosen(args.vms))
    ways = {vm.name: ready.of(vm) for vm in spec.vms}
    goals = [goal for text in args.wait for goal in _goals(text, spec, names)]
    helper = _Helper(runtime(), args, spec.name, names)
    order = [name for name in names if not helper.runs(name)]
    after = {vm.name: vm.depends or () for vm in spec.vms}
    climb = Climb(helper, order, after, ways, seconds=args.timeout, keep_going=args.keep_going)
    for name in names:
        if name not in order:
            helper.tell(name, "running")
    _climb(climb, goals, helper)
    return 0


def _climb(climb: Climb, goals: Sequence[Goal], helper: _Helper) -> None:
    """Go all the way up, or take back what was begun; raises the first error, and tells of the others."""
    try:
        climb.run(goals)
    except BaseException as error:
        if left := helper.take_back(climb.begun):
            raise NotTakenBack([str(error), *left]) from error
        raise
    failed = list(climb.failed.values())
    for one in failed[1:]:
        render.note(f"error: {one}")
    if failed:
        raise failed[0]


def _goals(text: str, spec: LabSpec, names: Sequence[str]) -> Iterator[Goal]:
    """Read one ``--wait``; raises UsageError."""
    from qemunet.config import ready
    from qemunet.config.hints import Bad
    from qemunet.live.climb import Goal
    from qemunet.model.ready import TcpReady

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


class _Helper:
    """Starts, watches and ends the vms of one lab."""

    def __init__(self, here: Runtime, args: Namespace, lab: str, names: Sequence[str]) -> None:
        from qemunet.cli.progress import Progress

        self._here = here
        self._args = args
        self._lab = lab
        self._progress: Progress = Progress(names)

    def start(self, vms: Sequence[str]) -> None:
        from qemunet import interrupts
        from qemunet.live import launch

        order = launch.Order(self._args.file, tuple(vms), tuple(self._args.overrides), detach=True, console=False)
        try:
            launch.run(order, self._progress.note)
        finally:
            interrupts.install()

    def watch(self, goal: Goal) -> Watch:
        from qemunet.live import readiness

        return readiness.watch(self._here, self._here.vm(goal.vm), goal.ready)

    def runs(self, vm: str) -> bool:
        return any(one.name == vm and one.lab == self._lab and one.state == "running" for one in self._here.vms())

    def tell(self, vm: str, state: str, detail: str = "") -> None:
        self._progress.tell(vm, state, detail)

    def take_back(self, names: Sequence[str]) -> list[str]:
        """End vms at once, whatever the user does meanwhile; return what was wrong with that."""
        from functools import partial

        from qemunet import interrupts
        from qemunet.cli.stop import at_once

        with interrupts.deferred():
            found = at_once([partial(self._end, name) for name in names]) if names else []
        for name, one in zip(names, found, strict=True):
            if not isinstance(one, QemunetError):
                self._progress.tell(name, "ended")
        return [str(one) for one in found if isinstance(one, QemunetError)]

    def _end(self, name: str) -> str:
        from qemunet.errors import NotFound
        from qemunet.live.reach import reach

        try:
            with reach(self._here, self._lab) as keeper:
                keeper.ask("stop", within=None, vm=name, timeout=0, force=True)
                keeper.see_off()
        except NotFound:  # it has ended by itself
            pass
        return name


COMMANDS: Commands = {"up": (_up_arguments, _up)}
