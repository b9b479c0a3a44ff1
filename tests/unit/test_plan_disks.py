"""Drives: layers of files, who opens them, and where the disks sit."""

from __future__ import annotations

import json

import pytest

from qemunet.errors import ConfigError
from qemunet.facts import Facts, FileFact
from qemunet.frozen import replace
from qemunet.model.vm import Accel, Disk, Firmware, FirmwareBoot, ImageFile, Machine, NicBus, RunAs, Vm
from qemunet.plan import disks
from qemunet.plan.ways import Passed
from qemunet.steps import CreateImage, OpenFile, OpenOverlay

BUSES = {"pc": NicBus.PCI, "q35": NicBus.ROOT_PORTS, "microvm": NicBus.MMIO}
FACTS = Facts(runtime="/run/qemunet", machine_id="m", uid=0, can_switch_user=True)
TOP, BASE = ImageFile("/d/top.qcow2", "qcow2"), ImageFile("/d/base.img", "raw")


def guest(*drives: Disk, machine: str = "pc", run_as: RunAs | None = None) -> Vm:
    hardware = Machine(machine, machine, BUSES[machine], 0, "host", "")
    return Vm("vm", hardware, 1 << 27, 1, Accel.TCG, FirmwareBoot(), Firmware.BIOS, drives, (), run_as=run_as)


def nodes(vm: Vm, facts: Facts = FACTS) -> list[dict[str, object]]:
    words = [str(argument) for argument in disks.nodes(vm, facts, Passed(vm))]
    return [json.loads(words[number + 1]) for number, text in enumerate(words) if text == "-blockdev"]


def added(vm: Vm) -> list[str]:
    words = [str(argument) for argument in disks.nodes(vm, FACTS, Passed(vm))]
    return [words[number + 1] for number, text in enumerate(words) if text == "-add-fd"]


def devices(vm: Vm) -> list[dict[str, object]]:
    return [json.loads(text) for text in map(str, disks.devices("lab.toml", vm, {})) if text != "-device"]


def test_a_chain_is_named_to_its_end_so_that_nothing_in_an_image_is_followed() -> None:
    """A guest may have written a backing file's name into its own image."""
    second = ImageFile("/d/second.qcow2", "qcow2")
    found = [node for node in nodes(guest(Disk(TOP, (second,)))) if "backing" in node]
    assert [(node["node-name"], node["backing"]) for node in found] == [("disk.0.1", None), ("disk.0", "disk.0.1")]


def test_a_raw_image_is_said_to_be_raw() -> None:
    """Its content is never probed for a format."""
    file, image = nodes(guest(Disk(BASE)))
    assert image == {"driver": "raw", "node-name": "disk.0", "read-only": False, "file": "disk.0.file"}
    assert (file["driver"], file["filename"]) == ("file", "/d/base.img")


def test_another_users_qemu_gets_every_file_open_with_just_the_right_access() -> None:
    """The image to write, what lies below to read."""
    vm = guest(Disk(TOP, (BASE,)), run_as=RunAs(1, 1))
    assert list(disks.steps(vm, FACTS)) == [
        OpenFile("vm:disk.0", "/d/top.qcow2", writable=True),
        OpenFile("vm:disk.0.1", "/d/base.img", writable=False),
    ]
    assert added(vm) == ["fd=<vm:disk.0.1>,set=1", "fd=<vm:disk.0>,set=2"]
    files = {node["filename"]: node["read-only"] for node in nodes(vm) if "filename" in node}
    assert files == {"/dev/fdset/1": True, "/dev/fdset/2": False}


def test_the_callers_own_qemu_opens_its_files_itself() -> None:
    """By name: nothing has to be handed over."""
    vm = guest(Disk(TOP, (BASE,)))
    assert (list(disks.steps(vm, FACTS)), added(vm)) == ([], [])


@pytest.mark.parametrize("run_as", [None, RunAs(1, 1)])
def test_a_snapshot_writes_to_a_nameless_overlay_and_only_reads_the_image(run_as: RunAs | None) -> None:
    """Nothing of it can be left behind."""
    vm = guest(Disk(TOP, snapshot=True), run_as=run_as)
    steps = list(disks.steps(vm, FACTS))
    assert steps[0] == OpenOverlay("vm:disk.0", "/d/top.qcow2", raw=False)
    assert steps[1:] == ([OpenFile("vm:disk.0.1", "/d/top.qcow2", writable=False)] if run_as else [])
    overlay = nodes(vm)[-1]
    assert (overlay["node-name"], overlay["backing"], overlay["read-only"]) == ("disk.0", "disk.0.1", False)


