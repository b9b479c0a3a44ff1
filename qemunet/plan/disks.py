"""Drives: their layers of files, the block nodes that QEMU makes of them, and the devices in front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from qemunet.errors import ConfigError, HostLacks
from qemunet.facts import Facts
from qemunet.model.vm import Disk, Firmware, ImageFile, NicBus, Vm
from qemunet.plan.ways import Layer, Passed
from qemunet.plan.words import Json, json_option, option
from qemunet.steps import CreateImage, OpenFile, OpenOverlay, Word

Stack = tuple[Layer, ...]  # the layers of one drive, the one that the guest sees first

UEFI_CODE = "uefi.code"
UEFI_VARS = "uefi.vars"
UEFI_IMAGES = (  # code and the empty variables that belong to it, as distributions install them
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
    ("/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"),
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.plan.ways import Way
    from qemunet.steps import Step
BUILT_IN_PLACES = {NicBus.PCI: 4, NicBus.ROOT_PORTS: 6}  # pc: two IDE channels of two; q35: six SATA ports


def stacks(vm: Vm, facts: Facts) -> tuple[Stack, ...]:
    """Return all drives of a guest, those of its firmware first."""
    return (*_firmware(vm, facts), *(_stack(number, disk) for number, disk in enumerate(vm.disks)))


def steps(vm: Vm, facts: Facts) -> Iterator[Step]:
    """Yield what makes missing images and opens what has to reach QEMU open."""
    for number, disk in enumerate(vm.disks):
        if disk.create is not None:
            note = f"{facts.runtime}/vm/{vm.name}/image-{number}"
            yield CreateImage(disk.image.path, disk.image.format, disk.create, note)
    way = Passed(vm)
    for layer, below in chain.from_iterable(zip(stack, (*stack[1:], None), strict=True) for stack in stacks(vm, facts)):
        if layer.overlay:
            raw = below is not None and below.format == "raw"
            yield OpenOverlay(way.handle(layer.node).name, layer.path, raw)
        elif way.opens(layer):
            yield OpenFile(way.handle(layer.node).name, layer.path, layer.writable)


def nodes(vm: Vm, facts: Facts, way: Way) -> Iterator[Word]:
    """Yield the options that make the block nodes, the deepest of each drive first."""
    number = 0
    for stack in stacks(vm, facts):
        below: str | None = None
        for layer in reversed(stack):
            number += 1
            if isinstance(way, Passed) and way.opens(layer):
                yield from option("-add-fd", "fd=", way.handle(layer.node), f",set={number}")
            yield from _protocol(layer, way.image(layer, number), facts)
            yield from _format(layer, below)
            below = layer.node


def devices(file: str, vm: Vm, boot: Mapping[str, int]) -> Iterator[Word]:
    """Yield the options for the controllers and devices; `boot` has the boot indices of device ids."""
    buses = [_bus(vm, disk) for disk in vm.disks]
    yield from _controllers(vm, buses)
    for number, (disk, bus) in enumerate(zip(vm.disks, buses, strict=True)):
        name = disk_id(number)
        if disk.readonly and not disk.cdrom and bus in ("ide", "sata"):
            raise ConfigError(
                file,
                f"vm.{vm.name}.disk[{number}].readonly",
                f"QEMU has no read-only {bus} disk",
                hint='bus = "virtio" or "scsi", or snapshot = true to throw away what is written',
            )
        place = _place(vm, bus, buses[:number].count(bus))
        if place is None:
            raise ConfigError(file, f"vm.{vm.name}.disk[{number}].bus", _no_place(vm, disk))
        index: dict[str, Json] = {"bootindex": boot[name]} if name in boot else {}
        yield from json_option(
            "-device", {"driver": _driver(vm, disk, bus), "id": name, "drive": name, **place, **index}
        )


def disk_id(number: int) -> str:
    """Return the device id and node name of a disk: no nic id has a dot."""
    return f"disk.{number}"


def _stack(number: int, disk: Disk) -> Stack:
    writable = not (disk.snapshot or disk.readonly or disk.cdrom)
    files: list[tuple[ImageFile, bool, bool]] = [(disk.image, writable, False)]
    if disk.snapshot:
        files.insert(0, (ImageFile(disk.image.path, "qcow2"), True, True))
    files += [(image, False, False) for image in disk.backing]
    return tuple(
        Layer(f"{disk_id(number)}.{depth}" if depth else disk_id(number), image.path, image.format, w, overlay)
        for depth, (image, w, overlay) in enumerate(files)
    )


def _firmware(vm: Vm, facts: Facts) -> tuple[Stack, ...]:
    """UEFI keeps its variables in a drive of its own; ours are thrown away, the guest starts with empty ones."""
    if vm.firmware is not Firmware.UEFI:
        return ()
    for code, variables in UEFI_IMAGES:
        if code in facts.files and variables in facts.files:
            overlay = Layer(UEFI_VARS, variables, "qcow2", writable=True, overlay=True)
            empty = Layer(f"{UEFI_VARS}.1", variables, "raw", writable=False)
            return (Layer(UEFI_CODE, code, "raw", writable=False),), (overlay, empty)
    raise HostLacks(["UEFI firmware for guests"], hint='apt install ovmf (elsewhere edk2-ovmf), or firmware = "bios"')


def _protocol(layer: Layer, filename: str | Word, facts: Facts) -> tuple[Word, Word]:
    fact = facts.files.get(layer.path)
    driver = "host_device" if fact and not fact.regular and not layer.overlay else "file"
    name, readonly = f"{layer.node}.file", not layer.writable
    return json_option("-blockdev", {"driver": driver, "node-name": name, "read-only": readonly, "filename": filename})


def _format(layer: Layer, below: str | None) -> tuple[Word, Word]:
    # Without an explicit null QEMU follows what the image says, and a guest may have written that.
    backing: dict[str, Json] = {} if layer.format == "raw" else {"backing": below}
    node: dict[str, Json] = {"driver": layer.format, "node-name": layer.node, "read-only": not layer.writable}
    return json_option("-blockdev", {**node, "file": f"{layer.node}.file", **backing})


def _bus(vm: Vm, disk: Disk) -> str:
    """Return where a disk goes: q35 has SATA for IDE, and a CD drive is never virtio."""
    natural = {NicBus.PCI: "ide", NicBus.ROOT_PORTS: "sata", NicBus.MMIO: "scsi"}[vm.machine.nic_bus]
    if disk.cdrom and disk.bus == "virtio":
        return natural
    return "sata" if disk.bus == "ide" and natural == "sata" else disk.bus


def _controllers(vm: Vm, buses: list[str]) -> Iterator[Word]:
    if "scsi" in buses:
        yield from json_option("-device", {"driver": _virtio(vm, "virtio-scsi"), "id": "disk.scsi"})
    if "sata" in buses and vm.machine.nic_bus is NicBus.PCI:
        yield from json_option("-device", {"driver": "ich9-ahci", "id": "disk.sata"})


def _place(vm: Vm, bus: str, position: int) -> dict[str, Json] | None:
    """Return the properties that say where the disk sits, None if the machine has no such place."""
    machine = vm.machine.nic_bus
    match bus:
        case "virtio":
            return {}
        case "scsi":
            return {"bus": "disk.scsi.0"}
        case "ide" if machine is NicBus.PCI and position < BUILT_IN_PLACES[machine]:
            return {"bus": f"ide.{position // 2}", "unit": position % 2}
        case "sata" if machine is NicBus.ROOT_PORTS and position < BUILT_IN_PLACES[machine]:
            return {"bus": f"ide.{position}"}
        case "sata" if machine is NicBus.PCI and position < BUILT_IN_PLACES[NicBus.ROOT_PORTS]:
            return {"bus": f"disk.sata.{position}"}
        case _:
            return None


def _no_place(vm: Vm, disk: Disk) -> str:
    places = BUILT_IN_PLACES.get(vm.machine.nic_bus)
    if places is None:
        return f'machine "{vm.machine.type}" has no {disk.bus} bus'
    return f'machine "{vm.machine.type}" has no place left on its {disk.bus} bus'


def _driver(vm: Vm, disk: Disk, bus: str) -> str:
    kind = "cd" if disk.cdrom else "hd"
    match bus:
        case "virtio":
            return _virtio(vm, "virtio-blk")
        case "scsi":
            return f"scsi-{kind}"
        case _:
            return f"ide-{kind}"


def _virtio(vm: Vm, kind: str) -> str:
    return f"{kind}-device" if vm.machine.nic_bus is NicBus.MMIO else f"{kind}-pci"
