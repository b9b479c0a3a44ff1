"""Edits the lines of a lab file in which a vm's cards are written, in the spelling and the layout that it has.

Every text here ends with a line break (`ended`) and is one that the reader takes.
"""

from __future__ import annotations

import typing

from qemunet.config import brackets
from qemunet.config.places import (
    Contents,
    Item,
    Section,
    contents,
    inside,
    is_blank,
    is_comment,
    line_break,
    line_end,
    line_of,
    line_start,
    sections,
)
from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    Pairs = Sequence[tuple[str, str]]  # keys, and values as TOML has them
    Path = tuple[str, ...]


@frozen
class _Cards:
    """The tables of a text, and those in which a vm's cards are written, or the array and the path of its table."""

    parts: list[Section]
    tables: list[Section]
    array: Item | None


def ended(text: str) -> str:
    """Return a text that ends with a line break."""
    return text if text.endswith("\n") or not text else text + line_break(text)


def like(before: str, text: str) -> str:
    """Return a text without its last line break if `before` has none and ends with the same line."""
    last, end = before[line_start(before, len(before)) :], line_break(before)
    return text.removesuffix(end) if last and f"\n{text}".endswith(f"\n{last}{end}") else text


def append(text: str, vm: str, pairs: Pairs) -> str:
    """Write one more card after the others of a vm."""
    cards = _cards(text, vm)
    if cards.array is not None and not _is_bare_none(text, cards, vm):
        return brackets.add_last(text, contents(text, cards.array.value), _inline(pairs))
    if cards.array is not None:
        text = text[: line_start(text, cards.array.start)] + text[line_end(text, cards.array.end) :]
        cards = _cards(text, vm)
    if cards.tables:
        return _append_table(text, cards.parts, cards.tables[-1], cards.tables[-1].name, pairs, _parts(cards, -1)[-1])
    outer = _inline_outer(text, cards.parts, vm)
    if outer is not None:
        path, item = outer
        return brackets.add_last(text, contents(text, item.value), f"{_below(path, vm)} = [{_inline(pairs)}]")
    mine = [part for part in cards.parts if part.path[:2] == ("vm", vm) or _beside(part, vm)]
    return _append_table(text, cards.parts, mine[-1], _below((), vm), pairs)


def drop(text: str, vm: str, index: int) -> str:
    """Take a card away. After the last one, or if the file says nothing of cards, it says that there are none."""
    cards = _cards(text, vm)
    if cards.array is not None:
        return brackets.remove(text, contents(text, cards.array.value), index)
    if cards.tables:
        text = _without_all(text, cards.parts, _parts(cards, index)[1:])
        cards = _cards(text, vm)
    if len(cards.tables) > 1:
        return _without(text, cards.parts, cards.tables[index])
    outer = _inline_outer(text, cards.parts, vm)
    if outer is not None:
        path, item = outer
        return brackets.add_last(text, contents(text, item.value), f"{_below(path, vm)} = []")
    return _say_none(text, cards, vm)


def put(text: str, vm: str, index: int, key: str, value: str) -> str:
    """Give a card a value: in place of the one it has, or after its others; an id comes first."""
    items, header = _items(text, vm, index)
    found = next((item for item in items.items if item.keys == (key,)), None)
    pair = f"{key} = {value}"
    if found is not None:
        return text[: found.value] + value + text[found.end :]
    text = unset(text, vm, index, key)  # which may have been a table, or dotted keys
    items, header = _items(text, vm, index)
    if header is None:
        return brackets.add_first(text, items, pair) if key == "id" else brackets.add_last(text, items, pair)
    above = header if key == "id" or not items.items else items.items[-1].end
    model = header if not items.items else items.items[0 if key == "id" else -1].start
    at = line_end(text, above)
    return text[:at] + _indent(text, model) + pair + line_break(text, above) + text[at:]


def unset(text: str, vm: str, index: int, key: str) -> str:
    """Take a value of a card away, with the comment at its end if it has a line of its own."""
    while True:
        items, header = _items(text, vm, index)
        at = next((at for at, item in enumerate(items.items) if item.keys[0] == key), None)
        if at is None:
            break
        item = items.items[at]
        if header is None:
            text = brackets.remove(text, items, at)
        else:
            text = text[: line_start(text, item.start)] + text[line_end(text, item.end) :]
    cards = _cards(text, vm)
    below = _parts(cards, index)[1:] if cards.tables else []
    return _without_all(text, cards.parts, [part for part in below if part.path[3] == key])


# ---------------------------------------------------------------- where things are


def _cards(text: str, vm: str) -> _Cards:
    parts, wanted = sections(text), ("vm", vm, "nic")
    tables = [part for part in parts if part.path == wanted]
    pairs = (pair for part in parts for item in part.items for pair in inside(text, part.path, item))
    return _Cards(parts, tables, next((item for path, item in pairs if path == wanted), None))


def _items(text: str, vm: str, index: int) -> tuple[Contents, int | None]:
    """Return the values of a card, and where its header is if it is a table that has one."""
    cards = _cards(text, vm)
    if cards.array is not None:
        return contents(text, contents(text, cards.array.value).items[index].start), None
    table = cards.tables[index]
    return Contents(table.header_end, table.items, table.end), table.start


def _parts(cards: _Cards, index: int) -> list[Section]:
    """Return the table of a card, and those below it, which may be anywhere before the next card."""
    first = cards.parts.index(cards.tables[index])
    found = [cards.tables[index]]
    for part in cards.parts[first + 1 :]:
        if part in cards.tables:
            break
        if part.path[:3] == found[0].path:
            found.append(part)
    return found


