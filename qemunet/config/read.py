"""Finds and opens lab files, and reads them."""

from __future__ import annotations

import os

from qemunet.config import keys
from qemunet.config.files import text_of
from qemunet.config.reader import TOP, Reader
from qemunet.config.spec import LabSpec, NicSpec
from qemunet.config.toml import parse

__all__ = ["TOP", "load", "loads", "nic", "parse", "preset", "text_of"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qemunet.config.keys import Table


def load(path: str, overrides: Sequence[str] = ()) -> LabSpec:
    """Read the lab file at `path`; `overrides` are ``vm.kali2.memory=1G`` of the command line.

    Raises ConfigError, and UsageError for an override of something that is not in the file.
    """
    return loads(text_of(path), path, overrides)


def loads(text: str, file: str, overrides: Sequence[str] = ()) -> LabSpec:
    """Read a lab from `text`; `file` is its name for messages, and relative paths are relative to it."""
    raw = parse(text, file)
    overridden: frozenset[str] = frozenset()
    if overrides:
        from qemunet.config.override import override

        overridden = frozenset(override(raw, one, file) for one in overrides)
    spec = Reader(file, os.path.abspath(file), overridden).lab(raw)
    if any(vm.login.recipe is not None or vm.script_file is not None for vm in spec.vms):
        from qemunet.config.stepfiles import joined

        return joined(spec)
    return spec


def preset(raw: object, file: str, path: str, table: Table) -> dict[str, Any]:
    """Return the values of one table of a profile, by attribute; raises ConfigError."""
    return Reader(file).values(raw, path, table, profile=True)


def nic(raw: object, file: str, path: str) -> NicSpec:
    """Return a card from the keys of a ``[[vm.NAME.nic]]``; `file` and `path` are for errors. Raises ConfigError."""
    return NicSpec(path, **Reader(file).values(raw, path, keys.NIC))
