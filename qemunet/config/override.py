"""Puts the values of ``--set PATH=VALUE`` into a lab file's tables."""

from __future__ import annotations

import re
import tomllib
import typing

from qemunet.config import keys
from qemunet.config.hints import did_you_mean, quoted
from qemunet.errors import UsageError
from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from typing import Any

    from qemunet.config.keys import Table

_ROW = re.compile(r"(disk|nic|hosts|script)\[(\d{1,4})\]")


@frozen
class _Place:
    """A table of the file: its values, what may be in it, and its dotted path."""

    values: dict[str, Any]
    table: Table
    path: str


class _Missing(Exception):
    """There is no `word` in the table at `path`."""

    def __init__(self, word: str, path: str, known: list[str]) -> None:
        super().__init__(word)
        self.word = word
        self.path = path
        self.known = known


def override(raw: dict[str, Any], text: str, file: str) -> str:
    """Put ``PATH=VALUE`` into `raw`; return the path as messages have it.

    The vm, network, disk or card must be in the file (a card by number, ``nic[0]``, or by id, ``nic.net0``).
    Raises UsageError.
    """
    path, equals, value = text.partition("=")
    *words, name = path.strip().split(".")
    if not equals:
        raise UsageError(f"--set {quoted(text)} is not PATH=VALUE", hint='as in --set "vm.kali2.memory=1G"')
    if words in ([], ["vm"], ["network"], ["netns"], ["dhcp-server"]):
        hint = "a path begins with lab, vm.NAME, network.NAME, netns.NAME or dhcp-server.NAME, as in vm.kali2.memory"
        raise UsageError(f"--set {quoted(text)}: unknown path {quoted(path.strip())}", hint=hint)
    try:
        place = _find(raw, words)
        if name not in place.table.keys and not _is_switch(place.table, name):
            raise _Missing(name, place.path, place.table.known())
    except _Missing as missing:
        where = f"{file}, {missing.path}" if missing.path else file
        known = [word for word in missing.known if word.isprintable()]
        hint = did_you_mean(missing.word, known, f"known there: {', '.join(known) or 'nothing'}")
        problem = f"--set {quoted(text)}: there is no {quoted(missing.word)} in {where}"
        raise UsageError(problem, hint=hint) from None
    key = place.table.keys.get(name)
    place.values[name] = _value(value.strip(), textual=key is not None and key.kind.schema.get("type") == "string")
    return f"{place.path}.{name}"


def _is_switch(table: Table, name: str) -> bool:
    """Tell whether there is a table of this name that may be true or false instead."""
    return name in table.tables and bool(keys.sub_table(name).default)


def _value(text: str, *, textual: bool) -> object:
    """Return `text` as TOML has it; what is not TOML, or not what a textual key takes, as plain text."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # a TOMLDecodeError is one
        return text
    value = found["value"]
    fits = isinstance(value, str) if textual else isinstance(value, str | bool | int | list | dict)
    return value if fits and len(found) == 1 else text


def _find(raw: dict[str, Any], words: list[str]) -> _Place:
    match words:
        case ["lab", *rest]:
            raw.setdefault("lab", {})
            return _down(_Place(_member(raw, "lab", ""), keys.LAB, "lab"), rest)
        case ["vm" | "network" | "netns" | "dhcp-server" as group, name, *rest]:
            known = raw.get(group, {})
            table = {"vm": keys.VM, "network": keys.NETWORK, "netns": keys.NETNS, "dhcp-server": keys.DHCP_SERVER}[
                group
            ]
            return _down(_Place(_member(known, name, group), table, f"{group}.{name}"), rest)
        case _:
            raise _Missing(words[0], "", ["lab", "vm", "network", "netns", "dhcp-server"])


def _down(place: _Place, words: list[str]) -> _Place:
    """Follow the words to a table below."""
    match words:
        case []:
            return place
        case [sub, *rest] if sub in place.table.tables:
            if place.values.get(sub, True) is True:  # nothing said, or to be there
                place.values[sub] = {}
            return _down(
                _Place(_member(place.values, sub, place.path), keys.sub_table(sub), f"{place.path}.{sub}"), rest
            )
        case [group, name, *rest] if group in place.table.named:
            path = f"{place.path}.{group}"
            below = _member(place.values.get(group, {}), name, path)
            return _down(_Place(below, keys.sub_table(group), f"{path}.{name}"), rest)
        case [word, *rest] if (row := _ROW.fullmatch(word)) and row[1] in place.table.lists:
            return _down(_row(place, row[1], row[2]), rest)
        case ["nic", name, *rest] if "nic" in place.table.lists:
            ids = [one.get("id", f"net{i}") for i, one in enumerate(_rows(place, "nic"))]
            if name not in ids:
                raise _Missing(name, f"{place.path}.nic", ids)
            return _down(_row(place, "nic", str(ids.index(name))), rest)
        case _:
            raise _Missing(words[0], place.path, place.table.known())


def _rows(place: _Place, key: str) -> list[dict[str, Any]]:
    rows = place.values.get(key)
    return [one for one in rows if isinstance(one, dict)] if isinstance(rows, list) else []


def _row(place: _Place, key: str, index: str) -> _Place:
    rows = {str(i): one for i, one in enumerate(_rows(place, key))}
    path = f"{place.path}.{key}[{index}]"
    if index not in rows:
        raise _Missing(f"{key}[{index}]", place.path, [f"{key}[{i}]" for i in rows])
    return _Place(_member(rows, index, path), keys.sub_table(key), path)


def _member(tables: Any, name: str, path: str) -> dict[str, Any]:
    member = tables.get(name) if isinstance(tables, dict) else None
    if not isinstance(member, dict):
        raise _Missing(name, path, [*tables] if isinstance(tables, dict) else [])
    return member
