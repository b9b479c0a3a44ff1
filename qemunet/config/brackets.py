"""Adds and removes members of an array or an inline table, on lines of their own where the others have such."""

from __future__ import annotations

import re

from qemunet.config.places import Contents, Item, is_blank, is_comment, line_break, line_end, line_of, line_start
from qemunet.frozen import frozen

_COMMENT = re.compile(r"#[^\n]*")
_LINE_REST = re.compile(r"[ \t]*(,?)[ \t]*(?:#[^\n]*)?\r?\n")


@frozen
class _Lines:
    """The lines that a member has for itself, and whether its comma is in them."""

    start: int
    end: int
    comma: bool


def add_last(text: str, box: Contents, member: str) -> str:
    """Write one more member after the others."""
    if not box.items:
        return _fill(text, box, member)
    last = box.items[-1]
    lines = _own_lines(text, box, len(box.items) - 1)
    if lines is None:
        return f"{text[: last.end]}, {member}{text[last.end :]}"
    indent, end = text[lines.start : last.start], line_break(text, last.end)
    own, its = ("", ",") if lines.comma else (",", "")
    return f"{text[: last.end]}{own}{text[last.end : lines.end]}{indent}{member}{its}{end}{text[lines.end :]}"


def add_first(text: str, box: Contents, member: str) -> str:
    """Write one more member before the others."""
    if not box.items:
        return _fill(text, box, member)
    at = box.items[0].start
    return f"{text[:at]}{member}, {text[at:]}"


def remove(text: str, box: Contents, index: int) -> str:
    """Take a member out, with the comment at the end of its line and those that touch it from above."""
    lines = _own_lines(text, box, index)
    item = box.items[index]
    if lines is not None:
        start = _touching(text, box, index, lines.start)
        if len(box.items) == 1 and is_blank(text[box.start : start] + text[lines.end : box.end]):
            return text[: box.start] + text[box.end :]
        return text[:start] + text[lines.end :]
    if index + 1 < len(box.items):
        return _remove_before(text, item, box.items[index + 1])
    if index:
        return _remove_after(text, box.items[index - 1], item)
    before, after = text[box.start : item.start], text[item.end : box.end].replace(",", "", 1)
    if is_blank(before + after):
        return text[: box.start] + text[box.end :]
    comma = _comma(text, item.end, box.end)
    return text[: item.start] + (text[item.end :] if comma is None else text[item.end : comma] + text[comma + 1 :])


def _fill(text: str, box: Contents, member: str) -> str:
    """Write the first member: between the brackets, or, if there are comments, on a line before the closing one."""
    if is_blank(text[box.start : box.end]):
        blank = " " if text[box.end] == "}" else ""
        return f"{text[: box.start]}{blank}{member}{blank}{text[box.end :]}"
    at = line_start(text, box.end)
    return f"{text[:at]}{text[at : box.end]}  {member},{line_break(text, box.start)}{text[at:]}"


def _own_lines(text: str, box: Contents, index: int) -> _Lines | None:
    """Return the lines of a member that shares none of them with a bracket or another member."""
    item = box.items[index]
    start, rest = line_start(text, item.start), _LINE_REST.match(text, item.end)
    if start < box.start or rest is None or not is_blank(text[start : item.start]):
        return None
    after = box.items[index + 1].start if index + 1 < len(box.items) else box.end
    if not rest[1] and _comma(text, item.end, after) is not None:
        return None
    return _Lines(start, rest.end(), bool(rest[1]))


def _touching(text: str, box: Contents, index: int, start: int) -> int:
    floor = line_end(text, box.items[index - 1].end if index else box.start)
    while start > floor and is_comment(line_of(text, start - 1)):
        start = line_start(text, start - 1)
    return start


def _remove_before(text: str, item: Item, following: Item) -> str:
    """Remove a member and its comma; comments between it and the next one stay, except that of its own line."""
    comma = _comma(text, item.end, following.start)
    assert comma is not None, "two members have a comma between them"
    others = text[comma : following.start].partition("\n")[2]
    if "#" not in text[item.end : comma] + others:
        return text[: item.start] + text[following.start :]
    return text[: item.start] + text[item.end : comma] + text[comma + 1 :]


def _remove_after(text: str, previous: Item, item: Item) -> str:
    """Remove the last member and the comma before it; comments between them stay."""
    comma = _comma(text, previous.end, item.start)
    assert comma is not None, "two members have a comma between them"
    if "#" not in text[previous.end : item.start]:
        return text[: previous.end] + text[item.end :]
    return text[:comma] + text[comma + 1 : item.start].rstrip(" \t") + text[item.end :].lstrip(" \t")


def _comma(text: str, start: int, end: int) -> int | None:
    """Return where the comma is between two members, which are apart by nothing but blanks and comments otherwise."""
    at = _COMMENT.sub(lambda comment: " " * len(comment[0]), text[start:end]).find(",")
    return None if at < 0 else start + at
