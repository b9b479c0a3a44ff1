"""Sees to it that what serves the networks of one keeper's guests goes on.

Theory of operation. A network's dnsmasq is nobody's child for long: whoever started it may end before it. Each keeper
that has a guest on a network holds a pidfd of it. When it ends, they all look, under the runtime directory's lock: the
first finds it dead and starts it again, the others find that it is there; and if the network is being taken down,
there is nothing left to start. One that dies again and again is given up, and the network says so (``net list``) until
the next guest comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import typing

from qemunet.errors import QemunetError
from qemunet.host import daemons, processes

if typing.TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine

    from qemunet.live.console import Say
    from qemunet.live.linkwatch import Tell
    from qemunet.state import Runtime

NAME = "dnsmasq"
MOST, WITHIN = 5, 60.0  # deaths in so many seconds, and it is given up
_PAUSE = 0.5  # seconds before the second try; each is twice the one before


class Revived(typing.NamedTuple):
    """What became of a dead program: its number, and whether it was started here."""

    pid: int
    started: bool


class Watchmen:
    """Watches the programs behind the networks of the `vms`. For the thread of the loop only.

    `revive` starts the one of a network again, in a thread; None: there is no such network any more. `looked` is called
    when there are other networks, or one has changed: what serves it begins again then.
    """

    def __init__(
        self,
        runtime: Runtime,
        vms: Collection[str],
        revive: Callable[[str], Awaitable[Revived | None]],
        tell: Tell,
        say: Say,
        begin: Callable[[Coroutine[typing.Any, typing.Any, None]], None],
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        self._runtime = runtime
        self._vms = vms
        self._revive = revive
        self._tell = tell
        self._say = say
        self._begin = begin
        self._looked = looked
        self._of: dict[str, set[str]] = {}  # the networks of each guest
        self._networks: set[str] = set()
        self._held: dict[str, tuple[int, int]] = {}  # pidfd and number
        self._deaths: dict[str, list[float]] = {}
        self._busy: set[str] = set()

    def networks(self) -> set[str]:
        """Return the networks that the guests were on when it was last looked."""
        return self._networks

    def learn(self, vm: str) -> None:
        """Learn which networks a guest is on now, which is new or whose cards have changed."""
        record = self._runtime.scope(f"vm/{vm}").record()
        self._of[vm] = {nic.network for nic in record.nics if nic.network} if record else set()
        self.look()

    def look(self) -> None:
        """Watch what serves the networks of the guests that there are."""
        self._of = {vm: networks for vm, networks in self._of.items() if vm in self._vms}
        self._networks = set().union(*self._of.values())
        for name in self._held.keys() - self._networks:
            self._let_go(name)
        for name in self._networks - self._held.keys() - self._busy:
            self._hold(name)
        self._looked()

    def close(self) -> None:
        """Watch nothing any more."""
        self._of.clear()
        self._networks = set()
        for name in list(self._held):
            self._let_go(name)

    def _hold(self, name: str) -> None:
        directory = self._directory(name)
        if not os.path.exists(os.path.join(directory, f"{NAME}.json")):
            return  # it serves nothing
        pid = daemons.find(directory, NAME)
        if pid is None:
            self._begin(self._bring_back(name))
            return
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            self._held[name] = (fd, pid)
            asyncio.get_running_loop().add_reader(fd, self._ended, name)
            return
        self._begin(self._bring_back(name))

    def _let_go(self, name: str) -> int:
        fd, pid = self._held.pop(name)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        return pid

    def _ended(self, name: str) -> None:
        processes.reap(self._let_go(name))  # it may be a child of ours
        self._begin(self._bring_back(name))

    async def _bring_back(self, name: str) -> None:
        """Start it again, unless the network is gone, or somebody was quicker, or it died too often."""
        if name in self._busy:
            return
        self._busy.add(name)
        try:
            revived = await self._tried(name)
        finally:
            self._busy.discard(name)
        self._looked()
        if revived is None or name not in self._networks:
            return
        if revived.started:
            self._say(f"net/{name}: its {NAME} had ended, and was started again (pid {revived.pid})")
            self._tell("network", None, network=name, what="dhcp restarted", pid=revived.pid)
        self._hold(name)

    async def _tried(self, name: str) -> Revived | None:
        while name in self._networks:
            deaths = self._recent(name)
            if len(deaths) >= MOST:
                self._give_up(name)
                return None
            deaths.append(time.monotonic())
            if len(deaths) > 1:
                await asyncio.sleep(_PAUSE * 2 ** (len(deaths) - 2))
            try:
                return await self._revive(name)
            except (QemunetError, OSError) as error:
                self._say(f"net/{name}: its {NAME} does not start: {error}")
        return None

    def _recent(self, name: str) -> list[float]:
        now = time.monotonic()
        self._deaths[name] = [when for when in self._deaths.get(name, ()) if now - when < WITHIN]
        return self._deaths[name]

    def _give_up(self, name: str) -> None:
        text = f"its {NAME} has ended {MOST} times within {WITHIN:g} s, and is not started again"
        self._say(f"net/{name}: {text}")
        self._tell("network", None, network=name, what="dhcp given up", text=text)

    def _directory(self, name: str) -> str:
        return self._runtime.scope(f"net/{name}").serving()
