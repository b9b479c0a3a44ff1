"""What a keeper has done for it in a thread of its own, one thing after the other, because it blocks."""

from __future__ import annotations

import contextlib
import typing

from qemunet import state
from qemunet.errors import Interrupted, UsageError
from qemunet.frozen import frozen, replace
from qemunet.live.process import Seen

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from qemunet.live.console import Say
    from qemunet.live.mend import Found
    from qemunet.live.netchange import Row
    from qemunet.live.watchmen import Revived


@frozen
class Wish:
    """A start that somebody asked the keeper for; `wanted` tells whether he still waits for it.

    `tethered`: a single vm ends with his connection; `held`: all of them do. `environ` is the part of his environment
    that secrets of scripts come from.
    """

    file: str
    vms: tuple[str, ...]
    overrides: tuple[str, ...]
    tethered: bool
    tell: Say
    wanted: Callable[[], bool]
    environ: Mapping[str, str]
    held: bool = False


class Worker:
    """Works in the runtime directory for the keeper of one lab."""

    def __init__(self, runtime: state.Runtime, lab: str) -> None:
        self.runtime = runtime
        self.lab = lab

    def take_back(self, vm: str, pid: int, start_time: int) -> list[str]:
        """Undo all that was done for a vm that has ended, whose QEMU was that process; return what could not be.

        Nothing, if somebody else was quicker: then another one of that name may run by now.
        """
        from qemunet.host.linux import LinuxHost
        from qemunet.live import session

        host = LinuxHost(self.runtime.path)
        try:
            return session.take_back(self.runtime, host, [vm], lambda scope: _is_of(scope, pid, start_time))
        finally:
            host.close()

    def start(self, wish: Wish) -> list[Seen]:
        """Start vms of this keeper's lab; raises any QemunetError, and then everything was taken back."""
        from qemunet.host.linux import LinuxHost
        from qemunet.live import session
        from qemunet.live.source import Source
        from qemunet.live.thinker import Here

        source = Source.read(wish.file, wish.overrides)
        if source.spec.name != self.lab:
            raise UsageError(f"this is the keeper of the lab {self.lab}, not of {source.spec.name}")
        host = LinuxHost(self.runtime.path)
        try:
            thinker = Here(source, wish.vms, environ=wish.environ, tell=wish.tell)
            session.start(
                self.runtime,
                host,
                thinker,
                tethered=wish.held or (wish.tethered and len(thinker.brief.vms) == 1),
                commit=lambda names: _check(wish),
            )
            return [_seen(guest) for guest in host.guests.values()]
        finally:
            host.close()

    def revive(self, network: str) -> Revived | None:
        """Start what serves a network again if it is dead; None if there is no such network. Raises QemunetError."""
        from qemunet.host import daemons
        from qemunet.live.watchmen import NAME, Revived

        scope = self.runtime.scope(f"net/{network}")
        if not scope.exists():
            return None
        with self.runtime.exclusive():
            if scope.fingerprint() is None:
                return None
            found = daemons.again(scope.serving(), NAME)
            return None if found is None else Revived(*found)

    def apply_networks(self, file: str, overrides: Sequence[str], *, dry: bool) -> list[Row]:
        """Make the networks and cables of a lab file that are up what it says; return what there was to do."""
        from qemunet.config import read
        from qemunet.host.linux import LinuxHost
        from qemunet.live import cablechange, netchange

        spec = read.load(file, overrides)
        with contextlib.closing(LinuxHost(self.runtime.path)) as host:
            networks = netchange.apply(self.runtime, host, spec, dry=dry)
            return [*networks, *cablechange.apply(self.runtime, host, spec, dry=dry)]

    def see_off(self) -> list[Row]:
        """Take the old addresses of networks away that nobody has a lease by any more; return what was done."""
        from qemunet.live import netchange

        if not netchange.overdue(self.runtime):
            return []
        from qemunet.host.linux import LinuxHost

        with contextlib.closing(LinuxHost(self.runtime.path)) as host:
            return netchange.see_off(self.runtime, host)

    def mend(self, vms: Sequence[str], bridges: Collection[str]) -> list[Found]:
        """Put right what is wrong with bridges that cards of these vms are on; return how each is now."""
        from qemunet.live import mend

        return mend.look(self.runtime, vms, bridges)

    def living(self) -> list[Seen]:
        """Return the guests of the lab that run, whoever started them."""
        return [
            Seen(vm.name, vm.pid, vm.start_time)
            for vm in self.runtime.vms()
            if vm.lab == self.lab and vm.state == "running" and vm.pid and vm.start_time
        ]

    def untie(self, vms: Iterable[str]) -> None:
        """Note that these vms do not end with a terminal any more."""
        for name in vms:
            scope = self.runtime.scope(f"vm/{name}")
            record = scope.record()
            if record is not None and record.tethered:
                with contextlib.suppress(FileNotFoundError):
                    scope.save(replace(record, tethered=False))

    def tie(self, vms: Sequence[str]) -> None:
        """Note that these vms end with a terminal."""
        for name in vms:
            scope = self.runtime.scope(f"vm/{name}")
            record = scope.record()
            if record is not None and not record.tethered:
                with contextlib.suppress(FileNotFoundError):
                    scope.save(replace(record, tethered=True))


def _is_of(scope: state.Scope, pid: int, start_time: int) -> bool:
    known = scope.record()
    return known is not None and (known.pid, known.start_time) == (pid, start_time)


def _check(wish: Wish) -> None:
    if not wish.wanted():
        raise Interrupted("the process that asked for this is gone")


def _seen(guest: typing.Any) -> Seen:
    """Take a guest over from the host that started it, with sockets of our own: the host closes its."""
    qmp = guest.qmp.dup() if guest.qmp is not None else None
    return Seen(guest.vm, guest.pid, guest.start_time, guest.console.dup(), qmp)
