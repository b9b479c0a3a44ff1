"""Reads scripts in files of their own, recipes for logging in among them, and puts each before its vm's own steps."""

from __future__ import annotations

import os

from qemunet.config import keys, scripts
from qemunet.config.files import text_of
from qemunet.config.hints import did_you_mean, dotted, listed, quoted
from qemunet.config.reader import Reader
from qemunet.config.spec import ScriptSpec
from qemunet.config.toml import parse
from qemunet.errors import ConfigError
from qemunet.frozen import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config.spec import LabSpec, VmSpec

SUFFIX = ".toml"


def joined(spec: LabSpec) -> LabSpec:
    """Return a lab in which every vm has all steps of its script: to log in, of its file, its own. Raises ConfigError.

    Where no password is given, the steps of a recipe that type it are left out.
    """
    return replace(spec, vms=tuple(_joined(spec, vm) for vm in spec.vms))


def recipes() -> list[str]:
    """Return the names of the recipes that come with qemunet."""
    return sorted(name.removesuffix(SUFFIX) for name in os.listdir(_folder()) if name.endswith(SUFFIX))


def _joined(spec: LabSpec, vm: VmSpec) -> VmSpec:
    login: tuple[ScriptSpec, ...] = ()
    if vm.login.recipe is not None:
        typed = vm.login.password is not None
        every = _steps(_recipe(spec, vm, vm.login.recipe))
        login = tuple(step for step in every if typed or scripts.PASSWORD not in (step.send or ""))
    own = () if vm.script_file is None else _steps(_beside(spec, f"{vm.path}.script-file", vm.script_file))
    return replace(vm, script=(*login, *own, *vm.script)) if login or own else vm


def _recipe(spec: LabSpec, vm: VmSpec, name: str) -> str:
    """Return the path of a recipe; raises ConfigError."""
    place = f"{vm.path}.login.recipe"
    if "/" in name or name.endswith(SUFFIX):
        return _beside(spec, place, name)
    known = recipes()
    if name not in known:
        hint = did_you_mean(name, known, f"recipes are {listed(known)}; one of your own is a path, as in ./{name}.toml")
        raise spec.error(place, f"unknown recipe {quoted(name)}", hint)
    return os.path.join(_folder(), name + SUFFIX)


def _beside(spec: LabSpec, place: str, name: str) -> str:
    path = os.path.normpath(os.path.join(os.path.dirname(spec.path), name))
    if not os.path.exists(path):
        raise spec.error(place, f"no such file: {path}", "~ is not expanded here" if name.startswith("~") else "")
    return path


def _steps(path: str) -> tuple[ScriptSpec, ...]:
    """Read a file of steps; raises ConfigError that names it."""
    raw = parse(text_of(path), path)
    for key in raw:
        if key != "script":
            hint = "a file of steps has [[script]] and nothing else"
            raise ConfigError(path, dotted("", key), f"unknown table {quoted(key)}", hint=hint)
    rows = Reader(path).rows(raw, "", "script", keys.SCRIPT)
    found = tuple(ScriptSpec(place, **values, file=path) for place, values in rows)
    if not found:
        raise ConfigError(path, "", "has no step", hint="each is written [[script]]")
    return found


def _folder() -> str:
    """Return where the recipes are: beside the package, or in it where it is installed."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    tree = os.path.join(os.path.dirname(package), "profiles", "logins")
    return tree if os.path.isdir(tree) else os.path.join(package, "data", "profiles", "logins")
