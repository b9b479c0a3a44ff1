"""What QEMU says of its devices, with answers as QEMU 7.2 gives them."""

from __future__ import annotations

import pytest

from qemunet.errors import Refused, Taken, UsageError
from qemunet.live import devices
from qemunet.live.devices import Card
from qemunet.model.vm import Accel, Firmware, FirmwareBoot, Machine, NicBus, Vm

Q35 = Machine("q35", "q35", NicBus.ROOT_PORTS, 2, "host", "")
PC = Machine("pc", "pc", NicBus.PCI, 0, "host", "")
MICROVM = Machine("microvm", "microvm,rtc=on", NicBus.MMIO, 0, "host", "")
PERIPHERAL, ANONYMOUS = "/machine/peripheral", "/machine/peripheral-anon"


def guest(machine: Machine) -> Vm:
    return Vm("a", machine, 1 << 27, 1, Accel.TCG, FirmwareBoot(), Firmware.BIOS, (), ())


def child(name: str, kind: str) -> dict[str, object]:
    return {"name": name, "type": f"child<{kind}>"}


class Qemu:
    """A monitor that answers from its object tree: folders by path, properties by path, and the slots of bus 0."""

    def __init__(self, slots: tuple[int, ...] = ()) -> None:
        self.folders: dict[str, list[dict[str, object]]] = {
            PERIPHERAL: [{"name": "type", "type": "string"}],
            ANONYMOUS: [{"name": "type", "type": "string"}],
        }
        self.properties: dict[str, dict[str, object]] = {}
        self.slots = slots

    def execute(self, command: str, **arguments: object) -> object:
        path = str(arguments.get("path", ""))
        match command:
            case "qom-list":
                return self.folders[path]
            case "qom-get":
                try:
                    return self.properties[path][str(arguments["property"])]
                except KeyError:
                    raise Refused(command, f"Property '{arguments['property']}' not found") from None
            case "query-pci":
                bridge = {"bus": 0, "slot": 2, "qdev_id": "rp.0", "pci_bridge": {"bus": {"secondary": 0}}}
                return [{"bus": 0, "devices": [{"bus": 0, "slot": slot, "qdev_id": ""} for slot in self.slots]}] + (
                    [] if self.slots else [{"bus": 0, "devices": [bridge]}]
                )
        raise AssertionError(command)

    def plug(self, name: str, kind: str, bus: str, addr: str, *, folder: str = PERIPHERAL, **more: object) -> None:
        self.folders[folder].append(child(name, kind))
        parent = f"/machine/peripheral/{bus}/{bus}" if bus.startswith("rp.") else f"/machine/i440fx/{bus}"
        base = {"parent_bus": parent, "legacy-addr": addr, "mac": "52:54:00:00:00:01", "netdev": f"host-{name}"}
        self.properties[f"{folder}/{name}"] = {**base, **more}

    def ports(self, count: int, *used: int) -> None:
        for number in range(count):
            name = f"rp.{number}"
            self.folders[PERIPHERAL].append(child(name, "pcie-root-port"))
            links = [{"name": "child[0]", "type": "link<virtio-net-pci>"}] if number in used else []
            hotplug = {"name": "hotplug-handler", "type": "link<hotplug-handler>"}
            self.folders[f"{PERIPHERAL}/{name}/{name}"] = [{"name": "type", "type": "string"}, hotplug, *links]

    def give(self, fd: int) -> str:
        raise NotImplementedError

    def forget(self, name: str) -> None:
        raise NotImplementedError

    def unplug(self, nic: str) -> None:
        raise NotImplementedError


# ---------------------------------------------------------------- cards


def test_all_network_cards_are_found_and_nothing_else() -> None:
    """Ours, those that somebody else has plugged in, and those without an id; disks and ports are none."""
    qemu = Qemu()
    qemu.ports(2, 0)
    qemu.plug("net0", "virtio-net-pci", "rp.0", "00.0", mac="52:54:00:AA:00:01")
    qemu.plug("disk.0", "virtio-blk-pci", "pcie.0", "03.0")
    qemu.plug("theirs", "e1000", "pci.0", "05.0")
    qemu.plug("device[3]", "rtl8139", "pci.0", "1f.0", folder=ANONYMOUS, netdev="")
    assert devices.cards(qemu) == (
        Card("net0", "virtio-net-pci", "52:54:00:aa:00:01", "host-net0", "rp.0", "0x0"),
        Card("theirs", "e1000", "52:54:00:00:00:01", "host-theirs", "pci.0", "0x5"),
        Card("", "rtl8139", "52:54:00:00:00:01", "", "pci.0", "0x1f"),
    )


def test_a_card_says_where_it_sits() -> None:
    """A root port has room for one; a slot of the bus is told by its number."""
    qemu = Qemu()
    qemu.plug("net0", "virtio-net-pci", "rp.0", "00.0")
    qemu.plug("net1", "e1000", "pci.0", "05.0")
    assert [card.slot for card in devices.cards(qemu)] == ["rp.0", "pci.0 0x5"]


def test_a_card_that_is_no_pci_device_has_no_address() -> None:
    """A microvm's; it is a card all the same."""
    qemu = Qemu()
    qemu.folders[PERIPHERAL].append(child("net0", "virtio-net-device"))
    qemu.properties[f"{PERIPHERAL}/net0"] = {
        "parent_bus": "/machine/unattached/device[3]/virtio-mmio-bus.0",
        "mac": "52:54:00:00:00:01",
        "netdev": "host-net0",
    }
    (card,) = devices.cards(qemu)
    assert (card.bus, card.addr, card.netdev) == ("virtio-mmio-bus.0", "0x0", "host-net0")


# ---------------------------------------------------------------- places


