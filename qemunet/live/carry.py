"""Carries files and directories into a guest and out of it, as what a command there reads and writes."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import tarfile
import tempfile
import typing

from qemunet import interrupts
from qemunet.errors import Failed, UsageError
from qemunet.live import untar
from qemunet.live.frames import BULK, Kind
from qemunet.live.inside import Command

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemunet.state import Runtime

_CHUNK = 65536  # bytes
_MESSAGE = 4096  # bytes of what a guest's program says about its failure
_ABSENT, _DIRECTORY = 66, 67  # how the scripts below end

# $1: the target, $2: the name that the file or directory has here, $3: its mode, or "tree" for a tar of it.
_TAKE = """
[ ! -d "$1" ] || set -- "${1%/}/$2" "$2" "$3"
[ "$3" != tree ] || { mkdir -p "$1" && exec tar -x -p -o -f - -C "$1"; exit 1; }
[ ! -d "$1" ] || exit 67
cat >"$1" && chmod "$3" "$1"
"""
# $1: the source, $2: whether it may be a directory. First says what it is.
_GIVE = """
[ -e "$1" ] || exit 66
if [ -d "$1" ]; then [ "$2" = yes ] || exit 67; echo tree; exec tar -c -f - -C "$1" .; fi
[ -r "$1" ] && stat -c %a "$1" && exec cat "$1"
"""


def into(here: Runtime, vm: str, source: str, target: str, *, recursive: bool, boot: float) -> None:
    """Copy a file or, if `recursive`, a directory to `target` in a guest; into it, if that is a directory there.

    Permissions are kept; everything belongs to root there. Raises UsageError, Failed with what the guest says, OSError.
    """
    name = os.path.basename(os.path.abspath(source))
    if not os.path.isdir(source):
        with open(source, "rb") as file, _command(here, vm, _TAKE, target, name, _mode(file.fileno()), boot) as sink:
            while piece := file.read(BULK):
                sink.write(piece)
        return
    if not recursive:
        raise UsageError(f"{source} is a directory", hint="-r copies it with all that is in it")
    with (
        _command(here, vm, _TAKE, target, name, "tree", boot) as sink,
        tarfile.open(
            fileobj=typing.cast("typing.IO[bytes]", sink), mode="w|", bufsize=BULK, format=tarfile.GNU_FORMAT
        ) as archive,
    ):
        archive.add(source, ".")


def out_of(here: Runtime, vm: str, source: str, target: str, *, recursive: bool, boot: float) -> list[str]:
    """Copy a file or, if `recursive`, a directory from a guest to `target`; into it, if that is a directory here.

    Permissions are kept. A file is complete or not there. Returns what was left out since it is neither a file, a
    directory nor a link. Raises UsageError, Failed with what the guest says, OSError.
    """
    if os.path.isdir(target):
        target = os.path.join(target, posixpath.basename(posixpath.normpath(source)))
    with _command(here, vm, _GIVE, source, "yes" if recursive else "no", "", boot, gives=True) as stream:
        what = stream.line()
        if what == b"tree":
            return untar.extract(stream, target)
        _write(stream, target, int(what, 8) if what.isdigit() else 0o644)
    return []


def _mode(fd: int) -> str:
    return f"{stat.S_IMODE(os.fstat(fd).st_mode) & 0o777:o}"


def _write(stream: Stream, target: str, mode: int) -> None:
    """Write a file beside its place and put it there when it is complete; what is no file is written into."""
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as file:
            _copy(stream, file)
        return
    target = os.path.realpath(target)
    fd, draft = tempfile.mkstemp(prefix=f".{os.path.basename(target)[:200]}.", dir=os.path.dirname(target))
    try:
        with open(fd, "wb") as file:
            _copy(stream, file)
        os.chmod(draft, mode & 0o777)
        os.rename(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _copy(stream: Stream, file: typing.BinaryIO) -> None:
    while data := stream.read(_CHUNK):
        file.write(data)
    stream.check()


class Stream:
    """A command in a guest as a file: what is written goes in, what is read has come out. Raises Failed if it fails."""

    def __init__(self, command: Command, vm: str, path: str) -> None:
        self._command = command
        self._place = f"{vm}:{path}"
        self._read = bytearray()
        self._said = bytearray()

    def write(self, data: bytes) -> int:
        """Have the command read all of it."""
        self._command.send(Kind.INPUT, data)
        while self._command.full:
            self._more()
            if self._command.status is not None:
                self.check()
                raise Failed("the command there has ended too early", where=self._place)
        return len(data)

    def read(self, size: int) -> bytes:
        """Return the next bytes, `size` at most; nothing at the end."""
        while not self._read and self._command.status is None:
            self._more()
        data = bytes(self._read[:size])
        del self._read[:size]
        return data

    def line(self) -> bytes:
        """Return the next line, without its end."""
        while (end := self._read.find(b"\n")) < 0:
            if self._command.status is not None:
                self.check()
                raise Failed("the command there says nothing", where=self._place)
            self._more()
        data = bytes(self._read[:end])
        del self._read[: end + 1]
        return data

    def finish(self) -> None:
        """There is no more input; wait for the end."""
        if self._command.status is None:
            self._command.send(Kind.EOF)
        while self._command.status is None:
            self._more()
        self.check()

    def check(self) -> None:
        """Raise Failed if the command has failed."""
        status = self._command.status
        if status == _ABSENT:
            raise Failed("no such file or directory", where=self._place)
        if status == _DIRECTORY:
            raise Failed("it is a directory", where=self._place, hint="-r copies one with all that is in it")
        if status:
            said = self._said.decode(errors="replace").strip()
            raise Failed(said or f"the command there has failed with status {status}", where=self._place)

    def _more(self) -> None:
        interrupts.check()
        for kind, data in self._command.frames(readable=self._command.wait()):
            if kind is Kind.OUT:
                self._read += data
            else:
                self._said = (self._said + data)[-_MESSAGE:]


@contextlib.contextmanager
def _command(
    here: Runtime, vm: str, script: str, path: str, second: str, third: str, boot: float, *, gives: bool = False
) -> Iterator[Stream]:
    """Have a script run in a guest; at the end of this it has done its work. If this is left early, it is killed."""
    argv: Sequence[str] = ("sh", "-c", script, "sh", path, second, third)
    with Command.begin(here, vm, argv, has_input=not gives, is_bulk=gives, boot=boot) as command:
        stream = Stream(command, vm, path)
        yield stream
        stream.finish()
