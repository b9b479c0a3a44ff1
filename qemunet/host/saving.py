"""Changes a lab file on disk: whole or not at all, and never over what somebody else has written meanwhile.

The new content goes into a file beside it, which then takes its name. Savers of one directory wait for each other (a
flock on it); against editors, which take no lock, the file is looked at once more just before. If it is another one by
then, everything begins again with what is in it now, so an `edit` says what to change and not what the result is. What
remains is the instant between that look and the renaming.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import typing

from qemunet import interrupts
from qemunet.errors import ConfigError, Failed, QemunetError
from qemunet.frozen import frozen
from qemunet.locks import hold_directory

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TRIES = 20
_LARGEST = 4 << 20  # bytes, as for the reader
_LONGEST = 200  # bytes of the file's name in that of the draft; a name may have 255
_MARK = ".qemunet-save"
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@frozen
class Saved:
    """`path` is the file that was meant, behind all links.

    `changed`: there was something to change. `meanwhile`: the file was another one than the caller had seen.
    """

    path: str
    changed: bool
    meanwhile: bool


@frozen
class _Version:
    """What is in a file, and by what one sees that it is another: times alone are too coarse for that."""

    content: bytes
    stat: os.stat_result

    def is_same(self, other: _Version) -> bool:
        return self.content == other.content and _identity(self.stat) == _identity(other.stat)


def save(file: str, seen: bytes | None, edit: Callable[[str], str]) -> Saved:
    """Put what `edit` makes of the file's text in its place; mode and, as far as permitted, owner stay.

    `seen` is what the caller takes to be in the file, if he looked. `edit` may be called several times, and what it
    raises leaves the file alone. Other hard links to the file keep the old content. Raises ConfigError for a file that
    is no text, Failed if it does not come to rest, QemunetError if it cannot be written, Interrupted and TimedOut.
    """
    for _ in range(_TRIES):
        interrupts.check()
        path = os.path.realpath(file)
        try:
            with _directory(path) as folder:
                found = _attempt(folder, file, path, edit)
        except OSError as error:
            raise _refused(file, path, error) from error
        if found is not None:
            old, changed = found
            return Saved(path, changed, meanwhile=seen is not None and seen != old)
    hint = "nothing was changed; close what writes it, and try again"
    raise Failed(f"somebody else has changed it {_TRIES} times while it was to be saved", where=file, hint=hint)


def check(file: str, edit: Callable[[str], str]) -> None:
    """See that `save` would do it as things are now; raises what it would raise, and changes nothing."""
    path = os.path.realpath(file)
    folder, name = os.path.split(path)
    try:
        with _opened(folder) as fd:
            text = _text(file, _read(fd, name).content)
        if edit(text) == text:
            return
        _permitted(file, path)
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _refused(file, path, error) from error


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    fd = _open(folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _attempt(folder: int, file: str, path: str, edit: Callable[[str], str]) -> tuple[bytes, bool] | None:
    """Edit the file; return what was in it and whether that changed, None if somebody else was faster."""
    if os.path.realpath(file) != path:
        return None  # a link was changed while somebody else had the lock
    name = os.path.basename(path)
    old = _read(folder, name)
    text = _text(file, old.content)
    try:
        new = edit(text)
    except QemunetError:
        if _is_still(folder, name, old):
            raise
        return None  # an editor had only begun to write
    if new == text:
        return old.content, False
    _permitted(file, path)
    return (old.content, True) if _replace(folder, name, old, new.encode()) else None


def _permitted(file: str, path: str) -> None:
    if not os.access(path, os.W_OK, effective_ids=True):
        raise QemunetError("cannot be saved: it is read-only for you", where=file, hint="nothing was changed")


def _replace(folder: int, name: str, old: _Version, content: bytes) -> bool:
    """Give the file's name to a new one if it still is the old one; the draft never stays."""
    draft = f"{_stem(name)}{secrets.token_hex(8)}{_MARK}"
    try:
        _write(folder, draft, content, old.stat)
        if not _is_still(folder, name, old):
            return False
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
    with contextlib.suppress(OSError):  # not every file system can: the file is there all the same
        os.fsync(folder)
    return True


