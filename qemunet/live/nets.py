"""Brings networks and cables up without vms, holds those that are up, and takes down what nobody is on.

Theory of operation. `net up` is a user of networks as a vm is: it makes what is not there by the same steps, and then
holds it by a file in the network's scope, beside ``keep``. That is one file with a name in the scope of each network
that one command brings up, and it counts from when something is written into it: all of them are held at once, or, if
the command was killed before, none, and whoever comes next takes down what it had made.
"""

from __future__ import annotations

import contextlib
import os
import typing

from qemunet import interrupts, plan
from qemunet.config import cables, modes, notes
from qemunet.errors import NotFound, NotTakenBack, Taken
from qemunet.live import mend, session
from qemunet.live.sheets import of_shared
from qemunet.live.source import Source
from qemunet.live.taken import refuse_taken_networks
from qemunet.model.names import is_name
from qemunet.steps import Plan

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemunet.host.linux import LinuxHost
    from qemunet.live.source import Networks
    from qemunet.state import Runtime, Scope

    Tell = Callable[[str], None]

_HELD = "held"
_KINDS = ("cable", "net", "netns")
_SERVER = "dnsmasq"
_BY_NAME = "by name"  # whoever holds a network that was up did not say of which file it is


def up(
    runtime: Runtime, host: LinuxHost, source: Source, names: Sequence[str], tell: Callable[[str], None]
) -> list[str]:
    """Bring these networks and cables of a lab file up, and hold them; without names, all that it makes.

    Return their scopes. `tell` gets a line for each that needs no bringing up. Raises any QemunetError; then everything
    was taken back, or `NotTakenBack` says what was not.
    """
    chosen = _chosen(source, names)
    session.clean(runtime, host)
    with taken_back(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        found = source.think_networks(runtime, chosen, host)
        for text in notes.notes(found.lab, found.facts):
            tell(f"note: {text}")
        ours = [scope for scope in chosen if found.parts[scope]]
        for scope in chosen:
            if scope not in ours:
                tell(f"note: {_name(scope)}: there is nothing to bring up, it is used as it is")
        make(runtime, host, found)
        hold_all(runtime, ours, source.spec.path)
    return ours


def hold(runtime: Runtime, host: LinuxHost, names: Sequence[str]) -> list[str]:
    """Hold networks and cables that are up, return their scopes.

    Raises NotFound for one that is not, and then none is held that was not.
    """
    session.clean(runtime, host)
    with taken_back(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        scopes = [_known(runtime, name) for name in names]
        thoughts = [
            Source.read(scope.path(_files(scope))).think_networks(runtime, [scope.name], host) for scope in scopes
        ]
        for found in thoughts:
            make(runtime, host, found)
        hold_all(runtime, [scope.name for scope in scopes], _BY_NAME)
    return [scope.name for scope in scopes]


def down(runtime: Runtime, host: LinuxHost, names: Sequence[str], tell: Tell) -> list[str]:
    """Let networks and cables go, held or kept, and take those down that nobody uses; return those that are gone.

    `tell` gets a line for each that goes with its last guest. Raises NotFound for one that is not up, and Taken for one
    that only its users keep, whom it names; then nothing was done.
    """
    session.clean(runtime, host)
    with runtime.exclusive():
        scopes = [_known(runtime, name) for name in names]
        _refuse_used([scope for scope in scopes if not _is_only_held(scope)])
        for scope in scopes:
            if scope.guests():
                tell(f"{_name(scope.name)}: goes with its last guest; on it: {', '.join(scope.guests())}")
            for mark in (_HELD, "keep"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(scope.path(mark))
    with interrupts.deferred():
        failures = session.reap(runtime, host)
    if failures:
        raise NotTakenBack(failures)
    return [_name(scope.name) for scope in scopes if not scope.exists()]


def of_file(runtime: Runtime, file: str) -> list[str]:
    """Return the networks and cables that are up and that a lab file makes, or was brought up for if it is gone.

    Raises ConfigError, and NotFound if there is none.
    """
    from qemunet.config import read

    path = os.path.abspath(file)
    there = runtime.scopes(*_KINDS)
    if os.path.exists(path):
        spec = read.load(file)
        made = {plan.links.network_scope(network.name) for network in spec.networks if modes.makes_bridge(network)}
        made |= {plan.spaces.scope(netns.name) for netns in spec.spaces}
        made |= {plan.cables.scope(cables.name(cable)) for cable in spec.cables}
        found = [scope.name for scope in there if scope.name in made]
    else:
        found = [scope.name for scope in there if _held_by(scope) == path]
    if not found:
        raise NotFound("no network of this file is up", where=file, hint="`qemunet net list` shows those that are")
    return found


# ---------------------------------------------------------------- parts of these


def _chosen(source: Source, names: Sequence[str]) -> list[str]:
    """Return the scopes that are meant: of those that are named, or all but those that are another lab's to make."""
    spec = source.spec
    known = {netns.name: plan.spaces.scope(netns.name) for netns in spec.spaces}
    known |= {network.name: plan.links.network_scope(network.name) for network in spec.networks}
    wired = {cables.name(cable): plan.cables.scope(cables.name(cable)) for cable in spec.cables}
    for name in names:
        if name not in known and name not in wired:
            every = ", ".join((*known, *wired)) or "none"
            raise NotFound(f'no network "{name}" in this lab', where=spec.file, hint=f"it has: {every}")
    others = {network.name for network in spec.networks if network.external}
    own = [*(scope for name, scope in known.items() if name not in others), *wired.values()]
    if not names and not own:
        raise NotFound("this lab makes no network", where=spec.file)
    return [known.get(name) or wired[name] for name in dict.fromkeys(names)] or own


def _name(scope: str) -> str:
    return scope.partition("/")[2]


def _files(scope: Scope) -> str:
    """Return the name of the file that says what a scope was made from."""
    return f"{scope.name.partition('/')[0]}.toml"


@contextlib.contextmanager
def taken_back(runtime: Runtime, host: LinuxHost) -> typing.Iterator[None]:
    """Within, an exception takes down what was made and is not held."""
    try:
        yield
    except BaseException as error:
        with interrupts.deferred():
            failures = session.reap(runtime, host)
        if failures:
            raise NotTakenBack([str(error), *failures]) from error
        raise


def make(runtime: Runtime, host: LinuxHost, found: Networks) -> None:
    """Make what is not up, and again what somebody has deleted of what is."""
    every = {part.scope: part for parts in found.parts.values() for part in parts}
    new = [part for part in every.values() if not plan.is_up(part, found.facts)]
    refuse_taken_networks(runtime, Plan(shared=tuple(new)))
    for part in new:
        session.make_shared(runtime, host, part, found.facts, of_shared(found.lab, part.scope))
    for part in every.values():
        if part not in new and part.scope.startswith("net/"):
            mend.again(runtime, host, runtime.scope(part.scope))
            _revive(host, runtime.scope(part.scope))


def _revive(host: LinuxHost, scope: Scope) -> None:
    """Start what serves a network again if it is dead: without a guest there is no keeper who would."""
    from qemunet.host import daemons

    if os.path.exists(os.path.join(scope.serving(), f"{_SERVER}.json")):
        host.place.inside(lambda: daemons.again(scope.serving(), _SERVER))


def hold_all(runtime: Runtime, scopes: Sequence[str], file: str) -> None:
    """Hold what is made; all at once."""
    interrupts.check()
    new = [scope for scope in map(runtime.scope, scopes) if not scope.held()]
    if new:
        _mark(new, file)


def _mark(scopes: Sequence[Scope], file: str) -> None:
    """Say of all networks at once that they are held: with a single write to a file that is in all their scopes."""
    paths = [scope.path(_HELD) for scope in scopes]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    fd = os.open(paths[0], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for path in paths[1:]:
            os.link(paths[0], path)
        os.write(fd, f"{file}\n".encode())
    finally:
        os.close(fd)


def _known(runtime: Runtime, name: str) -> Scope:
    """Return what is up of that name, or of a scope's: a network, or a cable."""
    kinds = [f"{kind}/{name}" for kind in _KINDS] if is_name(name) else [name]
    found = [scope for scope in runtime.scopes(*_KINDS) if scope.name in kinds and scope.fingerprint() is not None]
    if not found:
        there = ", ".join(sorted(runtime.networks())) or "none"
        hint = "`qemunet net up FILE` brings up those of a lab file"
        raise NotFound(f'no network "{name}" is up (up: {there})', hint=hint)
    return max(found, key=lambda scope: not scope.name.startswith("cable/"))


def _is_only_held(scope: Scope) -> bool:
    """Tell whether a network with guests would outlive them, and would go with them if it were let go."""
    stays = scope.held() or os.path.exists(scope.path("keep"))
    return scope.name.startswith("net/") and stays and bool(scope.guests()) and not scope.cables()


def _refuse_used(scopes: Sequence[Scope]) -> None:
    """Raise Taken if guests are on any of these, or cables that are to stay."""
    going = {scope.name for scope in scopes}
    for scope in scopes:
        kind, _, name = scope.name.partition("/")
        where = {"cable": f"cable {name}", "netns": f"netns.{name}"}.get(kind, f"network.{name}")
        guests = scope.guests()
        if guests:
            verb, stop = ("is", "ends it") if len(guests) == 1 else ("are", "ends them")
            hint = f"`qemunet stop {' '.join(guests)}` {stop}"
            raise Taken(f"{', '.join(guests)} {verb} on it", where=where, hint=hint)
        inside = [network for network in scope.networks() if plan.links.network_scope(network) not in going]
        if inside:
            hint = f"`qemunet net down {' '.join(inside)}` takes down what is in it"
            raise Taken(f"the switch of {', '.join(inside)} is in it", where=where, hint=hint)
        plugged = [cable for cable in scope.cables() if plan.cables.scope(cable) not in going]
        if plugged:
            hint = f"`qemunet cable del {' '.join(plugged)}` takes away what keeps it"
            what = "the cable {} is" if len(plugged) == 1 else "the cables {} are"
            raise Taken(f"{what.format(', '.join(plugged))} plugged into it", where=where, hint=hint)


def _held_by(scope: Scope) -> str:
    try:
        with open(scope.path(_HELD)) as file:
            return file.read().rstrip("\n")
    except FileNotFoundError:
        return ""
