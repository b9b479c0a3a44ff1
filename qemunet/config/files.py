"""Opens lab files and profiles; finds the latter beside the lab file, with the user's settings, in the package."""

from __future__ import annotations

import os
import stat

from qemunet.config.hints import nearest
from qemunet.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "q35"
SUFFIX = ".toml"
_LARGEST = 4 << 20  # bytes


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


def find(name: str, near: str) -> tuple[str, str] | None:
    """Return a profile's file and how it is referred to in any other file, or None if there is none.

    `near` is the lab file, or the directory of one. A name with a slash, or that ends in .toml, is a path.
    """
    if "/" in name or name.endswith(SUFFIX):
        path = os.path.join(beside(near), name)
        return (path, os.path.normpath(path)) if os.path.isfile(path) else None
    for folder, everywhere in _folders(near):
        path = os.path.join(folder, name + SUFFIX)
        if os.path.isfile(path):
            return path, name if everywhere else path
    return None


def named(near: str) -> list[str]:
    """Return the names of all profiles that have one, sorted."""
    return sorted({name for folder, _ in _folders(near) for name in _names(folder)})


def beside(near: str) -> str:
    """Return the directory of a lab file."""
    near = os.path.abspath(near)
    return near if os.path.isdir(near) else os.path.dirname(near)


def _folders(near: str) -> Iterator[tuple[str, bool]]:
    """Yield where profiles are looked for, and whether that is the same for every lab."""
    for folder in filter(None, os.environ.get("QEMUNET_PROFILE_PATH", "").split(":")):
        yield os.path.abspath(folder), False
    yield os.path.join(beside(near), "profiles"), False
    yield os.path.join(_config_home(), "qemunet", "profiles"), False
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    yield os.path.join(os.path.dirname(package), "profiles"), True
    yield os.path.join(package, "data", "profiles"), True


def _config_home() -> str:
    return os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")


def _names(folder: str) -> list[str]:
    try:
        files = os.listdir(folder)
    except OSError:
        return []
    return [file.removesuffix(SUFFIX) for file in files if file.endswith(SUFFIX)]
