"""Lays out the built-in guest's file system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemunet.guest import cpio, modules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DIRECTORIES = (
    "bin",
    "dev",
    "etc",
    "lib",
    "lib/guest",
    "lib/modules",
    "proc",
    "root",
    "root/www",
    "run",
    "run/calls",
    "sys",
    "tmp",
    "var",
)
LINKS = {"sbin": "bin", "usr": ".", "var/run": "/run", "etc/mtab": "/proc/self/mounts"}
# Of the console: login tells each login to it when there is no system log. The last line: a guest whose root directory
# is full can still be told to remove something.
FSTAB = """\
proc /proc proc defaults 0 0
sysfs /sys sysfs defaults 0 0
devtmpfs /dev devtmpfs defaults 0 0
/dev/null /dev/console none bind 0 0
calls /run/calls tmpfs mode=700,size=20% 0 0
"""
ACCOUNTS = "root::0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"
CURSOR_QUESTION = b"\x1b[6n\0"
NC, ASIDE = b"\0nc\0netstat\0", b"\0nd\0netstat\0"  # in the sorted table of applets


def build(
    release: str,
    chosen: Mapping[str, modules.Module],
    busybox: bytes,
    applets: Sequence[str],
    scripts: Mapping[str, str],
) -> bytes:
    """Return the archive: `release` is the kernel's, `scripts` are our files by name."""
    return cpio.archive(
        [
            *(cpio.Directory(path) for path in DIRECTORIES),
            *(cpio.Symlink(path, target) for path, target in LINKS.items()),
            cpio.CharDevice("dev/console", 5, 1),  # what process 1 talks to before /dev is mounted
            cpio.Fifo("run/events"),
            cpio.Fifo("run/asked"),
            cpio.Fifo("run/turn"),
            *_programs(busybox, applets, scripts),
            *_settings(scripts),
            *_drivers(release, chosen),
        ]
    )


def without_cursor_question(busybox: bytes) -> bytes:
    """Return a busybox whose shell does not ask the terminal where its cursor is.

    It asks at each prompt, with an escape sequence and whatever TERM says; no setting turns it off but turning off
    line editing as well. A program that reads our console is no terminal and never answers.
    """
    if busybox.count(CURSOR_QUESTION) != 1:
        return busybox
    return busybox.replace(CURSOR_QUESTION, bytes(len(CURSOR_QUESTION)))


def with_nc_aside(busybox: bytes) -> bytes:
    """Return a busybox that calls its nc nd: its shell takes an applet before any other program of that name."""
    return busybox.replace(NC, ASIDE) if busybox.count(NC) == 1 else busybox


def _programs(busybox: bytes, applets: Sequence[str], scripts: Mapping[str, str]) -> Iterator[cpio.Entry]:
    changed = with_nc_aside(busybox)
    own = {"busybox"} if changed is busybox else {"busybox", "nc"}
    yield cpio.File("bin/busybox", without_cursor_question(changed), 0o755)
    yield from (cpio.Symlink(f"bin/{applet}", "busybox") for applet in applets if applet not in own)
    if "nc" in own:
        yield cpio.File("bin/nc", scripts["nc.sh"].encode(), 0o755)


def _settings(scripts: Mapping[str, str]) -> Iterator[cpio.Entry]:
    yield cpio.File("init", scripts["init.sh"].encode(), 0o755)
    yield cpio.File("lib/guest/cards.sh", scripts["cards.sh"].encode())
    yield cpio.File("lib/guest/agent.sh", scripts["agent.sh"].encode())
    yield cpio.File("lib/guest/lease", scripts["lease.sh"].encode(), 0o755)
    yield cpio.File("lib/guest/hotplug", scripts["hotplug.sh"].encode(), 0o755)
    yield cpio.File("etc/profile", scripts["profile.sh"].encode())
    yield cpio.File("etc/fstab", FSTAB.encode())
    yield cpio.File("etc/passwd", ACCOUNTS.encode())
    yield cpio.File("etc/group", GROUP.encode())


def _drivers(release: str, chosen: Mapping[str, modules.Module]) -> Iterator[cpio.Entry]:
    base = f"lib/modules/{release}"
    yield cpio.Directory(base)
    for module in chosen.values():
        yield cpio.File(f"{base}/{module.name}.ko", module.content)
    yield cpio.File(f"{base}/modules.dep", modules.dependency_table(chosen).encode())
    yield cpio.File(f"{base}/modules.alias", modules.alias_table(chosen).encode())
    yield cpio.File(f"{base}/modules.symbols", b"")
