"""Reads when a vm is ready, and checks what vms depend on: that it is there, and never on them in turn."""

from __future__ import annotations

import re

from qemunet.config.hints import Bad, did_you_mean, listed
from qemunet.config.scripts import pattern
from qemunet.model.ready import ConsoleReady, LeaseReady, Ready, ScriptReady, TcpReady

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemunet.config.spec import LabSpec, VmSpec

BANNER = ConsoleReady(r"(?m)^qemunet guest ready: ")  # what the built-in guest prints
_WAYS = '"dhcp", "console=REGEX", "tcp=PORT" and "script"'
_LAST_PORT = 65535


def read(text: str) -> Ready:
    """Read ``dhcp``, ``console=REGEX`` or ``tcp=PORT``; raises Bad."""
    way, _, value = text.partition("=")
    if text == "dhcp":
        return LeaseReady()
    if text == "script":
        return ScriptReady()
    if way == "console" and value:
        return ConsoleReady(pattern(value))
    if way == "tcp":
        return TcpReady(port(value))
    raise Bad(f'"{text}" is no way to be ready', f"ways are {_WAYS}")


def write(ready: Ready) -> str:
    """Return what `read` was given."""
    match ready:
        case LeaseReady():
            return "dhcp"
        case ConsoleReady(pattern):
            return f"console={pattern}"
        case TcpReady(number):
            return f"tcp={number}"
        case ScriptReady():
            return "script"


def port(text: str) -> int:
    """Read a port to connect to; raises Bad."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= _LAST_PORT:
        raise Bad(f'"{text}" is not a port', f"a port is a number from 1 to {_LAST_PORT}")
    return int(text)


def of(vm: VmSpec) -> Ready | None:
    """Return when a vm is ready; None: as soon as it runs. The built-in guest says it when it is."""
    if vm.ready is not None:
        return read(vm.ready)
    if vm.script:
        return ScriptReady()
    return BANNER if vm.boot.guest is not None else None


def check(spec: LabSpec) -> None:
    """Raise ConfigError for a vm that depends on one that is not there, or on itself by whatever way."""
    for vm in spec.vms:
        if vm.ready == "script" and not vm.script:
            raise spec.error(f"{vm.path}.ready", "it has no script", f"written [[{vm.path}.script]]")
    known = [vm.name for vm in spec.vms]
    for vm in spec.vms:
        for name in vm.depends or ():
            if name not in known:
                hint = did_you_mean(name, known, f"vms are {listed(known)}")
                raise spec.error(f"{vm.path}.depends", f'unknown vm "{name}"', hint)
    after = {vm.name: vm.depends or () for vm in spec.vms}
    for vm in spec.vms:
        if circle := _circle(after, (vm.name,)):
            problem = "it depends on itself" if len(circle) == 2 else f"it depends on itself: {' on '.join(circle)}"
            raise spec.error(f"{vm.path}.depends", problem, "one of them has to be first")


def _circle(after: dict[str, tuple[str, ...]], way: tuple[str, ...]) -> tuple[str, ...]:
    """Return the way from the first vm of `way` on that leads back to it, if there is any."""
    for name in after[way[-1]]:
        if name == way[0]:
            return (*way, name)
        if name not in way and (found := _circle(after, (*way, name))):
            return found
    return ()


def with_all_needed(spec: LabSpec, names: Sequence[str]) -> list[str]:
    """Return these vms (all if none is named) and those that they depend on, in the order of the file."""
    wanted = set(names or (vm.name for vm in spec.vms))
    after = {vm.name: set(vm.depends or ()) for vm in spec.vms}
    while more := {one for name in wanted for one in after[name]} - wanted:
        wanted |= more
    return [vm.name for vm in spec.vms if vm.name in wanted]
