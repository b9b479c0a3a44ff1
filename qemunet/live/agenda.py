"""What is to be done to start vms and what is left of them for others to read: all that whoever does it has to know.

To think about a lab file and to act on a host are two things, and of a start each loads as much as the other. So they
can be two processes, which load at the same time (`qemunet.live.launch`); what they tell each other is here.
"""

from __future__ import annotations

from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from qemunet.facts import Facts, Wanted
    from qemunet.model.script import ScriptStep
    from qemunet.records import VmRecord
    from qemunet.steps import Plan

    class Thinker(Protocol):
        """Who thinks about a lab file for whoever acts."""

        @property
        def brief(self) -> Brief:
            """What it knows before anybody has looked at the host."""

        def agenda(self, facts: Facts) -> Agenda:
            """Work out what there is to do; raises any QemunetError."""


QEMU = "qemu-system-x86_64"


@frozen
class Brief:
    """What a lab file says before the host is looked at.

    `path` is the file's, absolute; `vms` are those that are to start, `wanted` is what has to be seen of the host,
    `processors` the models that KVM is tried with.
    """

    lab: str
    path: str
    vms: tuple[str, ...]
    wanted: Wanted
    processors: frozenset[str] = frozenset()


@frozen
class Sheet:
    """What a network, cable or namespace leaves in its scope: the part of the lab file that it was made from."""

    file: str
    text: str
    keep: bool = False


@frozen
class VmSheet:
    """What a vm leaves in its scope. `hidden` are the values of what its script types in secret, by name."""

    text: str  # of vm.toml
    record: VmRecord
    script: tuple[ScriptStep, ...]
    hidden: Mapping[str, str]


@frozen
class Agenda:
    """What there is to do. `sheets` are by scope, of all that the plan makes; `vms` by name.

    `bare` are the scopes of networks that are up and whose bridge is not there.
    """

    plan: Plan
    sheets: Mapping[str, Sheet]
    vms: Mapping[str, VmSheet]
    bare: tuple[str, ...] = ()
