"""Brings networks up without vms, holds those that are up, and takes down what nobody is on.

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
from qemunet.config import modes
from qemunet.errors import NotFound, NotTakenBack, Taken
from qemunet.live import mend, session
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
_BY_NAME = "by name"  # whoever holds a network that was up did not say of which file it is


def up(
    runtime: Runtime, host: LinuxHost, source: Source, names: Sequence[str], tell: Callable[[str], None]
) -> list[str]:
    """Bring these networks of a lab file up, and hold them; without names, all that it makes. Return which.

    `tell` gets a line for each that needs no bringing up. Raises any QemunetError; then everything was taken back, or
    `NotTakenBack` says what was not.
    """
    chosen = _chosen(source, names)
    session.clean(runtime, host)
    with _taken_back(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        found = source.think_networks(runtime, chosen, host)
        ours = [name for name in chosen if found.parts[name]]
        for name in chosen:
            if name not in ours:
                tell(f"note: {name}: there is nothing to bring up, it is used as it is")
        _make(runtime, host, found)
        _hold(runtime, ours, source.spec.path)
    return ours


def hold(runtime: Runtime, host: LinuxHost, names: Sequence[str]) -> list[str]:
    """Hold networks that are up; raises NotFound for one that is not, and then none is held that was not."""
    session.clean(runtime, host)
    with _taken_back(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        sources = {name: Source.read(_known(runtime, name).path("net.toml")) for name in names}
        thoughts = [source.think_networks(runtime, [name], host) for name, source in sources.items()]
        for found in thoughts:
            _make(runtime, host, found)
        _hold(runtime, list(sources), _BY_NAME)
    return list(sources)


def down(runtime: Runtime, host: LinuxHost, names: Sequence[str]) -> list[str]:
    """Take networks down that no guest is on, held or kept; return those that are gone.

    Raises NotFound for one that is not up and Taken for one with guests, whom it names; then nothing was done.
    """
    session.clean(runtime, host)
    with runtime.exclusive():
        scopes = [_known(runtime, name) for name in names]
        _refuse_used(scopes)
        for scope in scopes:
            for mark in (_HELD, "keep"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(scope.path(mark))
    with interrupts.deferred():
        failures = session.reap(runtime, host)
    if failures:
        raise NotTakenBack(failures)
    return [name for name in names if not runtime.scope(plan.links.network_scope(name)).exists()]


def of_file(runtime: Runtime, file: str) -> list[str]:
    """Return the networks that are up and that a lab file makes, or that were brought up from it if it is gone.

    Raises ConfigError, and NotFound if there is none.
    """
    from qemunet.config import read

    path = os.path.abspath(file)
    there = [scope.name.removeprefix("net/") for scope in runtime.scopes("net")]
    if os.path.exists(path):
        made = {network.name for network in read.load(file).networks if modes.makes_bridge(network)}
        found = [name for name in there if name in made]
    else:
        found = [name for name in there if _held_by(runtime.scope(f"net/{name}")) == path]
    if not found:
        raise NotFound("no network of this file is up", where=file, hint="`qemunet net list` shows those that are")
    return found


# ---------------------------------------------------------------- parts of these


def _chosen(source: Source, names: Sequence[str]) -> list[str]:
    """Return the networks that are meant: those that are named, or all but those that are another lab's to make."""
    known = [network.name for network in source.spec.networks]
    for name in names:
        if name not in known:
            every = ", ".join(known) or "none"
            raise NotFound(f'no network "{name}" in this lab', where=source.spec.file, hint=f"it has: {every}")
    own = [network.name for network in source.spec.networks if not network.external]
    if not names and not own:
        raise NotFound("this lab makes no network", where=source.spec.file)
    return list(dict.fromkeys(names)) or own


@contextlib.contextmanager
def _taken_back(runtime: Runtime, host: LinuxHost) -> typing.Iterator[None]:
    """Within, an exception takes down what was made and is not held."""
    try:
        yield
    except BaseException as error:
        with interrupts.deferred():
            failures = session.reap(runtime, host)
        if failures:
            raise NotTakenBack([str(error), *failures]) from error
        raise


def _make(runtime: Runtime, host: LinuxHost, found: Networks) -> None:
    """Make what is not up, and again what somebody has deleted of what is."""
    every = {part.scope: part for parts in found.parts.values() for part in parts}
    new = [part for part in every.values() if not plan.is_up(part, found.facts)]
    refuse_taken_networks(runtime, Plan(shared=tuple(new)))
    for part in new:
        session.make_shared(runtime, host, found.lab, part, found.facts)
    for part in every.values():
        if part not in new and part.scope.startswith("net/"):
            mend.again(runtime, host, runtime.scope(part.scope))


def _hold(runtime: Runtime, names: Sequence[str], file: str) -> None:
    """Hold networks that are made; all at once."""
    interrupts.check()
    new = [scope for scope in (runtime.scope(f"net/{name}") for name in names) if not scope.held()]
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
    scope = runtime.scope(f"net/{name}")
    if not is_name(name) or scope.fingerprint() is None:
        there = ", ".join(sorted(runtime.networks())) or "none"
        hint = "`qemunet net up FILE` brings up those of a lab file"
        raise NotFound(f'no network "{name}" is up (up: {there})', hint=hint)
    return scope


def _refuse_used(scopes: Sequence[Scope]) -> None:
    """Raise Taken if guests are on any of these networks."""
    for scope in scopes:
        guests = scope.users()
        if guests:
            name = scope.name.removeprefix("net/")
            verb, stop = ("is", "ends it") if len(guests) == 1 else ("are", "ends them")
            hint = f"`qemunet stop {' '.join(guests)}` {stop}"
            raise Taken(f"{', '.join(guests)} {verb} on it", where=f"network.{name}", hint=hint)


def _held_by(scope: Scope) -> str:
    try:
        with open(scope.path(_HELD)) as file:
            return file.read().rstrip("\n")
    except FileNotFoundError:
        return ""
