"""Finds and opens lab files, and reads them."""

from __future__ import annotations

import os
import stat
import typing

from qemunet.config import keys
from qemunet.config.hints import nearest
from qemunet.config.reader import TOP, Reader, parse
from qemunet.config.spec import LabSpec, NicSpec
from qemunet.errors import ConfigError

__all__ = ["TOP", "load", "loads", "nic", "parse", "preset", "text_of"]

if typing.TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from qemunet.config.keys import Table

_LARGEST = 4 << 20  # bytes


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
    return Reader(file, os.path.abspath(file), overridden).lab(raw)


def text_of(path: str) -> str:
    """Return the text of a TOML file; raises ConfigError."""
    try:
        data = _content(path)
    except FileNotFoundError:
        raise ConfigError(path or '""', "", "no such file", hint=_other_files(path)) from None
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, "", f"not UTF-8 text (byte 0x{data[error.start]:02x} in line {line})") from None


def _content(path: str) -> bytes:
    """Return what is in a regular file; raises ConfigError and OSError. Anything else might never end."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise ConfigError(path, "", "is a directory, not a lab file")
        raise ConfigError(path, "", "is a pipe or a device, not a lab file", hint="write the lab into a file first")
    with open(fd, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ConfigError(path, "", f"is larger than {_LARGEST >> 20} MiB, which no lab file is")
    return data


def _other_files(path: str) -> str:
    folder = os.path.dirname(path)
    try:
        names = sorted(name for name in os.listdir(folder or ".") if name.endswith(".toml"))
    except OSError:
        return f"{folder} is not there either" if not os.path.isdir(folder) else ""
    near = nearest(os.path.basename(path), names)
    return f'did you mean "{os.path.join(folder, near)}"?' if near else ""


def preset(raw: object, file: str, path: str, table: Table) -> dict[str, Any]:
    """Return the values of one table of a profile, by attribute; raises ConfigError."""
    return Reader(file).values(raw, path, table, profile=True)


def nic(raw: object, file: str, path: str) -> NicSpec:
    """Return a card from the keys of a ``[[vm.NAME.nic]]``; `file` and `path` are for errors. Raises ConfigError."""
    return NicSpec(path, **Reader(file).values(raw, path, keys.NIC))
