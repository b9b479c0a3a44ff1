"""A lab: every vm, network and cable of one file, complete."""

from __future__ import annotations

from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from qemunet.model.cable import Cable
    from qemunet.model.expect import Expect
    from qemunet.model.netns import Netns
    from qemunet.model.network import Network
    from qemunet.model.vm import Vm


@frozen
class Lab:
    """What a lab file means on this host. `file` is its absolute path."""

    name: str
    file: str
    vms: tuple[Vm, ...]
    networks: tuple[Network, ...]
    cables: tuple[Cable, ...] = ()
    spaces: tuple[Netns, ...] = ()
    expects: tuple[Expect, ...] = ()

    def vm(self, name: str) -> Vm:
        """Return the vm of that name; raises KeyError."""
        return next((vm for vm in self.vms if vm.name == name), None) or _missing(name)

    def network(self, name: str) -> Network:
        """Return the network of that name; raises KeyError."""
        return next((net for net in self.networks if net.name == name), None) or _missing(name)


def _missing(name: str) -> NoReturn:
    raise KeyError(name)
