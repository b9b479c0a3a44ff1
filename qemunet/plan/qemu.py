"""A guest's QEMU command line, option by option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count

from qemunet.errors import ConfigError
from qemunet.facts import Facts
from qemunet.model.nic import Forward, MacvtapBackend, Nic, OnNetwork, TapBackend, UserBackend
from qemunet.model.remote import HostdevBackend, PasstBackend, VhostUserBackend
from qemunet.model.vm import (
    Accel,
    DirectBoot,
    Firmware,
    FirmwareBoot,
    GtkDisplay,
    GuestAgent,
    NicBus,
    Vm,
    VncDisplay,
)
from qemunet.plan import disks
from qemunet.plan.ways import Passed
from qemunet.plan.words import UNDECIDED, Json, json_option, option, option_if, word
from qemunet.steps import Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.plan.ways import Way

PROGRAM = "qemu-system-x86_64"
MONITORS = ("qmp", "monitor")  # ours, and the user's
AGENT_PORTS = {  # where an agent in the guest listens for its keeper, and what we call that
    GuestAgent.OURS: ("agent", "org.qemunet.agent.0"),
    GuestAgent.QEMU: ("qga", "org.qemu.guest_agent.0"),
}
KERNEL_LINE = 2047  # bytes; COMMAND_LINE_SIZE of Linux on x86 without the terminating zero
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

_ROM_FOLDERS = ("/usr/lib/ipxe/qemu", "/usr/share/ipxe/qemu", "/usr/share/qemu")
_ROMS = tuple(f"{folder}/efi-virtio.rom" for folder in _ROM_FOLDERS)  # one of a set that comes together
_NOT_PCI = {"ne2k_isa", "usb-net"}
_FIRST_PORT = 2  # root ports from this slot of pcie.0 on, eight in each
_FIRST_SLOT = 3  # cards on pci.0 from here on, as on a machine with QEMU's defaults: ens3, ens4 in a guest
_PC_SLOTS = 32
_PORTS: dict[NicBus, dict[str, Json]] = {  # where no card goes: beside the machine's own bridges
    NicBus.ROOT_PORTS: {"driver": "virtio-serial-pci", "bus": "pcie.0", "addr": "0x1f.0x4", "disable-legacy": "on"},
    NicBus.PCI: {"driver": "virtio-serial-pci", "bus": "pci.0", "addr": "0x1.0x4"},
    NicBus.MMIO: {"driver": "virtio-serial-device"},
}
_MEMORY = "memory"  # the id of the main memory, where that is an object of its own

FIRMWARE_FILES = frozenset((*_ROMS, *chain.from_iterable(disks.UEFI_IMAGES)))
"""What a photograph should look for besides the files that a lab names."""


def argv(file: str, vm: Vm, facts: Facts) -> tuple[Word, ...]:
    """Return the command line of a run; `file` is the lab's, for errors.

    Raises ConfigError if the machine cannot be like that, HostLacks if firmware is missing.
    """
    accel = acceleration(vm, facts)[0]
    return (
        word(facts.programs.get(PROGRAM, PROGRAM)),
        word("-S"),
        *sandbox(vm, SANDBOX),
        *option("-accel", UNDECIDED if accel is Accel.AUTO else accel),
        *option_if("-cpu", cpu(vm, facts)),
        *hardware(file, vm, facts, Passed(vm)),
    )


def hardware(file: str, vm: Vm, facts: Facts, way: Way) -> Iterator[Word]:
    """Yield all options that do not depend on who starts QEMU and what executes the guest."""
    boot = boot_indices(vm)
    yield from option("-name", f"guest={vm.name},process=qemu-{vm.name}")
    yield from map(word, ("-nodefaults", "-no-user-config"))
    yield from option("-machine", _machine(file, vm))
    yield from option("-smp", str(vm.cpus))
    yield from option("-m", size(vm.memory))
    if vm.shared_memory:
        yield from option("-object", f"memory-backend-memfd,id={_MEMORY},size={size(vm.memory)},share=on")
    yield from _sockets(way)
    yield from _display(file, vm)
    yield from _ports(vm)
    yield from disks.nodes(vm, facts, way)
    for number, nic in enumerate(vm.nics):
        if isinstance(nic.backend, VhostUserBackend):
            from qemunet.plan import remote  # only where it is needed

            yield from remote.connection(nic)
        if has_netdev(nic):
            yield from json_option("-netdev", netdev(nic, way))
        yield from json_option("-device", _card(vm, number, facts, boot))
    yield from disks.devices(file, vm, boot)
    yield from _agent(vm, way)
    yield from _kernel(file, vm, way)
    yield from map(word, vm.qemu_args)


# ---------------------------------------------------------------- the machine


def acceleration(vm: Vm, facts: Facts) -> tuple[Accel, str]:
    """Return what executes the guest, AUTO if only a run can tell, and why KVM does not if that was found out."""
    if vm.accel is not Accel.AUTO:
        return vm.accel, ""
    why = facts.kvm.get(vm.machine.cpu_kvm)
    if why is None:
        return Accel.AUTO, "not tried yet"
    return (Accel.TCG if why else Accel.KVM), why


def cpu(vm: Vm, facts: Facts) -> str:
    """Return the processor model, empty for QEMU's default."""
    kvm, tcg = vm.machine.cpu_kvm, vm.machine.cpu_tcg
    match acceleration(vm, facts)[0]:
        case Accel.KVM:
            return kvm
        case Accel.TCG:
            return tcg
        case Accel.AUTO:
            return kvm if kvm == tcg else UNDECIDED


