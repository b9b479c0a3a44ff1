"""What resolving a lab goes by: the file, the profiles, the photograph, and what the host was found to lack."""

from __future__ import annotations

from qemunet.errors import HostLacks
from qemunet.facts import FileFact

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    from qemunet.config.spec import LabSpec, Profile, VmSpec
    from qemunet.facts import Facts, LinkFact

    T = TypeVar("T")


class Scene:
    """`strict`: the lab is to be run, not just looked at. `lacks` collects what the host lacks, each with a hint.

    `running`: it runs already, and what it was started from may be gone.
    """

    def __init__(
        self, spec: LabSpec, profiles: Mapping[str, Profile], facts: Facts, *, strict: bool, running: bool = False
    ) -> None:
        self.spec = spec
        self.profiles = profiles
        self.facts = facts
        self.strict = strict
        self.running = running
        self.lacks: dict[str, str] = {}
        self.uids: set[int] = set()  # given away so far
        self.subnets: dict[str, str] = {}  # likewise, by network
        self.groups: dict[int, str] = {}  # of devices of the host, each with the vm that has it

    def lack(self, what: str, hint: str = "") -> None:
        """Note that the host lacks something; it matters when the lab is to be run."""
        if self.strict:
            self.lacks.setdefault(what, hint)

    def settle(self) -> None:
        """Raise HostLacks if anything was lacking."""
        if self.lacks:
            hints = dict.fromkeys(hint for hint in self.lacks.values() if hint)
            raise HostLacks([*self.lacks], hint="; ".join(hints))

    def profile(self, vm: VmSpec) -> Profile:
        """Return a vm's profile."""
        return self.profiles[vm.profile or "q35"]

    def link(self, name: str) -> LinkFact | None:
        """Return the interface of that name or alternative name."""
        links = self.facts.links
        return links.get(name) or next((link for link in links.values() if name in link.altnames), None)

    def file(self, path: str, name: str) -> FileFact:
        """Return the fact of the file `name` that is named at `path`; raises ConfigError."""
        fact = self.facts.files.get(name)
        if fact is None and self.running:
            return FileFact(name, 0, regular=True, readable=True)
        if fact is None:
            hint = "~ is not expanded here" if "/~" in name else ""
            raise self.spec.error(path, f"no such file: {name}", hint)
        return fact

    def regular(self, path: str, name: str) -> FileFact:
        """Return the fact of a file that is no directory and that the calling user may read; raises ConfigError."""
        fact = self.file(path, name)
        if fact.directory:
            raise self.spec.error(path, f"{name} is a directory")
        if self.strict and self.facts.uid != 0 and not fact.readable:
            raise self.spec.error(path, f"{name} cannot be read: permission denied")
        return fact


def first(*values: T | None, otherwise: T) -> T:
    """Return the first value that is given."""
    return next((value for value in values if value is not None), otherwise)


def absolute(spec: LabSpec, name: str) -> str:
    """Return a path of the lab file as an absolute one."""
    import posixpath  # loaded with Python itself

    return posixpath.normpath(posixpath.join(posixpath.dirname(spec.path), name))
