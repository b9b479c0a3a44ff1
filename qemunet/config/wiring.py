"""Writes cables and namespaces as TOML has them."""

from __future__ import annotations

from qemunet.model import vlan
from qemunet.model.cable import AtHost, Cable, End, InNetns, Loose, OnSwitch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config.write import Pairs
    from qemunet.model.netns import Netns


def cable(cable: Cable) -> Pairs:
    """Yield the keys of a cable and their values."""
    yield "name", cable.name
    yield "a", place(cable.a)
    yield "b", place(cable.b)
    for side, end in (("a", cable.a), ("b", cable.b)):
        yield f"{side}-name", end.ifname
        yield f"{side}-address", end.addresses or None
        yield f"{side}-routes", tuple(map(str, end.routes)) or None
        yield f"{side}-mac", end.mac
        yield f"{side}-vlan", None if end.vlans is None else vlan.table(end.vlans)
    yield "mtu", cable.mtu


def netns(netns: Netns) -> Pairs:
    """Yield the keys of a namespace and their values."""
    yield "hostname", netns.hostname
    yield "named", netns.named
    yield "address", {"lo": netns.addresses} if netns.addresses else None
    yield "sysctls", dict(netns.sysctls) or None


def place(end: End) -> str:
    """Return where an end of a cable is, as a lab file has it."""
    match end.where:
        case OnSwitch(network=str(network)):
            return f"network:{network}"
        case OnSwitch(bridge=bridge):
            return f"bridge:{bridge}"
        case AtHost():
            return "host"
        case InNetns(netns=netns):
            return f"netns:{netns}"
        case Loose():
            return "free"
