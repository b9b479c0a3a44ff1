"""``console`` and ``logs``: what a guest says, live and as it was written down."""

from __future__ import annotations

import sys

from qemunet.cli import render
from qemunet.cli.known import runtime, vm_named
from qemunet.errors import Failed, NotFound, NotTakenBack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable

    from qemunet.cli.parser import Commands, Parser
    from qemunet.live.terminal import Outcome

_REPLAY = 2048  # bytes of the console's past that are shown, so that nobody looks at an empty screen


def _logs_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes, until the vm ends")
    parser.add_argument("--qemu", action="store_true", help="what QEMU itself said, instead of the guest")


def _logs(args: Namespace) -> int:
    here = runtime()
    scope = here.scope(f"vm/{vm_named(here, args.vm).name}")
    path = scope.path("qemu.log" if args.qemu else "console.log")
    _copy(_content(f"{path}.1"))  # what did not fit any more
    if args.follow:
        from qemunet.cli.follow import follow

        _copy(follow(path))
    else:
        _copy(_content(path))
    return 0


def _content(path: str) -> Iterable[bytes]:
    try:
        with open(path, "rb") as file:
            while data := file.read(1 << 16):
                yield data
    except FileNotFoundError:
        return  # nothing was said yet


def _copy(chunks: Iterable[bytes]) -> None:
    """Write bytes as they are: a log is the guest's, not ours to beautify."""
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _console_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")


def _console(args: Namespace) -> int:
    from qemunet.live import terminal
    from qemunet.live.reach import reach

    here = runtime()
    record = vm_named(here, args.vm)
    if record.state == "dead":
        raise NotFound(f"{record.name} is dead", hint="`qemunet gc` takes back what it left")
    watch = reach(here, record.lab)
    watch.ask("watch", vms=[record.name])
    console = reach(here, record.lab).console(record.name, replay=_REPLAY, screen=terminal.is_screen())
    if sys.stdin.isatty():
        render.note(f"console of {record.name}; Ctrl-] opens a menu")
    outcome = terminal.attach(console, record.name, watch)
    return _tell(record.name, outcome)


def _tell(vm: str, outcome: Outcome) -> int:
    """Say how it ended and return the exit status."""
    if outcome.failures:
        raise NotTakenBack(outcome.failures)
    for event in outcome.ended:
        render.note(f"{event['vm']}: {event['text']}")
    if outcome.how == "lost":
        raise Failed(
            f"the keeper of {vm} is gone; the guest may run on", hint=f"`qemunet console {vm}` starts a new one"
        )
    return 0


COMMANDS: Commands = {"console": (_console_arguments, _console), "logs": (_logs_arguments, _logs)}
