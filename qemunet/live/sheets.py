"""Writes what things leave in their scopes for others to read: the part of the lab file that each was made from."""

from __future__ import annotations

from qemunet.config.write import cable_toml, net_toml, netns_toml, vm_toml
from qemunet.live.agenda import Sheet, VmSheet
from qemunet.live.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from qemunet.facts import Facts
    from qemunet.model.lab import Lab
    from qemunet.model.vm import Vm


def of_vm(lab: Lab, vm: Vm, facts: Facts, hidden: Mapping[str, str]) -> VmSheet:
    """Return what a vm of a lab leaves; `hidden` are the values of what its script types in secret."""
    return VmSheet(vm_toml(lab, vm), record(lab, vm, facts), vm.script, hidden)


def of_shared(lab: Lab, scope: str) -> Sheet | None:
    """Return what a network, cable or namespace of a lab leaves, named by its scope; None for anything else."""
    kind, _, name = scope.partition("/")
    match kind:
        case "net":
            network = lab.network(name)
            return Sheet("net.toml", net_toml(lab, network), network.keep)
        case "cable":
            return Sheet("cable.toml", cable_toml(lab, next(one for one in lab.cables if one.name == name)))
        case "netns":
            return Sheet("netns.toml", netns_toml(lab, next(one for one in lab.spaces if one.name == name)))
        case _:
            return None
