"""``exec``: runs a command in a guest, or in a namespace of a lab."""

from __future__ import annotations

import os

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import seconds
from qemunet.errors import Gone, Interrupted, NotFound, QemunetError, UsageError, of_the_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from qemunet.cli.parser import Commands, Parser
    from qemunet.state import Runtime

OWN_FAULT = 125  # whatever the command returns, it is not likely to be this
TOO_LATE = 124  # as of timeout(1)


def _arguments(parser: Parser) -> None:
    parser.add_argument("name", metavar="VM|NETNS", help="a vm that runs, or a namespace that is up")
    what = "what to run there, behind -- (default in a namespace: a shell)"
    parser.add_argument("command", metavar="CMD", nargs="*", default=[], help=what)
    parser.add_argument("-n", "--no-input", action="store_true", help="the command's standard input is empty")
    what = "kill the command after that time and return 124; e.g. 30s (in a guest only); 0 is never, as of timeout(1)"
    parser.add_argument("--timeout", metavar="TIME", type=seconds, help=what)
    what = "how long a guest that still boots is waited for (default: 60s)"
    parser.add_argument("--wait", metavar="TIME", type=seconds, default=60.0, help=what)


def _exec(args: Namespace) -> int:
    try:
        return _run(runtime(), args)
    except Interrupted as error:
        return report(error, error.exit_status)
    except UsageError as error:
        return report(error, error.exit_status)
    except BrokenPipeError:  # whoever read its output has left
        raise
    except (QemunetError, OSError) as error:
        return report(error, OWN_FAULT)


def report(error: QemunetError | OSError, status: int) -> int:
    """Say what went wrong, and return the status."""
    from qemunet.cli.errors import report as say

    say(of_the_host(error) if isinstance(error, OSError) else error, as_json=False)
    return status


def _run(here: Runtime, args: Namespace) -> int:
    if any(one.name == args.name for one in here.vms()):
        return _inside(here, args)
    if args.no_input:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
    if args.timeout is not None:
        raise UsageError("--timeout is for commands in a guest", hint="`timeout 30s …` does it in a namespace")
    return _become(here, args.name, args.command)


def _inside(here: Runtime, args: Namespace) -> int:
    from qemunet.live import inside, relay

    if not args.command:
        hint = f"`qemunet exec {args.name} -- uname -a`; `qemunet console {args.name}` is a shell"
        raise UsageError("missing: what to run in the guest, behind --", hint=hint)
    stdin = None if args.no_input or _is_null(0) else 0
    told = {"has_input": stdin is not None, "is_typed": stdin is not None and os.isatty(stdin)}
    with inside.Command.begin(here, args.name, args.command, **told, boot=args.wait) as command:
        try:
            return relay.join(command, stdin, args.timeout or None)
        except inside.Expired as error:
            return report(error, TOO_LATE)


def _is_null(fd: int) -> bool:
    """Tell whether a descriptor is /dev/null: who has nothing to say need not be listened to."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(os.devnull))
    except OSError:
        return True


def _become(here: Runtime, name: str, command: list[str]) -> int:
    from qemunet.host import enter

    argv = command or [os.environ.get("SHELL") or "/bin/sh"]
    try:
        status = enter.become(here.path, name, argv)
    except Gone:
        vms = ", ".join(one.name for one in here.vms()) or "none"
        known = ", ".join(scope.name.partition("/")[2] for scope in here.scopes("netns")) or "none"
        hint = "`qemunet net up FILE` brings up the namespaces of a lab file, and so does its first vm"
        problem = f'no vm "{name}" runs (running: {vms}), and no namespace "{name}" is up (up: {known})'
        raise NotFound(problem, hint=hint) from None
    why = "not found" if status == enter.NOT_FOUND else "cannot be executed"
    render.note(f"error: {argv[0]}: {why}")
    return status


COMMANDS: Commands = {"exec": (_arguments, _exec)}
