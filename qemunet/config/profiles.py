"""Finds and reads profiles: TOML files that describe hardware and preset keys of vms, cards and disks."""

from __future__ import annotations

import os

from qemunet.config import keys
from qemunet.config.files import DEFAULT, SUFFIX, beside, find, named, text_of
from qemunet.config.hints import did_you_mean, dotted, listed, quoted
from qemunet.config.read import preset
from qemunet.config.spec import DiskSpec, MachineSpec, NicSpec, Profile, VmSpec
from qemunet.config.toml import parse
from qemunet.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config.spec import LabSpec


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
    return [load(name, near) for name in named(near)]


def _load(name: str, near: str, place: ConfigError) -> Profile:
    """Find and read a profile; `place` is where it is named, for the case that there is none."""
    found = find(name, near)
    if found is not None:
        return _read(*found)
    if "/" in name or name.endswith(SUFFIX):
        path = os.path.join(beside(near), name)
        raise ConfigError(place.file, place.path, f'there is no profile "{name}": no file {path}')
    known = named(near)
    hint = did_you_mean(name, known, f"profiles are {listed(known)}" if known else "no profile is installed")
    raise ConfigError(place.file, place.path, f'unknown profile "{name}"', hint=hint)


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
