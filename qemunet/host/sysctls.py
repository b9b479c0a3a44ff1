"""Reads and writes sysctls in the network namespace of the calling thread."""

from __future__ import annotations

import contextlib
import errno
import os

from qemunet.host.links import Vanished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.steps import SetSysctl

_EXCHANGED = str.maketrans("./", "/.")


def path(key: str) -> str:
    """Return the file of a key, in which a slash stands for a dot that is part of a name (sysctl.d(5))."""
    return "/proc/sys/" + key.translate(_EXCHANGED)


def read(key: str) -> str | None:
    """Return the value, its words joined by single blanks, or None if there is no such key."""
    try:
        with open(path(key)) as file:
            return " ".join(file.read().split())
    except (FileNotFoundError, PermissionError):
        return None


def write(key: str, value: str) -> None:
    """Set the value; raises Vanished if there is no such key."""
    try:
        fd = os.open(path(key), os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Vanished(errno.ENOENT, f"there is no sysctl {key}") from error
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def write_if_there(key: str, value: str) -> None:
    """Set the value where the kernel has such a key: IPv6 can be missing as a whole."""
    with contextlib.suppress(Vanished):
        write(key, value)


def set_if_unchanged(step: SetSysctl) -> None:
    """Do the step; raises Vanished if somebody else has changed the value since."""
    if step.only_if is not None and read(step.key) != " ".join(step.only_if.split()):
        raise Vanished(errno.ESTALE, f"{step.key} is not {step.only_if} any more")
    write(step.key, step.value)
