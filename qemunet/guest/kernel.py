"""Finds a kernel with its modules, the host's own or a package's, and takes the bootable part out of its image."""

from __future__ import annotations

import os
import re
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from qemunet.errors import HostLacks
from qemunet.frozen import frozen
from qemunet.guest import compress, elf, modules, packages

if TYPE_CHECKING:
    from collections.abc import Callable

ESSENTIAL = ("virtio_pci", "virtio_net", "e1000", "e1000e", "8139cp")  # a kernel for clouds lacks most of them
FILE_NAME = re.compile(r"(.+)\.ko(\.(xz|gz|zst))?$")
XEN_PVH_ENTRY = struct.pack("<I", 18) + b"Xen\0"  # the note by which QEMU finds a kernel's uncompressed entry
SETUP_SECTOR = 512


@frozen
class Kernel:
    """A kernel image and the directory tree of its modules."""

    release: str
    image: Path
    tree: Path

    def loader(self) -> Callable[[str], modules.Module | None]:
        """Return what finds a module by its name; it looks through the directory once, now."""
        files = {}
        for path in self.tree.rglob("*.ko*"):
            if match := FILE_NAME.match(path.name):
                files[modules.canonical(match[1])] = path

        def load(name: str) -> modules.Module | None:
            path = files.get(name)
            return None if path is None else modules.parse(name, read(path))

        return load

    def lacks(self) -> list[str]:
        """Return the essential drivers that it has neither as a module nor built in."""
        listed = self.tree / "modules.builtin"
        built_in = listed.read_text() if listed.exists() else ""
        names = {match[1] for path in self.tree.rglob("*.ko*") if (match := FILE_NAME.match(path.name))}
        names |= {match[1] for line in built_in.split() if (match := FILE_NAME.match(line.rpartition("/")[2]))}
        have = {modules.canonical(name) for name in names}
        return [name for name in ESSENTIAL if name not in have]


def of_host(root: Path = Path("/")) -> Kernel | None:
    """Return the running kernel, where its image and its modules are readable and it has the drivers."""
    release = os.uname().release
    tree = root / "lib/modules" / release
    for image in (root / f"boot/vmlinuz-{release}", tree / "vmlinuz"):
        if os.access(image, os.R_OK) and tree.is_dir():
            kernel = Kernel(release, image, tree)
            return None if kernel.lacks() else kernel
    return None


def of_package(store: Path, work: Path, report: Callable[[str], None]) -> Kernel:
    """Return the kernel kept in `store`; download it there, with `work` to unpack in, when there is none.

    Raises HostLacks.
    """
    if (kept := _kept(store)) is not None:
        return kept
    if not packages.available():
        raise HostLacks(
            ["a kernel for the built-in guest: /boot/vmlinuz-$(uname -r), readable, with its modules in /lib/modules"],
            hint="`sudo chmod a+r /boot/vmlinuz-$(uname -r)` where it is there",
        )
    _download(work, report)
    _keep(_unpacked(work / "unpacked"), work / "kept")
    shutil.rmtree(work / "unpacked")
    store.parent.mkdir(parents=True, exist_ok=True)
    (work / "kept").rename(store)
    kernel = _kept(store)
    assert kernel is not None
    return kernel


def bootable(image: bytes) -> bytes:
    """Return the uncompressed kernel inside a bzImage, which starts seconds faster, or the bzImage where that fails."""
    try:
        kernel = compress.uncompress(_payload(image))
        notes = elf.section(kernel, b".notes")
        return elf.trim(kernel) if XEN_PVH_ENTRY in notes else image
    except (ValueError, struct.error, compress.NoProgram):
        return image


def read(path: Path) -> bytes:
    """Read a file, uncompressed; raises HostLacks when that takes a program that is missing."""
    try:
        return compress.uncompress(path.read_bytes())
    except compress.NoProgram as error:
        raise HostLacks([f"the program {error}, for {path.name}"], hint=f"run `apt-get install {error}`") from error


def _payload(image: bytes) -> bytes:
    """Return the compressed kernel in a bzImage; its size, which is not part of it, follows it in four bytes."""
    if image[0x202:0x206] != b"HdrS":
        raise ValueError("not a bzImage")
    offset, size = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * SETUP_SECTOR + offset
    payload = image[start : start + size]
    return payload if payload.startswith(b"\x1f\x8b") else payload[:-4]


def _kept(store: Path) -> Kernel | None:
    image = next(store.glob("vmlinuz-*"), None)
    if image is None:
        return None
    return Kernel(image.name.partition("-")[2], image, store / "modules")


def _download(work: Path, report: Callable[[str], None]) -> None:
    packages.know(packages.KERNEL_METAS, report)
    failures: list[HostLacks] = []
    for meta in packages.KERNEL_METAS:
        for choice in packages.kernel_choices(meta, packages.depends):
            report(f"downloading {' '.join(choice)} (unpacked to a cache, not installed)")
            try:
                return packages.unpack(choice, work, work / "unpacked")
            except HostLacks as error:
                failures.append(error)
    raise failures[0] if failures else HostLacks(["a kernel package"], hint="run `apt-get update`")


def _unpacked(tree: Path) -> Kernel:
    for image in sorted(tree.glob("boot/vmlinuz-*")):
        release = image.name.partition("-")[2]
        for base in (tree / "lib/modules", tree / "usr/lib/modules"):
            if (base / release).is_dir():
                return Kernel(release, image, base / release)
    raise HostLacks(["a kernel package with an image and its modules"])


def _keep(kernel: Kernel, into: Path) -> None:
    """Copy the image and the wanted modules, a hundredth of the package."""
    (into / "modules").mkdir(parents=True)
    shutil.copyfile(kernel.image, into / f"vmlinuz-{kernel.release}")
    for name, module in modules.closure(modules.WANTED, kernel.loader()).items():
        (into / "modules" / f"{name}.ko").write_bytes(module.content)
