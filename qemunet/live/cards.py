"""The cards of a keeper's guests while they run: plugged in, changed, taken out, and what others do to them noticed."""

from __future__ import annotations

import asyncio
import contextlib
import typing

from qemunet.config.cards import VFIO
from qemunet.errors import Failed, Interrupted, NotFound, QemunetError, TimedOut, UsageError
from qemunet.live import helpers, unplug
from qemunet.live.arrival import TIMEOUT, Arrivals
from qemunet.live.cardwork import PLUGGED, UNPLUGGING, CardWork, Other
from qemunet.live.presence import Presence
from qemunet.live.record import pick, refuse_device
from qemunet.live.replug import Replugs
from qemunet.live.seats import Seats
from qemunet.live.talk import Talk
from qemunet.plan import live
from qemunet.shapes import unseen

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from qemunet.live.arrival import Gone
    from qemunet.live.cardwork import Keys, Left, Wish
    from qemunet.live.care import Keeper
    from qemunet.live.control import Message
    from qemunet.live.process import Guest
    from qemunet.records import NicRecord


class Cards:
    """Everything about cards that a keeper is asked for; changes of the host and of the records go one by one."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._leaving: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._seats = Seats()
        self._arrivals = Arrivals(self._seats, self)
        self._replugs = Replugs(self._arrivals, self)

    # ---------------------------------------------------------------- what is asked for

    async def add(
        self, guest: Guest, keys: Keys, seconds: float, gone: Gone = lambda: False
    ) -> tuple[NicRecord, Presence]:
        """Plug in a card; return its row when the guest has it, or why that cannot be said. Raises any QemunetError.

        If whoever asked for it is `gone` meanwhile, it is unplugged again, and Interrupted says how that went.
        """
        row = await self.do(CardWork.add, guest, keys, lambda: self._replugs.expected(guest.vm))
        self.tell(guest, row.id, "plugged")
        try:
            return await self._arrivals.arrive(guest, row, seconds, gone)
        except Interrupted as error:
            error.message += await self._taken_back(guest, row.id)
            raise

    async def remove(self, guest: Guest, word: str, seconds: float, *, cut: bool) -> NicRecord:
        """Unplug a card; return the row that it had when the guest has let go of it.

        Raises TimedOut if it has not, and then it is unplugged as soon as it does; `cut` stops its traffic at once.
        """
        row = pick(self._rows(guest), guest.vm, word)
        if cut:
            refuse_device(row, guest.vm, "without --cut it goes when the guest lets go of it")
        self._replugs.give_up(guest.vm, row.id)
        task = self.leave(guest, row.id)
        if cut:
            with contextlib.suppress(NotFound):
                await self.do(CardWork.cut, guest, row.id)
        await self.gone_within(guest, row.id, task, seconds, more="" if cut else ", --cut cuts it off")
        return row

    async def alter(
        self, guest: Guest, word: str, keys: Keys, seconds: float, gone: Gone = lambda: False
    ) -> tuple[NicRecord, Presence]:
        """Change a card, in its place if that can be; return its row, and whether the guest has it.

        If it has to be unplugged for that, and whoever asked is `gone` meanwhile, it comes back as it was.
        """
        return await self._altered(guest, await self.do(CardWork.alter, guest, word, keys), seconds, gone)

    async def apply(self, guest: Guest, wish: Wish, seconds: float, *, dry: bool) -> list[Message]:
        """Make the cards of a guest what they are in a wish; return what there was to do, and what of it was done.

        A change that fails has its error there, and the others are done all the same.
        """
        found = await self.do(CardWork.differences, guest, wish, strict=True)
        return [await self._applied(guest, wish, one, seconds, dry=dry) for one in found]

    async def list(self, guest: Guest) -> tuple[tuple[NicRecord, ...], list[Message]]:
        """Return the rows of a guest's cards as they are, and the cards that somebody else has plugged in."""
        record, there = await self.do(CardWork.rows, guest)
        known = {row.id for row in record.nics}
        foreign: list[Message] = [
            {"id": card.id, "model": card.model, "mac": card.mac, "slot": card.slot}
            for card in there
            if card.id not in known and card.model != VFIO  # which may be anything
        ]
        return record.nics, foreign

    async def compared(self, guest: Guest) -> Message:
        """Say how a guest differs from its lab file, or why that cannot be said."""
        try:
            found = await self.do(CardWork.unlike_its_file, guest)
        except QemunetError as error:
            return {"problem": str(error)}
        return {"differs": [one.describe() for one in found]}

    # ---------------------------------------------------------------- what happens by itself

    async def attend(self, guest: Guest) -> None:
        """Notice from now on what others do to a guest's cards; of an adopted one, finish what was begun."""
        self._seats.forget(guest.vm)
        guest.hear.append(lambda event: self._heard(guest, event))
        guest.missed.append(lambda: self.begin(self._catch_up(guest)))
        if guest.adopted:
            await self._catch_up(guest)

    async def _catch_up(self, guest: Guest) -> None:
        """Finish what a killed keeper had begun, and notice what was done while nobody listened."""
        try:
            left: Left = await self.do(CardWork.recover, guest)
        except QemunetError as error:
            self.say(f"{guest.vm}: its cards were not looked after: {error}")
            return
        if left.half_way:
            await guest.monitor.tidy()
        for failure in left.failures:
            self.say(f"{guest.vm}: not taken back: {failure}")
        for nic in left.leaving:
            self.leave(guest, nic)
        for nic in left.gone:
            if not self._arrivals.gone(guest, nic, asked=False):
                await self.forget(guest, nic)

    def _heard(self, guest: Guest, event: Message) -> None:
        """A card that somebody else has unplugged: what was made for it has to go, too."""
        self._arrivals.heard(guest, event)
        self._note_loss(guest, helpers.loser(event))
        data = event.get("data")
        nic = data.get("device") if event["event"] == "DEVICE_DELETED" and isinstance(data, dict) else None
        if not isinstance(nic, str):
            return
        asked, slot = (guest.vm, nic) in self._leaving, self._slot(guest, nic)
        if slot is not None:
            self._seats.leave(guest.vm, nic, slot)
        if not self._arrivals.gone(guest, nic, asked=asked) and not asked and slot is not None:
            self.say(f"{guest.vm}: {nic} was unplugged by somebody else")
            self.begin(self.forget(guest, nic))

    def _note_loss(self, guest: Guest, nic: str | None) -> None:
        """Tell of a card that has lost its connection; one that is on its way out was to lose it."""
        if nic is None or (guest.vm, nic) in self._leaving:
            return
        with contextlib.suppress(NotFound):
            for row in self._rows(guest):
                if row.id == nic:
                    self.tell(guest, nic, helpers.DISCONNECTED)
                    self.say(f"{guest.vm}: {nic}: {helpers.remedy(guest.vm, row)}")

    async def forget(self, guest: Guest, nic: str) -> None:
        """Take back what was made for a card that is gone; what cannot be is said."""
        try:
            if not await self.do(CardWork.forget, guest, nic):
                return
        except NotFound:  # the guest has ended, and all of it is taken back
            return
        except QemunetError as error:
            self.say(f"{guest.vm}: {error}")
        self.tell(guest, nic, "unplugged")

    # ---------------------------------------------------------------- unplugging

    def leave(self, guest: Guest, nic: str) -> asyncio.Task[None]:
        """Begin to unplug a card, or go on with it; the task ends when it is gone."""
        key = (guest.vm, nic)
        if key not in self._leaving:
            task = asyncio.create_task(self._unplug(guest, nic))
            self._leaving[key] = task
            task.add_done_callback(lambda done: self._left(key, done))
        return self._leaving[key]

    def _left(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._leaving[key]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, NotFound):
            self.say(f"{key[0]}: {key[1]}: {error}")

    async def _unplug(self, guest: Guest, nic: str) -> None:
        await self.do(CardWork.part, guest, nic)
        self.tell(guest, nic, UNPLUGGING)
        try:
            await unplug.unplug(guest, nic)
        except (Failed, UsageError):
            await self.do(CardWork.stay, guest, nic)
            self.tell(guest, nic, PLUGGED)
            raise
        await self.do(CardWork.forget, guest, nic)
        self.tell(guest, nic, "unplugged")

    async def _taken_back(self, guest: Guest, nic: str) -> str:
        """Unplug a card that nobody wants any more; say how that went."""
        try:
            await self.gone_within(guest, nic, self.leave(guest, nic), TIMEOUT)
        except TimedOut:
            return f"; the guest has not let go of {nic} yet, and it goes as soon as it does"
        except QemunetError as error:
            return f"; {nic} could not be taken out again: {error}"
        return f"; {nic} was taken out again"

    async def gone_within(
        self, guest: Guest, nic: str, task: asyncio.Task[None], seconds: float, more: str = ""
    ) -> None:
        """Wait until a card that is being unplugged is gone; raises TimedOut if it is not, with `more` in its hint."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(task)
        except TimeoutError:
            state = await guest.run_state()
            raise TimedOut(
                f"the guest has not let go of {nic} within {seconds:g} s; the guest is {state}, the card {UNPLUGGING}",
                where=f"vm.{guest.vm}",
                hint=f"it goes as soon as it can; `qemunet nic del {guest.vm} {nic}` waits again{more}",
            ) from None

    # ---------------------------------------------------------------- changing

    async def _altered(
        self, guest: Guest, result: NicRecord | Other, seconds: float, gone: Gone = lambda: False
    ) -> tuple[NicRecord, Presence]:
        row = await self._replugs.replug(guest, result, seconds, gone) if isinstance(result, Other) else result
        self.tell(guest, row.id, "changed")
        if isinstance(result, Other):
            try:
                return await self._arrivals.arrive(guest, row, seconds, gone)
            except Interrupted as error:
                error.message += f"; {row.id} was changed, and the guest has not taken it yet"
                raise
        return row, Presence.THERE

    async def _applied(self, guest: Guest, wish: Wish, one: live.Difference, seconds: float, *, dry: bool) -> Message:
        """Do one of the differences, if that can be; return it with what came of it."""
        row: Message = {"vm": guest.vm, "what": one.describe(), "disruption": one.disruption.value, "done": False}
        if dry or one.disruption is live.Disruption.RESTART:
            return row
        try:
            await self._apply(guest, wish, one, seconds)
        except QemunetError as error:
            return row | error.as_json()
        return row | {"done": True}

    async def _apply(self, guest: Guest, wish: Wish, one: live.Difference, seconds: float) -> None:
        """Raises any QemunetError, and TimedOut also for a card that is plugged in and that the guest has not taken."""
        row, presence = None, Presence.THERE
        match one:
            case live.Remove(nic=nic):
                await self.remove(guest, nic.id, seconds, cut=False)
            case live.Add(nic=nic):
                row = await self.do(CardWork.add_as, guest, wish, nic.id)
                self.tell(guest, row.id, "plugged")
                row, presence = await self._arrivals.arrive(guest, row, seconds)
            case live.Change(new=nic) | live.Replug(new=nic):
                changed = await self.do(CardWork.alter_as, guest, wish, nic.id)
                row, presence = await self._altered(guest, changed, seconds)
            case live.Restart():
                pass
        if row is not None and presence is Presence.UNSEEN:
            raise unseen(guest.vm, row, seconds)

    # ---------------------------------------------------------------- how

    async def do(
        self, work: Callable[..., typing.Any], guest: Guest, *arguments: object, **named: object
    ) -> typing.Any:
        """Have a `CardWork` done in the keeper's thread, which is the only one that changes anything."""
        cards = CardWork(self._keeper.worker.runtime, guest.vm, Talk(guest), self._seats)
        return await self._keeper.blocking(lambda: work(cards, *arguments, **named))

    def _rows(self, guest: Guest) -> tuple[NicRecord, ...]:
        return self._keeper.worker.runtime.vm(guest.vm).nics

    def _slot(self, guest: Guest, nic: str) -> str | None:
        """Return where one of our cards sits, or is about to; None if it is none of ours, empty if that is unknown."""
        newcomer = self._seats.newcomer(guest.vm, nic)
        if newcomer is not None:
            return newcomer.slot
        with contextlib.suppress(NotFound):
            return next((row.slot or "" for row in self._rows(guest) if row.id == nic), None)
        return None

    def tell(self, guest: Guest, nic: str, what: str) -> None:
        """Tell what has become of a card, to the log and to whoever listens."""
        self.say(f"{guest.vm}: {nic}: {what}")
        self._keeper.tell("card", guest.vm, nic=nic, what=what)

    def say(self, text: str) -> None:
        """Write into the keeper's log."""
        self._keeper.say(text)

    def begin(self, work: Coroutine[typing.Any, typing.Any, None]) -> None:
        """Do something beside everything else."""
        self._keeper.begin(work)
