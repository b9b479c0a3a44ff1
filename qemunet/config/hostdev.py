"""Cards that are devices of the host: what a file may say of one, and what the host must have done to give it away."""

from __future__ import annotations

from qemunet.config.cards import VFIO
from qemunet.errors import Taken
from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config.scene import Scene
    from qemunet.config.spec import LabSpec, NicSpec
    from qemunet.facts import PciFact
    from qemunet.model.vm import RunAs

_WITHOUT = ("", VFIO, "pci-stub")  # drivers that leave a device alone
_BESIDE = 64 << 20  # bytes that QEMU locks besides the guest's memory: firmware, ROMs, the screen's memory
_NODES = "/dev/vfio"

# What qemunet decides of a card that it makes, and what the guest alone decides of a device.
OF_THE_DEVICE = {
    "model": "the guest sees the device itself",
    "mac": "the device has its own: `ip link set PARENT vf N mac ADDRESS` gives a function another",
    "mac_prefix": "the device has an address of its own",
    "link": "nothing is between the device and its cable",
    "mtu": "the guest sets it at the device",
    "ip": "the address of the device, by which the guest would find it, is not known here",
    "gateway": "the address of the device, by which the guest would find it, is not known here",
}


def check(spec: LabSpec, nic: NicSpec) -> None:
    """Raise ConfigError if it does not say which device, or says of it what only the device decides."""
    if nic.device is None:
        hint = 'as in device = "0000:03:00.1"; `lspci -D` lists them'
        raise spec.error(f"{nic.path}.device", 'mode "hostdev" needs the PCI address of the device', hint)
    for field in misfits(nic):
        key = field.replace("_", "-")
        raise spec.error(f"{nic.path}.{key}", f"{key} is not for a device of the host: {OF_THE_DEVICE[field]}")


def misfits(nic: NicSpec) -> list[str]:
    """Return the fields that have a value and are of no use for a device of the host."""
    return [field for field in OF_THE_DEVICE if getattr(nic, field) is not None]


@frozen
class Guest:
    """Whom a device is for: `path` of the vm in its file, its memory in bytes, and as whom its QEMU runs."""

    path: str
    memory: int
    user: RunAs | None


def check_host(scene: Scene, nic: NicSpec, device: str, guest: Guest) -> None:
    """Note all that the host lacks to give a device away; nothing of that is done here. Raises ConfigError."""
    fact = scene.facts.devices.get(device)
    if fact is not None and fact.group is not None:
        _check_alone(scene, nic, fact, fact.group, guest)
    if scene.running and scene.facts.claims.get(f"pci/{device}") == guest.path.replace(".", "/"):
        return  # it has the device, and another card that comes or goes does not ask for it again
    if fact is None:
        hint = "`lspci -D` lists those there are; `echo 4 > /sys/bus/pci/devices/PARENT/sriov_numvfs` makes functions"
        scene.lack(f"the PCI device {device}", hint)
        return
    if not fact.network:
        scene.lack(f"a network card at {device}", f"`lspci -s {device}` says what it is ({nic.path}.device)")
    if fact.group is None:
        hint = "switch on VT-d or AMD-Vi in its firmware, and boot its kernel with intel_iommu=on or amd_iommu=on"
        scene.lack(f"an IOMMU group of {device}, without which its memory would be open to the device", hint)
        return
    _check_drivers(scene, fact)
    if fact.driver == VFIO:
        _check_rights(scene, fact, guest)
    _check_memory(scene, device, guest)


def _check_alone(scene: Scene, nic: NicSpec, fact: PciFact, group: int, guest: Guest) -> None:
    """Refuse devices of one group in two guests, of this file or that run: the kernel gives a group to one process."""
    hint = "a group is given to one guest as a whole"
    where = f"IOMMU group {group}, of which"
    other = scene.groups.setdefault(group, guest.path)
    if other != guest.path:
        raise scene.spec.error(f"{nic.path}.device", f"{nic.device} is in {where} {other} has a device", hint)
    for address, _ in fact.beside if scene.strict else ():
        owner = scene.facts.claims.get(f"pci/{address}", "").replace("/", ".")
        if owner not in ("", guest.path):
            problem = f"{nic.device} is in {where} {owner}, which runs, has {address}"
            raise Taken(problem, where=f"{nic.path}.device", hint=hint)


def _check_drivers(scene: Scene, fact: PciFact) -> None:
    if fact.driver != VFIO:
        has = f"{fact.driver} has it" if fact.driver else "it has none"
        scene.lack(f"the driver {VFIO} at {fact.address} ({has})", _binding(fact.address, fact.driver))
    for address, driver in fact.beside:
        if driver not in _WITHOUT:
            what = f"the driver {VFIO} at {address} ({driver} has it), which is in IOMMU group {fact.group}, too"
            scene.lack(what, _binding(address, driver))


def _binding(address: str, driver: str) -> str:
    """Return the commands that take a device from the host; its interface is gone by that."""
    folder = f"/sys/bus/pci/devices/{address}"
    words = [f"modprobe {VFIO}", f"echo {VFIO} > {folder}/driver_override"]
    words += [f"echo {address} > {folder}/driver/unbind"] if driver else []
    words.append(f"echo {address} > /sys/bus/pci/drivers_probe")
    return f"`driverctl set-override {address} {VFIO}`, or `{' && '.join(words)}`"


def _check_rights(scene: Scene, fact: PciFact, guest: Guest) -> None:
    """Note what is not there of the way to the device, or not for QEMU's user."""
    node = f"{_NODES}/{fact.group}"
    if not fact.vfio:
        scene.lack(f"{_NODES}/vfio", "`modprobe vfio` makes it; a container must be given it")
    if fact.node is None:
        scene.lack(node, "a container must be given it")
        return
    user = guest.user
    if fact.node.opened if user is None else fact.node.lets_in(user.uid, user.gid):
        return
    who = f"user {scene.facts.uid}" if user is None else f"QEMU, which is not root ({user.uid})"
    hint = f'`chown NAME {node}`, for good the udev rule SUBSYSTEM=="vfio", OWNER="NAME"'
    named = "" if user is None else f', and {guest.path}.user = "NAME"'
    scene.lack(f"the right of {who}, to read and write {node}", hint + named)


def _check_memory(scene: Scene, device: str, guest: Guest) -> None:
    """Note that QEMU may not lock the guest's memory, all of which the device may reach."""
    limit, needed = scene.facts.memlock, guest.memory + _BESIDE
    is_root = guest.user is None and scene.facts.uid == 0
    if limit is None or limit >= needed or is_root:
        return
    what = f"a limit of locked memory of {needed >> 20}M for {guest.path} with {device} (it is {limit >> 10}K)"
    scene.lack(what, "`ulimit -l unlimited` before, or LimitMEMLOCK=infinity in a unit of systemd")
