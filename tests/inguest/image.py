"""A distribution's kernel with modules that this machine's may lack, and what boots the host's own programs on it."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from qemunet.errors import HostLacks
from qemunet.frozen import frozen
from qemunet.guest import build as builder
from qemunet.guest import cpio, kernel, modules, packages
from qemunet.guest.image import own_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = ("virtio_pci", "9pnet_virtio", "9p", "overlay")  # what it takes to have the host's files
NETWORK = (
    *("tun", "bridge", "veth", "macvlan", "macvtap", "8021q", "dummy", "vhost_net", "ifb", "br_netfilter"),
    *("sch_netem", "sch_tbf", "sch_htb", "sch_ingress", "act_mirred", "cls_u32"),
    *("nf_tables", "nft_ct", "nft_counter", "nft_chain_nat", "nft_masq", "nft_reject_inet", "nft_meta_bridge"),
    *("nft_objref", "nft_reject_bridge", "nft_fib_inet", "nft_redir", "nft_nat", "nfnetlink", "af_packet"),
)
FIRST = ("crc32c_generic",)  # others ask for it while they are loaded
WANTED = (*FIRST, *ROOT, *NETWORK)
INIT = Path(__file__).with_name("init.sh")


@frozen
class Image:
    """What QEMU boots: a kernel and an initial file system, both open to whoever may read the folder."""

    kernel: Path
    initrd: Path


def build(folder: Path, command: str, report: Callable[[str], None]) -> Image:
    """Make the image that runs a shell command below the host's root; raises HostLacks."""
    found = _kernel(report)
    if found is None:
        raise HostLacks(["a distribution's kernel for the guest: neither its files nor apt-get are there"])
    chosen = modules.closure(WANTED, found.loader())
    target = Image(folder / "vmlinux", folder / "initrd")
    target.kernel.write_bytes(kernel.bootable(found.image.read_bytes()))
    busybox = builder.find_busybox(folder, report).content
    target.initrd.write_bytes(cpio.archive(_entries(chosen, busybox, command)))
    return target


def _kernel(report: Callable[[str], None]) -> kernel.Kernel | None:
    """Return the kernel kept in the cache, or a package's, which is kept there."""
    number = zlib.crc32(repr((WANTED, packages.KERNEL_METAS)).encode())
    store = Path(own_cache()).parent / f"full-kernel-{number:08x}"
    if not store.exists():
        if not packages.available():
            return None
        store.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store.parent) as work:
            _download(Path(work), store, report)
    image = next(store.glob("vmlinuz-*"))
    return kernel.Kernel(image.name.partition("-")[2], image, store / "modules")


def _download(work: Path, store: Path, report: Callable[[str], None]) -> None:
    packages.know(packages.KERNEL_METAS, report)
    choices = [one for meta in packages.KERNEL_METAS for one in packages.kernel_choices(meta, packages.depends)]
    for choice in choices:
        report(f"downloading {' '.join(choice)} (unpacked to a cache, not installed)")
        try:
            packages.unpack(choice, work, work / "unpacked")
        except HostLacks as error:
            report(str(error))
            continue
        _keep(work / "unpacked", work / "kept")
        (work / "kept").rename(store)
        return
    raise HostLacks(["a kernel package"], hint="run `apt-get update`")


def _keep(tree: Path, into: Path) -> None:
    image = next(iter(sorted(tree.glob("boot/vmlinuz-*"))))
    release = image.name.partition("-")[2]
    source = kernel.Kernel(release, image, tree / "lib/modules" / release)
    (into / "modules").mkdir(parents=True)
    shutil.copyfile(image, into / image.name)
    for name, module in modules.closure(WANTED, source.loader()).items():
        (into / "modules" / f"{name}.ko").write_bytes(module.content)


def _entries(chosen: dict[str, modules.Module], busybox: bytes, command: str) -> Iterator[cpio.Entry]:
    yield from (cpio.Directory(path) for path in ("bin", "dev", "host", "lib", "new", "proc", "sys", "upper"))
    yield cpio.CharDevice("dev/console", 5, 1)
    yield cpio.File("bin/busybox", busybox, 0o755)
    yield cpio.File("init", INIT.read_bytes(), 0o755)
    yield cpio.File("command", command.encode())
    order = list(_in_order(chosen))
    yield cpio.File("modules", "".join(f"{name}\n" for name in order).encode())
    yield from (cpio.File(f"lib/{name}.ko", chosen[name].content) for name in order)


def _in_order(chosen: dict[str, modules.Module]) -> Iterator[str]:
    """Yield modules such that each comes after what it needs."""
    done: set[str] = set()
    for wanted in WANTED:
        name = modules.canonical(wanted)
        for one in (*reversed(modules.needs_of(name, chosen)), name) if name in chosen else ():
            if one not in done:
                done.add(one)
                yield one
