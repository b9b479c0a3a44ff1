"""Finds and reads profiles: TOML files that describe hardware and preset keys of vms, cards and disks."""

from __future__ import annotations

import os
import typing

from qemunet.config import keys
from qemunet.config.hints import did_you_mean, dotted, listed, quoted
from qemunet.config.read import parse, preset, text_of
from qemunet.config.spec import DiskSpec, MachineSpec, NicSpec, Profile, VmSpec
from qemunet.errors import ConfigError

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.spec import LabSpec

DEFAULT = "q35"
SUFFIX = ".toml"


def load_all(spec: LabSpec) -> dict[str, Profile]:
    """Return every profile that a lab names, by that name; raises ConfigError at the place where it is named."""
    found: dict[str, Profile] = {}
    for vm in spec.vms:
        name = vm.profile or DEFAULT
        if name not in found:
            path = f"{vm.path}.profile"
            file = "--set" if path in spec.overridden else spec.file
            found[name] = _load(name, spec.path, ConfigError(file, path, "", hint=""))
    return found


def load(name: str, near: str) -> Profile:
    """Return the profile of that name, or at that path if `name` has a slash or ends in .toml; raises ConfigError.

    `near` is the lab file: relative paths and its own ``profiles/`` are beside it.
    """
    return _load(name, near, ConfigError(near, "profile", "", hint=""))


def available(near: str) -> list[Profile]:
    """Return the profiles that have a name, sorted by it, each as `load` would find it."""
    names = sorted({name for folder, _ in _folders(near) for name in _names(folder)})
    return [load(name, near) for name in names]


def _load(name: str, near: str, place: ConfigError) -> Profile:
    """Find and read a profile; `place` is where it is named, for the case that there is none."""
    if "/" in name or name.endswith(SUFFIX):
        path = os.path.join(_beside(near), name)
        if not os.path.isfile(path):
            raise ConfigError(place.file, place.path, f'there is no profile "{name}": no file {path}')
        return _read(path, os.path.normpath(path))
    for folder, everywhere in _folders(near):
        path = os.path.join(folder, name + SUFFIX)
        if os.path.isfile(path):
            return _read(path, name if everywhere else path)
    known = sorted({one for folder, _ in _folders(near) for one in _names(folder)})
    hint = did_you_mean(name, known, f"profiles are {listed(known)}" if known else "no profile is installed")
    raise ConfigError(place.file, place.path, f'unknown profile "{name}"', hint=hint)


def _folders(near: str) -> Iterator[tuple[str, bool]]:
    """Yield where profiles are looked for, and whether that is the same for every lab."""
    for folder in filter(None, os.environ.get("QEMUNET_PROFILE_PATH", "").split(":")):
        yield os.path.abspath(folder), False
    yield os.path.join(_beside(near), "profiles"), False
    yield os.path.join(_config_home(), "qemunet", "profiles"), False
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    yield os.path.join(os.path.dirname(package), "profiles"), True
    yield os.path.join(package, "data", "profiles"), True


def _config_home() -> str:
    return os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")


def _beside(near: str) -> str:
    near = os.path.abspath(near)
    return near if os.path.isdir(near) else os.path.dirname(near)


def _names(folder: str) -> list[str]:
    try:
        files = os.listdir(folder)
    except OSError:
        return []
    return [file.removesuffix(SUFFIX) for file in files if file.endswith(SUFFIX)]


def _read(path: str, reference: str) -> Profile:
    """Read a profile; raises ConfigError."""
    text = text_of(path)
    raw = parse(text, path)
    doc = raw.pop("doc", None)
    if not isinstance(doc, str | None):
        raise ConfigError(path, "doc", "text belongs here", hint="one line that says what it is")
    for key in raw:
        if key not in keys.PROFILE_TABLES:
            hint = did_you_mean(key, keys.PROFILE_TABLES, f"a profile has {listed(['doc', *keys.PROFILE_TABLES])}")
            raise ConfigError(path, dotted("", key), f"unknown table {quoted(key)}", hint=hint)
    values = {name: preset(raw.get(name, {}), path, name, table) for name, table in keys.PROFILE_TABLES.items()}
    machine = MachineSpec(**values["machine"])
    if machine.type is None or machine.nic_bus is None:
        missing = "type" if machine.type is None else "nic-bus"
        raise ConfigError(path, "machine", f"{missing} is missing", hint="a profile says machine.type and nic-bus")
    return Profile(
        name=os.path.basename(path).removesuffix(SUFFIX),
        reference=reference,
        machine=machine,
        vm=VmSpec(**values["vm"]),
        nic=NicSpec(**values["nic"]),
        disk=DiskSpec(**values["disk"]),
        doc=doc or _first_comment(text),
    )


def _first_comment(text: str) -> str:
    first = text.partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
