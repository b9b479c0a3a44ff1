"""Tables, JSON and colours: data goes to stdout, talk to stderr."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, TextIO

    Row = Sequence["Cell"]

Cell = str | None

_COLOURS = {
    "running": "32",
    "starting": "33",
    "paused": "33",
    "dead": "31",
    "down": "33",
    "error": "1;31",
    "holds": "32",
    "fails": "31",
    "unclear": "33",
}


def out(text: str) -> None:
    """Print data."""
    print(printable(text))


def note(text: str) -> None:
    """Print talk; a line is one piece, whoever else is talking."""
    print(f"{printable(text)}\n", end="", file=sys.stderr)


def table(header: Sequence[str], rows: Iterable[Row]) -> None:
    """Print rows under a header, as wide as they must be; what is unknown or does not apply is a dash."""
    cells = [[printable(cell).replace("\n", " ") if cell else "-" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for row in (header, *cells):
        padded = [paint(cell, sys.stdout) + " " * (width - len(cell)) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(padded).rstrip())


def placed(netns: str | None, ifname: str | None) -> str | None:
    """Return an interface with the namespace of a lab that it is in: ``sw1/qn-lab``."""
    return f"{netns}/{ifname}" if netns and ifname else ifname


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    import json

    print(json.dumps(value, indent=2))


def paint(text: str, stream: TextIO) -> str:
    """Return a word of state in its colour, if the stream is a terminal that wants colours."""
    code = _COLOURS.get(text)
    return f"\x1b[{code}m{text}\x1b[0m" if code and wants_colour(stream) else text


def wants_colour(stream: TextIO) -> bool:
    """Tell whether colours may be used there: a terminal, and NO_COLOR is not set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(text: str) -> str:
    """Return `text` as a part of one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """Return `text` without what would drive a terminal: names in files are somebody's input."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
