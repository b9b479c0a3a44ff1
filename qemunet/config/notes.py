"""What is worth a word about a resolved lab though nothing is wrong with it."""

from __future__ import annotations

from qemunet.model.network import OwnBridge
from qemunet.model.nic import AsItIs, MacvtapBackend, MacvtapMode, Nic, PointToPoint, TapBackend, UserBackend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.facts import Facts
    from qemunet.model.lab import Lab
    from qemunet.model.network import Network
    from qemunet.model.vm import Disk


def notes(lab: Lab, facts: Facts) -> tuple[str, ...]:
    """Return one line for each thing that surprises people, with the dotted path in front: where it is first so."""
    places: dict[str, list[str]] = {}
    for path, text in _all(lab, facts):
        places.setdefault(text, []).append(path)
    return tuple(f"{paths[0]}{_and_more(len(paths) - 1)}: {text}" for text, paths in places.items())


def _and_more(number: int) -> str:
    return f" and {number} more" if number else ""


def _all(lab: Lab, facts: Facts) -> Iterator[tuple[str, str]]:
    for network in lab.networks:
        yield from ((f"network.{network.name}", text) for text in _network(network, facts))
    for vm in lab.vms:
        for index, disk in enumerate(vm.disks):
            yield from ((f"vm.{vm.name}.disk[{index}]", text) for text in _disk(disk, facts))
        for index, nic in enumerate(vm.nics):
            yield from ((f"vm.{vm.name}.nic[{index}]", text) for text in _nic(nic, facts))


def _network(network: Network, facts: Facts) -> Iterator[str]:
    switch = network.switch
    if not isinstance(switch, OwnBridge) or not switch.ports or f"net/{network.name}" in facts.scopes:
        return
    from qemunet.config import ports

    yield from ports.notes(switch, facts)


def _disk(disk: Disk, facts: Facts) -> Iterator[str]:
    fact = facts.files.get(disk.image.path)
    if fact is not None and fact.qcow2 and disk.image.format == "raw":
        yield f'{disk.image.path} is used as raw, but begins like a qcow2 image; if it is one, say format = "qcow2"'


def _nic(nic: Nic, facts: Facts) -> Iterator[str]:
    match nic.backend:
        case UserBackend():
            yield "in user mode ping may find nobody though TCP and UDP do"
        case TapBackend(ifname=ifname, attach=AsItIs()) if (link := facts.links.get(ifname)) and not link.up:
            yield f"{ifname} is down, which is left to whoever made it"
        case TapBackend(attach=PointToPoint(addresses=())):
            yield "no address: the host cannot talk to the guest by IP"
        case MacvtapBackend(parent=parent, mode=mode, host=host):
            link = facts.links.get(parent)
            if host is None:
                remedy = "; host-macvlan = true joins the two" if mode is MacvtapMode.BRIDGE else ""
                yield f"by way of {parent} the guest reaches everybody but this host{remedy}"
            if link is not None and not link.up:
                yield f"{parent} is down, and so is what is on it"
        case _:
            pass
