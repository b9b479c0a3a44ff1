"""Changes cables that are up while they are used: the VLANs of their ends, as a lab file has them."""

from __future__ import annotations

import typing

from qemunet import plan, runner
from qemunet.config import profiles, resolve
from qemunet.config.cables import name as name_of
from qemunet.errors import NotTakenBack
from qemunet.frozen import replace
from qemunet.live import session
from qemunet.live.cables import as_made, in_place
from qemunet.live.netchange import Row
from qemunet.live.photo import photograph
from qemunet.plan.live import Disruption
from qemunet.state import write_private
from qemunet.steps import SetVlans

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.spec import LabSpec
    from qemunet.facts import Facts
    from qemunet.host.linux import LinuxHost
    from qemunet.model.cable import Cable
    from qemunet.model.lab import Lab
    from qemunet.state import Runtime, Scope
    from qemunet.steps import Step


def apply(runtime: Runtime, host: LinuxHost, spec: LabSpec, *, dry: bool) -> list[Row]:
    """Put the ends of cables of a lab that are up into the VLANs that it says; return what there was to do.

    Raises any QemunetError; then the cable that it is about is as it was.
    """
    there = {f"cable/{name_of(one)}" for one in spec.cables}
    scopes = [one for one in runtime.scopes("cable") if one.name in there and one.fingerprint() is not None]
    if not scopes:
        return []
    with runtime.exclusive():
        lab = _lab(runtime, host, spec, [one.name.partition("/")[2] for one in scopes])
        return [row for scope in scopes for row in _applied(host, lab, scope, dry=dry)]


def _lab(runtime: Runtime, host: LinuxHost, spec: LabSpec, cables: list[str]) -> Lab:
    used = profiles.load_all(spec)
    facts = photograph(runtime, resolve.wanted(spec, used), host)
    return resolve.resolve(spec, used, facts, strict=False, running=True, networks_only=[], cables_only=cables)


def _applied(host: LinuxHost, lab: Lab, scope: Scope, *, dry: bool) -> list[Row]:
    old = as_made(scope)
    shall = next(one for one in lab.cables if one.name == old.name)
    a, b = (replace(was, vlans=now.vlans) for was, now in zip(old.ends, shall.ends, strict=True))
    new = replace(old, a=a, b=b)
    lines = list(_lines(old, new))
    if lines and not dry:
        _do(host, lab, scope, old, new)
    return [Row("", line, Disruption.LIVE.value, not dry, cable=old.name) for line in lines]


def _lines(old: Cable, new: Cable) -> Iterator[str]:
    for side, was, now in (("a", old.a.vlans, new.a.vlans), ("b", old.b.vlans, new.b.vlans)):
        if was != now:
            yield f"{side}-vlan: {was or 'none'} to {now or 'none'}"


def _do(host: LinuxHost, lab: Lab, scope: Scope, old: Cable, new: Cable) -> None:
    from qemunet.config.write import cable_toml

    facts = in_place(host, old)
    with session.working(scope) as journal:
        before = {one.number for one in journal.owed(started=True)}
        try:
            runner.apply(_steps(old, new, facts), facts, host, journal)
        except BaseException as error:
            failures = runner.unwind(journal, host, started=True, which=lambda one: one.number not in before)
            if failures:
                raise NotTakenBack([str(error), *map(str, failures)]) from error
            raise
        write_private(scope.path("cable.toml"), cable_toml(lab, new))
        scope.complete(plan.cables.fingerprint(new))
        journal.compact()


def _steps(old: Cable, new: Cable, facts: Facts) -> Iterator[Step]:
    """Yield what changes ends that are in a bridge; one that is out is in its VLANs when it is plugged in again."""
    for was, now in zip(old.ends, new.ends, strict=True):
        link = plan.spaces.seen(was.netns, facts).links.get(was.ifname)
        if was.vlans != now.vlans and link is not None and link.master is not None:
            yield plan.spaces.at(was.netns, SetVlans(was.ifname, now.vlans, was=was.vlans))
