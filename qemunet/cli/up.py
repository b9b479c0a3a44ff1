"""``up``: starts what of a lab does not run yet, each vm in its turn, and returns when all is as it was wanted."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_overrides, seconds
from qemunet.errors import QemunetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from qemunet.cli.parser import Commands, Parser
    from qemunet.cli.progress import Progress
    from qemunet.live.climb import Goal
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
    from qemunet.live.ascent import Ascent, Wish
    from qemunet.live.source import Source

    interrupts.install()
    wish = Wish(tuple(args.vms), tuple(args.wait), args.timeout, args.keep_going)
    ascent = Ascent(Source.read(args.file, args.overrides), wish)
    try:
        ascent.run(_Helper(runtime(), args, ascent.lab, ascent.names))
    except QemunetError as error:
        for other in getattr(error, "__notes__", ()):
            render.note(f"error: {other}")
        raise
    return 0


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
        from qemunet.live import ascent

        return ascent.watch(self._here, goal)

    def runs(self, vm: str) -> bool:
        from qemunet.live import ascent

        return ascent.runs(self._here, self._lab, vm)

    def check(self) -> None:
        from qemunet import interrupts

        interrupts.check()

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
