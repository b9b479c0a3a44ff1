"""Steps about programs that serve a network as long as it is up."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step
    from qemunet.steps.words import Word

FILES = "files"  # the handle that stands for a program's own directory


@frozen
class StartDaemon:
    """Start the program `name` in the scope at `directory`, and wait until it has written `ready` to its log.

    It has ``NAME.log``, which is locked as long as it lives, and ``NAME.pid``; what it reads lies in ``NAME/``, by
    `FILES` in its `argv`, where only what it `writes` is its own: files, and directories if they end with a slash. With
    a `uid` it is that user, with these `rights` (capabilities(7)) and no others. `script` is the same for a shell,
    `where` whom errors are about. `netns`: the namespace of the lab that it serves in, empty for the host's own.
    """

    name: str
    directory: str
    argv: tuple[Word, ...]
    where: str
    ready: str
    uid: int | None = None
    writes: tuple[str, ...] = ()
    script: tuple[str, ...] = ()
    netns: str = ""
    rights: tuple[str, ...] = ("net_admin", "net_raw", "net_bind_service")

    def describe(self) -> str:
        who = f" as uid {self.uid}" if self.uid else ""
        return f"start {self.name} of {self.where}{who}{f' in {self.netns}' if self.netns else ''}"

    def inverse(self, before: Facts) -> Step | None:
        return EndDaemon(self.name, self.directory)

    def shell(self) -> tuple[str, ...]:
        return self.script


@frozen
class EndDaemon:
    """End a program that serves a network or a card, and wait until it is gone."""

    name: str
    directory: str

    def describe(self) -> str:
        return f"end {self.name} of {'/'.join(self.directory.split('/')[-2:])}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (line("end", f"{_network(self.directory)}.{self.name}"),)


@frozen
class Reconfigure:
    """Have a program that serves a network begin again with other files; `was` is what these had in them before.

    What it has lent it remembers: that is a file of its own.
    """

    name: str
    directory: str
    where: str
    files: tuple[tuple[str, str], ...]  # paths in its own directory, and texts
    was: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        return f"restart {self.name} of {self.where} with another {', '.join(path for path, _ in self.files)}"

    def inverse(self, before: Facts) -> Step | None:
        return Reconfigure(self.name, self.directory, self.where, self.was) if self.was else None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class Reserve:
    """Write a file that a program which runs reads at once; `path` is in its own directory.

    `was`: the text of the file in whose place it comes, empty if there is none.
    """

    name: str
    directory: str
    path: str
    text: str
    was: str = ""

    def describe(self) -> str:
        return f"tell {self.name} of {self.text.strip()}"

    def inverse(self, before: Facts) -> Step | None:
        if self.was:
            return Reserve(self.name, self.directory, self.path, self.was)
        return Unreserve(self.name, self.directory, self.path)

    def shell(self) -> tuple[str, ...]:
        return (f"printf '%s\\n' {line(self.text.rstrip())} >{_file(self)}",)


@frozen
class Unreserve:
    """Remove such a file, and have the program read the others again (SIGHUP)."""

    name: str
    directory: str
    path: str

    def describe(self) -> str:
        return f"take {self.path} from {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (f"rm -f {_file(self)}",)


@frozen
class SetOffload:
    """Let the host's side of a network leave the checksums of what it sends to a card that may do them, or not.

    A guest whose card is said to do such things takes a frame that has none; a DHCP client that reads raw frames does
    not.
    """

    name: str
    on: bool

    def describe(self) -> str:
        return f"{'leave' if self.on else 'do not leave'} checksums to {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return SetOffload(self.name, not self.on) if self.name in before.links else None

    def shell(self) -> tuple[str, ...]:
        note = "note: without ethtool some guests do not take the answers of DHCP"
        told = line("ethtool", "-K", self.name, "tx", "on" if self.on else "off")
        return (f'if command -v ethtool >/dev/null; then {told} >/dev/null; else echo "{note}" >&2; fi',)


def _file(step: Reserve | Unreserve) -> str:
    """Return where a script has a file that a program of the network reads; see `plan.shell` for its `run`."""
    return f'"$run"/{line(f"{_network(step.directory)}.{step.name}")}/{line(step.path)}'


def _network(directory: str) -> str:
    return directory.rpartition("/")[2]
