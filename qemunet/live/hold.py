"""Holds the guests of a lab for the program that opened it: hears how they end, and keeps them held to the very end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import typing

from qemunet.errors import NotFound, NotTakenBack, QemunetError, TimedOut
from qemunet.live import begin
from qemunet.live.control import Lost, error_from
from qemunet.shapes import Ending, Status

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from qemunet.live.control import Message
    from qemunet.live.wire import Wire
    from qemunet.state import Runtime

_KEEPER = 60.0  # seconds for a keeper to take everything back
_UNSEEN = Ending(None, "unknown", "ended while nobody watched")
_log = logging.getLogger("qemunet")


class Hold:
    """The guests that end with a connection; `ended` is called with the name of each and how."""

    def __init__(self, runtime: Runtime, held: begin.Held, ended: Callable[[str, Ending], None]) -> None:
        self._runtime = runtime
        self._held = held
        self._ended = ended
        self._alive = dict.fromkeys(held.vms, 0)  # to the process, once that is known
        self._answers: asyncio.Queue[Message | Lost] = asyncio.Queue()
        self._starting = asyncio.Lock()
        self._hearing = asyncio.create_task(self._hear())

    async def ask(self, do: str, *, within: float | None = 30.0, **arguments: object) -> Message:
        """Ask the keeper on a connection of its own, so that nobody waits for anybody else's request."""
        wire = await begin.wire_to(self._runtime, self._held.lab)
        try:
            return await wire.ask(do, within=within, **arguments)
        finally:
            await wire.close()

    async def start(self, file: str, vms: Sequence[str], overrides: Sequence[str]) -> None:
        """Have more guests of the lab started, which are then held as the others.

        Raises any QemunetError; then none of them runs.
        """
        async with self._starting:
            if self._hearing.done():
                raise NotFound(f"no guest of the lab {self._held.lab} runs any more", hint="open it again")
            self._alive |= dict.fromkeys(vms, 0)
            try:
                await begin.finish(self._start(file, vms, overrides))
            except QemunetError:
                for vm in vms:
                    self._alive.pop(vm, None)
                raise

    async def _start(self, file: str, vms: Sequence[str], overrides: Sequence[str]) -> None:
        words = {"file": file, "vms": list(vms), "overrides": list(overrides), "tether": "all"}
        self._held.wire.send({"do": "start", **words})
        reply = await self._answers.get()
        if isinstance(reply, Lost):
            raise reply
        if "error" in reply:
            raise error_from(reply["error"])

    async def look(self) -> dict[str, Status]:
        """Return how the guests of the lab are that run, held or not."""
        rows = _rows(await self.ask("status"))
        self._alive |= {vm: rows[vm].pid for vm in self._alive.keys() & rows.keys()}
        return rows

    async def close(self) -> None:
        """End all guests and wait until everything is taken back; raises NotTakenBack and others."""
        errors = await begin.end(self._runtime, self._held.lab, list(self._alive))
        try:
            async with asyncio.timeout(_KEEPER):
                failures = await self._hearing
        except TimeoutError:
            raise TimedOut("the keeper has not taken everything back", hint="`qemunet gc` tries again") from None
        finally:
            await begin.leave(self._held)
        if failures:
            raise NotTakenBack(failures)
        if errors:
            raise errors[0]

    async def _hear(self) -> list[str]:
        """Hear how guests end; return what could not be taken back when the last one has and all else was."""
        for event in self._held.wire.events:
            self._heard(event)
        while True:
            try:
                event = await self._held.wire.next()
            except Lost as lost:
                self._pass_on(lost)
                failures = await self._hold_again()
                if failures is not None:
                    return failures
            else:
                if "event" not in event:
                    self._pass_on(event)
                self._heard(event)
                if event.get("event") == "over":
                    over = event["failures"]
                    assert isinstance(over, list), "a list of texts"
                    return over

    def _pass_on(self, answer: Message | Lost) -> None:
        """Give the answer to a start to whoever waits for it."""
        if self._starting.locked():
            self._answers.put_nowait(answer)

    def _heard(self, event: Message) -> None:
        if event.get("event") == "said":
            _log.info("%s", event["text"])
        if event.get("event") == "ended":
            self._end(str(event["vm"]), Ending.from_event(event))

    def _end(self, vm: str, ending: Ending) -> None:
        if self._alive.pop(vm, None) is not None:
            self._ended(vm, ending)

    async def _hold_again(self) -> list[str] | None:
        """The keeper was killed: let a new one hold the guests; if none is left, return what was not taken back."""
        await self._held.wire.close()
        if self._held.keeper is not None:
            await begin.reap(self._held.keeper)
        try:
            wire = await begin.wire_to(self._runtime, self._held.lab)
            rows = await self._hold_by(wire)
        except (NotFound, Lost):
            return await self._clear_up(list(self._alive))
        dead = [vm for vm, pid in self._alive.items() if vm not in rows or pid not in (0, rows[vm].pid)]
        failures = await self._clear_up(dead) if dead else []
        if not self._alive:
            return failures
        await wire.ask("tether", vms=list(self._alive))
        _log.warning("the keeper of the lab %s was lost; another one holds its guests now", self._held.lab)
        return None

    async def _hold_by(self, wire: Wire) -> dict[str, Status]:
        self._held = begin.Held(self._held.lab, self._held.vms, wire, None)
        return _rows(await wire.ask("status"))

    async def _clear_up(self, dead: Collection[str]) -> list[str]:
        """Take back what guests left whose end no keeper saw."""
        from qemunet.host.linux import LinuxHost
        from qemunet.live import session

        def take_back() -> list[str]:
            with contextlib.closing(LinuxHost(self._runtime.path)) as host:
                return session.take_back(self._runtime, host, dead, session.is_dead)

        for vm in dead:
            self._end(vm, _UNSEEN)
        return await begin.blocking(take_back)


def _rows(reply: Message) -> dict[str, Status]:
    rows = reply["vms"]
    assert isinstance(rows, list), "one row for each guest"
    return {row["vm"]: Status.from_row(row) for row in rows}
