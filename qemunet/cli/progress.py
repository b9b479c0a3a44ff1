"""Shows how several things come along: a table that is drawn anew on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import os
import sys

from qemunet.cli import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_UP = "\x1b[{}A"  # cursor up (ECMA-48)


class Progress:
    """The states of things by name, on standard error."""

    def __init__(self, names: Sequence[str]) -> None:
        self._rows = dict.fromkeys(names, ("waiting", ""))
        self._width = max(map(len, names), default=0)
        self._drawn = 0
        self._live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def tell(self, name: str, state: str, detail: str = "") -> None:
        """Something has changed."""
        self._rows[name] = (state, detail)
        if self._live:
            self._draw()
        else:
            render.note(f"{name}: {state}{f' ({detail})' if detail else ''}")

    def note(self, text: str) -> None:
        """Say something that stays, above the table."""
        self._wipe()
        render.note(text)
        if self._live:
            self._draw()

    def _draw(self) -> None:
        self._wipe()
        columns = _columns()
        for name, (state, detail) in self._rows.items():
            line = render.printable(f"{name:<{self._width}}  {state:<8}{f'  {detail}' if detail else ''}".rstrip())
            print(line.replace("\n", " ")[: columns - 1], file=sys.stderr)
        self._drawn = len(self._rows)

    def _wipe(self) -> None:
        """Take the table away, with the cursor where it began."""
        if self._drawn:
            print(_UP.format(self._drawn) + "\x1b[J", end="", file=sys.stderr)
            self._drawn = 0


def _columns() -> int:
    try:
        return max(os.get_terminal_size(sys.stderr.fileno()).columns, 20)
    except OSError:
        return 80
