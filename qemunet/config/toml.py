"""Parses TOML, unless another process has parsed the same text for us already."""

from __future__ import annotations

import re

from qemunet.config.hints import quoted
from qemunet.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Compiled where they are used: only errors need them.
_PLACE = r"(?s)(.*) \(at (?:line (\d+), column (\d+)|end of document)\)"
_UNQUOTED = r"\s*[\w.-]+\s*=\s*([A-Za-z\d][^\s\"'#,]*)\s*(#.*)?"

_parsed: dict[str, str] = {}


def expect(parsed: Iterable[tuple[str, str]]) -> None:
    """Take texts with what they say, as JSON: `parse` has nothing to do for these, once each."""
    _parsed.update(parsed)


def parse(text: str, file: str) -> dict[str, Any]:
    """Return the TOML tables of `text`; raises ConfigError with line and column."""
    known = _parsed.pop(text, None)
    if known is not None:
        import json

        tables: dict[str, Any] = json.loads(known)
        return tables
    import tomllib  # with all that it imports it takes as long as ten modules of ours

    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        match = re.fullmatch(_PLACE, str(error))
        said, line, column = match.groups() if match else (str(error), None, None)
        where = f"line {line}, column {column}" if line else "at the end"
        source = text.splitlines()[int(line) - 1] if line and int(line) <= len(text.splitlines()) else ""
        problem = f"{where}: {said[0].lower()}{said[1:]}"
        raise ConfigError(file, "", problem, hint=_syntax_hint(said, source)) from None
    except ValueError:  # Python refuses to read numbers of thousands of digits
        raise ConfigError(file, "", "a number in it has thousands of digits") from None
    except RecursionError:
        raise ConfigError(file, "", "tables or lists are nested too deeply") from None


def _syntax_hint(said: str, source: str) -> str:
    match = re.fullmatch(_UNQUOTED, source)
    if match and said.startswith(("Expected newline", "Invalid value")):
        return f"text, sizes and addresses are written in quotes: {quoted(match[1])}"
    return f"the line is: {source.strip()}" if source.strip() else ""