def stays_stopped(vm: Vm) -> bool:
    """Tell whether the user wants the guest to wait for his `cont`: QEMU is started stopped in any case."""
    return "-S" in vm.qemu_args


def sandbox(vm: Vm, wanted: str) -> tuple[Word, ...]:
    """Return the seccomp option; a window needs programs of its desktop, and the user's own word counts more."""
    if "-sandbox" in vm.qemu_args:
        return ()
    return option("-sandbox", wanted.replace("spawn=deny,", "") if isinstance(vm.display, GtkDisplay) else wanted)


def size(memory: int) -> str:
    """Write a number of bytes with the largest unit that keeps it whole."""
    for power, unit in ((30, "G"), (20, "M"), (10, "K")):
        if memory % (1 << power) == 0:
            return f"{memory >> power}{unit}"
    return f"{memory}B"


def _machine(file: str, vm: Vm) -> str:
    options = [vm.machine.type]
    if vm.firmware is Firmware.UEFI:
        if vm.machine.nic_bus is NicBus.MMIO:
            raise ConfigError(file, f"vm.{vm.name}.boot.firmware", f'machine "{vm.machine.type}" has no UEFI firmware')
        options += [f"pflash0={disks.UEFI_CODE}", f"pflash1={disks.UEFI_VARS}"]
    elif isinstance(vm.boot, FirmwareBoot) and vm.display is None:
        options.append("graphics=off")  # the BIOS and the boot loader then speak on the serial line
    if vm.shared_memory:
        options.append(f"memory-backend={_MEMORY}")
    return ",".join(options)


def agent(vm: Vm) -> GuestAgent:
    """Return what the keeper can talk to in the guest; the built-in guest brings it along."""
    return GuestAgent.OURS if isinstance(vm.boot, DirectBoot) and vm.boot.tiny else vm.agent


def _sockets(way: Way) -> Iterator[Word]:
    for name in MONITORS:
        yield from _socket(way, name)
        yield from option("-mon", f"chardev={name},mode=control")
    yield from _socket(way, "serial")
    yield from option("-serial", "chardev:serial")


def _agent(vm: Vm, way: Way) -> Iterator[Word]:
    """A port without the speed limit of a serial line; behind all cards, whose places are not to change for it."""
    kind = agent(vm)
    if kind is GuestAgent.NONE:
        return
    chardev, name = AGENT_PORTS[kind]
    yield from _socket(way, chardev)
    yield from json_option("-device", {"id": "ports.0", **_PORTS[vm.machine.nic_bus]})
    yield from json_option(
        "-device",
        {"driver": "virtserialport", "id": "agent.0", "bus": "ports.0.0", "chardev": chardev, "name": name},
    )


def _socket(way: Way, name: str) -> tuple[Word, Word]:
    return option("-chardev", f"socket,id={name},", way.socket(f"{name}.sock"), ",server=on,wait=off")


def _display(file: str, vm: Vm) -> Iterator[Word]:
    match vm.display:
        case None:
            yield from option("-display", "none")
            return
        case VncDisplay(address=address, number=number):
            host = f"[{address}]" if ":" in address and not address.startswith("[") else address
            yield from (*option("-display", "none"), *option("-vnc", f"{host}:{number}"))
        case GtkDisplay():
            yield from option("-display", "gtk")
    if vm.machine.nic_bus is NicBus.MMIO:
        raise ConfigError(file, f"vm.{vm.name}.display", f'machine "{vm.machine.type}" has no place for a screen')
    slot = "0x1" if vm.machine.nic_bus is NicBus.ROOT_PORTS else "0x2"
    yield from json_option("-device", {"driver": "VGA", "id": "screen.0", "addr": slot})


