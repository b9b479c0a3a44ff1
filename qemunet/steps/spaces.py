"""Steps about network namespaces: made, named, and other steps done inside of them."""

from __future__ import annotations

import re

from qemunet.facts import Facts
from qemunet.frozen import frozen, replace
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.steps import Step

_IP = re.compile(r"^ip (?=\w)")
_IF, _THEN = "if ", "; then "


@frozen
class AddNetns:
    """Make a network namespace with a host name of its own; it is there until it is deleted, with nobody in it."""

    name: str
    hostname: str

    def describe(self) -> str:
        return f"add namespace {self.name} (hostname {self.hostname})"

    def inverse(self, before: Facts) -> Step | None:
        return DelNetns(self.name)

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "netns", "add", self.name), line("ip", "-n", self.name, "link", "set", "dev", "lo", "up"))


@frozen
class DelNetns:
    """End what was started in a namespace as on its host, and let go of it: it is gone when nobody else is in it."""

    name: str

    def describe(self) -> str:
        return f"delete namespace {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "netns", "del", self.name),)


@frozen
class NameNetns:
    """Let ``ip netns`` see a namespace under its name (ip-netns(8)). A shell has named it when it was made."""

    name: str

    def describe(self) -> str:
        return f"show {self.name} to ip netns"

    def inverse(self, before: Facts) -> Step | None:
        return UnnameNetns(self.name)

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class UnnameNetns:
    """Take the name of one of our namespaces from ``ip netns``."""

    name: str

    def describe(self) -> str:
        return f"hide {self.name} from ip netns"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class In:
    """Do a step inside of a namespace of the lab."""

    netns: str
    step: Step

    def describe(self) -> str:
        return f"in {self.netns}: {self.step.describe()}"

    def inverse(self, before: Facts) -> Step | None:
        inside = before.places.get(self.netns) or replace(before, links={}, addresses={}, routes=(), sysctls={})
        undo = self.step.inverse(inside)
        return None if undo is None else In(self.netns, undo)

    def shell(self) -> tuple[str, ...]:
        return tuple(inside(self.netns, text) for text in self.step.shell())


def bare(step: Step) -> Step:
    """Return what is done, wherever that is."""
    return step.step if isinstance(step, In) else step


def inside(netns: str, text: str) -> str:
    """Return a line of shell that does the same in a namespace."""
    if _IP.match(text):
        return _IP.sub(f"ip -n {line(netns)} ", text)
    there = f"ip netns exec {line(netns)}"
    if text.startswith(_IF):
        return text.replace(_THEN, f"{_THEN}{there} ", 1)
    return f"{there} {text}"