def test_the_first_free_root_port_is_taken() -> None:
    """In the order of their numbers, not of their names; firmware that has not numbered the buses does not matter."""
    qemu = Qemu()
    qemu.ports(12, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert devices.free_seat(guest(Q35), qemu) == {"bus": "rp.10", "addr": "0x0"}
    qemu = Qemu()
    qemu.ports(12, 0, 1, 10)
    assert devices.free_seat(guest(Q35), qemu) == {"bus": "rp.2", "addr": "0x0"}


def test_a_place_that_was_left_lately_is_taken_at_last() -> None:
    """The one that was left first before the others."""
    qemu = Qemu()
    qemu.ports(4, 0)
    assert devices.free_seat(guest(Q35), qemu, ("rp.1", "rp.2")) == {"bus": "rp.3", "addr": "0x0"}
    assert devices.free_seat(guest(Q35), qemu, ("rp.2", "rp.3", "rp.1")) == {"bus": "rp.2", "addr": "0x0"}
    assert devices.free_seat(guest(Q35), qemu, ("rp.0",)) == {"bus": "rp.1", "addr": "0x0"}
    full = Qemu((0, 1, *range(5, 32)))
    assert devices.free_seat(guest(PC), full, ("pci.0 0x3",)) == {"bus": "pci.0", "addr": "0x4"}
    assert devices.free_seat(guest(PC), full, ("pci.0 0x3", "pci.0 0x4", "pci.0 0x2")) == {
        "bus": "pci.0",
        "addr": "0x3",
    }


def test_a_root_port_of_the_users_own_is_his() -> None:
    """He has it from qemu-args for something."""
    qemu = Qemu()
    qemu.ports(1, 0)
    qemu.folders[PERIPHERAL].append(child("mine", "pcie-root-port"))
    with pytest.raises(Taken):
        devices.free_seat(guest(Q35), qemu)


def test_a_guest_that_is_full_says_what_it_has_and_how_it_gets_more() -> None:
    qemu = Qemu()
    qemu.ports(2, 0, 1)
    qemu.plug("net0", "virtio-net-pci", "rp.0", "00.0")
    qemu.plug("device[0]", "e1000", "rp.1", "00.0", folder=ANONYMOUS)
    with pytest.raises(Taken, match=r"vm\.a: no slot is free; it has net0, e1000") as caught:
        devices.free_seat(guest(Q35), qemu)
    assert (caught.value.where, caught.value.exit_status) == ("vm.a", 6)
    assert "hotplug-slots = 10 in [vm.a]" in caught.value.hint


@pytest.mark.parametrize(
    ("used", "free"),
    [
        ((0, 1), "0x3"),
        ((0, 1, 3, 4), "0x5"),
        ((0, 1, 2, 4), "0x3"),
        ((0, 1, *range(3, 32)), "0x2"),
        ((0, 1, 2, *range(3, 31)), "0x1f"),
    ],
)
def test_a_slot_of_the_bus_is_found_where_cards_begin(used: tuple[int, ...], free: str) -> None:
    """The one before, which a screen would have, comes last."""
    assert devices.free_seat(guest(PC), Qemu(used)) == {"bus": "pci.0", "addr": free}


def test_a_bus_of_thirty_two_slots_is_full() -> None:
    with pytest.raises(Taken, match=r"vm\.a: no slot is free") as caught:
        devices.free_seat(guest(PC), Qemu(tuple(range(32))))
    assert "q35" in caught.value.hint


def test_a_microvm_takes_no_card_while_it_runs() -> None:
    """Which is a mistake of whoever asks, not of the host."""
    with pytest.raises(UsageError, match="machine microvm,rtc=on takes none"):
        devices.free_seat(guest(MICROVM), Qemu())


# ---------------------------------------------------------------- has a driver the card?


@pytest.mark.parametrize(
    ("statuses", "there"),
    [
        ([], False),
        (["VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"], False),
        (
            [
                "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found",
                "VIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device",
                "VIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete",
                "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready",
            ],
            True,
        ),
    ],
)
def test_a_virtio_card_says_itself_whether_a_driver_has_it(statuses: list[str], there: bool) -> None:
    """That it was found is not enough: a kernel without the driver does so."""
    assert (
        devices.virtio_driver({"name": "virtio-net", "status": {"statuses": statuses, "unknown-statuses": 0}}) is there
    )


def tree(*masters: str) -> str:
    """``info mtree -o`` of a machine with two cards and a port, of which some are bus masters."""
    blocks = []
    for name in ("net0", "net1", "rp.0", "disk.0"):
        owner = f"owner:{{dev id={name}}}"
        blocks.append(
            f"address-space: e1000\r\n  0000000000000000-ffffffffffffffff (prio 0, i/o): bus master container {owner}"
        )
        if name in masters:
            alias = "alias bus master @system 0000000000000000-ffffffffffffffff"
            blocks.append(f"    0000000000000000-ffffffffffffffff (prio 0, i/o): {alias} {owner}")
    return "\r\n".join(blocks)


def test_a_driver_lets_its_card_reach_the_memory() -> None:
    """Its own; a name that begins alike, or has a dot in it, is another one's."""
    assert devices.bus_master(tree("net0"), "net0")
    assert not devices.bus_master(tree("net1"), "net0")
    assert not devices.bus_master(tree("net0"), "net")
    assert not devices.bus_master(tree("net0"), "net.")
    assert not devices.bus_master(tree(), "net0")


@pytest.mark.parametrize(
    ("masters", "there"), [((), False), (("rp.0",), False), (("disk.0",), True), (("rp.0", "net1"), True)]
)
def test_a_kernel_is_up_when_any_device_but_a_port_is_used(masters: tuple[str, ...], there: bool) -> None:
    """Firmware switches ports on itself."""
    assert devices.any_bus_master(tree(*masters)) is there
