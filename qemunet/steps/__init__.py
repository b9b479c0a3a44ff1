"""The vocabulary: every change to the host, as a value that can say itself, undo itself and print itself as shell.

`describe` is one line for people. `inverse(before)` is the step that takes it back, given the photograph from
before: None when nothing of it has to be undone, because the thing was there already or goes with its owner.
`shell` is the same for a POSIX shell with iproute2 and QEMU. A step is done by a host (`qemunet.host`), never here.

Names of open files are *handles*: ``kali2:net0`` is the tap of that card. A host keeps what a handle stands for
until the plan is done; in an argument vector `Handle` marks where the descriptor's number goes.
"""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.files import (
    Claim,
    CreateImage,
    LoadFile,
    OpenFile,
    OpenOverlay,
    RemoveFile,
    RemoveImage,
    Unclaim,
    WriteFile,
)
from qemunet.steps.guests import AwaitQemu, EndQemu, Resume, RunHook, StartQemu
from qemunet.steps.links import (
    AddLink,
    AdoptTap,
    BridgeLink,
    DelGroup,
    DelLink,
    IfbLink,
    MacvlanLink,
    MacvtapLink,
    Mark,
    OpenMacvtap,
    OpenTap,
    PinBridge,
    SetLink,
    SetMaster,
    SetPort,
    VethLink,
)
from qemunet.steps.words import Handle, Word, line, sysctl_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from qemunet.facts import Facts
    from qemunet.model.impair import Impairment
    from qemunet.model.routing import IpAddress, IpRoute, Way
    from qemunet.model.vlan import Vlans
    from qemunet.steps.addresses import (
        AddAddress,
        AddNeighbour,
        AddRoute,
        DelAddress,
        DelNeighbour,
        DelRoute,
        SetSysctl,
    )
    from qemunet.steps.cards import (
        AddCard,
        AddChardev,
        AddNetdev,
        DelCard,
        DelChardev,
        DelNetdev,
        SetCarrier,
        SetForwards,
        SetGuestLink,
    )
    from qemunet.steps.daemons import FILES, EndDaemon, Reconfigure, Reserve, SetOffload, StartDaemon, Unreserve
    from qemunet.steps.every import Step
    from qemunet.steps.ports import ChangePort, PlugPort, PutAddress, PutRoute, TakeAddress, TakeRoute, UnplugPort
    from qemunet.steps.rates import Bucket, Divert, Impair, Limit, Undivert, Unimpair, Unlimit
    from qemunet.steps.sockets import OpenSocket, RemoveSocket
    from qemunet.steps.spaces import AddNetns, DelNetns, In, NameNetns, UnnameNetns, bare
    from qemunet.steps.tables import DropTable, LoadTable
    from qemunet.steps.vlans import FilterVlans, SetVlans

    class Described(Protocol):
        """What every step can do."""

        def describe(self) -> str:
            """Say the step in one line, as an order: ``add bridge qn-lab``."""

        def inverse(self, before: Facts) -> Step | None:
            """Return what takes the step back, or None if there is nothing to take back."""

        def shell(self) -> tuple[str, ...]:
            """Return the lines of a POSIX script that do the same."""


_LATER = {
    "model.impair": "Impairment",
    "model.routing": "IpAddress IpRoute Way",
    "model.vlan": "Vlans",
    "steps.addresses": "AddAddress AddNeighbour AddRoute DelAddress DelNeighbour DelRoute SetSysctl",
    "steps.cards": "AddCard AddChardev AddNetdev DelCard DelChardev DelNetdev SetCarrier SetForwards SetGuestLink",
    "steps.daemons": "FILES EndDaemon Reconfigure Reserve SetOffload StartDaemon Unreserve",
    "steps.every": "Step",
    "steps.ports": "ChangePort PlugPort PutAddress PutRoute TakeAddress TakeRoute UnplugPort",
    "steps.rates": "Bucket Divert Impair Limit Undivert Unimpair Unlimit",
    "steps.sockets": "OpenSocket RemoveSocket",
    "steps.spaces": "AddNetns DelNetns In NameNetns UnnameNetns bare",
    "steps.tables": "DropTable LoadTable",
    "steps.vlans": "FilterVlans SetVlans",
}  # what few guests need: loaded when it is first named


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Load the rest of the vocabulary (PEP 562)."""
        from importlib import import_module

        where = next((module for module, names in _LATER.items() if name in names.split()), None)
        if where is None:
            raise AttributeError(f"there is no step {name}")
        globals()[name] = found = getattr(import_module(f"qemunet.{where}"), name)
        return found


@frozen
class Part:
    """The steps of one scope, in order. A shared scope (``net/lab``, ``host/…``) is made once for all its users."""

    scope: str
    steps: tuple[Step, ...]
    fingerprint: str = ""  # of a shared scope: equal ones may be shared
    about: str = ""  # of a guest's scope: the card that they are for


@frozen
class Plan:
    """What a command will do: `shared` and `own` under the runtime directory's lock, `start` after it.

    `own` makes ready each vm's place on the host, `start` what may take its time, and lets them run: all QEMUs are
    started before any is waited for.
    """

    shared: tuple[Part, ...] = ()
    own: tuple[Part, ...] = ()
    start: tuple[Part, ...] = ()

    def parts(self) -> tuple[Part, ...]:
        """Return all parts in order."""
        return (*self.shared, *self.own, *self.start)


__all__ = [
    "SetForwards",
    "SetCarrier",
    "DelNetdev",
    "DelChardev",
    "DelCard",
    "AddNetdev",
    "AddChardev",
    "AddCard",
    "AddNetns",
    "DelNetns",
    "NameNetns",
    "UnnameNetns",
    "In",
    "AddAddress",
    "AddLink",
    "AddNeighbour",
    "AddRoute",
    "AwaitQemu",
    "BridgeLink",
    "Bucket",
    "Claim",
    "CreateImage",
    "DelAddress",
    "DelGroup",
    "DelLink",
    "DelNeighbour",
    "DelRoute",
    "Divert",
    "DropTable",
    "EndDaemon",
    "EndQemu",
    "FILES",
    "FilterVlans",
    "Handle",
    "IfbLink",
    "Impair",
    "Impairment",
    "IpAddress",
    "IpRoute",
    "Limit",
    "LoadFile",
    "LoadTable",
    "MacvlanLink",
    "MacvtapLink",
    "Mark",
    "OpenFile",
    "OpenMacvtap",
    "OpenOverlay",
    "OpenTap",
    "OpenSocket",
    "RemoveSocket",
    "AdoptTap",
    "Part",
    "PinBridge",
    "Plan",
    "PlugPort",
    "PutAddress",
    "PutRoute",
    "RemoveFile",
    "RemoveImage",
    "Reconfigure",
    "Reserve",
    "Resume",
    "RunHook",
    "SetGuestLink",
    "SetLink",
    "SetMaster",
    "SetOffload",
    "SetPort",
    "SetVlans",
    "ChangePort",
    "SetSysctl",
    "StartDaemon",
    "StartQemu",
    "Step",
    "TakeAddress",
    "TakeRoute",
    "Unclaim",
    "Undivert",
    "Unimpair",
    "Unlimit",
    "UnplugPort",
    "Unreserve",
    "VethLink",
    "Vlans",
    "Way",
    "Word",
    "WriteFile",
    "bare",
    "line",
    "sysctl_name",
]
