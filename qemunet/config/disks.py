"""Resolves what a guest boots and its disks: paths, formats by rule, backing files by consent."""

from __future__ import annotations

from qemunet.config import units
from qemunet.config.scene import Scene, absolute, first
from qemunet.config.spec import DiskSpec, VmSpec
from qemunet.model.vm import DirectBoot, Disk, FirmwareBoot, ImageFile, NicBus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.facts import FileFact

SUFFIXES = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw", ".iso": "raw", ".bin": "raw", ".dd": "raw"}
MOST_QCOW2 = 2 << 50  # with the usual clusters of 64K
QCOW2, RAW = "qcow2", "raw"
_CD_BUS = {NicBus.PCI: "ide", NicBus.ROOT_PORTS: "sata", NicBus.MMIO: "scsi"}
_NO_GUEST = DirectBoot("<built-in guest>/vmlinuz", "<built-in guest>/initrd.img", "", tiny=True)


def boot(scene: Scene, vm: VmSpec) -> DirectBoot | FirmwareBoot:
    """Return what a vm boots; raises ConfigError."""
    spec, path = vm.boot, f"{vm.path}.boot"
    if spec.guest is not None:
        return _built_in(scene)
    if spec.kernel is None:
        return FirmwareBoot(spec.order) if spec.order else FirmwareBoot()
    kernel = absolute(scene.spec, spec.kernel)
    scene.regular(f"{path}.kernel", kernel)
    initrd = None if spec.initrd is None else absolute(scene.spec, spec.initrd)
    if initrd is not None:
        scene.regular(f"{path}.initrd", initrd)
    return DirectBoot(kernel, initrd, spec.append or "")


def _built_in(scene: Scene) -> DirectBoot:
    guest = scene.facts.guest
    if guest is None:
        scene.lack("the built-in guest", "`qemunet guest build` makes it")
        return _NO_GUEST
    return DirectBoot(guest.kernel, guest.initrd, guest.append, tiny=True, public=guest.public)


def files(scene: Scene, vm: VmSpec) -> Iterator[str]:
    """Yield the files that a vm's boot and disks name."""
    named = [vm.boot.kernel, vm.boot.initrd]
    for disk in vm.disk:
        named += [disk.file, *(disk.backing or ())]
        if disk.file is not None and disk.size is not None:
            yield _folder(absolute(scene.spec, disk.file))
    yield from (absolute(scene.spec, name) for name in named if name is not None)


def disk(scene: Scene, vm: VmSpec, spec: DiskSpec, bus: NicBus) -> Disk:
    """Return a disk; raises ConfigError."""
    assert spec.file is not None, "checked with the file"
    path = absolute(scene.spec, spec.file)
    image = ImageFile(path, _format(scene, spec))
    fact = scene.facts.files.get(path)
    if fact is None and spec.size is None:
        raise scene.spec.error(f"{spec.path}.file", f"no such file: {path}", 'with size = "10G" it is made')
    if fact is not None:
        scene.regular(f"{spec.path}.file", path)
        _check_format(scene, fact, image.format, f"{spec.path}.file")
    elif spec.size is not None:
        _check_new(scene, spec, image, spec.size)
    cdrom = bool(spec.cdrom)
    return Disk(
        image=image,
        backing=tuple(_layers(scene, spec, image, fact)),
        create=spec.size if fact is None else None,
        bus=_bus(scene, vm, spec, bus),
        snapshot=bool(spec.snapshot) and not cdrom,
        cdrom=cdrom,
        readonly=bool(spec.readonly) or cdrom,
    )


def _check_new(scene: Scene, spec: DiskSpec, image: ImageFile, size: int) -> None:
    """Refuse an image that could not be made."""
    folder = _folder(image.path)
    fact = scene.facts.files.get(folder)
    if fact is None or not fact.directory:
        problem = f"{folder} is no directory" if fact else f"there is no directory {folder} to make it in"
        raise scene.spec.error(f"{spec.path}.file", problem, "" if fact else f"make it first: mkdir -p {folder}")
    if image.format == QCOW2 and size > MOST_QCOW2:
        problem = f"{units.format_size(size)} is more than a qcow2 image can have"
        raise scene.spec.error(f"{spec.path}.size", problem, f"the most is {units.format_size(MOST_QCOW2)}")


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _bus(scene: Scene, vm: VmSpec, spec: DiskSpec, bus: NicBus) -> str:
    usual = first(scene.profile(vm).disk.bus, otherwise="virtio")
    return first(spec.bus, otherwise=_CD_BUS[bus] if spec.cdrom and usual == "virtio" else usual)


