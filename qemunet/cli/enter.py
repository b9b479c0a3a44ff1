"""``exec``: runs a command, or a shell, in a namespace of a lab."""

from __future__ import annotations

import os

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.errors import Gone, NotFound, QemunetError, of_the_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from qemunet.cli.parser import Commands, Parser
    from qemunet.state import Runtime

_OWN_FAULT = 125  # whatever the command returns, it is not likely to be this


def _arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="NETNS", help="a namespace that is up")
    what = "what to run there, behind -- (default: a shell)"
    parser.add_argument("command", metavar="CMD", nargs="*", default=[], help=what)


def _exec(args: Namespace) -> int:
    try:
        return _become(runtime(), args.name, args.command)
    except (QemunetError, OSError) as error:
        from qemunet.cli.errors import report

        report(of_the_host(error) if isinstance(error, OSError) else error, as_json=False)
        return _OWN_FAULT


def _become(here: Runtime, name: str, command: list[str]) -> int:
    from qemunet.host import enter

    argv = command or [os.environ.get("SHELL") or "/bin/sh"]
    try:
        status = enter.become(here.path, name, argv)
    except Gone:
        known = ", ".join(scope.name.partition("/")[2] for scope in here.scopes("netns")) or "none"
        hint = "`qemunet net up FILE` brings up those of a lab file, and so does its first vm"
        raise NotFound(f'no namespace "{name}" is up (up: {known})', hint=hint) from None
    why = "not found" if status == enter.NOT_FOUND else "cannot be executed"
    render.note(f"error: {argv[0]}: {why}")
    return status


COMMANDS: Commands = {"exec": (_arguments, _exec)}
