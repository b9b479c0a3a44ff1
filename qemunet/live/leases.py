"""Whose the addresses are that networks have lent, and the telling of new ones.

The files are looked at once a second, and only while somebody listens: a lease is no news that cannot wait.
"""

from __future__ import annotations

import asyncio
import os
import typing

from qemunet.frozen import as_dict, frozen
from qemunet.host import leases

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from qemunet.live.control import Message
    from qemunet.live.linkwatch import Tell
    from qemunet.records import NicRecord, VmRecord
    from qemunet.state import Runtime

_LOOK = 1.0  # seconds between two looks


@frozen
class Leased:
    """An address that a network has lent, and the card that has it, if it is one that is known."""

    network: str
    mac: str
    ip: str
    hostname: str | None
    vm: str | None
    nic: str | None
    expires: int | None


def of_networks(runtime: Runtime, networks: Iterable[str], vms: Iterable[VmRecord]) -> list[Leased]:
    """Return what these networks have lent, by network and address."""
    owners = {(nic.network, nic.mac): (vm.name, nic.id) for vm in vms for nic in vm.nics}
    found = []
    for network in sorted(networks):
        for one in leases.read(runtime.scope(f"net/{network}").directory):
            vm, nic = owners.get((network, one.mac), (None, None))
            found.append(Leased(network, one.mac, one.ip, one.hostname, vm, nic, one.expires))
    return found


def of_cards(directory: str, rows: Iterable[NicRecord]) -> dict[str, tuple[str, ...]]:
    """Return the addresses that were lent to cards of the vm whose scope is that directory, by MAC."""
    runtime = os.path.dirname(os.path.dirname(directory))
    wanted = {row.mac: row.network for row in rows if row.network}
    lent = {name: leases.read(os.path.join(runtime, "net", name)) for name in set(wanted.values())}
    found = {mac: tuple(one.ip for one in lent[name] if one.mac == mac) for mac, name in wanted.items()}
    return {mac: ips for mac, ips in found.items() if ips}


class LeaseWatch:
    """Tells of addresses that are lent, and of those that are no more. For the thread of the loop only."""

    def __init__(
        self, runtime: Runtime, vms: Collection[str], networks: Callable[[], Collection[str]], tell: Tell
    ) -> None:
        self._runtime = runtime
        self._vms = vms
        self._networks = networks
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self._known: dict[tuple[str, str, str], Leased] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    def open(self) -> None:
        """Begin; what is lent already is no news. Once is enough."""
        if self._timer is None:
            self._known = self._now()
            self._seen = self._files()
            self._again()

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Tell what has changed."""
        files = self._files()
        if files == self._seen:
            return
        before, self._known, self._seen = self._known, self._now(), files
        for key in self._known.keys() - before.keys():
            self._told(self._known[key], "new")
        for key in before.keys() - self._known.keys():
            self._told(before[key], "ended")

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK, self._tick)

    def _tick(self) -> None:
        self.look()
        self._again()

    def _told(self, lease: Leased, what: str) -> None:
        if lease.vm is None or lease.vm in self._vms:  # another keeper tells of its own
            details: Message = {key: value for key, value in as_dict(lease).items() if key != "vm"}
            self._tell("lease", lease.vm, **details, what=what)

    def _now(self) -> dict[tuple[str, str, str], Leased]:
        lent = of_networks(self._runtime, self._networks(), self._runtime.vms())
        return {(one.network, one.mac, one.ip): one for one in lent}

    def _files(self) -> dict[str, tuple[int, int]]:
        paths = ((name, leases.file_of(self._runtime.scope(f"net/{name}").directory)) for name in self._networks())
        return {name: found for name, path in paths if (found := stamp(path))}


def stamp(path: str) -> tuple[int, int] | None:
    """Return what is another when a file has changed; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
