"""Namespaces of a lab: what makes one, and steps that are done inside of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qemunet import steps
from qemunet.errors import Taken
from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.model import names
from qemunet.model.netns import Netns
from qemunet.steps import Claim, Part, WriteFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.steps import Step

_OF_A_PLACE = ("links", "addresses", "routes", "sysctls", "wires", "stp", "macs_on_bridge")


def scope(netns: str) -> str:
    """Return the scope of a namespace."""
    return f"netns/{netns}"


def fingerprint(netns: Netns) -> str:
    """Return what is equal for namespaces whose users may share one."""
    return names.digest(repr(netns), 16)


def part(netns: Netns, facts: Facts) -> Part:
    """Return the part that makes a namespace, nothing if it is up. Raises Taken if `ip netns` has one of that name."""
    up = scope(netns.name) in facts.scopes
    return Part(scope(netns.name), () if up else tuple(_steps(netns, facts)), fingerprint(netns))


def at(netns: str, step: Step) -> Step:
    """Return a step as it is done in a namespace of the lab, empty for the host's own."""
    return steps.In(netns, step) if netns else step


def all_at(netns: str, those: Iterable[Step]) -> tuple[Step, ...]:
    """Return steps as they are done in a namespace of the lab; files are everywhere the same."""
    return tuple(step if _is_everywhere(step) else at(netns, step) for step in those) if netns else tuple(those)


def _is_everywhere(step: Step) -> bool:
    """A daemon says itself where it is."""
    return isinstance(step, Claim | WriteFile | steps.StartDaemon)


def seen(netns: str, facts: Facts) -> Facts:
    """Return what a photograph shows of a namespace; one that is not there yet is empty."""
    if not netns:
        return facts
    there = facts.places.get(netns) or Facts(facts.runtime, "", facts.uid, can_switch_user=False)
    own = {key: getattr(there, key) for key in _OF_A_PLACE}
    return replace(facts, **own, ports={}, listeners={}, carried={})


def _steps(netns: Netns, facts: Facts) -> Iterator[Step]:
    if netns.named and netns.name in facts.netns:
        hint = "`ip netns` lists those there are; another name, or named = false, leaves it alone"
        raise Taken(f"ip netns has a namespace {netns.name} already", where=f"netns.{netns.name}", hint=hint)
    yield steps.AddNetns(netns.name, netns.hostname)
    if netns.named:
        yield steps.NameNetns(netns.name)
    yield from (steps.In(netns.name, steps.SetSysctl(key, value)) for key, value in netns.sysctls)
    yield from (steps.In(netns.name, steps.AddAddress("lo", address)) for address in netns.addresses)
