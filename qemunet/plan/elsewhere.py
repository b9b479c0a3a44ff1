"""Taps of a script that are in another network namespace than their QEMU, which a shell cannot hand descriptors.

A tap is made where QEMU is, which opens it by its name. When QEMU runs, the tap is moved to where it belongs, and all
else about it is done there. It stays QEMU's.
"""

from __future__ import annotations

from collections.abc import Iterator

from qemunet.facts import Facts
from qemunet.frozen import frozen
from qemunet.model.lab import Lab
from qemunet.model.nic import TapBackend
from qemunet.model.vm import Vm
from qemunet.steps import In, OpenTap, Part, Plan, RunHook, StartQemu, Step, bare, line
from qemunet.steps.spaces import inside

_TAP_ITSELF = 2  # lines of a tap's script that make and mark it; the others set it up


@frozen
class MakeTap:
    """Make a tap where its QEMU is."""

    tap: OpenTap
    here: str

    def describe(self) -> str:
        return self.tap.describe()

    def inverse(self, before: Facts) -> Step | None:
        undo = self.tap.inverse(before)
        return In(self.here, undo) if undo is not None and self.here else undo

    def shell(self) -> tuple[str, ...]:
        return tuple(_at(self.here, text) for text in self.tap.shell()[:_TAP_ITSELF])


@frozen
class MoveTap:
    """Move a tap that its QEMU has opened to where it belongs, and set it up there, or just move it."""

    tap: OpenTap
    here: str
    there: str
    alone: bool = False

    def describe(self) -> str:
        return f"move {self.tap.name}"

    def inverse(self, before: Facts) -> MoveTap | None:
        return None if self.alone else MoveTap(self.tap, self.there, self.here, alone=True)

    def shell(self) -> tuple[str, ...]:
        # a process stands for its own namespace
        where = line(self.there) if self.there else "$$"
        move = f"{line('ip', 'link', 'set', 'dev', self.tap.name, 'netns')} {where}"
        rest = () if self.alone else self.tap.shell()[_TAP_ITSELF:]
        return (_at(self.here, move), *(_at(self.there, text) for text in rest))


def ordered(lab: Lab, plan: Plan) -> Iterator[Part]:
    """Yield the parts of a plan, of cards whose tap is elsewhere what is to be done there right after their QEMU."""
    late: dict[str, list[Step | MoveTap]] = {}
    for part in plan.parts():
        kind, _, name = part.scope.partition("/")
        vm = next((vm for vm in lab.vms if kind == "vm" and vm.name == name), None)
        if vm is None or part.about not in _strangers(vm):
            yield part
        else:
            yield _split(part, vm, late.setdefault(part.scope, []))
        if any(isinstance(step, StartQemu) for step in part.steps):
            yield _part(part, late.pop(part.scope, []))


def _strangers(vm: Vm) -> set[str]:
    """Return the cards whose tap is not where QEMU is."""
    return {nic.id for nic in vm.nics if isinstance(nic.backend, TapBackend) and nic.netns != vm.netns}


def _split(part: Part, vm: Vm, late: list[Step | MoveTap]) -> Part:
    """Return what of a card's part is done at once; the rest goes to `late`."""
    now: list[Step | MakeTap] = []
    is_late = False
    for step in part.steps:
        own = bare(step)
        if isinstance(own, OpenTap):
            now.append(MakeTap(own, vm.netns))
            late.append(MoveTap(own, vm.netns, step.netns if isinstance(step, In) else ""))
            is_late = True
        elif is_late or isinstance(own, RunHook):
            late.append(step)
        else:
            now.append(step)
    return _part(part, now)


def _part(part: Part, steps: list[Step | MoveTap] | list[Step | MakeTap]) -> Part:
    return Part(part.scope, tuple(steps), part.fingerprint, part.about)  # type: ignore[arg-type]  # only a script's


def _at(netns: str, text: str) -> str:
    return inside(netns, text) if netns else text
