"""Finds what a name on the command line stands for among what runs."""

from __future__ import annotations

from qemunet.errors import NotFound
from qemunet.records import VmRecord
from qemunet.state import Runtime, locate


def runtime() -> Runtime:
    """Return the runtime directory."""
    return Runtime(locate())


def vm_named(here: Runtime, name: str) -> VmRecord:
    """Return the vm of that name; raises NotFound, which says which there are."""
    return here.vm(name)


def vm_or_lab(here: Runtime, name: str) -> list[VmRecord]:
    """Return the vm of that name, or all vms of the lab of that name, which cannot both be there; raises NotFound."""
    known = here.vms()
    found = [one for one in known if one.name == name] or [one for one in known if one.lab == name]
    if not found:
        running = ", ".join(f"{one.name} (lab {one.lab})" for one in known)
        hint = f"running: {running}" if running else "nothing runs"
        raise NotFound(f'neither a vm nor a lab of the name "{name}" runs', where=here.path, hint=hint)
    return found