def _write(folder: int, draft: str, content: bytes, model: os.stat_result) -> None:
    with open(os.open(draft, _CREATE, 0o600, dir_fd=folder), "wb") as file:
        file.write(content)
        file.flush()
        _own(file.fileno(), model)
        os.fsync(file.fileno())


def _own(fd: int, model: os.stat_result) -> None:
    """Give a new file the owner and the mode of another; a group that it cannot have gets no more than the others."""
    mode = stat.S_IMODE(model.st_mode)
    with contextlib.suppress(PermissionError):
        os.fchown(fd, -1, model.st_gid)
    with contextlib.suppress(PermissionError):
        os.fchown(fd, model.st_uid, -1)
    if os.fstat(fd).st_gid != model.st_gid:
        mode &= ~0o2070 | ((mode & 0o007) << 3)
    os.fchmod(fd, mode)


# ---------------------------------------------------------------- reading


def _read(folder: int, name: str) -> _Version:
    """Return what is in a file now; raises ConfigError for what is no regular one, and OSError."""
    fd = os.open(name, _READ, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(name, "", "is a directory, a pipe or a device, not a lab file")
    with open(fd, "rb") as file:
        return _Version(file.read(_LARGEST + 1), os.fstat(fd))


def _is_still(folder: int, name: str, old: _Version) -> bool:
    try:
        return _read(folder, name).is_same(old)
    except FileNotFoundError:
        return False  # some editors move it away first


def _identity(seen: os.stat_result) -> tuple[int, ...]:
    owned = (seen.st_mode, seen.st_uid, seen.st_gid)
    return (seen.st_dev, seen.st_ino, *owned, seen.st_size, seen.st_mtime_ns)


def _text(file: str, content: bytes) -> str:
    if len(content) > _LARGEST:
        raise ConfigError(file, "", f"is larger than {_LARGEST >> 20} MiB, which no lab file is")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(file, "", f"not UTF-8 text (byte 0x{content[error.start]:02x} in line {line})") from None


# ---------------------------------------------------------------- the directory


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    """Open the directory of a file, which is ours alone within, and clear it of what killed savers left."""
    folder, name = os.path.split(path)
    fd, locked = _locked(folder)
    try:
        if locked:
            _clear(fd, name)
        yield fd
    finally:
        os.close(fd)


def _locked(folder: str) -> tuple[int, bool]:
    """Return the open directory, and whether it is locked: over NFS it cannot be."""
    while True:
        fd = _open(folder)
        try:
            if hold_directory(fd, folder):
                return fd, True
        except OSError:
            return _open(folder), False
        os.close(fd)


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _stem(name: str) -> str:
    """Return what the names of a file's drafts begin with."""
    return f".{name.encode(errors='surrogateescape')[:_LONGEST].decode(errors='replace')}."


def _clear(folder: int, name: str) -> None:
    """Remove the drafts of savers that were killed: whoever lives holds the lock."""
    for left in os.listdir(folder):
        if left.startswith(_stem(name)) and left.endswith(_MARK):
            with contextlib.suppress(OSError):
                os.unlink(left, dir_fd=folder)


def _refused(file: str, path: str, error: OSError) -> QemunetError:
    """Put into words why a file cannot be replaced."""
    folder = os.path.dirname(path)
    if isinstance(error, FileNotFoundError):
        return ConfigError(file, "", "no such file")
    hint = "nothing was changed"
    if isinstance(error, PermissionError):
        hint += f"; the file has to be readable, and {folder} writable, for the new content is first written beside it"
    return QemunetError(f"cannot be saved: {error.strerror}", where=file, hint=hint)
