"""Photographs of hosts as JSON, for tests that think about a host which they do not run on."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any

from qemunet.facts import Facts
from qemunet.frozen import as_dict, fields, is_frozen
from qemunet.model.routing import Carried


def dumps(facts: Facts) -> str:
    """Return a photograph as JSON; what has its default is left out."""
    return json.dumps(_plain(facts), indent=2, ensure_ascii=False) + "\n"


def loads(text: str) -> Facts:
    """Return the photograph that `dumps` wrote; raises TypeError for a field that there is not."""
    facts = _typed(Facts, json.loads(text))
    assert isinstance(facts, Facts)
    return facts


def types_of(kind: type) -> dict[str, Any]:
    """Return the types of the fields of a value type, by name."""
    return typing.get_type_hints(kind, localns={"Carried": Carried})  # photographs are taken without loading it


def _plain(value: Any) -> Any:
    if is_frozen(value):
        shown = {name: item for name, item in as_dict(value).items() if item != _default(value, name)}
        return {name: _plain(item) for name, item in shown.items()}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(_plain(item) for item in value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _default(value: Any, name: str) -> Any:
    return value._defaults.get(name, value)


def _typed(kind: Any, value: Any) -> Any:
    """Return `value`, as JSON has it, as the type that a field is declared to have."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if fields(kind):
        types = types_of(kind)
        unknown = value.keys() - types.keys()
        if unknown:
            raise TypeError(f"{getattr(kind, '__name__', kind)} has no {', '.join(sorted(unknown))}")
        return typing.cast("Any", kind)(**{name: _typed(types[name], item) for name, item in value.items()})
    if origin is UnionType:
        return None if value is None else _typed(next(one for one in inner if one is not NoneType), value)
    if origin is Mapping:
        return {key: _typed(inner[1], item) for key, item in value.items()}
    if origin is frozenset:
        return frozenset(_typed(inner[0], item) for item in value)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_typed(one, item) for one, item in zip(kinds, value, strict=True))
    return value
