"""Parses a lab file and its profiles for the process that thinks about them, while that one loads what it needs."""

from __future__ import annotations

import json

from qemunet.config import files
from qemunet.config.files import text_of
from qemunet.config.toml import parse
from qemunet.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def parsed(file: str) -> list[tuple[str, str]]:
    """Return the texts of a lab file and of the profiles that it names, each with what it says as JSON.

    What is wrong with them, and what JSON cannot say, is left to whoever will read them.
    """
    found: list[tuple[str, str]] = []
    try:
        lab = _add(found, file)
        for profile in sorted(set(_profiles(lab))):
            place = files.find(profile, file)
            if place is not None:
                _add(found, place[0])
    except (ConfigError, TypeError):  # a date is of no type that JSON has
        pass
    return found


def _add(found: list[tuple[str, str]], file: str) -> dict[str, Any]:
    text = text_of(file)
    tables = parse(text, file)
    found.append((text, json.dumps(tables)))
    return tables


def _profiles(lab: dict[str, Any]) -> Iterator[str]:
    """Yield the names of profiles, as far as the file is like a lab file."""
    vms = lab.get("vm")
    for vm in vms.values() if isinstance(vms, dict) else ():
        name = vm.get("profile", files.DEFAULT) if isinstance(vm, dict) else None
        if isinstance(name, str):
            yield name
