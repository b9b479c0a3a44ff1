"""Finds the command, imports its module and no other, runs it, and turns what it raises into an exit status."""

from __future__ import annotations

import errno
import gc
import os
import sys

from qemunet.cli.catalog import COMMANDS, GROUPS, overview, words
from qemunet.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemunet.cli.parser import Action, Parser

SWEPT = frozenset({"down", "ps", "stop"})  # after them the dead are taken back; not after those that look into one vm
_MANY_OBJECTS = 100_000  # more than any command loads: looking among them for garbage would take longer than some take
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_PRINTING = "qemunet.cli."  # what these write into otherwise has a name
SIGPIPE_STATUS = 128 + 13  # what a program ends with that does not catch SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        _open_standard_files()
        status = _dispatch(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        status = SIGPIPE_STATUS
    except SystemExit as end:  # argparse, after --help
        status = end.code if isinstance(end.code, int) else 0
    except BaseException as error:
        if sys.flags.dev_mode:
            raise
        status = _report(_placed(error), argv)
    return _flushed(status)


def entry() -> None:
    """Be the program: end at once, without the interpreter's own tidying, which takes longer than some commands."""
    gc.set_threshold(_MANY_OBJECTS)
    os._exit(main())


def find(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Split a command line into the command's name and its arguments; raises UsageError."""
    first, *rest = argv
    if first in COMMANDS:
        return first, rest
    if first in GROUPS:
        return _find_in_group(first, rest)
    from qemunet.config.hints import did_you_mean

    kind = "option" if first.startswith("-") else "command"
    if first == "--json":
        raise UsageError("--json stands behind a command", hint="as in `qemunet ps --json`")
    known = ["--help", "--version"] if kind == "option" else words("")
    raise UsageError(f'unknown {kind} "{first}"', hint=did_you_mean(first, known, "`qemunet --help` lists them"))


def command(name: str) -> tuple[Parser, Action]:
    """Import a command's module; return its parser and what it does."""
    from importlib import import_module

    from qemunet.cli.parser import Parser

    module, summary = COMMANDS[name]
    arguments, action = import_module(f"qemunet.cli.{module}").COMMANDS[name]
    parser = Parser(name, summary)
    arguments(parser)
    return parser, action


def _dispatch(argv: Sequence[str]) -> int:
    if not argv:
        print(overview(), end="", file=sys.stderr)
        return UsageError.exit_status
    if argv[0] in ("-h", "--help"):
        print(overview(), end="")
        return 0
    if argv[0] in ("-V", "--version"):
        from qemunet import __version__

        print(f"qemunet {__version__}")
        return 0
    name, rest = find(argv)
    if name == "run":
        from qemunet.live import launch

        with launch.ahead():
            return _act(name, rest)
    status = _act(name, rest)
    if name in SWEPT:
        from qemunet.cli.sweep import sweep

        sweep()
    return status


def _act(name: str, rest: list[str]) -> int:
    parser, action = command(name)
    return action(parser.parse(rest))


def _find_in_group(group: str, rest: list[str]) -> tuple[str, list[str]]:
    known = words(group)
    if rest and rest[0] in known:
        return f"{group} {rest[0]}", rest[1:]
    if rest and rest[0] in ("-h", "--help"):
        lines = [f"  qemunet {group} {word}  {COMMANDS[f'{group} {word}'][1]}" for word in known]
        print(f"usage: qemunet {group} COMMAND [options]", "", *lines, sep="\n")
        raise SystemExit(0)
    from qemunet.config.hints import did_you_mean

    what = f'unknown command "{group} {rest[0]}"' if rest else f"missing: what to do with {GROUPS[group]}"
    raise UsageError(what, hint=did_you_mean(rest[0] if rest else "", known, f"known: {', '.join(known)}"))


def _open_standard_files() -> None:
    """Whoever closed stdin, stdout or stderr gets the null device there, and not the next file that is opened."""
    for number, mode, name in ((0, "r", "stdin"), (1, "w", "stdout"), (2, "w", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest free number, hence this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it stays open
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name may not fit the locale's encoding


def _report(error: BaseException, argv: Sequence[str]) -> int:
    from qemunet.cli.errors import report

    options = argv[: argv.index("--")] if "--" in argv else argv
    try:
        return report(error, as_json="--json" in options)
    except OSError:  # nobody listens on stderr
        return getattr(error, "exit_status", 1)


def _placed(error: BaseException) -> BaseException:
    """Give an error of standard output its place: it has none, and comes from where a command prints."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _NO_ROOM:
        from qemunet.cli.errors import innermost

        if innermost(error.__traceback__)[0].startswith(_PRINTING):
            error.filename = "stdout"
    return error


def _flushed(status: int) -> int:
    """Write what is buffered; what cannot be written is said once, and not again by the interpreter's end."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        _mute()
        return SIGPIPE_STATUS if status == 0 else status
    except OSError as error:
        _mute()
        error.filename = "stdout"
        return _report(error, ()) if status == 0 else status
    return status


def _mute() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
