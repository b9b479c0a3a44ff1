"""A guest: its machine, its boot, its disks and its cards."""

from __future__ import annotations

from enum import StrEnum

from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.model.nic import Nic
    from qemunet.model.ready import Ready
    from qemunet.model.script import ScriptStep, Secret


class NicBus(StrEnum):
    """Where a machine takes its cards."""

    ROOT_PORTS = "root-ports"  # q35: one hot-pluggable PCIe root port per card
    PCI = "pci"  # pc: straight on pci.0
    MMIO = "mmio"  # microvm: virtio-mmio, never hot-pluggable


class Accel(StrEnum):
    """What executes the guest's instructions; AUTO is decided when the vm is run."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class Firmware(StrEnum):
    """What starts the machine."""

    BIOS = "bios"
    UEFI = "uefi"


@frozen
class Machine:
    """What a profile says of the hardware."""

    profile: str
    type: str  # QEMU's -machine type with its own options, e.g. "microvm,rtc=on"
    nic_bus: NicBus
    hotplug_slots: int  # spare PCIe root ports (root-ports only)
    cpu_kvm: str  # -cpu under kvm
    cpu_tcg: str  # -cpu under tcg, empty: QEMU's default


@frozen
class DirectBoot:
    """A kernel that QEMU loads itself.

    `tiny`: it is the built-in guest, which reads its cards from the kernel line. `public`: every user may read both
    files, so that QEMU opens them by name whoever it is.
    """

    kernel: str
    initrd: str | None
    append: str
    tiny: bool = False
    public: bool = False


@frozen
class FirmwareBoot:
    """The firmware looks for a system: ``disk``, ``network``, ``cdrom`` in this order."""

    order: tuple[str, ...] = ("disk", "network", "cdrom")


@frozen
class ImageFile:
    """One file of a disk: `format` is qcow2 or raw and never guessed from what a guest may have written."""

    path: str
    format: str


@frozen
class Disk:
    """A disk. `backing`: the files below `image`, nearest first. `create`: size in bytes, if the file must be made."""

    image: ImageFile
    backing: tuple[ImageFile, ...] = ()
    create: int | None = None
    bus: str = "virtio"  # virtio | ide | sata | scsi
    snapshot: bool = False
    cdrom: bool = False
    readonly: bool = False


@frozen
class VncDisplay:
    """A screen over VNC on ``address:number`` (port 5900 + number)."""

    address: str
    number: int


@frozen
class GtkDisplay:
    """A screen in a window of the desktop."""


Display = VncDisplay | GtkDisplay | None


class GuestAgent(StrEnum):
    """What runs in a guest that the host can talk to."""

    NONE = "none"
    OURS = "qemunet"  # what `qemunet guest agent` prints
    QEMU = "qemu"  # QEMU's own


@frozen
class RunAs:
    """The numeric identity under which QEMU runs when root starts it."""

    uid: int
    gid: int


@frozen
class Vm:
    """A guest, complete. `memory` is in bytes. `run_as` None: QEMU runs as the calling user.

    `shared_memory`: other programs may see it, as backends of vhost-user have to.
    `agent`: what listens in it, on a port of its own.
    `netns`: the namespace of the lab that QEMU runs in, empty for the host's own. Its cards do not go by that.
    """

    name: str
    machine: Machine
    memory: int
    cpus: int
    accel: Accel
    boot: DirectBoot | FirmwareBoot
    firmware: Firmware
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    display: Display = None
    run_as: RunAs | None = None
    qemu_args: tuple[str, ...] = ()
    agent: GuestAgent = GuestAgent.NONE
    depends: tuple[str, ...] = ()
    ready: Ready | None = None
    script: tuple[ScriptStep, ...] = ()
    secrets: tuple[Secret, ...] = ()
    netns: str = ""
    shared_memory: bool = False
