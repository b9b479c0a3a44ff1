"""Chooses kernel modules with all that they need, and writes the tables from which modprobe loads them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from qemunet.frozen import frozen
from qemunet.guest import elf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# What the guest is for, and nothing else. A kernel has some of them built in and lacks others; both is fine.
BUSES = ("virtio_pci", "virtio_mmio")
CARDS = (
    "virtio_net", "e1000", "e1000e", "igb", "igbvf", "8139cp", "8139too", "vmxnet3",
    "pcnet32", "tulip", "ne2k-pci", "e100",
)  # fmt: skip
MACHINE = ("button", "evdev", "virtio_rng", "virtio_blk", "virtio_console")
PROTOCOLS = ("af_packet", "ipv6", "8021q", "bridge", "bonding", "dummy", "macvlan", "tun", "veth", "vxlan")
WANTED = (*BUSES, *CARDS, *MACHINE, *PROTOCOLS)

SIGNATURE_MARK = b"~Module signature appended~\n"
SIGNATURE_INFO = 12  # bytes before the mark; the last four are the signature's size


@frozen
class Module:
    """A module: its bytes (uncompressed, unsigned), what it needs directly, and the devices it is for."""

    name: str
    content: bytes
    needs: tuple[str, ...]
    aliases: tuple[str, ...]


def unsigned(content: bytes) -> bytes:
    """Return a module without the signature behind it.

    Checking one costs the guest milliseconds for each module under emulation, and no kernel that is started without
    secure boot insists on it.
    """
    if not content.endswith(SIGNATURE_MARK):
        return content
    end = len(content) - len(SIGNATURE_MARK) - SIGNATURE_INFO
    (size,) = struct.unpack_from(">I", content, end + SIGNATURE_INFO - 4)
    return content[: end - size]


def canonical(name: str) -> str:
    """Return the kernel's spelling of a module's name: files say ``-`` or ``_`` as they like."""
    return name.replace("-", "_")


def parse(name: str, content: bytes) -> Module:
    """Read a module's own description (the tables of a kernel package do not exist before its installation)."""
    facts = [fact.partition(b"=") for fact in elf.section(content, b".modinfo").split(b"\0") if fact]
    needs = [value.decode() for key, _, value in facts if key == b"depends" and value]
    aliases = [value.decode() for key, _, value in facts if key == b"alias"]
    return Module(
        canonical(name),
        unsigned(content),
        tuple(canonical(need) for joined in needs for need in joined.split(",")),
        tuple(aliases),
    )


def closure(wanted: Iterable[str], load: Callable[[str], Module | None]) -> dict[str, Module]:
    """Return the wanted modules and all that they need; `load` gives None for what the kernel has built in or lacks."""
    chosen: dict[str, Module] = {}
    open_names = [canonical(name) for name in wanted]
    while open_names:
        name = open_names.pop(0)
        if name not in chosen and (module := load(name)) is not None:
            chosen[name] = module
            open_names.extend(module.needs)
    return dict(sorted(chosen.items()))


def needs_of(name: str, chosen: Mapping[str, Module]) -> list[str]:
    """Return all that a module needs, in an order whose reverse can be loaded."""
    order: list[str] = []

    def visit(current: str) -> None:
        for need in chosen[current].needs:
            if need in chosen and need not in order:
                visit(need)
                order.append(need)

    visit(name)
    return order[::-1]


def dependency_table(chosen: Mapping[str, Module]) -> str:
    """Write ``modules.dep``; the files are expected to lie beside it."""
    return "".join(f"{name}.ko:{''.join(f' {need}.ko' for need in needs_of(name, chosen))}\n" for name in chosen)


def alias_table(chosen: Mapping[str, Module]) -> str:
    """Write ``modules.alias``."""
    return "".join(f"alias {alias} {module.name}\n" for module in chosen.values() for alias in module.aliases)
