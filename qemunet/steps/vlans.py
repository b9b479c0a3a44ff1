"""Steps about VLANs: bridges that tell them apart, and which of them a port is in."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.model.vlan import Vlans, others, ranged, ranges
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step

USUAL = Vlans(1)  # what every port is in that nobody has said anything about


@frozen
class FilterVlans:
    """Let a bridge of ours tell VLANs apart, or no longer (ip-link(8), "vlan_filtering")."""

    name: str
    on: bool = True

    def describe(self) -> str:
        return f"let {self.name} tell VLANs apart" if self.on else f"let {self.name} tell VLANs apart no more"

    def inverse(self, before: Facts) -> Step | None:
        return FilterVlans(self.name, not self.on) if self.name in before.links else None

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "link", "set", "dev", self.name, "type", "bridge", "vlan_filtering", str(int(self.on))),)


@frozen
class SetVlans:
    """Let a port of a bridge be in these VLANs and in no other; None: in that of every new port of its bridge.

    `own`: not a port, but the bridge itself, which is the host's way into it. `was`: which it is in before. A port that
    is plugged out and in again is like any other (bridge(8), "vlan").
    """

    name: str
    vlans: Vlans | None
    was: Vlans | None = None
    own: bool = False

    def describe(self) -> str:
        port = f"{self.name} itself" if self.own else self.name
        if self.vlans is None:
            return f"put {port} into the VLAN of a new port"
        return f"put {port} into {vlan_words(self.vlans)}"

    def inverse(self, before: Facts) -> Step | None:
        if self.name not in before.links:  # they go with the link
            return None
        return SetVlans(self.name, self.was, self.vlans, self.own)

    def shell(self) -> tuple[str, ...]:
        vlans = self.vlans or USUAL
        where = ("dev", self.name, *(["self"] if self.own else []))
        native = ((vlans.native, vlans.native),) if vlans.native is not None else ()
        bare = (line("bridge", "vlan", "add", *where, "vid", ranged(one), "pvid", "untagged") for one in native)
        tagged = (line("bridge", "vlan", "add", *where, "vid", ranged(one)) for one in ranges(vlans.tagged))
        gone = (line("bridge", "vlan", "del", *where, "vid", ranged(one)) for one in others(vlans))
        return (*bare, *tagged, *gone)


def vlan_words(vlans: Vlans) -> str:
    """Say which VLANs: ``VLAN 10``, or ``VLANs 10, 20-29 with tags, 1 without``."""
    if vlans.is_access:
        return f"VLAN {vlans.native}"
    native = "" if vlans.native is None else f", {vlans.native} without"
    several = "s" if len(vlans.tagged) > 1 else ""
    return f"VLAN{several} {', '.join(map(ranged, ranges(vlans.tagged)))} with tags{native}"
