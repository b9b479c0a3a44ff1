"""Command lines: argparse that builds one command's parser at a time, and whose complaints are ours."""

from __future__ import annotations

import argparse
import os
import re
import sys

from qemunet.errors import UsageError

TYPE_CHECKING = False  # `typing` itself is not imported: it costs more than argparse
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

    from _typeshed import SupportsWrite

    Arguments = Callable[["Parser"], None]
    Action = Callable[[argparse.Namespace], int]
    Commands = dict[str, tuple[Arguments, Action]]

_NARROWEST = 60
_LONGEST = 160  # characters of a usage that is a hint


class Parser(argparse.ArgumentParser):
    """One command's parser. A wrong command line raises `UsageError`; options may stand between the names."""

    def __init__(self, command: str, summary: str) -> None:
        super().__init__(prog=f"qemunet {command}", description=summary, allow_abbrev=False, formatter_class=_Formatter)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the arguments; raises UsageError."""
        return self.parse_args(self._options_first(argv))

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` in our words."""
        problem, hint = self._translated(message)
        raise UsageError(problem, hint=hint)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; argparse says nothing if that cannot be written, since Python 3.12."""
        (file or sys.stdout).write(self.format_help())

    def options(self) -> list[str]:
        """Return every option string."""
        return [option for action in self._actions for option in action.option_strings]

    def actions(self) -> list[argparse.Action]:
        """Return the arguments as argparse knows them, in the order of their declaration."""
        return list(self._actions)

    def _options_first(self, argv: Sequence[str]) -> list[str]:
        """Return the command line with the names behind the options; argparse takes no name after ``FILE -d``."""
        options: list[str] = []
        names: list[str] = []
        words = iter(argv)
        for word in words:
            if word == "--":
                names += words
            elif not word.startswith("-") or word == "-":
                names.append(word)
            else:
                options += self._with_value(word, words)
        return [*options, "--", *names] if any(name.startswith("-") for name in names) else options + names

    def _with_value(self, word: str, rest: Iterator[str]) -> list[str]:
        """Return an option with its value, which may be empty; raises UsageError if there is none."""
        if not self._wants_value(word):
            return [word]
        value = next(rest, None)
        if value is None:  # argparse would see the first of the names behind it
            self.error(f"argument {word}: expected one argument")
        if re.match(r"-\d", value):  # argparse would take it for an option
            return [f"{word}={value}" if word.startswith("--") else word + value]
        return [word, value]

    def _wants_value(self, option: str) -> bool:
        return any(option in action.option_strings and action.nargs != 0 for action in self._actions)

    def _translated(self, message: str) -> tuple[str, str]:
        """Return argparse's complaint as a message and a hint."""
        if unknown := re.match(r"unrecognized arguments: ?(\S*)", message):
            word = unknown[1]
            if word.startswith("-"):
                return f'unknown option "{word}"', self._nearest(word.split("=")[0])
            return f'one argument too many: "{word}"', self._usage()
        if missing := re.match(r"the following arguments are required: (.*)", message):
            return f"missing: {missing[1]}", self._usage()
        if choice := re.match(r"argument (.*): invalid choice: '(.*)' \(choose from (.*)\)", message):
            known = [word.strip(" '") for word in choice[3].split(",")]
            return f'{choice[1]}: unknown "{choice[2]}"', _suggest(choice[2], known, f"known: {', '.join(known)}")
        if lacking := re.match(r"argument (?:\S+/)?(\S+): expected one argument", message):
            return f"option {lacking[1]} needs a value", self._usage()
        if surplus := re.match(r"argument (?:\S+/)?(\S+): ignored explicit argument '(.*)'", message):
            return f'option {surplus[1]} takes no value, and "{surplus[2]}" was given', self._usage()
        return message.removeprefix("argument "), self._usage()

    def _nearest(self, word: str) -> str:
        long = [option for option in self.options() if option.startswith("--")]
        return _suggest(word, long, f"`{self.prog} --help` lists them")

    def _usage(self) -> str:
        whole = " ".join(self.format_usage().split())
        if len(whole) <= _LONGEST:
            return whole
        names = self._get_formatter()
        names.add_usage(None, self._get_positional_actions(), [])
        return f"{' '.join(names.format_help().split())} [options]; `{self.prog} --help` lists them"


class _Formatter(argparse.HelpFormatter):
    """Help as wide as the terminal; argparse would import `shutil` to ask for that."""

    def __init__(self, prog: str, **settings: Any) -> None:
        try:
            width = os.get_terminal_size().columns - 2
        except (OSError, ValueError):
            width = 98
        super().__init__(prog, width=max(width, _NARROWEST), **settings)


def _suggest(word: str, known: Sequence[str], otherwise: str) -> str:
    from qemunet.config.hints import did_you_mean

    return did_you_mean(word, known, otherwise)


_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Return a time such as ``30s``, ``500ms``, ``2m`` or plain ``30`` in seconds; raises ArgumentTypeError."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is not a time, as in 30s, 500ms, 2m or 1h')
    return float(match[1]) * _UNITS[match[2]]


def file_name(text: str) -> str:
    """Return a file's name, ``-`` for a standard file; raises ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is not empty")
    return text


def count(text: str) -> int:
    """Return a positive whole number; raises what argparse turns into a complaint."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f'"{text}" is not a number from 1 to 999999')
    return int(text)


def number(text: str) -> int:
    """Return a whole number, whose range is for others to check; raises what argparse turns into a complaint."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f'"{text}" is not a whole number')
    return int(text)


def vlans(text: str) -> dict[str, int | str | list[int | str]]:
    """Return ``10``, ``trunk=10,20-29,native=1`` or ``none`` as a lab file's table, for others to check."""
    from qemunet.model.vlan import words

    try:
        return words(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is no VLAN, as 10, nor trunk=10,20-29,native=1, nor none') from None


def add_json(parser: Parser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON; errors too, on stderr")


def add_overrides(parser: Parser) -> None:
    """Add ``--set``."""
    parser.add_argument(
        "--set",
        metavar="K=V",
        dest="overrides",
        action="append",
        default=[],
        help="another value for one key, e.g. vm.kali2.memory=1G",
    )
