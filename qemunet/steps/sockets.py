"""Steps about sockets that QEMU gets open, by which cards reach other programs."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step

UNIX = "unix:"


@frozen
class OpenSocket:
    """Open a socket under `handle`: one that listens, one that is connected, or, for datagrams, both at once.

    Addresses are ``HOST:PORT``, ``[HOST]:PORT`` or ``unix:PATH``; `where` is whom errors are about.
    """

    handle: str
    where: str
    listen: str = ""
    connect: str = ""
    datagram: bool = False

    def describe(self) -> str:
        kind = "UDP " if self.datagram else ""
        words = [f"listen at {kind}{self.listen}"] if self.listen else []
        words += [f"connect to {kind}{self.connect}"] if self.connect else []
        return f"{' and '.join(words)} for {self.where}"

    def inverse(self, before: Facts) -> Step | None:
        path = self.listen.removeprefix(UNIX)
        return RemoveSocket(self.handle, path) if path != self.listen else None

    def shell(self) -> tuple[str, ...]:
        return ()  # QEMU opens it by its address


@frozen
class RemoveSocket:
    """Remove a socket from the file system, if nobody listens there any more."""

    handle: str
    path: str

    def describe(self) -> str:
        return f"remove the socket {self.path}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (line("rm", "-f", self.path),)
