"""Knows disk images: what a qcow2 header says, new images, and nameless overlays."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import typing

from qemunet.errors import Failed, HostLacks, Taken
from qemunet.facts import FileFact
from qemunet.frozen import replace
from qemunet.host import caller
from qemunet.host.files import write_whole
from qemunet.host.links import Vanished

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

    from qemunet.steps import CreateImage, OpenOverlay, RemoveImage

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQ")  # magic, version, offset and size of the backing name, cluster bits, disk size
_BACKING_FORMAT = 0xE2792ACA
_NAME_MAX = 1023  # QEMU's own limit of a backing name
_V2_SIZE, _V3_SIZE = 72, 104
_DATA_ELSEWHERE = 1 << 2  # of the incompatible features of version 3
_DEPTH = 16
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR)  # what file systems, and kernels, without O_TMPFILE say
_DEADLINE = 60  # seconds for qemu-img, which writes a few kilobytes
_OVERLAY_DIRECTORY = "/var/tmp"  # noqa: S108 - nameless files only, as QEMU's own snapshot=on does


def look_at(paths: Iterable[str]) -> dict[str, FileFact]:
    """Return the files that are there, and those that qcow2 headers name as their backing, and theirs."""
    found: dict[str, FileFact] = {}
    wanted = list(paths)
    for _ in range(_DEPTH):
        facts = {path: fact for path in wanted if path not in found and (fact := _look(path))}
        found |= facts
        wanted = [fact.backing for fact in facts.values() if fact.backing]
        if not wanted:
            break
    readable = caller.readable(list(found))
    return {path: replace(fact, readable=path in readable) for path, fact in found.items()}


def create(step: CreateImage) -> None:
    """Make an image that belongs to the calling user. Raises Taken if the path is; then nothing was made.

    It gets its name when it is finished and the note is written: at no time is there a file of which it could not be
    told whether it was made here.
    """
    try:
        fd = os.open(os.path.dirname(step.path) or ".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in _NO_NAMELESS:
            raise
        _create_in_place(step)
        return
    try:
        _fill(fd, step)
        _note(step, os.fstat(fd))
        _give_name(fd, step)
    finally:
        os.close(fd)


def remove(step: RemoveImage) -> None:
    """Remove an image that was created and not changed since; raises Vanished if it was not, or is another file."""
    try:
        with open(step.note) as file:
            made = file.read()
        status = os.stat(step.path, follow_symlinks=False)
    except FileNotFoundError as error:
        raise Vanished(*error.args) from error
    if made not in (_identity(status), _identity(status, finished=False)):
        raise Vanished(errno.ENOENT, f"{step.path} is not as it was made")
    os.unlink(step.path)
    os.unlink(step.note)


def open_overlay(step: OpenOverlay, runtime: str) -> int:
    """Return a descriptor of an empty qcow2 file without a name, as big as the image.

    The image is not named in it: QEMU is told what lies below. So a size is all that is believed of a header here.
    """
    fd = _nameless(runtime)
    try:
        _format(fd, "qcow2", _disk_size(step.image, raw=step.raw))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _give_name(fd: int, step: CreateImage) -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # without one, Python does not follow the link
    try:
        os.link(f"/proc/self/fd/{fd}", step.path, src_dir_fd=root, follow_symlinks=True)
    except FileExistsError as error:
        raise _exists(step) from error
    finally:
        os.close(root)


def _create_in_place(step: CreateImage) -> None:
    """Make an image where every file has a name from its first moment on (NFS, FAT)."""
    try:
        fd = os.open(step.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError as error:
        raise _exists(step) from error
    try:
        _note(step, os.fstat(fd), finished=False)
        _fill(fd, step)
        _note(step, os.fstat(fd))
    except BaseException:
        os.unlink(step.path)
        raise
    finally:
        os.close(fd)


def _exists(step: CreateImage) -> Taken:
    return Taken(f"{step.path} exists already and is not overwritten")


def _fill(fd: int, step: CreateImage) -> None:
    user = caller.owner()
    if user is not None:
        os.fchown(fd, *user)
    _format(fd, step.format, step.size)


def _note(step: CreateImage, status: os.stat_result, *, finished: bool = True) -> None:
    """Write down which file it is, whole or not at all."""
    write_whole(step.note, _identity(status, finished=finished))


def _identity(status: os.stat_result, *, finished: bool = True) -> str:
    """Say which file it is; with the time of its last change, because a number is given to the next file at once."""
    return f"{status.st_dev} {status.st_ino} {status.st_mtime_ns if finished else 'unfinished'}\n"


def _format(fd: int, kind: str, size: int) -> None:
    """Write an empty image of `size` bytes into an open file."""
    argv = ["qemu-img", "create", "-q", "-f", kind, f"/proc/self/fd/{fd}", str(size)]
    try:
        done = subprocess.run(
            argv,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            pass_fds=[fd],
        )
    except FileNotFoundError as error:
        raise HostLacks(["qemu-img"], hint="Debian has it in qemu-utils") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"qemu-img did not end within {_DEADLINE} s") from error
    if done.returncode:
        raise Failed(f"qemu-img could not create a {kind} image of {size} bytes: {done.stderr.strip()}")


def _nameless(runtime: str) -> int:
    """Open a new file that has no name, on disk if possible."""
    for directory in (_OVERLAY_DIRECTORY, runtime):
        try:
            return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            refused = error
    raise refused


def _disk_size(path: str, *, raw: bool) -> int:
    """Return how big the disk in an image is, in whole sectors."""
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
        size = file.seek(0, os.SEEK_END)
    if not raw and head.startswith(_MAGIC) and len(head) == _HEADER.size:
        size = int(_HEADER.unpack(head)[5])
    return -(-size // 512) * 512


def _look(path: str) -> FileFact | None:
    """Describe a file; None if it is not there. Its header is read only if it is an ordinary file."""
    import stat

    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a header may name anything, even what no path can be
        return None
    fact = FileFact(
        path,
        status.st_size,
        regular=stat.S_ISREG(status.st_mode),
        readable=False,
        directory=stat.S_ISDIR(status.st_mode),
        executable=bool(status.st_mode & 0o111),
    )
    if not fact.regular:
        return fact
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 16)
    except OSError:
        return fact
    return _with_header(fact, data) if data.startswith(_MAGIC) else fact


def _with_header(fact: FileFact, data: bytes) -> FileFact:
    """Add what a qcow2 header says; a torn one says nothing."""
    fact = replace(fact, qcow2=True)
    if len(data) < _V2_SIZE:
        return fact
    _magic, version, offset, size, _bits, _disk = _HEADER.unpack_from(data)
    if version >= 3 and len(data) >= _V3_SIZE:
        features = int(struct.unpack_from(">Q", data, _V2_SIZE)[0])
        fact = replace(fact, data_elsewhere=bool(features & _DATA_ELSEWHERE))
    if not offset or not 0 < size <= _NAME_MAX or offset + size > len(data):
        return fact
    name = data[offset : offset + size].decode(errors="surrogateescape")
    return replace(fact, backing=_resolved(fact.path, name), backing_format=_extension(data, version))


def _resolved(image: str, name: str) -> str:
    """Return a backing name as an absolute path; what is no file (``nbd://…``, ``json:…``) stays as it is."""
    head, colon, rest = name.partition(":")
    if colon and "/" not in head:
        if head != "file":
            return name
        name = rest
    return os.path.normpath(os.path.join(os.path.dirname(image), name))


def _extension(data: bytes, version: int) -> str | None:
    """Return the backing format that a header's extensions name."""
    at = int(struct.unpack_from(">I", data, 100)[0]) if version >= 3 and len(data) >= _V3_SIZE else _V2_SIZE
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(">II", data, at)
        if kind == 0:
            return None
        if kind == _BACKING_FORMAT:
            return data[at + 8 : at + 8 + size].decode(errors="replace")
        at += 8 + (size + 7 & ~7)
    return None