@pytest.mark.parametrize("change", [{"readonly": True}, {"cdrom": True}])
def test_what_the_guest_may_not_write_is_opened_for_reading(change: dict[str, bool]) -> None:
    """All the way down."""
    vm = guest(replace(Disk(BASE, bus="ide"), **change), run_as=RunAs(1, 1))
    assert list(disks.steps(vm, FACTS)) == [OpenFile("vm:disk.0", "/d/base.img", writable=False)]
    assert all(node["read-only"] for node in nodes(vm))


def test_a_missing_image_is_made_first() -> None:
    """Of the size that the file says."""
    made = Disk(TOP, create=1 << 30)
    assert next(disks.steps(guest(made), FACTS)) == CreateImage(
        "/d/top.qcow2", "qcow2", 1 << 30, f"{FACTS.runtime}/vm/vm/image-0"
    )


def test_a_block_device_is_no_file() -> None:
    """QEMU has a driver of its own for them."""
    facts = replace(FACTS, files={"/dev/sdb": FileFact("/dev/sdb", 0, regular=False, readable=True)})
    assert nodes(guest(Disk(ImageFile("/dev/sdb", "raw"))), facts)[0]["driver"] == "host_device"


@pytest.mark.parametrize(
    ("machine", "bus", "cdrom", "expected"),
    [
        ("pc", "virtio", False, {"driver": "virtio-blk-pci"}),
        ("pc", "ide", False, {"driver": "ide-hd", "bus": "ide.0", "unit": 0}),
        ("pc", "sata", False, {"driver": "ide-hd", "bus": "disk.sata.0"}),
        ("pc", "scsi", False, {"driver": "scsi-hd", "bus": "disk.scsi.0"}),
        ("pc", "virtio", True, {"driver": "ide-cd", "bus": "ide.0", "unit": 0}),
        ("q35", "virtio", True, {"driver": "ide-cd", "bus": "ide.0"}),
        ("q35", "ide", False, {"driver": "ide-hd", "bus": "ide.0"}),
        ("q35", "sata", False, {"driver": "ide-hd", "bus": "ide.0"}),
        ("microvm", "virtio", False, {"driver": "virtio-blk-device"}),
        ("microvm", "scsi", True, {"driver": "scsi-cd", "bus": "disk.scsi.0"}),
    ],
)
def test_every_bus_of_every_machine(machine: str, bus: str, cdrom: bool, expected: dict[str, object]) -> None:
    """A q35 has SATA where a pc has IDE, and a CD drive is never virtio."""
    found = devices(guest(Disk(BASE, bus=bus, cdrom=cdrom), machine=machine))[-1]
    assert found == {"id": "disk.0", "drive": "disk.0", **expected}


@pytest.mark.parametrize(("machine", "bus", "room"), [("pc", "ide", 4), ("q35", "sata", 6), ("pc", "sata", 6)])
def test_a_bus_has_only_so_many_places(machine: str, bus: str, room: int) -> None:
    """Each disk has its own, and one too many is refused where it is written."""
    drives = [Disk(BASE, bus=bus)] * room
    places = {(one["bus"], one.get("unit")) for one in devices(guest(*drives, machine=machine)) if "bus" in one}
    assert len(places) == room
    with pytest.raises(ConfigError, match="no place left") as caught:
        devices(guest(*drives, Disk(BASE, bus=bus), machine=machine))
    assert caught.value.where == f"lab.toml: vm.vm.disk[{room}].bus"


@pytest.mark.parametrize("bus", ["ide", "sata"])
def test_a_disk_that_qemu_cannot_make_read_only_is_refused(bus: str) -> None:
    """QEMU says "Block node is read-only" and ends."""
    with pytest.raises(ConfigError, match="no read-only") as caught:
        devices(guest(Disk(BASE, bus=bus, readonly=True)))
    assert "snapshot" in caught.value.hint


@pytest.mark.parametrize("bus", ["ide", "sata"])
def test_a_machine_without_the_bus_refuses_it(bus: str) -> None:
    """A microvm has neither IDE nor SATA."""
    with pytest.raises(ConfigError, match=f"no {bus} bus"):
        devices(guest(Disk(BASE, bus=bus), machine="microvm"))
