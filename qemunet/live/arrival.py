"""Sees new cards in: waits until the guest has one, and plugs it in again if a request for another one took it out."""

from __future__ import annotations

import asyncio
import typing

from qemunet.errors import Failed, Interrupted, NotFound, QemunetError
from qemunet.live import presence
from qemunet.live.cardwork import PLUGGED, CardWork
from qemunet.live.presence import Presence

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qemunet.live.control import Message
    from qemunet.live.process import Guest
    from qemunet.live.seats import Newcomer, Seats
    from qemunet.records import NicRecord

    Gone = Callable[[], bool]  # tells whether whoever asked has hung up


class Doer(typing.Protocol):
    """Who can do what the arrival of a card takes."""

    async def do(self, work: Callable[..., typing.Any], guest: Guest, *arguments: object) -> typing.Any:
        """Have a `CardWork` done."""

    async def forget(self, guest: Guest, nic: str) -> None:
        """Take back what was made for a card that is gone."""

    def tell(self, guest: Guest, nic: str, what: str) -> None:
        """Tell what has become of a card."""

    def say(self, text: str) -> None:
        """Write into the keeper's log."""

    def begin(self, work: Coroutine[typing.Any, typing.Any, None]) -> None:
        """Do something beside everything else."""


TIMEOUT = 10.0  # seconds for a guest to take a card, or to let go of one
_TIMES = 8  # that a card is plugged in again: as often as a guest may have noted one request


class _OutError(Exception):
    """The card that is waited for is gone."""


class Arrivals:
    """The cards that guests are about to get."""

    def __init__(self, seats: Seats, doer: Doer) -> None:
        self._seats = seats
        self._doer = doer

    async def arrive(
        self, guest: Guest, row: NicRecord, seconds: float, gone: Gone = lambda: False
    ) -> tuple[NicRecord, Presence]:
        """Wait until the guest has a card that was just plugged in; return its row, and what is known by then.

        Raises NotFound if somebody unplugs it before, Failed if the guest throws it out again and again, Interrupted if
        whoever waits is `gone`.
        """
        clock = asyncio.get_running_loop().time
        deadline, thrown = clock() + seconds, 0
        while (newcomer := self._seats.newcomer(guest.vm, row.id)) is not None:
            try:
                return row, await self._watch(guest, row, newcomer, max(0.0, deadline - clock()), gone)
            except _OutError:
                if await presence.is_plugged(guest, row.id):  # it was an earlier one of its id, of which QEMU said late
                    newcomer.out.clear()
                    continue
                self._seats.settle(guest.vm, row.id, newcomer)
                thrown += 1
                await self._refuse_unplugged(guest, row.id, newcomer, thrown)
            self._doer.say(f"{guest.vm}: {row.id} was thrown out of {newcomer.slot}, as the card before it was to be")
            row = await self._doer.do(CardWork.again, guest, row.id, newcomer.seat)
            self._doer.tell(guest, row.id, PLUGGED)
        raise NotFound(f"{row.id} was unplugged before the guest had it", where=f"vm.{guest.vm}")

    def arrive_alone(self, guest: Guest, row: NicRecord) -> None:
        """See a card in that nobody waits for."""
        self._doer.begin(self._quietly(guest, row))

    def heard(self, guest: Guest, event: Message) -> None:
        """Go on with the cards of a guest that runs on."""
        if event["event"] == "RESUME":
            for nic in self._seats.resting(guest.vm):
                self._wake(guest, nic)

    def gone(self, guest: Guest, nic: str, *, asked: bool) -> bool:
        """Note that a card is gone; tell whether it was a new one, which is seen to here."""
        newcomer = self._seats.newcomer(guest.vm, nic)
        if newcomer is None:
            return False
        newcomer.asked = asked
        newcomer.out.set()
        if newcomer.rests:
            self._wake(guest, nic)
        return True

    def _wake(self, guest: Guest, nic: str) -> None:
        newcomer = self._seats.newcomer(guest.vm, nic)
        assert newcomer is not None, "it rests"
        newcomer.rests = False
        self._doer.begin(self._woken(guest, nic, newcomer))

    async def _woken(self, guest: Guest, nic: str, newcomer: Newcomer) -> None:
        try:
            record, _ = await self._doer.do(CardWork.rows, guest)
            row = record.card(nic)
        except QemunetError:  # the guest has ended, or the card is gone
            self._seats.settle(guest.vm, nic, newcomer)
            return
        await self._quietly(guest, row)

    async def _quietly(self, guest: Guest, row: NicRecord) -> None:
        try:
            await self.arrive(guest, row, TIMEOUT)
        except QemunetError as error:
            self._doer.say(f"{guest.vm}: {row.id}: {error}")

    async def _watch(self, guest: Guest, row: NicRecord, newcomer: Newcomer, seconds: float, gone: Gone) -> Presence:
        def check() -> None:
            if newcomer.out.is_set():
                raise _OutError
            if gone():
                raise Interrupted("interrupted", where=f"vm.{guest.vm}")

        try:
            found = await presence.wait(guest, row.id, row.model, seconds, check)
            if newcomer.out.is_set():
                raise _OutError
        except QemunetError:
            self._seats.settle(guest.vm, row.id, newcomer)
            raise
        if found is Presence.PAUSED:
            newcomer.rests = True
        else:
            self._seats.settle(guest.vm, row.id, newcomer, taken=found is Presence.THERE)
        return found

    async def _refuse_unplugged(self, guest: Guest, nic: str, newcomer: Newcomer, times: int) -> None:
        """Raise NotFound of a card that somebody meant to go, Failed of one that was plugged in again often enough."""
        if newcomer.asked:
            raise NotFound(f"{nic} was unplugged by another command before the guest had it", where=f"vm.{guest.vm}")
        if newcomer.second_hand and times <= _TIMES:
            return
        await self._doer.forget(guest, nic)
        if newcomer.second_hand:
            raise Failed(f"the guest throws {nic} out again and again", where=f"vm.{guest.vm}")
        self._doer.say(f"{guest.vm}: {nic} was unplugged by somebody else")
        raise NotFound(f"{nic} was unplugged by somebody else before the guest had it", where=f"vm.{guest.vm}")
