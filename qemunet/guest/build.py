"""Makes the built-in guest in a cache: one builder at a time, nothing half done left behind."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from qemunet.errors import HostLacks
from qemunet.frozen import frozen
from qemunet.guest import elf, initramfs, kernel, modules, packages
from qemunet.guest.image import APPEND, SCRIPTS, GuestImage, Stamp, find_in, index_name, recipe, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK = "lock"
WORK_PREFIX = "work-"
INDICES = "index*.json"  # earlier versions had one index.json for all
UNUSED = 60 * 24 * 3600  # seconds without a use after which an image may go
NEEDED_APPLETS = {"base64", "dd", "halt", "httpd", "ip", "login", "mkfifo", "modprobe", "mount", "nc"}
NEEDED_APPLETS |= {"poweroff", "reboot", "setsid", "sh", "stty", "udhcpc", "uevent"}
LIST_TIMEOUT = 10  # seconds


@frozen
class Busybox:
    """The guest's only program, what it can do, and the host's file that it is (empty when out of a package)."""

    content: bytes
    applets: tuple[str, ...]
    made_from: tuple[Stamp, ...]


def build_in(cache: str, report: Callable[[str], None]) -> GuestImage:
    """Make the image in this cache unless it is there; raises HostLacks."""
    base = Path(cache)
    try:
        base.mkdir(parents=True, exist_ok=True)
        with _locked(base):
            return find_in(cache) or _build(base, report)
    except OSError as error:
        raise HostLacks([f"a usable cache in {cache} ({error.strerror or error})"]) from error


@contextlib.contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Hold the cache's lock; it goes with the process."""
    with (base / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(base: Path, report: Callable[[str], None]) -> GuestImage:
    for left in base.glob(f"{WORK_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=base))
    try:
        return _make(base, work, report)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make(base: Path, work: Path, report: Callable[[str], None]) -> GuestImage:
    busybox = find_busybox(work, report)
    source = kernel.of_host() or kernel.of_package(_store(base), work, report)
    report(f"making the built-in guest from Linux {source.release}")
    image = source.image.read_bytes()
    fingerprint = hashlib.sha256(b"".join(_digests(image, busybox.content, recipe().encode()))).hexdigest()[:16]
    directory = work / "image"
    directory.mkdir()
    _write(directory / "vmlinux", kernel.bootable(image))
    _write(directory / "initrd", _initrd(source, busybox))
    made_from = [*busybox.made_from, stamp(str(source.image))]
    _publish(base, directory, fingerprint, made_from)
    result = find_in(str(base))
    if result is None:
        raise HostLacks([f"a cache that keeps what is written to it ({base})"])
    return result


def _initrd(source: kernel.Kernel, busybox: Busybox) -> bytes:
    scripts = {name: (Path(__file__).parent / "files" / name).read_text() for name in SCRIPTS}
    chosen = modules.closure(modules.WANTED, source.loader())
    return initramfs.build(source.release, chosen, busybox.content, busybox.applets, scripts)


def _publish(base: Path, directory: Path, fingerprint: str, made_from: list[Stamp]) -> None:
    """Put the image in its place, then the index, which makes it count; then remove what nobody uses any more."""
    index = {
        "fingerprint": fingerprint,
        "recipe": recipe(),
        "append": APPEND,
        "sizes": [(directory / name).stat().st_size for name in ("vmlinux", "initrd")],
        "made_from": made_from,
        "store": _store(base).name,
    }
    target = base / fingerprint
    shutil.rmtree(target, ignore_errors=True)  # a damaged one
    directory.chmod(0o755)
    directory.rename(target)
    draft = directory.parent / "index"
    _write(draft, json.dumps(index).encode())
    draft.rename(base / index_name(recipe()))
    _open_to_all(base)
    shutil.rmtree(directory.parent)
    _remove_unused(base)


def _remove_unused(base: Path) -> None:
    """Remove the indices that were not used for long, then everything that none names; the lock is held."""
    keep = {LOCK}
    for index in base.glob(INDICES):
        if _last_use(index) < time.time() - UNUSED:
            index.unlink()
        else:
            keep |= {index.name, *_named(index)}
    for old in (path for path in base.iterdir() if path.name not in keep):
        shutil.rmtree(old, ignore_errors=True)


def _last_use(index: Path) -> float:
    """Return when an image was last found by its index: noted by its owner, or seen by the system for other users."""
    status = index.stat()
    return max(status.st_mtime, status.st_atime)


def _named(index: Path) -> set[str]:
    """Return what an index needs, of whatever version it is; to look is not to use it. A damaged one needs nothing."""
    descriptor = os.open(index, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    with open(descriptor, encoding="utf-8") as file:
        try:
            entries = json.load(file)
        except ValueError:
            return set()
    names = entries if isinstance(entries, dict) else {}
    return {str(names[key]) for key in ("fingerprint", "store") if key in names}


def _open_to_all(base: Path) -> None:
    """Let a QEMU that is not root reach the system's cache, whatever root's umask."""
    if os.geteuid() == 0:
        for directory in (base, base.parent):
            directory.chmod(0o755)


def _store(base: Path) -> Path:
    """Return where the downloaded kernel is kept; the name changes with the modules that are kept of it."""
    return base / f"kernel-{zlib.crc32(' '.join(modules.WANTED).encode()):08x}"


def find_busybox(work: Path, report: Callable[[str], None]) -> Busybox:
    """Return a static busybox that does all that a guest needs, the host's or a package's; raises HostLacks."""
    found = shutil.which("busybox")
    if found is not None and (usable := _usable_busybox(Path(found))) is not None:
        return Busybox(*usable, (stamp(os.path.realpath(found)),))
    hint = "run `apt-get install busybox-static`"
    if not packages.available():
        raise HostLacks(["a statically linked busybox"], hint=hint)
    packages.know(["busybox-static"], report)
    report("downloading busybox-static (unpacked to a cache, not installed)")
    packages.unpack(["busybox-static"], work, work / "busybox")
    for path in (work / "busybox").glob("**/bin/busybox"):
        if (usable := _usable_busybox(path)) is not None:
            return Busybox(*usable, ())
    raise HostLacks(["a statically linked busybox with " + ", ".join(sorted(NEEDED_APPLETS))], hint=hint)


def _usable_busybox(path: Path) -> tuple[bytes, tuple[str, ...]] | None:
    content = path.read_bytes()
    try:
        if not elf.is_static(content):
            return None
    except ValueError:
        return None
    listing = subprocess.run([str(path), "--list"], capture_output=True, text=True, check=False, timeout=LIST_TIMEOUT)
    applets = tuple(listing.stdout.split())
    return (content, applets) if set(applets) >= NEEDED_APPLETS else None


def _digests(*parts: bytes) -> Iterator[bytes]:
    for part in parts:
        yield hashlib.sha256(part).digest()


def _write(path: Path, content: bytes) -> None:
    """Write a file to the disk itself: else a power cut could leave the rename that makes it count without its data."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o644)
