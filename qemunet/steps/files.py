"""Steps about claims, files and disk images."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step


@frozen
class Claim:
    """Take something that only one may have: a MAC, a uid, a place among a network's guests. An exclusive file."""

    path: str
    by: str

    def describe(self) -> str:
        return f"claim {_claimed(self.path)} for {self.by}"

    def inverse(self, before: Facts) -> Step | None:
        return Unclaim(self.path, self.by)

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class Unclaim:
    """Give up a claim, if it is still that owner's."""

    path: str
    by: str

    def describe(self) -> str:
        return f"give up {_claimed(self.path)}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


def _claimed(path: str) -> str:
    """Say what a claim is about: ``mac/52:54:00:…``, or ``a place on net/lab``."""
    *_, kind, name, what, key = ("", "", *path.split("/"))
    return f"a place on {kind}/{name}" if what == "users" else f"{what}/{key}"


@frozen
class WriteFile:
    """Write a small private file (mode 0600) into a directory of ours."""

    path: str
    text: str

    def describe(self) -> str:
        return f"write {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return RemoveFile(self.path)

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class RemoveFile:
    """Remove a file of ours."""

    path: str

    def describe(self) -> str:
        return f"remove {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (line("rm", "-f", self.path),)


@frozen
class CreateImage:
    """Create an empty disk image. It is the user's: it stays once the guest runs, and goes if the start fails.

    `note` is a file of ours that says which file it is before it has its name.
    """

    path: str
    format: str
    size: int  # bytes
    note: str

    def describe(self) -> str:
        return f"create {self.format} image {self.path} of {self.size} bytes"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.path in before.files else RemoveImage(self.path, self.note)

    def shell(self) -> tuple[str, ...]:
        create = line("qemu-img", "create", "-q", "-f", self.format, self.path, str(self.size))
        return (f"[ -e {line(self.path)} ] || {create}",)


@frozen
class RemoveImage:
    """Remove an image that was created, if it is still the file that the note tells of, and as it was made."""

    path: str
    note: str

    def describe(self) -> str:
        return f"remove {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()  # no script removes a user's image: it may hold work by then


@frozen
class OpenFile:
    """Open a file under `handle` for a QEMU that may not open it by itself."""

    handle: str
    path: str
    writable: bool = False

    def describe(self) -> str:
        return f"open {self.path} ({'read and write' if self.writable else 'read'})"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class LoadFile:
    """Copy a file into memory under `handle`; QEMU opens that by ``/proc/self/fd/N`` under any user."""

    handle: str
    path: str

    def describe(self) -> str:
        return f"load {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class OpenOverlay:
    """Make a nameless qcow2 file as large as an image, under `handle`: it takes what is written in its place.

    It names no backing file; QEMU is told of that. `raw`: the image is one, whatever it looks like.
    """

    handle: str
    image: str
    raw: bool = False

    def describe(self) -> str:
        return f"open a throw-away overlay of {self.image}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()
