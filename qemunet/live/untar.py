"""Unpacks an archive that nobody is to be trusted with: nothing outside its folder is touched."""

from __future__ import annotations

import os
import tarfile
import typing

from qemunet.errors import Failed

if typing.TYPE_CHECKING:
    from qemunet.live.carry import Stream

_CHUNK = 65536  # bytes


def extract(stream: Stream, folder: str) -> list[str]:
    """Unpack a tar into a folder, which is made if need be; return the names of what was left out.

    Files, directories and links have their permissions but the dangerous bits, and belong to the caller. Symbolic links
    are made last, and none that is there is followed. Raises Failed if a name leads out of the folder, OSError.
    """
    os.makedirs(folder, exist_ok=True)
    left_out, modes, links = [], {}, []
    try:
        with tarfile.open(fileobj=typing.cast("typing.IO[bytes]", stream), mode="r|") as archive:
            for member in archive:
                path = _inside(folder, member.name)
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                    modes[path] = member.mode & 0o777
                elif member.isreg():
                    _write(archive, member, path)
                elif member.issym():
                    links.append((member.linkname, path))
                elif member.islnk():
                    _link(_inside(folder, member.linkname), path)
                else:
                    left_out.append(member.name)
    except tarfile.TarError as error:
        stream.check()
        raise Failed(f"what comes is no whole archive: {error}") from error
    for target, path in links:
        _gone(path)
        os.symlink(target, path)
    for path, mode in reversed(modes.items()):  # a directory may be closed to us afterwards
        os.chmod(path, mode)
    return left_out


def _inside(folder: str, name: str) -> str:
    """Return where a member belongs; raises Failed if that is not within the folder, or by way of a link."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise Failed(f'the archive has a name that leads out of it: "{name}"')
    path = folder
    for part in parts[:-1]:
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise Failed(f"{path} is a link, which is not followed")
    return os.path.join(folder, *parts)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    content = archive.extractfile(member)
    assert content is not None, "a file has content"
    _gone(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        while data := content.read(_CHUNK):
            file.write(data)
        os.fchmod(fd, member.mode & 0o777)


def _link(target: str, path: str) -> None:
    _gone(path)
    os.link(target, path, follow_symlinks=False)


def _gone(path: str) -> None:
    """Remove a file or a link, so that nothing is written through it."""
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
        os.unlink(path)
