"""``run``: starts the vms of a lab file and, in the foreground, stays with them."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.cli.parser import add_overrides

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from qemunet.cli.parser import Commands, Parser


def _run_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the lab file")
    parser.add_argument("vms", metavar="VM", nargs="*", default=[], help="only these vms of it")
    parser.add_argument("-d", "--detach", action="store_true", help="return when the guests run; several vms imply it")
    add_overrides(parser)
    parser.add_argument("--no-console", action="store_true", help="stay in the foreground without the console")
    parser.add_argument("--json", action="store_true", help="print an error as JSON")


def _run(args: Namespace) -> int:
    from qemunet.live import launch

    order = launch.Order(
        file=args.file,
        vms=tuple(args.vms),
        overrides=tuple(args.overrides),
        detach=args.detach or len(args.vms) > 1,
        console=not args.no_console,
    )
    return launch.run(order, _silent if args.json else render.note)


def _silent(_text: str) -> None:
    """Say nothing: whoever wants JSON gets nothing else."""


COMMANDS: Commands = {"run": (_run_arguments, _run)}
