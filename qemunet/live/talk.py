"""A guest's monitor for a thread that may block, while the loop has it: the steps of live changes talk by this."""

from __future__ import annotations

import asyncio
import typing

from qemunet.live import unplug

if typing.TYPE_CHECKING:
    from collections.abc import Coroutine

    from qemunet.live.process import Guest

    T = typing.TypeVar("T")

_UNPLUG = 10.0  # seconds that a guest has to let go of a card that is taken back


class Talk:
    """The monitor of `guest`, whose loop runs in another thread; made in the loop's own (see `host.cards.Monitor`)."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._loop = asyncio.get_running_loop()

    def execute(self, command: str, **arguments: object) -> object:
        """Have a command done and return its answer. Raises Refused, NotFound when QEMU is gone, TimedOut."""
        return self._wait(self._guest.execute(command, arguments=arguments))

    def give(self, fd: int, name: str | None = None) -> str:
        """Hand over a copy of a descriptor; return the name by which QEMU knows it. Raises as `execute` does."""
        return self._wait(self._guest.monitor.give(fd, name))

    def forget(self, name: str) -> None:
        """Have QEMU close what it was given under a name, if it still has it."""
        self._wait(self._guest.monitor.forget(name))

    def unplug(self, nic: str) -> None:
        """Ask the guest for a card until it has let go of it. Raises NotFound if there is none, TimedOut."""
        self._wait(unplug.within(self._guest, nic, _UNPLUG))

    def _wait(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
