"""Adds, removes and changes cards in the text of a lab file and leaves every other line as it is, comments included.

A change is made where the card is written, in the way in which it is written: tables ``[[vm.x.nic]]`` or an array of
inline ones. The result is read again and must say exactly what was wanted; else the text is not changed at all.

The lines are found by `qemunet.config.places`. A library that holds the document as a tree (tomlkit was tried) does not
keep it: a comment above a table is part of the table before, so that it goes or stays with the wrong one, new lines do
not end as those around them, and a first card of a vm that is an inline table came out as a text that nobody can read.

What goes with a card that is removed: the comment lines that touch its header from above, except those that begin the
file, and those that touch its last line from below, unless they touch the next header. Any other comment stays.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping

from qemunet.config import check, layout, read
from qemunet.config.hints import did_you_mean, listed, quoted
from qemunet.config.write import value as spelled
from qemunet.errors import ConfigError, NotFound
from qemunet.frozen import frozen

if typing.TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qemunet.config.spec import LabSpec

    Value = str | int | Sequence[str] | Mapping[str, str]
    Card = dict[str, Any]

FILE = "the lab file"
_BOM = "\ufeff"  # with which some editors begin a file


def add_nic(text: str, vm: str, values: Mapping[str, Value], *, file: str = FILE) -> str:
    """Return `text` with one more card, the last one of the vm. `values` are by key of the file, as in ``mac-prefix``.

    A vm without any card in its file has one in user mode: that one is written out. `file` is for messages. Raises
    NotFound for an unknown vm, and ConfigError.
    """
    lab = _lab(text, vm, file)
    card = _card(values)
    if "id" not in card and f"net{len(lab.cards)}" in lab.ids:
        card = {"id": _free_id(lab.ids), **card}
    draft = _Draft(lab, text)
    draft.write_out({})
    draft.append(card)
    return draft.checked(f"give {vm} a [[vm.{vm}.nic]] with {_in_words(card)}")


def remove_nic(text: str, vm: str, nic: str | int, *, file: str = FILE) -> str:
    """Return `text` without a card, which is named by id or index. The other cards keep their ids.

    So those whose id came from their place, and would be another now, get it written. Raises NotFound and ConfigError.
    """
    lab = _lab(text, vm, file)
    index = lab.index(nic)
    draft = _Draft(lab, text)
    moved = [at for at in range(index + 1, len(lab.cards)) if "id" not in lab.cards[at]]
    for at in moved:
        draft.put(at, "id", lab.ids[at])
    draft.drop(index)
    named = f', and write id = "{lab.ids[moved[0]]}" and so on into those after it' if moved else ""
    return draft.checked(f"take {lab.ids[index]} out of {vm}'s cards{named}")


def set_nic(text: str, vm: str, nic: str | int, values: Mapping[str, Value | None], *, file: str = FILE) -> str:
    """Return `text` with other values of a card, which is named by id or index; None takes a key away.

    A value that is there already stays as it is spelled. Raises NotFound and ConfigError.
    """
    lab = _lab(text, vm, file)
    index = lab.index(nic)
    draft = _Draft(lab, text)
    given = {key: one for key, one in values.items() if one is not None}
    if given:
        draft.write_out(given)
    for key, one in given.items():
        draft.put(index, key, one)
    for key in [key for key, one in values.items() if one is None]:
        draft.unset(index, key)
    changes = ", ".join(f"no {key}" if one is None else f"{key} = {_toml(one)}" for key, one in values.items())
    return draft.checked(f"in the card {lab.ids[index]} of {vm}: {changes}")


# ---------------------------------------------------------------- what is there


@frozen
class _Lab:
    """A lab file and one vm of it. `written` are its cards as the file has them, None if it says nothing of cards."""

    file: str
    vm: str
    spec: LabSpec
    written: list[Card] | None

    @property
    def cards(self) -> list[Card]:
        return [{}] if self.written is None else self.written

    @property
    def ids(self) -> list[str]:
        return [card.get("id", f"net{index}") for index, card in enumerate(self.cards)]

    def index(self, nic: str | int) -> int:
        """Return the place of a card in the file; raises NotFound."""
        if isinstance(nic, int) and 0 <= nic < len(self.cards):
            return nic
        if isinstance(nic, str) and nic in self.ids:
            return self.ids.index(nic)
        known = did_you_mean(str(nic), self.ids, f"it has {listed(self.ids)}" if self.ids else "it has no card")
        raise NotFound(f"there is no card {quoted(str(nic))} in vm.{self.vm}", where=self.file, hint=known)


def _lab(text: str, vm: str, file: str) -> _Lab:
    spec = read.loads(text, file)
    known = [one.name for one in spec.vms]
    if vm not in known:
        hint = did_you_mean(vm, known, f"it has {listed(known)}" if known else "it has no vm")
        raise NotFound(f"there is no vm {quoted(vm)} in this lab", where=file, hint=hint)
    return _Lab(file, vm, spec, read.parse(text, file)["vm"][vm].get("nic"))


def _free_id(taken: Sequence[str]) -> str:
    return next(name for name in (f"net{number}" for number in range(len(taken) + 1)) if name not in taken)


# ---------------------------------------------------------------- values


def _card(values: Mapping[str, Value]) -> Card:
    """Return a card as `tomllib` would read it: the usual one if nothing is said of it."""
    return {key: _raw(one) for key, one in values.items()} or {"mode": "user"}


def _raw(one: Value) -> object:
    match one:
        case str() | int():
            return one
        case Mapping():
            return dict(one)
        case _:
            return [*one]


def _toml(one: Value) -> str:
    match one:
        case str() | int():
            return spelled(one)
        case Mapping():
            return spelled(dict(one))
        case _:
            return spelled(tuple(one))


def _in_words(card: Card) -> str:
    return ", ".join(f"{key} = {_toml(one)}" for key, one in card.items())


# ---------------------------------------------------------------- what it becomes


class _Draft:
    """A text that is being changed, and what its cards should be then."""

    def __init__(self, lab: _Lab, text: str) -> None:
        self.lab = lab
        self.mark = _BOM if text.startswith(_BOM) else ""
        self.before = text.removeprefix(_BOM)
        self.text = layout.ended(self.before)
        self.wanted = [dict(card) for card in lab.written or []]
        self.absent = lab.written is None

    def write_out(self, values: Mapping[str, Value]) -> None:
        """Write the card that a vm has if its file says nothing of cards."""
        if self.absent:
            self.append(_card(values))

    def append(self, card: Card) -> None:
        pairs = [(key, _toml(one)) for key, one in card.items()]
        self.text = layout.append(self.text, self.lab.vm, pairs)
        self.wanted.append(card)
        self.absent = False

    def drop(self, index: int) -> None:
        self.text = layout.drop(self.text, self.lab.vm, index)
        del self.wanted[index : index + 1]
        self.absent = False

    def put(self, index: int, key: str, one: Value) -> None:
        card = self.wanted[index]
        if key not in card or not _same(card[key], _raw(one)):
            self.text = layout.put(self.text, self.lab.vm, index, key, _toml(one))
            card[key] = _raw(one)

    def unset(self, index: int, key: str) -> None:
        if index < len(self.wanted) and self.wanted[index].pop(key, None) is not None:
            self.text = layout.unset(self.text, self.lab.vm, index, key)

    def checked(self, by_hand: str) -> str:
        """Return the new text; raises ConfigError if it does not say exactly what is wanted, or nothing that can be."""
        text = layout.like(self.before, self.text)
        path = f"vm.{self.lab.vm}.nic"
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise ConfigError(self.lab.file, path, "what is to be written there has bytes that are not UTF-8 text")
        if not self._is_wanted(text):
            problem = "is written in a way that cannot be changed here without harm, so nothing was changed"
            raise ConfigError(self.lab.file, path, problem, hint=f"do it by hand: {by_hand}")
        self._sensible(read.loads(text, self.lab.file))
        return self.mark + text

    def _is_wanted(self, text: str) -> bool:
        wanted = read.parse(self.before, self.lab.file)
        if not self.absent:
            wanted["vm"][self.lab.vm]["nic"] = self.wanted
        try:
            return _same(read.parse(text, self.lab.file), wanted)
        except ConfigError:
            return False

    def _sensible(self, after: LabSpec) -> None:
        """Raise ConfigError if a lab that could be run no longer can; one that is given overrides may never be."""
        try:
            check.check(self.lab.spec)
        except ConfigError:
            return
        check.check(after)


def _same(one: object, other: object) -> bool:
    """Tell whether two values of TOML are equal, and of the same types: in Python 1 is true."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
        case _:
            return type(one) is type(other) and one == other