def _format(scene: Scene, spec: DiskSpec) -> str:
    """Return the declared format, or that of the suffix, or that of the files we make."""
    name = spec.file or ""
    found = spec.format or suffix_format(name)
    if found is None and spec.cdrom:
        return RAW
    if found is None and spec.size is None:
        hint = f'format = "qcow2" or "raw"; it is taken from {", ".join(SUFFIXES)}, never guessed from contents'
        raise scene.spec.error(f"{spec.path}.format", f'"{name}" does not tell its format', hint)
    return found or QCOW2


def suffix_format(name: str) -> str | None:
    """Return the format that a file's name tells."""
    if name.startswith("/dev/"):
        return RAW
    dot = name.rfind(".")
    return SUFFIXES.get(name[dot:].lower()) if dot > name.rfind("/") else None


def _check_format(scene: Scene, fact: FileFact, format_: str, path: str) -> None:
    """Refuse to read as qcow2 what is none, and what has QEMU open a file that nobody named."""
    seen = fact.readable or scene.facts.uid == 0
    if format_ == QCOW2 and seen and not fact.qcow2:
        hint = 'if it is a plain image, say format = "raw"'
        raise scene.spec.error(path, f"{fact.path} is not a qcow2 image", hint)
    if format_ == QCOW2 and fact.data_elsewhere:
        hint = "make one file of it: qemu-img convert -O qcow2 OLD NEW"
        raise scene.spec.error(path, f"{fact.path} has its data in another file, which is not followed", hint)


def _layers(scene: Scene, spec: DiskSpec, image: ImageFile, fact: FileFact | None) -> Iterator[ImageFile]:
    """Yield the files below an image, nearest first.

    What a header names may be the guest's own writing. It is followed only where the file of the lab names it too,
    or where the calling user could read it without us.
    """
    path = f"{spec.path}.backing"
    named = [absolute(scene.spec, name) for name in spec.backing or ()]
    seen = [image.path]
    while fact is not None and image.format == QCOW2 and (fact.backing is not None or named):
        name = _below(scene, path, fact, named.pop(0) if named else None, seen)
        if name in seen:
            raise scene.spec.error(path, f"{fact.path} is in the end its own backing file")
        seen.append(name)
        image = ImageFile(name, _layer_format(scene, path, fact, name))
        fact = scene.regular(path, name)
        _check_format(scene, fact, image.format, path)
        yield image
    if named:
        raise scene.spec.error(path, f"{image.path} is a raw image, which has nothing below it", "leave it out")


def _below(scene: Scene, path: str, fact: FileFact, named: str | None, above: list[str]) -> str:
    """Return the backing file of an image, if it may be followed; `named`: as the lab file has it."""
    if named is not None:
        if named != fact.backing:
            says = f"says {_said(fact.backing)}" if fact.backing else "says that it has none"
            raise scene.spec.error(path, f"{named} is not the backing file of {fact.path}, which {says}")
        return named
    assert fact.backing is not None, "the caller saw it"
    below = scene.facts.files.get(fact.backing)
    if below is None:
        problem = f"{fact.path} says that {_said(fact.backing)} is below it, and that is no file here"
        raise scene.spec.error(path, problem, f"to name another: qemu-img rebase -u -b FILE -F FORMAT {fact.path}")
    if not below.readable:
        problem = f"{fact.path} says that {_said(fact.backing)} is below it, which you could not read yourself"
        chain = [f'"{name}"' for name in (*above[1:], fact.backing)]
        allowed = chain[0] if len(chain) == 1 else f"[{', '.join(chain)}]"
        raise scene.spec.error(path, problem, f"to allow it: backing = {allowed}")
    return fact.backing


def _layer_format(scene: Scene, path: str, fact: FileFact, name: str) -> str:
    found = fact.backing_format or suffix_format(name) or RAW
    if found not in (QCOW2, RAW):
        problem = f"{_said(name)} has the format {_said(found)}, as {fact.path} says"
        raise scene.spec.error(path, problem, "formats are qcow2 and raw")
    return found


def _said(name: str) -> str:
    """Return a name from a header as one line, whatever somebody wrote there."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)
