"""Thinks about a lab file for whoever starts vms of it: before the host was looked at, and with what was seen there."""

from __future__ import annotations

import os

from qemunet.live.agenda import Agenda, Brief
from qemunet.model.network import OwnBridge
from qemunet.model.vm import Accel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qemunet.facts import Facts
    from qemunet.live.source import Source, Thought


class Here:
    """Thinks in this process.

    Secrets of scripts come from `environ`; `tell` gets a line for each thing that surprises people. Raises NotFound for
    a vm that the file does not have.
    """

    def __init__(
        self,
        source: Source,
        vms: Sequence[str] = (),
        *,
        environ: Mapping[str, str] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.source = source
        self.environ = environ or {}
        self.tell = tell
        spec, chosen = source.spec, source.chosen(vms)
        self.brief = Brief(spec.name, spec.path, chosen, source.wanted(), _processors(source, chosen))

    def get_ready(self) -> None:
        """Load what it takes to work out what there is to do."""
        from qemunet import plan
        from qemunet.config import notes
        from qemunet.live import sheets

        del plan, notes, sheets

    def agenda(self, facts: Facts) -> Agenda:
        """Work out what there is to do; raises any QemunetError."""
        from qemunet.live import sheets

        thought = self.source.think(facts, self.brief.vms, tell=self.tell)
        hidden = self._secrets(thought)
        vms = map(thought.lab.vm, self.brief.vms)
        return Agenda(
            plan=thought.plan,
            sheets={
                part.scope: sheet
                for part in thought.plan.shared
                if (sheet := sheets.of_shared(thought.lab, part.scope)) is not None
            },
            vms={vm.name: sheets.of_vm(thought.lab, vm, thought.facts, hidden.get(vm.name, {})) for vm in vms},
            bare=tuple(_bare(thought)),
        )

    def _secrets(self, thought: Thought) -> Mapping[str, Mapping[str, str]]:
        """Return the values of what the scripts of the vms type in secret, by vm and name; raises ConfigError."""
        scripted = [vm for vm in map(thought.lab.vm, self.brief.vms) if vm.script and vm.secrets]
        if not scripted:
            return {}
        from qemunet.live import secrets

        return secrets.gather(self.source.spec, scripted, self.environ)


def environment(source: Source) -> dict[str, str]:
    """Return what the secrets of a lab are of this process's environment: its keeper has another one."""
    if not any(vm.secret or vm.login.password for vm in source.spec.vms):
        return {}
    from qemunet.live import secrets

    return secrets.environment(source.spec, os.environ)


def _processors(source: Source, vms: Sequence[str]) -> frozenset[str]:
    """Return the processor models of those of the vms that leave it open whether KVM is used."""
    found = set()
    for vm in (one for one in source.spec.vms if one.name in vms):
        profile = source.profile(vm)
        if (vm.accel or profile.vm.accel or Accel.AUTO) is Accel.AUTO:
            found.add(vm.machine.cpu_kvm or profile.machine.cpu_kvm or "")
    return frozenset(found)


def _bare(thought: Thought) -> Iterator[str]:
    """Yield the scopes of networks that are up, and have lost their bridge while no guest was on them."""
    from qemunet.plan import links, spaces

    for network in thought.lab.networks:
        scope, switch = links.network_scope(network.name), network.switch
        up = isinstance(switch, OwnBridge) and scope in thought.facts.scopes
        if up and switch.ifname not in spaces.seen(network.netns, thought.facts).links:
            yield scope
