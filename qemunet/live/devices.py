"""What QEMU says of its devices: which cards sit where, which places are free, whether a driver of the guest has one.

QEMU's object tree is asked; `query-pci` shows nothing behind root ports until firmware has numbered the buses.
"""

from __future__ import annotations

import re
import typing

from qemunet.config.cards import MODELS, VFIO
from qemunet.errors import Refused, Taken, UsageError
from qemunet.frozen import frozen
from qemunet.model.vm import NicBus

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qemunet.host.cards import Monitor
    from qemunet.model.vm import Vm
    from qemunet.plan.words import Json

    Node = dict[str, typing.Any]  # JSON of QEMU's, looked at here and nowhere else

_PERIPHERAL, _ANONYMOUS = "/machine/peripheral", "/machine/peripheral-anon"
_PCI_BUS = "pci.0"
_SLOTS = range(2, 32)  # of it; the first two are the machine's own
_FIRST = 3  # where cards begin, as on a machine with QEMU's defaults
_PORT = "pcie-root-port"
_OURS = "rp."  # ids of the root ports that a profile makes
_DRIVER_OK = "VIRTIO_CONFIG_S_DRIVER_OK"
_MASTER = r"alias bus master @system [0-9a-f-]+ owner:\{dev id="


@frozen
class Card:
    """A network card as QEMU has it; `id` is empty if it has none, `bus` and `addr` are as `device_add` takes them."""

    id: str
    model: str
    mac: str
    netdev: str
    bus: str
    addr: str

    @property
    def slot(self) -> str:
        """Say where it sits: a root port of its own, or a slot of the one bus."""
        return slot_of({"bus": self.bus, "addr": self.addr})


def slot_of(seat: Mapping[str, Json]) -> str:
    """Say which place ``bus`` and ``addr`` are: a root port of its own, or a slot of the one bus."""
    return f"{seat['bus']} {seat['addr']}" if seat["bus"] == _PCI_BUS else str(seat["bus"])


def cards(monitor: Monitor) -> tuple[Card, ...]:
    """Return all network cards that QEMU has, those of others included; raises as `execute` does."""
    found = []
    for folder in (_PERIPHERAL, _ANONYMOUS):
        for name, kind in _children(monitor, folder):
            if kind in MODELS or kind == VFIO:
                found.append(_card(monitor, f"{folder}/{name}", name if folder == _PERIPHERAL else "", kind))
    return tuple(found)


def has(monitor: Monitor, nic: str) -> bool:
    """Tell whether QEMU has a device of that id."""
    return any(name == nic for name, _ in _children(monitor, _PERIPHERAL))


def free_seat(vm: Vm, monitor: Monitor, left: Sequence[str] = ()) -> dict[str, Json]:
    """Return a place for one more card as `device_add` wants it; of those that were `left` before, the first at last.

    Raises Taken if all are in use, UsageError on a machine that takes none. The address makes QEMU refuse an occupied
    root port, where it would else take a second card in silence.
    """
    match vm.machine.nic_bus:
        case NicBus.ROOT_PORTS:
            ports: list[dict[str, Json]] = [{"bus": port, "addr": "0x0"} for port in _free_ports(monitor)]
            if not ports:
                more = f"hotplug-slots = {vm.machine.hotplug_slots + 8} in [vm.{vm.name}] gives its next start more"
                raise _full(vm, monitor, more)
            return _first(ports, left)
        case NicBus.PCI:
            slots: list[dict[str, Json]] = [{"bus": _PCI_BUS, "addr": f"{slot:#x}"} for slot in _free_slots(monitor)]
            if not slots:
                raise _full(vm, monitor, 'the PCI bus has 32 slots; profile = "q35" has room for more')
            return _first(slots, left)
        case NicBus.MMIO:
            raise UsageError(
                f"the cards of {vm.name} are fixed while it runs: machine {vm.machine.type} takes none",
                where=f"vm.{vm.name}",
                hint='stop it and add the card to its file; or give it profile = "q35"',
            )


def virtio_driver(answer: object) -> bool:
    """Tell from `x-query-virtio-status` whether a driver has the card."""
    words = typing.cast("Node", answer).get("status", {}).get("statuses", [])
    return any(_DRIVER_OK in word for word in words)


def bus_master(text: str, name: str) -> bool:
    """Tell from ``info mtree -o`` whether a driver lets a device reach the memory, which firmware does not."""
    return re.search(_MASTER + re.escape(f"{name}}}"), text) is not None


def any_bus_master(text: str) -> bool:
    """Tell from ``info mtree -o`` whether a driver lets any device but a root port reach the memory."""
    return re.search(_MASTER + r"(?!rp\.)", text) is not None


def _free_ports(monitor: Monitor) -> Iterator[str]:
    """Yield the root ports with nothing in them, the first one first."""
    ports = [name for name, kind in _children(monitor, _PERIPHERAL) if kind == _PORT and name.startswith(_OURS)]
    for name in sorted(ports, key=lambda name: (len(name), name)):
        if not _children(monitor, f"{_PERIPHERAL}/{name}/{name}", "link"):
            yield name


def _free_slots(monitor: Monitor) -> Iterator[int]:
    buses = typing.cast("list[Node]", monitor.execute("query-pci"))
    used = {node["slot"] for bus in buses if bus["bus"] == 0 for node in bus["devices"]}
    yield from sorted((slot for slot in _SLOTS if slot not in used), key=lambda slot: (slot < _FIRST, slot))


def _first(seats: list[dict[str, Json]], left: Sequence[str]) -> dict[str, Json]:
    """Return the first place that no card has left, or the one that was left first."""
    return min(seats, key=lambda seat: left.index(slot_of(seat)) if slot_of(seat) in left else -1)


def _full(vm: Vm, monitor: Monitor, hint: str) -> Taken:
    there = ", ".join(one.id or one.model for one in cards(monitor))
    return Taken(f"no slot is free; it has {there}", where=f"vm.{vm.name}", hint=hint)


def _children(monitor: Monitor, path: str, kind: str = "child") -> list[tuple[str, str]]:
    """Return names and types of an object's children; for a bus, `kind` link: what sits on it."""
    nodes = typing.cast("list[Node]", monitor.execute("qom-list", path=path))
    matches = ((node["name"], re.fullmatch(rf"{kind}<(.*)>", node["type"])) for node in nodes)
    return [(name, match[1]) for name, match in matches if match and (kind == "child" or name.startswith("child["))]


def _card(monitor: Monitor, path: str, name: str, model: str) -> Card:
    def get(what: str) -> str:
        try:
            return str(monitor.execute("qom-get", path=path, property=what))
        except Refused:
            return ""

    bus, slot = get("parent_bus").rpartition("/")[2], get("legacy-addr").partition(".")[0]
    return Card(name, model, get("mac").lower(), get("netdev"), bus, f"{int(slot or '0', 16):#x}")
