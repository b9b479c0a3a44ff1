"""Becomes a program that runs in a namespace of a lab, as on a host of its own."""

from __future__ import annotations

import contextlib
import os
import signal

from qemunet.host import netns, spaces

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
_MS_BIND, _MS_REC, _MS_SLAVE, _MNT_DETACH = 0x1000, 0x4000, 0x80000, 2
ETC = "/etc/netns"  # NAME/FILE there stands for /etc/FILE (ip-netns(8))
NOT_EXECUTABLE, NOT_FOUND = 126, 127


def become(runtime: str, name: str, argv: list[str]) -> int:
    """Replace this process, which must have one thread only, by a program in a namespace of a lab.

    Its host name and network are those of the namespace, /sys shows that network, and files in ``/etc/netns/NAME``
    stand for those in /etc. Return the status to end with if there is no such program. Raises Vanished, OSError.
    """
    with spaces.opened(runtime, name) as net:
        uts = os.open(spaces.path(runtime, name, "uts"), os.O_RDONLY | os.O_CLOEXEC)
        netns.call("setns", uts, _CLONE_NEWUTS)
        netns.call("setns", net, _CLONE_NEWNET)
    with contextlib.suppress(OSError):  # who may not mount sees /sys as it is
        _mount(name)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - it is the user's own command, and there is no shell in it
    except FileNotFoundError:
        return NOT_FOUND
    except PermissionError:
        return NOT_EXECUTABLE


def _mount(name: str) -> None:
    """Have a mount namespace of our own, into which others' mounts come, but none of ours go out."""
    netns.call("unshare", _CLONE_NEWNS)
    netns.call("mount", b"none", b"/", b"none", _MS_REC | _MS_SLAVE, None)
    for source, target in _etc(f"{ETC}/{name}"):
        netns.call("mount", source.encode(), target.encode(), b"none", _MS_BIND, None)
    with contextlib.suppress(OSError):
        netns.call("umount2", b"/sys", _MNT_DETACH)
    netns.call("mount", b"sysfs", b"/sys", b"sysfs", 0, None)


def _etc(folder: str) -> list[tuple[str, str]]:
    """Return what stands for files of /etc that are there."""
    entries = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [(f"{folder}/{entry}", f"/etc/{entry}") for entry in entries if os.path.exists(f"/etc/{entry}")]
