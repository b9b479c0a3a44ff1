"""The models of cards: what they may be called and which of them can what."""

from __future__ import annotations

from qemunet.config.hints import Bad, did_you_mean
from qemunet.model.vm import NicBus

VIRTIO_PCI = "virtio-net-pci"
VIRTIO_MMIO = "virtio-net-device"
VFIO = "vfio-pci"  # a device of the host, whatever it is; also the name of its driver there

# What QEMU has for a PCI slot and a network backend. Not here: usb-net (needs a USB bus), ne2k_isa, rocker.
MODELS = (
    VIRTIO_PCI,
    "virtio-net-pci-transitional",
    "virtio-net-pci-non-transitional",
    VIRTIO_MMIO,
    "e1000",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "igb",  # from QEMU 8.0
    "rtl8139",
    "vmxnet3",
    "pcnet",
    "ne2k_pci",
    "tulip",
    "i82550",
    "i82551",
    "i82557a",
    "i82557b",
    "i82557c",
    "i82558a",
    "i82558b",
    "i82559a",
    "i82559b",
    "i82559c",
    "i82559er",
    "i82562",
    "i82801",
)
ALIASES = {
    "virtio": VIRTIO_PCI,
    "virtio-net": VIRTIO_PCI,
    "virtio-transitional": "virtio-net-pci-transitional",
    "virtio-non-transitional": "virtio-net-pci-non-transitional",
    "e1000-82540em": "e1000",
    "eepro100": "i82557b",
    "ne2k-pci": "ne2k_pci",
    "ne2000": "ne2k_pci",
    "rtl8139c": "rtl8139",
}
USUAL_MTU = 1500
COMMON = "virtio, e1000, e1000e, rtl8139, vmxnet3, pcnet, ne2k_pci, tulip, i82551"


def device(name: str, bus: NicBus, profile: str) -> str:
    """Return QEMU's device name for a model as the file has it; raises Bad."""
    model = ALIASES.get(name, name)
    if model not in MODELS:
        raise Bad(f'unknown model "{name}"', did_you_mean(name, [*MODELS, *ALIASES], f"models are {COMMON}, …"))
    if bus is not NicBus.MMIO:
        if model == VIRTIO_MMIO:
            raise Bad(f"{name} is for machines without PCI, and profile {profile} has it", f'try "{VIRTIO_PCI}"')
        return model
    if not model.startswith("virtio-net"):
        raise Bad(f"profile {profile} has no PCI, which model {name} needs", 'try model = "virtio" or profile = "q35"')
    return VIRTIO_MMIO


def is_virtio(model: str) -> bool:
    """Tell whether a device can have queues, vhost, and an MTU for the guest to read."""
    return model.startswith("virtio-net")
