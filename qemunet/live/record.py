"""What the tables show of a vm and its cards, and which card a word on the command line means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qemunet.errors import NotFound, Taken, UsageError
from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.model.lab import Lab
from qemunet.model.mac import host_twin, normalize
from qemunet.model.nic import AsItIs, MacvtapBackend, Nic, OnBridge, OnNetwork, PointToPoint, TapBackend, UserBackend
from qemunet.model.remote import (
    DgramBackend,
    HostdevBackend,
    McastBackend,
    PasstBackend,
    StreamBackend,
    VdeBackend,
    VhostUserBackend,
)
from qemunet.model.vm import NicBus, Vm
from qemunet.plan.qemu import acceleration, slot
from qemunet.records import NicRecord, VmRecord

CAPTURE_INSIDE = "tcpdump in the guest does"
_MODES: dict[type, str] = {
    UserBackend: "user",
    TapBackend: "tap",
    MacvtapBackend: "macvtap",
    StreamBackend: "stream",
    DgramBackend: "dgram",
    McastBackend: "mcast",
    VdeBackend: "vde",
    PasstBackend: "passt",
    VhostUserBackend: "vhost-user",
    HostdevBackend: "hostdev",
}


def record(lab: Lab, vm: Vm, facts: Facts) -> VmRecord:
    """Return the record of a vm that is about to start."""
    return VmRecord(
        name=vm.name,
        lab=lab.name,
        file=lab.file,
        machine=vm.machine.profile,
        accel=acceleration(vm, facts)[0].value,
        nics=tuple(replace(nic_record(nic), slot=_slot(vm, number)) for number, nic in enumerate(vm.nics)),
        depends=vm.depends,
    )


def nic_record(nic: Nic) -> NicRecord:
    """Return a card's row, but for its slot."""
    plain = NicRecord(nic.id, _mode(nic), nic.model, nic.mac, nic.link.value, ips=nic.ips)
    vlan = None if nic.vlans is None else str(nic.vlans)
    base = replace(plain, port_isolation=nic.port_isolation, guard=str(nic.guard.level), vlan=vlan)
    base = replace(base, netns=nic.netns or None)
    match nic.backend:
        case MacvtapBackend(ifname=ifname, network=network):
            return replace(base, ifname=ifname, host_mac=nic.mac, network=network)
        case TapBackend(ifname=ifname, attach=AsItIs()):
            return replace(base, ifname=ifname)
        case TapBackend(ifname=ifname, adopted=True, attach=OnNetwork(network=network, bridge=bridge)):
            return replace(base, ifname=ifname, network=network, bridge=bridge)
        case TapBackend(ifname=ifname, adopted=True, attach=OnBridge(bridge=bridge)):
            return replace(base, ifname=ifname, bridge=bridge)
        case TapBackend(ifname=ifname, attach=OnNetwork(network=network, bridge=bridge)):
            return replace(base, ifname=ifname, host_mac=host_twin(nic.mac), network=network, bridge=bridge)
        case TapBackend(ifname=ifname, attach=OnBridge(bridge=bridge)):
            return replace(base, ifname=ifname, host_mac=host_twin(nic.mac), bridge=bridge)
        case TapBackend(ifname=ifname, attach=PointToPoint()):
            return replace(base, ifname=ifname, host_mac=host_twin(nic.mac))
        case HostdevBackend(device=device):
            return replace(base, device=device)
        case _:
            return base


def _slot(vm: Vm, number: int) -> str | None:
    """Say where the card sits: a root port of its own, or a slot of the one bus; nowhere to be named on a microvm."""
    if vm.machine.nic_bus is NicBus.MMIO:
        return None
    place = slot(vm, number)
    return str(place["bus"]) if place.get("addr") == "0x0" else f"{place['bus']} {place.get('addr', '')}".rstrip()


def _mode(nic: Nic) -> str:
    return _MODES[type(nic.backend)]


def pick(rows: Sequence[NicRecord], vm: str, word: str) -> NicRecord:
    """Return the card that a word means: its id, its address, or the network or bridge that it alone is on.

    Raises NotFound with those there are, UsageError with those that it could be.
    """
    exact = next((row for row in rows if row.id == word), None)
    if exact is not None:
        return exact
    address = _address(word)
    found = [
        row for row in rows if address == row.mac != "" or word in (row.network, row.bridge, row.ifname, row.device)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(f"{row.id} ({row.mac or row.device})" for row in rows) or "none"
        raise NotFound(f'there is no card "{word}"', where=f"vm.{vm}", hint=f"it has {known}")
    several = ", ".join(f"{row.id} ({row.mac})" for row in found)
    raise UsageError(f'several cards are "{word}": {several}', where=f"vm.{vm}", hint="say which by its id")


def _address(word: str) -> str:
    try:
        return normalize(word)
    except ValueError:
        return ""


def refuse_taken(rows: Iterable[NicRecord], vm: str, name: str) -> None:
    """Raise Taken if the vm has a card of that id."""
    for row in rows:
        if row.id == name:
            how = " and is being unplugged" if row.state == "unplugging" else ""
            raise Taken(f'there is a card "{name}" already ({row.mac or row.device}){how}', where=f"vm.{vm}")


def refuse_device(row: NicRecord, vm: str, what: str) -> None:
    """Raise UsageError if a card is a device of the host, `what` being nothing that can be done with its frames."""
    if row.device is not None:
        problem = f"{row.id} is the device {row.device} itself, whose frames neither the host nor QEMU sees"
        raise UsageError(problem, where=f"vm.{vm}", hint=what)
