"""Replugs cards: takes one out and puts another one in its place, or the old one again if that cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import typing

from qemunet.errors import Interrupted, NotFound, NotTakenBack, QemunetError, TimedOut
from qemunet.frozen import replace
from qemunet.live.arrival import Doer
from qemunet.live.cardwork import CardWork, Other, coming_back

if typing.TYPE_CHECKING:
    from qemunet.live.arrival import Arrivals, Gone
    from qemunet.live.process import Guest
    from qemunet.records import NicRecord

_END = 0.5  # seconds for the end of a guest to be noticed
_GLANCE = 0.05  # seconds between two looks at whether whoever asked is there


class Unplugger(Doer, typing.Protocol):
    """Who can take a card out, too."""

    def leave(self, guest: Guest, nic: str) -> asyncio.Task[None]:
        """Begin to unplug a card, or go on with it; the task ends when it is gone."""

    async def gone_within(self, guest: Guest, nic: str, task: asyncio.Task[None], seconds: float) -> None:
        """Wait until it is gone; raises TimedOut."""


class Replugs:
    """The cards that are out, or on their way out, and come back as other ones."""

    def __init__(self, arrivals: Arrivals, doer: Unplugger) -> None:
        self._arrivals = arrivals
        self._doer = doer
        self._coming_back: set[tuple[str, str]] = set()

    def expected(self, vm: str) -> list[str]:
        """Return the ids of the cards of a vm that come back; may be asked from any thread."""
        return [nic for name, nic in tuple(self._coming_back) if name == vm]

    def give_up(self, vm: str, nic: str) -> None:
        """Let a card not come back."""
        self._coming_back.discard((vm, nic))

    async def replug(self, guest: Guest, other: Other, seconds: float, gone: Gone = lambda: False) -> NicRecord:
        """Take a card out and put another one in its place; if that cannot be had, the old one comes back.

        Raises TimedOut if the guest keeps it: then the other one comes when it lets go, unless `remove` is asked for.
        Raises Interrupted if whoever asked is `gone` before: then the old one comes back when it lets go.
        """
        key = (guest.vm, other.nic)
        if key in self._coming_back:
            raise coming_back(*key)
        self._coming_back.add(key)
        leaving = self._doer.leave(guest, other.nic)
        try:
            await self._out_within(guest, other.nic, leaving, seconds, gone)
        except Interrupted:
            self._doer.begin(self._replug_late(guest, replace(other, shall=other.was), leaving))
            raise
        except TimedOut as error:
            self._doer.begin(self._replug_late(guest, other, leaving))
            out = f"`qemunet nic del {guest.vm} {other.nic}` takes it out for good"
            error.hint = f"as soon as it lets go, it gets it again as it shall be; {out}"
            raise
        except BaseException:
            self._coming_back.discard(key)
            raise
        return await self._plug_other(guest, other)

    async def _out_within(
        self, guest: Guest, nic: str, leaving: asyncio.Task[None], seconds: float, gone: Gone
    ) -> None:
        waiting = asyncio.create_task(self._doer.gone_within(guest, nic, leaving, seconds))
        while not (await asyncio.wait([waiting], timeout=_GLANCE))[0]:
            if gone():
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                stays = f"{nic} comes back as it was when the guest has let go of it"
                raise Interrupted(f"interrupted; {stays}", where=f"vm.{guest.vm}")
        waiting.result()

    async def _replug_late(self, guest: Guest, other: Other, leaving: asyncio.Task[None]) -> None:
        """Put the other card in its place when the guest has let go of the old one at last."""
        await asyncio.wait([leaving])
        if leaving.cancelled() or leaving.exception() is not None:  # it stays, or the guest has ended
            self._coming_back.discard((guest.vm, other.nic))
            return
        try:
            row = await self._plug_other(guest, other)
        except QemunetError as error:
            self._doer.say(f"{guest.vm}: {other.nic}: {error}")
            return
        self._doer.tell(guest, other.nic, "changed")
        self._arrivals.arrive_alone(guest, row)

    async def _plug_other(self, guest: Guest, other: Other) -> NicRecord:
        key = (guest.vm, other.nic)
        if key not in self._coming_back:
            raise NotFound(f"{other.nic} was unplugged by somebody else", where=f"vm.{guest.vm}")
        try:
            row: NicRecord = await self._doer.do(CardWork.add_as, guest, other.shall, other.nic, other.seat or None)
        except QemunetError as error:
            await self._bring_back(guest, other, error)
            raise
        finally:
            self._coming_back.discard(key)
        try:
            await self._doer.do(CardWork.followed, guest, other)
        except QemunetError as error:  # the card is what it shall be all the same
            self._doer.say(f"{guest.vm}: {other.nic}: the forwards of its networks are as before: {error}")
        return row

    async def _bring_back(self, guest: Guest, other: Other, cause: QemunetError) -> None:
        if await guest.wait(_END):
            raise NotFound("it has ended meanwhile", where=f"vm.{guest.vm}") from cause
        try:
            row = await self._doer.do(CardWork.add_as, guest, other.was, other.nic, other.seat or None)
        except NotFound:
            raise cause from None
        except QemunetError as error:
            raise NotTakenBack([str(cause), f"the old {other.nic} could not be plugged in again: {error}"]) from error
        self._arrivals.arrive_alone(guest, row)