def _ports(vm: Vm) -> Iterator[Word]:
    """One PCIe root port per card and the spare ones: only there cards can come and go."""
    if vm.machine.nic_bus is not NicBus.ROOT_PORTS:
        return
    ports = sum(on_pci(nic) for nic in vm.nics) + vm.machine.hotplug_slots
    for number in range(ports):
        port: dict[str, Json] = {
            "driver": "pcie-root-port",
            "id": port_id(number),
            "chassis": number + 1,
            "port": number,
            "addr": f"{_FIRST_PORT + number // 8:#x}.{number % 8}",
        }
        if number % 8 == 0 and number + 1 < ports:
            port["multifunction"] = True
        yield from json_option("-device", port)


def port_id(number: int) -> str:
    """Return the device id of a root port, which is also the name of its bus: no nic id has a dot."""
    return f"rp.{number}"


# ---------------------------------------------------------------- booting


def boot_indices(vm: Vm) -> Mapping[str, int]:
    """Return the boot indices of device ids: the explicit ones, and what the boot order gives the others."""
    found = {nic.id: nic.boot_index for nic in vm.nics if nic.boot_index is not None}
    if isinstance(vm.boot, DirectBoot):
        return found
    taken = set(found.values())
    free = (number for number in count(1) if number not in taken)
    kinds = {
        "disk": [disks.disk_id(number) for number, disk in enumerate(vm.disks) if not disk.cdrom],
        "network": [nic.id for nic in vm.nics],
        "cdrom": [disks.disk_id(number) for number, disk in enumerate(vm.disks) if disk.cdrom],
    }
    for device in chain.from_iterable(kinds[kind] for kind in vm.boot.order):
        if device not in found:
            found[device] = next(free)
    return found


def _wants_rom(vm: Vm, nic: Nic, facts: Facts) -> bool:
    """Tell whether a card needs its boot ROM; QEMU refuses to start where a wanted one is not installed."""
    if not isinstance(vm.boot, FirmwareBoot):
        return False
    if nic.boot_index is not None or vm.boot.order[:1] == ("network",):
        return True
    return "network" in vm.boot.order and any(rom in facts.files for rom in _ROMS)


def _kernel(file: str, vm: Vm, way: Way) -> Iterator[Word]:
    if not isinstance(vm.boot, DirectBoot):
        return
    yield from option("-kernel", way.kernel("boot.kernel", vm.boot.kernel, public=vm.boot.public))
    if vm.boot.initrd is not None:
        yield from option("-initrd", way.kernel("boot.initrd", vm.boot.initrd, public=vm.boot.public))
    line = kernel_line(vm, vm.boot)
    if len(line.encode()) > KERNEL_LINE:
        problem = f"the kernel line has {len(line.encode())} bytes, and Linux reads {KERNEL_LINE}"
        hint = "the addresses of many cards take room: fewer `ip`, or DHCP" if vm.boot.tiny else ""
        raise ConfigError(file, f"vm.{vm.name}.boot.append", problem, hint=hint)
    if line:
        yield from option("-append", line)


def kernel_line(vm: Vm, boot: DirectBoot) -> str:
    """Return the kernel's arguments; the built-in guest finds its name and its cards' addresses there."""
    words = [boot.append]
    if boot.tiny:
        words.append(f"qemunet.name={vm.name}")
        words += [_addresses(nic) for nic in vm.nics if nic.ips and not _is_told(nic)]
    return " ".join(filter(None, words))


def _is_told(nic: Nic) -> bool:
    """Tell whether a card gets its addresses by DHCP."""
    attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
    return isinstance(nic.backend, UserBackend | PasstBackend) or (isinstance(attach, OnNetwork) and attach.dhcp)


def _addresses(nic: Nic) -> str:
    gateways = (f"via={gateway}" for gateway in nic.gateways)
    return "qemunet.nic=" + ",".join((nic.mac, *nic.ips, *gateways))


# ---------------------------------------------------------------- cards


