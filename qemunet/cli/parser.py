"""Command lines: argparse that builds one command's parser at a time, and whose complaints are ours."""

from __future__ import annotations

import argparse
import os
import re

from qemunet.errors import UsageError

TYPE_CHECKING = False  # `typing` itself is not imported: it costs more than argparse
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, NoReturn

    Arguments = Callable[["Parser"], None]
    Action = Callable[[argparse.Namespace], int]
    Commands = dict[str, tuple[Arguments, Action]]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_NARROWEST = 60


class Parser(argparse.ArgumentParser):
    """One command's parser. A wrong command line raises `UsageError`; options may stand between the names."""

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(
            prog=f"qemunet {command}", description=summary, allow_abbrev=False, formatter_class=_Formatter
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the arguments; raises UsageError."""
        return self.parse_intermixed_args(list(argv))

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` in our words."""
        raise UsageError(*self._translated(message))

    def options(self) -> list[str]:
        """Return every option string."""
        return [option for action in self._actions for option in action.option_strings]

    def actions(self) -> list[argparse.Action]:
        """Return the arguments as argparse knows them, in the order of their declaration."""
        return list(self._actions)

    def _translated(self, message: str) -> tuple[str, str]:
        """Return argparse's complaint as a message and a hint."""
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            word = unknown[1]
            if word.startswith("-"):
                return f'unknown option "{word}"', self._nearest(word.split("=")[0])
            return f'one argument too many: "{word}"', self._usage()
        if missing := re.match(r"the following arguments are required: (.*)", message):
            return f"missing: {missing[1]}", self._usage()
        if choice := re.match(r"argument (.*): invalid choice: '(.*)' \(choose from (.*)\)", message):
            known = [word.strip(" '") for word in choice[3].split(",")]
            return f'{choice[1]}: unknown "{choice[2]}"', did_you_mean(choice[2], known)
        return message.removeprefix("argument "), self._usage()

    def _nearest(self, word: str) -> str:
        return did_you_mean(word, [o for o in self.options() if o.startswith("--")], f"`{self.prog} --help`")

    def _usage(self) -> str:
        self.usage = None  # parsing intermixed arguments leaves a mutilated one behind
        return " ".join(self.format_usage().split())


class _Formatter(argparse.HelpFormatter):
    """Help as wide as the terminal; argparse would import `shutil` to ask for that."""

    def __init__(self, prog: str, **settings: Any) -> None:
        try:
            width = os.get_terminal_size().columns - 2
        except (OSError, ValueError):
            width = 98
        super().__init__(prog, width=max(width, _NARROWEST), **settings)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that looks most like this one, "" if none does."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), 1)), "")


def did_you_mean(word: str, known: Sequence[str], otherwise: str = "") -> str:
    """Return a hint for an unknown word: the nearest known one, and all of them if they are few."""
    close = nearest(word, known)
    everything = otherwise or f"known are {', '.join(known)}"
    return f'did you mean "{close}"? {everything}' if close else everything


def seconds(text: str) -> float:
    """Return a time such as ``30s`` in seconds; raises what argparse turns into a complaint."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|min|m|h)", text)
    if not match:
        raise argparse.ArgumentTypeError(f'"{text}" is not a time with its unit, such as 30s or 2m')
    return float(match[1]) * _SECONDS[match[2]]


def count(text: str) -> int:
    """Return a positive whole number; raises what argparse turns into a complaint."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f'"{text}" is not a number from 1 to 999999')
    return int(text)


def add_json(parser: Parser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON; errors too, on stderr")
