"""Refuses names that somebody else has: vms, networks, namespaces and labs share one set of them per runtime directory.

Whoever asks holds the runtime directory's lock until his own names are there for others to see.
"""

from __future__ import annotations

import os

from qemunet.errors import Taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from qemunet.records import VmRecord
    from qemunet.state import Runtime
    from qemunet.steps import Plan

_OTHERS = "vms, networks, namespaces and labs share one set of names"
_RENAME_LAB = '`[lab] name = "…"` in the file, or `--set lab.name=…`, gives this one another name'


def refuse_taken_names(runtime: Runtime, lab: str, path: str, vms: Iterable[str]) -> None:
    """Raise Taken if these vms of a lab cannot have their names, or it, from the file `path`, cannot have its own."""
    known = [vm for vm in runtime.vms() if vm.state != "dead"]
    _refuse_other_file(lab, path, [vm for vm in known if vm.lab == lab])
    who = _vm(runtime, lab) or _network(runtime, lab)
    if who:
        raise _taken(lab, who, "lab.name", _RENAME_LAB)
    for name in vms:
        _refuse_running(runtime, name)
        who = _network(runtime, name) or _netns(runtime, name) or _lab(runtime, name, known)
        if who:
            raise _taken(name, who, f"vm.{name}")


def refuse_taken_networks(runtime: Runtime, plan: Plan) -> None:
    """Raise Taken if networks that a plan makes cannot have their names; one that is up may be shared."""
    for part in plan.shared:
        kind, _, name = part.scope.partition("/")
        if kind not in ("net", "netns"):
            continue
        other = _netns(runtime, name) if kind == "net" else _network(runtime, name)
        who = _vm(runtime, name) or _lab(runtime, name, runtime.vms()) or other
        if who:
            raise _taken(name, who, f"{'network' if kind == 'net' else kind}.{name}")


def _taken(name: str, who: str, where: str, hint: str = f"{_OTHERS}: give this one another") -> Taken:
    return Taken(f'the name "{name}" is taken by {who}', where=where, hint=hint)


def _refuse_other_file(lab: str, path: str, running: Iterable[VmRecord]) -> None:
    """Two files with one stem are two labs, and do not share a keeper by accident."""
    for vm in running:
        if os.path.realpath(vm.file) != os.path.realpath(path):
            raise _taken(lab, _lab_of(vm), "lab.name", _RENAME_LAB)


def _refuse_running(runtime: Runtime, name: str) -> None:
    scope = runtime.scope(f"vm/{name}")
    if scope.exists():
        known = scope.record()
        detail = f" (lab {known.lab}, pid {known.pid or 'not yet known'})" if known else ""
        raise Taken(
            f"a vm of the name {name} is there already{detail}",
            where=f"vm.{name}",
            hint=f"`qemunet stop {name}` ends it; `qemunet status {name}` shows it",
        )


def _vm(runtime: Runtime, name: str) -> str:
    """Name the vm that has a name, if there is one."""
    scope = runtime.scope(f"vm/{name}")
    if not scope.exists():
        return ""
    known = scope.record()
    return f"vm {name} of lab {known.lab}" if known else f"vm {name}"


def _network(runtime: Runtime, name: str) -> str:
    scope = runtime.scope(f"net/{name}")
    users = f", used by {', '.join(scope.users())}" if scope.users() else ""
    return f"network {name}{users}" if scope.exists() else ""


def _netns(runtime: Runtime, name: str) -> str:
    return f"namespace {name}" if runtime.scope(f"netns/{name}").exists() else ""


def _lab(runtime: Runtime, name: str, running: Iterable[VmRecord]) -> str:
    """Name the lab that has a name: it has guests, with a keeper or without, or is just being started."""
    for vm in running:
        if vm.lab == name:
            return _lab_of(vm)
    return f"lab {name}" if runtime.lab(name).alive() else ""


def _lab_of(vm: VmRecord) -> str:
    return f"lab {vm.lab}, of {vm.file}"
