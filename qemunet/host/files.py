"""Claims, small private files, and files that QEMU gets open."""

from __future__ import annotations

import errno
import fcntl
import os

from qemunet.errors import Taken
from qemunet.host.links import Vanished
from qemunet.locks import is_byte_locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.steps import Claim, LoadFile, OpenFile, RemoveFile, Unclaim, WriteFile

_WRITES, _ALONE = 101, 201  # bytes of an image that a QEMU locks which writes to it, and bears no other writer
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def make_private(directory: str) -> None:
    """Make a directory, and those above it that are missing, for nobody else's eyes."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_private(os.path.dirname(directory))
        make_private(directory)


def claim(step: Claim) -> None:
    """Make the claim's file. Raises Taken, by whom, if it is there; then nothing was made."""
    make_private(os.path.dirname(step.path))
    try:
        fd = os.open(step.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Taken(f"{_said(step.path)} is taken by {_text(step.path) or 'somebody'}") from error
    with open(fd, "w") as file:
        file.write(step.by)


def unclaim(step: Unclaim) -> None:
    """Remove the claim's file; raises Vanished if it is somebody else's.

    An empty one is nobody's: claims are made under a lock, so whoever made it was killed before he wrote his name.
    """
    if _text(step.path) not in (step.by, ""):
        raise Vanished(errno.ENOENT, f"{_said(step.path)} is not claimed by {step.by}")
    os.unlink(step.path)


def write(step: WriteFile) -> None:
    """Write a private file, whole or not at all."""
    make_private(os.path.dirname(step.path))
    write_whole(step.path, step.text)


def write_whole(path: str, text: str) -> None:
    """Write a private file, whole or not at all."""
    draft = f"{path}.new"
    _write(draft, text)
    os.rename(draft, path)


def remove(step: RemoveFile) -> None:
    """Remove a file; raises Vanished if it is not there."""
    try:
        os.unlink(step.path)
    except FileNotFoundError as error:
        raise Vanished(*error.args) from error


def open_file(step: OpenFile) -> int:
    """Open a file for QEMU, with exactly the access that it will ask for. Raises Taken if another QEMU has it."""
    fd = os.open(step.path, (os.O_RDWR if step.writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOCTTY)
    if is_byte_locked(fd, _WRITES) or (step.writable and is_byte_locked(fd, _ALONE)):
        from qemunet.host.complaints import image_taken

        os.close(fd)
        raise image_taken(step.handle.partition(":")[0], step.path)
    return fd


def load(step: LoadFile) -> int:
    """Return a descriptor of a copy in memory, which any user may open again by ``/proc/self/fd/N``."""
    copy = os.memfd_create(os.path.basename(step.path), os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        source = os.open(step.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            while os.sendfile(copy, source, None, 1 << 30):
                pass
        finally:
            os.close(source)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _write(path: str, content: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(content)


def _text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def _said(path: str) -> str:
    """Name a claim as people do: ``mac/52:54:00:…``."""
    return "/".join(path.split("/")[-2:])