def on_pci(nic: Nic) -> bool:
    """Tell whether a model is a PCI device: it has a slot and a ROM."""
    return nic.model not in _NOT_PCI and not nic.model.endswith("-device")


def _card(vm: Vm, number: int, facts: Facts, boot: Mapping[str, int]) -> dict[str, Json]:
    nic = vm.nics[number]
    found = _device(nic, slot(vm, number) if on_pci(nic) else {}, boot.get(nic.id))
    if on_pci(nic) and not _wants_rom(vm, nic, facts):
        found["romfile"] = ""
    return found | _interrupts(vm, nic, facts)


def hotplugged(vm: Vm, nic: Nic, seat: Mapping[str, Json], facts: Facts) -> dict[str, Json]:
    """Return a card for `device_add` at a place that is free. The boot is over, so it needs no ROM."""
    return {**_device(nic, seat, nic.boot_index), "romfile": "", **_interrupts(vm, nic, facts)}


def _interrupts(vm: Vm, nic: Nic, facts: Facts) -> dict[str, Json]:
    """Return what keeps QEMU 7.2 alive that has no KVM: with MSI-X it dies when the guest uses a vhost-user card."""
    if not isinstance(nic.backend, VhostUserBackend) or acceleration(vm, facts)[0] is Accel.KVM:
        return {}
    return {"vectors": 0} if on_pci(nic) else {}


def _device(nic: Nic, seat: Mapping[str, Json], boot_index: int | None) -> dict[str, Json]:
    found: dict[str, Json] = {"driver": nic.model, "id": nic.id}
    match nic.backend:
        case HostdevBackend(device=device):
            found |= {"host": device, **seat}
        case _:
            found |= {"netdev": nic.netdev, "mac": nic.mac, **seat}
    if nic.model.startswith("virtio-net"):
        found |= _virtio(nic)
    if boot_index is not None:
        found["bootindex"] = boot_index
    if on_pci(nic) and nic.acpi_index is not None:
        found["acpi-index"] = nic.acpi_index
    return found


def slot(vm: Vm, number: int) -> dict[str, Json]:
    """Return where a card sits; the same in every start, because guests name their interfaces by it."""
    place = sum(on_pci(nic) for nic in vm.nics[:number])
    if vm.machine.nic_bus is NicBus.ROOT_PORTS:
        # The address makes QEMU refuse an occupied port, where it would else take a second card in silence.
        return {"bus": port_id(place), "addr": "0x0"}
    wanted = _FIRST_SLOT + place
    return {"bus": "pci.0", "addr": f"{wanted:#x}"} if wanted < _PC_SLOTS else {"bus": "pci.0"}


def _virtio(nic: Nic) -> dict[str, Json]:
    found: dict[str, Json] = {}
    if nic.queues > 1:
        found["mq"] = True
        found |= {"vectors": 2 * nic.queues + 2} if on_pci(nic) else {}
    if nic.guest_mtu is not None:
        found["host_mtu"] = nic.guest_mtu
    return found


def has_netdev(nic: Nic) -> bool:
    """Tell whether a card has a backend: a device of the host is all there is."""
    return not isinstance(nic.backend, HostdevBackend)


def netdev(nic: Nic, way: Way) -> dict[str, Json]:
    """Return a card's backend, for the command line and for `netdev_add` alike."""
    match nic.backend:
        case UserBackend() as user:
            return {"type": "user", "id": nic.netdev, **_user(user)}
        case TapBackend() | MacvtapBackend() as linked:
            return {"type": "tap", "id": nic.netdev, **way.card(nic, linked)}
        case other:
            from qemunet.plan import remote  # only where it is needed

            return {"id": nic.netdev, **remote.netdev(nic, other, way)}


def _user(backend: UserBackend) -> dict[str, Json]:
    settings: dict[str, Json] = {
        "net": backend.subnet,
        "hostname": backend.hostname,
        "dns": backend.dns,
        "tftp": backend.tftp,
        "bootfile": backend.bootfile,
        "restrict": True if backend.restrict else None,
        "hostfwd": [{"str": rule} for one in backend.forwards for rule in forward(one)] or None,
    }
    return {key: value for key, value in settings.items() if value is not None}


def forward(wanted: Forward) -> Iterator[str]:
    """Yield QEMU's rules, one per port; the guest's address is left to its DHCP server."""
    first, last = wanted.ports
    for port in range(first, last + 1):
        yield f"{wanted.protocol}:{wanted.address}:{port}-:{wanted.guest_ports[0] + port - first}"
