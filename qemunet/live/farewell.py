"""Takes the old addresses of networks away when the guests that had leases by them have others, or their time is over.

What a keeper looks at, while there are any: the files of leases, once a second.
"""

from __future__ import annotations

import asyncio
import time
import typing

from qemunet.errors import QemunetError
from qemunet.host import leases
from qemunet.live.leases import stamp

if typing.TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine

    from qemunet.live.console import Say
    from qemunet.live.linkwatch import Tell
    from qemunet.live.netchange import Row
    from qemunet.state import Runtime

_LOOK = 1.0  # seconds between two looks
_AGAIN = 30.0  # seconds until the next try, if one failed


class Farewell:
    """Watches the `networks` that have old addresses. For the thread of the loop only.

    `see_off` takes those away, in a thread, that nobody needs (`netchange.see_off`).
    """

    def __init__(
        self,
        runtime: Runtime,
        networks: Callable[[], Collection[str]],
        see_off: Callable[[], Awaitable[list[Row]]],
        tell: Tell,
        say: Say,
        begin: Callable[[Coroutine[typing.Any, typing.Any, None]], None],
    ) -> None:
        self._runtime = runtime
        self._networks = networks
        self._see_off = see_off
        self._tell = tell
        self._say = say
        self._begin = begin
        self._timer: asyncio.TimerHandle | None = None
        self._seen: object = None
        self._at_work = False

    def look(self) -> None:
        """Watch if there is anything to watch."""
        if self._timer is None and not self._at_work and self._known():
            self._seen = None
            self._later(_LOOK)

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        known = self._known()
        if not known:
            return
        now = time.time()
        past = [until for several in known.values() for until in several.values() if until is not None and until <= now]
        seen = (known, past, [stamp(leases.file_of(self._runtime.scope(f"net/{name}").directory)) for name in known])
        if seen == self._seen:
            self._later(_LOOK)
            return
        self._seen, self._at_work = seen, True
        self._begin(self._work())

    async def _work(self) -> None:
        wait = _LOOK
        try:
            for row in await self._see_off():
                if row.done:
                    self._say(f"net/{row.network}: {row.what}")
                    self._tell("network", None, network=row.network, what="old address gone", text=row.what)
        except (QemunetError, OSError) as error:
            self._say(f"old addresses were not taken away: {error}")
            self._seen, wait = None, _AGAIN
        finally:
            self._at_work = False
        if self._known():
            self._later(wait)

    def _known(self) -> dict[str, dict[str, int | None]]:
        found = {name: self._runtime.scope(f"net/{name}").leaving() for name in self._networks()}
        return {name: several for name, several in found.items() if several}
