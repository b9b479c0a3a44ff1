"""What ports of bridges are on a host in memory: isolated or not, and in which VLANs."""

from __future__ import annotations

import errno
import typing
from abc import ABC, abstractmethod

from qemunet.frozen import replace
from qemunet.host.links import Vanished
from qemunet.model.vlan import Vlans
from qemunet.steps import FilterVlans, SetPort, SetVlans
from qemunet.testing.kernel import refused

if typing.TYPE_CHECKING:
    from qemunet.facts import Facts, LinkFact
    from qemunet.steps import OpenTap

USUAL = Vlans(1)


class FakeVlans(ABC):
    """What a network in memory knows of ports: their VLANs, and those of bridges themselves, if not the usual.

    `can_filter`: its kernel tells VLANs apart at all. `isolated`: ports.
    """

    links: dict[str, LinkFact]

    @abstractmethod
    def get(self, name: str) -> LinkFact:
        """Return the link of that name; raises Vanished."""

    @abstractmethod
    def remove_link(self, name: str) -> None:
        """Delete a link with everything that goes with it."""

    def remember_vlans(self, facts: Facts) -> None:
        """Begin with a kernel like that of a photograph."""
        self.can_filter = facts.vlans
        self.isolated: set[str] = set()
        self.vlans: dict[tuple[str, bool], Vlans] = {}  # by interface, and whether it is a bridge itself

    def vlan_step(self, step: FilterVlans | SetVlans) -> None:
        """Do a step about VLANs."""
        link = self.get(step.name)
        if not self.can_filter:
            raise refused(errno.EOPNOTSUPP)
        match step:
            case FilterVlans(on=on):
                self.links[link.name] = replace(link, vlan_filtering=on)
            case SetVlans(vlans=vlans, own=own):
                if not own and link.master is None:
                    raise Vanished(errno.EOPNOTSUPP, f"{link.name} is no port of a bridge")
                self.vlans.pop((link.name, own), None)
                self.vlans |= {} if vlans in (None, USUAL) else {(link.name, own): vlans}
            case _:
                typing.assert_never(step)

    def set_port(self, link: LinkFact, *, isolated: bool) -> None:
        """Keep a port apart from others that are, or not."""
        if link.master is None:
            raise Vanished(errno.EOPNOTSUPP, f"{link.name} is no port of a bridge")
        self.isolated = self.isolated | {link.name} if isolated else self.isolated - {link.name}

    def settle_tap(self, step: OpenTap) -> None:
        """Make a tap the port that it is to be, or it goes again."""
        for setting in step.settings:
            if isinstance(setting, SetPort):
                self.set_port(self.get(step.name), isolated=True)
                continue
            try:
                self.vlan_step(setting)
            except OSError:
                self.remove_link(step.name)
                raise

    def forget_vlans(self, name: str) -> None:
        """Let go of what an interface was as a port: it is plugged out, or gone."""
        self.isolated.discard(name)
        self.vlans.pop((name, False), None)
        self.vlans.pop((name, True), None)