def _inline_outer(text: str, parts: list[Section], vm: str) -> tuple[Path, Item] | None:
    """Return the innermost inline table that a vm is in, or is, with its path."""
    found = None
    for part in parts:
        for top in part.items:
            for path, item in inside(text, part.path, top):
                if path == ("vm", vm)[: len(path)] and text[item.value] == "{":
                    found = path, item
    return found


def _beside(part: Section, vm: str) -> list[Item]:
    """Return the items of a vm that stand in a table above its own, as ``vm.x.memory`` does without any header."""
    return [item for item in part.items if len(part.path) < 2 and (part.path + item.keys)[:2] == ("vm", vm)]


def _below(path: Path, vm: str) -> str:
    """Return the key of a vm's cards in a table above them; names need no quotes."""
    return ".".join(("vm", vm, "nic")[len(path) :])


def _inline(pairs: Pairs) -> str:
    return f"{{ {', '.join(f'{key} = {value}' for key, value in pairs)} }}"


def _indent(text: str, at: int) -> str:
    """Return what stands before `at` in its line."""
    return text[line_start(text, at) : at]


# ---------------------------------------------------------------- tables with a header


def _append_table(
    text: str, parts: list[Section], model: Section, name: str, pairs: Pairs, after: Section | None = None
) -> str:
    """Write a table behind `after`, else behind `model`, in the layout of that."""
    at, end = _reach(text, after or model), line_break(text, model.end)
    header = _indent(text, model.start) if model.path else ""
    indent = _indent(text, model.items[0].start) if model.items else header
    lines = [f"{header}[[{name}]]", *(f"{indent}{key} = {value}" for key, value in pairs)]
    apart = _apart(text, parts, model, at)
    above, below = (end if apart else "", end if apart and at < len(text) and not is_blank(line_of(text, at)) else "")
    return text[:at] + above + "".join(f"{line}{end}" for line in lines) + below + text[at:]


def _apart(text: str, parts: list[Section], after: Section, at: int) -> bool:
    """Tell whether an empty line belongs above a new table: as above the one that it follows, else as below that."""
    if len(after.path) > 2:
        start = _block(text, parts, after)[0]
        return start > 0 and is_blank(line_of(text, start - 1))
    return at == len(text) or is_blank(line_of(text, at))


def _is_bare_none(text: str, cards: _Cards, vm: str) -> bool:
    """Tell whether all that is said of a vm's cards is a line ``nic = []`` in its table, which a table can replace."""
    none = cards.array
    own = [item for part in cards.parts if part.path == ("vm", vm) for item in part.items]
    return none is not None and none in own and text[none.value : line_end(text, none.end)].strip() == "[]"


def _say_none(text: str, cards: _Cards, vm: str) -> str:
    """Write that a vm has no cards, and take its only table away if there is one."""
    only = cards.tables[0] if cards.tables else None
    home = _home(cards.parts, vm)
    if home is None:
        return _own_table(text, cards, vm, only)
    part, last = home
    above, model = (last.end, last.start) if last else (part.header_end, part.start)
    at = line_end(text, above)
    line = f"{_indent(text, model)}{_below(part.path, vm)} = []{line_break(text, above)}"
    if only is not None and at <= only.start:
        text = _without(text, cards.parts, only)
        return text[:at] + line + text[at:]
    text = text[:at] + line + text[at:]
    return text if only is None else _without(text, cards.parts, only)


def _home(parts: list[Section], vm: str) -> tuple[Section, Item | None] | None:
    """Return the table in which a vm's own keys are, and the last of them."""
    for part in parts:
        own = part.path == ("vm", vm)
        items = part.items if own else _beside(part, vm)
        if own or items:
            return part, items[-1] if items else None
    return None


def _own_table(text: str, cards: _Cards, vm: str, only: Section | None) -> str:
    """Write a table for a vm that has none of its own, in place of its only card or above the first of its parts."""
    first = only or next(part for part in cards.parts if part.path[:2] == ("vm", vm))
    at, end, indent = line_start(text, first.start), line_break(text, first.start), _indent(text, first.start)
    lines = f"{indent}[vm.{vm}]{end}{indent}nic = []{end}"
    return text[:at] + lines + (text[_reach(text, only) :] if only else end + text[at:])


def _without(text: str, parts: list[Section], table: Section) -> str:
    """Return the text without a table and what goes with it; of the empty lines around it those above stay."""
    start, end = _block(text, parts, table)
    if start == 0 or is_blank(line_of(text, start - 1)):
        while end < len(text) and is_blank(line_of(text, end)):
            end = line_end(text, end)
    while end == len(text) and start and is_blank(line_of(text, start - 1)):
        start = line_start(text, start - 1)
    return text[:start] + text[end:]


def _without_all(text: str, parts: list[Section], tables: list[Section]) -> str:
    for table in reversed(tables):
        text = _without(text, parts, table)
    return text


def _block(text: str, parts: list[Section], table: Section) -> tuple[int, int]:
    """Return where a table starts and ends with the comments that go with it."""
    before = parts[parts.index(table) - 1]
    begins = not before.path and not before.items
    floor = 0 if begins else line_end(text, before.end)
    header = start = line_start(text, table.start)
    while start > floor and is_comment(line_of(text, start - 1)):
        start = line_start(text, start - 1)
    return header if begins and start == floor else start, _reach(text, table)


def _reach(text: str, table: Section) -> int:
    """Return where a table ends with the comments that touch it from below, unless they touch the next header."""
    end = after = line_end(text, table.end)
    while after < len(text) and is_comment(line_of(text, after)):
        after = line_end(text, after)
    return after if after == len(text) or is_blank(line_of(text, after)) else end
