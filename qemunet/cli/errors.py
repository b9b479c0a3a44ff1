"""Says what went wrong, to people or as JSON, and with which exit status the command ends."""

from __future__ import annotations

import sys

from qemunet.cli import render
from qemunet.errors import Interrupted, QemunetError, of_the_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


def report(error: BaseException, *, as_json: bool) -> int:
    """Print the error on stderr and return the exit status."""
    told = told_as(error)
    if as_json:
        import json

        print(json.dumps(told.as_json()), file=sys.stderr)
    else:
        hint = f"\n  hint: {told.hint}" if told.hint else ""
        title = render.paint("error", sys.stderr)
        text = str(told)
        if told.where:  # a path may have line breaks, which would make lines of their own
            text = text.replace(told.where, render.line(told.where), 1)
        print(f"{title}: {render.printable(f'{text}{hint}')}", file=sys.stderr)
    return told.exit_status


def told_as(error: BaseException) -> QemunetError:
    """Return the error in our own words, whatever it is."""
    match error:
        case QemunetError():
            return error
        case KeyboardInterrupt():
            return Interrupted("interrupted")
        case OSError():
            return of_the_host(error)
        case MemoryError():
            return QemunetError("out of memory")
        case _:
            return _of_ours(error)


def _of_ours(error: BaseException) -> QemunetError:
    """Nobody foresaw it, so it is a mistake of qemunet's: say where, and how to see all of it."""
    name, line = innermost(error.__traceback__)
    return QemunetError(
        f"a mistake in qemunet: {type(error).__name__}: {error} ({name}:{line})",
        hint="`python3 -X dev -m qemunet …` shows all of it, for a report",
    )


def innermost(traceback: TracebackType | None) -> tuple[str, int]:
    """Return module and line where an exception was raised."""
    if traceback is None:
        return "?", 0
    while traceback.tb_next:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals.get("__name__", "?"), traceback.tb_lineno
