"""Finds the built-in guest in the caches, and makes it.

A cache holds an index per recipe (which image it is, and from what it was made), one directory per image, named by its
fingerprint, and the downloaded kernel. Several versions of the program thus have their images side by side; an index
that was read by nobody for long goes with its image when another one is made. Everything is written under another name
first and renamed when complete, the index last; so whatever is named by an index is whole. `find` is on the way of
every start: it reads one small file.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib

from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEM_CACHE = "/var/cache/qemunet/guest"
INDEX = "index-{}.json"  # of a recipe
TOUCH = 24 * 3600  # seconds after which a use of an index is noted again
# What decides on the content beside kernel and busybox.
RECIPE = ("image.py", "initramfs.py", "modules.py", "elf.py", "cpio.py", "kernel.py")
SCRIPTS = ("init.sh", "cards.sh", "agent.sh", "lease.sh", "hotplug.sh", "nc.sh", "profile.sh")
# The self-tests and the write protection of a guest that lives for minutes cost a fifth of its boot under emulation:
# rodata=off leaves out a walk through all page tables, the initcalls are two self-tests and a list of certificates.
# More than a tenth goes to a kernel with one processor that rewrites all its locks for that: noreplace-smp.
# A guest whose processor has to wait for others would panic, as its timer does not tick in time for the check of that.
APPEND = (
    "console=ttyS0 loglevel=1 cryptomgr.notests no_timer_check rodata=off noreplace-smp"
    " initcall_blacklist=crypto_kdf108_init,init_kprobe_trace,load_system_certificate_list"
)

Stamp = tuple[str, int, int]  # path, size, time of change in nanoseconds


@frozen
class GuestImage:
    """A built guest: two paths, the kernel arguments that it always wants, and a name for its content."""

    kernel: str
    initrd: str
    append: str
    fingerprint: str


def find() -> GuestImage | None:
    """Return the image of the user's own cache, else of the system's; None when neither has one that is up to date."""
    for cache in dict.fromkeys((own_cache(), SYSTEM_CACHE)):
        if (image := find_in(cache)) is not None:
            return image
    return None


def build(report: Callable[[str], None]) -> GuestImage:
    """Return the image, made now if need be (seconds, and a download of some 70 MB where no kernel is at hand).

    `report` is told what takes time. Raises HostLacks, with the command that helps, when no kernel or no busybox can
    be had.
    """
    image = find()
    if image is not None:
        return image
    from qemunet.guest.build import build_in

    return build_in(own_cache(), report)


def own_cache() -> str:
    """Return the caller's cache directory: root's is the one that everybody may read."""
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return f"{base}/qemunet/guest"


def find_in(cache: str) -> GuestImage | None:
    """Return the image of one cache, None when it has none that is whole and up to date."""
    ours = recipe()
    path = f"{cache}/{index_name(ours)}"
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
            used = os.fstat(file.fileno()).st_mtime
        image = _image_of(cache, index, ours)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if image is not None and time.time() - used > TOUCH:
        _touch(path)
    return image


def index_name(number: str) -> str:
    """Return the name of a recipe's index in a cache."""
    return INDEX.format(number)


def recipe() -> str:
    """Return a number for our own part of the content: what is written, and the scripts in it."""
    here = os.path.dirname(__file__)
    checksum = 0
    for name in (*RECIPE, *(f"files/{script}" for script in SCRIPTS)):
        with open(f"{here}/{name}", "rb") as file:
            checksum = zlib.crc32(file.read(), checksum)
    return f"{checksum:08x}"


def agent() -> str:
    """Return our agent, a shell script that other guests can run as well."""
    with open(f"{os.path.dirname(__file__)}/files/agent.sh", encoding="utf-8") as file:
        return file.read()


def stamp(path: str) -> Stamp:
    """Return how a file looks from outside; OSError when it is not there."""
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def _touch(path: str) -> None:
    """Note that an index is in use; where it is not ours, the system's note of when it was read has to do."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _image_of(cache: str, index: dict[str, object], ours: str) -> GuestImage | None:
    fingerprint = str(index["fingerprint"])
    image = GuestImage(
        f"{cache}/{fingerprint}/vmlinux", f"{cache}/{fingerprint}/initrd", str(index["append"]), fingerprint
    )
    sizes = [os.stat(path).st_size for path in (image.kernel, image.initrd)]
    readable = os.access(image.kernel, os.R_OK) and os.access(image.initrd, os.R_OK)
    fresh = index["recipe"] == ours and not _changed(index["made_from"])
    return image if readable and fresh and sizes == index["sizes"] else None


def is_public(path: str) -> bool:
    """Tell from the mode bits whether every user may read a file; an access list that says otherwise is not seen."""
    folders = [path[:end] or "/" for end, letter in enumerate(path) if letter == "/"]
    return bool(os.stat(path).st_mode & 0o004) and all(os.stat(folder).st_mode & 0o001 for folder in folders)


def _changed(made_from: object) -> bool:
    """Whether a file that went into the image is another one now; one that is gone takes nothing from the image."""
    assert isinstance(made_from, list)
    for path, size, changed in made_from:
        try:
            if stamp(path) != (path, size, changed):
                return True
        except FileNotFoundError:
            continue
    return False
