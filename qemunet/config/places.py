"""Says where in a TOML text each table, key and value stands, so that one of them can be changed and nothing else.

The text must be one that `tomllib` has read, for nothing is checked here, and end with a line break.
"""

from __future__ import annotations

import re
import tomllib
import typing

from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

_SPACE = re.compile(r"[ \t]*")
_TRIVIA = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_STRING = r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}" + r'|"(?:\\.|[^"\\\n])*"' + r"|'[^'\n]*'"
_KEY = re.compile(rf"[A-Za-z0-9_-]+|{_STRING}")
_PLAIN = r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]+|[^\s,=\[\]{}#\"']+"  # a date may have a blank before its time
_TOKEN = re.compile(rf"(?:[\s,=]+|#[^\n]*)*({_STRING}|[\[\]{{}}]|{_PLAIN})", re.DOTALL)


@frozen
class Item:
    """A key with its value, or a member of an array, which has no keys. Ends at `end`; its value starts at `value`."""

    keys: tuple[str, ...]
    start: int
    value: int
    end: int


@frozen
class Contents:
    """What is within the brackets of an array or an inline table, from `start` to `end`."""

    start: int
    items: tuple[Item, ...]
    end: int


@frozen
class Section:
    """A table with a header, which starts at `start`, and its items up to the next header.

    `name` is the header as it is spelled, without its brackets. The first section of a text has no header.
    """

    path: tuple[str, ...]
    array: bool
    name: str
    start: int
    header_end: int
    items: tuple[Item, ...] = ()

    @property
    def end(self) -> int:
        """Where its last value ends, or its header if it has none; a comment may follow in that line."""
        return self.items[-1].end if self.items else self.header_end


def sections(text: str) -> list[Section]:
    """Return all tables of a text in its order; the first one is what stands before any header."""
    at, header = 0, Section((), array=False, name="", start=0, header_end=0)
    found, items = [], list[Item]()
    while (at := _end(_TRIVIA, text, at)) < len(text):
        if text[at] == "[":
            found.append(_with(header, items))
            header, items = _header(text, at), []
            at = header.header_end
        else:
            items.append(_pair(text, at))
            at = items[-1].end
    return [*found, _with(header, items)]


def contents(text: str, at: int) -> Contents:
    """Return what is within the array or inline table whose bracket opens at `at`."""
    return Contents(at + 1, *_contents(text, at))


def inside(text: str, path: tuple[str, ...], item: Item) -> Iterator[tuple[tuple[str, ...], Item]]:
    """Yield an item of the table at `path`, and those of the inline tables in it, with the path of each."""
    own = path + item.keys
    yield own, item
    if text[item.value] == "{":
        for one in contents(text, item.value).items:
            yield from inside(text, own, one)


def line_start(text: str, at: int) -> int:
    """Return where the line of `at` starts."""
    return text.rfind("\n", 0, at) + 1


def line_end(text: str, at: int) -> int:
    """Return where the line after that of `at` starts."""
    return text.index("\n", at) + 1


def line_of(text: str, at: int) -> str:
    """Return the line of `at` with its line break."""
    return text[line_start(text, at) : line_end(text, at)]


def line_break(text: str, at: int = 0) -> str:
    """Return the line break at the end of the line of `at`; if it has none, a plain one."""
    end = text.find("\n", at)
    return "\r\n" if end > 0 and text[end - 1] == "\r" else "\n"


def is_blank(text: str) -> bool:
    """Tell whether there is nothing in a text, such as a line."""
    return not text.strip(" \t\r\n")


def is_comment(line: str) -> bool:
    """Tell whether there is only a comment in a line."""
    return line.lstrip(" \t").startswith("#")


def _with(header: Section, items: list[Item]) -> Section:
    return Section(header.path, header.array, header.name, header.start, header.header_end, tuple(items))


def _header(text: str, at: int) -> Section:
    width = 2 if text.startswith("[[", at) else 1
    path, end = _keys(text, at + width)
    return Section(path, width == 2, text[at + width : end].strip(" \t"), at, end + width)


def _pair(text: str, at: int) -> Item:
    keys, end = _keys(text, at)
    value = _end(_SPACE, text, end + 1)
    return Item(keys, at, value, _value_end(text, value))


def _contents(text: str, at: int) -> tuple[tuple[Item, ...], int]:
    keyed = text[at] == "{"
    items = []
    at = _end(_TRIVIA, text, at + 1)
    while text[at] not in "]}":
        items.append(_pair(text, at) if keyed else Item((), at, at, _value_end(text, at)))
        at = _end(_TRIVIA, text, items[-1].end)
        if text[at] == ",":
            at = _end(_TRIVIA, text, at + 1)
    return tuple(items), at


def _keys(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """Return the parts of a dotted key and where it is over: at its ``=`` or ``]``."""
    found = []
    while True:
        match = _KEY.match(text, _end(_SPACE, text, at))
        assert match, "a key"
        found.append(_word(match[0]))
        at = _end(_SPACE, text, match.end())
        if text[at] != ".":
            return tuple(found), at
        at += 1


def _word(spelled: str) -> str:
    """Return the key that is meant by a bare or quoted one."""
    if spelled[0] not in "\"'":
        return spelled
    word: str = tomllib.loads(f"key = {spelled}")["key"]
    return word


def _value_end(text: str, at: int) -> int:
    depth = 0
    while True:
        match = _TOKEN.match(text, at)
        assert match, "a value"
        at = match.end()
        depth += (match[1] in "[{") - (match[1] in "]}")
        if not depth:
            return at


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match, "a pattern that matches nothing too"
    return match.end()
