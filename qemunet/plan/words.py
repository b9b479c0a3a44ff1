"""Arguments of command lines: words of text and handles, options, and values in QEMU's JSON form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from qemunet.steps import Handle, Word, line

Json = str | int | bool | None | Handle | Word | Sequence["Json"] | Mapping[str, "Json"]

UNDECIDED = "<decided at run>"  # stands where only a run can know


def word(*parts: str | Handle | Word) -> Word:
    """Join text, handles and words to one argument; neighbouring text becomes one part."""
    joined: list[str | Handle] = []
    for part in _flat(parts):
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part:
            joined.append(part)
    return Word(tuple(joined))


def option(name: str, *value: str | Handle | Word) -> tuple[Word, Word]:
    """Return an option and its value: two arguments."""
    return word(name), word(*value)


def option_if(name: str, value: str) -> tuple[Word, ...]:
    """Return an option and its value, nothing if that is empty."""
    return option(name, value) if value else ()


def json_option(name: str, value: Mapping[str, Json]) -> tuple[Word, Word]:
    """Return an option whose value is a JSON object."""
    return word(name), as_json(value)


def as_json(value: Json) -> Word:
    """Write a value as JSON; a handle or word becomes a string, the text of a word must need no escapes."""
    return word(*_written(value))


def by_option(argv: Iterable[Word]) -> Iterator[tuple[Word, ...]]:
    """Yield the arguments grouped for the eye: each option with its values."""
    group: list[Word] = []
    for argument in argv:
        if str(argument).startswith("-") and group:
            yield tuple(group)
            group = []
        group.append(argument)
    yield tuple(group)


def quoted(argument: Word) -> str:
    """Write an argument for a shell; a handle is the name of a shell variable."""
    parts = [f'"${{{part.name}}}"' if isinstance(part, Handle) else line(part) for part in argument.parts]
    return "".join(parts) or "''"


def _flat(parts: Sequence[str | Handle | Word]) -> Iterator[str | Handle]:
    for part in parts:
        if isinstance(part, Word):
            yield from part.parts
        else:
            yield part


def _written(value: Json) -> Iterator[str | Handle | Word]:
    match value:
        case Handle() | Word():
            yield from ('"', value, '"')
        case str() | int() | bool() | None:
            yield json.dumps(value, ensure_ascii=False)
        case Mapping():
            yield from _joined("{", "}", [(json.dumps(key) + ":", item) for key, item in value.items()])
        case _:
            yield from _joined("[", "]", [("", item) for item in value])


def _joined(opening: str, closing: str, items: list[tuple[str, Json]]) -> Iterator[str | Handle | Word]:
    yield opening
    for number, (key, item) in enumerate(items):
        yield f",{key}" if number else key
        yield from _written(item)
    yield closing
