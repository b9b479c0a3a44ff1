"""The JSON Schema of lab files, made from the table of keys."""

from __future__ import annotations

import typing

from qemunet.config import keys
from qemunet.model.names import NAME

if typing.TYPE_CHECKING:
    from qemunet.config.keys import Key, Table

Schema = dict[str, object]


def lab_schema() -> Schema:
    """Return the schema (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qemunet lab",
        "description": "Guests, their cards and their networks.",
        "type": "object",
        "properties": {"lab": _table(keys.LAB), "vm": _named(keys.VM), "network": _named(keys.NETWORK)},
        "additionalProperties": False,
    }


def _named(table: Table) -> Schema:
    """Return the schema of a table of named tables."""
    return {
        "type": "object",
        "description": table.doc,
        "patternProperties": {f"^{NAME.pattern}$": _table(table)},
        "additionalProperties": False,
    }


def _table(table: Table) -> Schema:
    properties: Schema = {key.name: _key(key) for key in table.keys.values()}
    properties |= {name: _table(keys.SUB_TABLES[name]) for name in table.tables}
    properties |= {name: {"type": "array", "items": _table(keys.SUB_TABLES[name])} for name in table.lists}
    required: Schema = {"required": ["file"]} if table is keys.DISK else {}
    return {
        "type": "object",
        "description": table.doc,
        "properties": properties,
        **required,
        "additionalProperties": False,
    }


def _key(key: Key) -> Schema:
    return {"description": describe(key), **key.kind.schema}


def describe(key: Key) -> str:
    """Return a key's one-line documentation with its default and what it belongs to."""
    default = f" (default: {key.default})" if key.default else ""
    belongs = f"; only for {' or '.join(key.belongs)}" if key.belongs else ""
    return f"{key.doc}{belongs}{default}"
