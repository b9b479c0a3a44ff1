"""One live change of a vm that runs, in a thread that may block: all of it comes true, or all of it is taken back.

Theory of operation. Whoever changes a vm holds the right to work on it. First he finishes what an earlier change has
left: one that was killed half-way, or that could not take something back. What is done goes into the journal as an
operation. Then the new ``vm.toml`` and ``record.json`` are written beside the old ones, the operation is made final by
one line in the journal, and the new files take the place of the old: that line tells which of both a change that was
killed is to be. It also says what is to be undone by then, and what is not to be any more. A card that goes is taken
back by what the journal has about it.
"""

from __future__ import annotations

import typing

from qemunet import runner
from qemunet.errors import NotFound, NotTakenBack
from qemunet.frozen import replace
from qemunet.live import devices, session
from qemunet.live.record import nic_record
from qemunet.live.seats import Seats
from qemunet.live.sheets import of_shared
from qemunet.live.taken import refuse_taken_networks
from qemunet.plan import plug
from qemunet.steps import DelLink, DelNetdev, DropTable, Plan, RunHook, Unclaim, Unreserve, bare

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemunet.host.linux import LinuxHost
    from qemunet.journal import Journal, Owed
    from qemunet.live.running import Comparison
    from qemunet.live.seats import Newcomer
    from qemunet.locks import Lock
    from qemunet.model.nic import Nic
    from qemunet.model.vm import Vm
    from qemunet.plan.words import Json
    from qemunet.records import NicRecord, VmRecord
    from qemunet.state import Runtime
    from qemunet.steps import Part, Step

    Look = Callable[[], Comparison]

# undos that a card owes to its end; the others only lead back to before a change
_LASTING = (DelLink, DropTable, Unclaim, Unreserve)


class Change:
    """The right to change one vm, used as a context; an exception takes back what was done in it.

    `half_way` tells whether an earlier change was left so, `failures` what of it could not be taken back even now.
    """

    def __init__(self, runtime: Runtime, host: LinuxHost, vm: str, seats: Seats | None = None) -> None:
        self.runtime = runtime
        self.host = host
        self.vm = vm
        self._seats = seats or Seats()
        self._coming: tuple[str, Newcomer] | None = None
        self.scope = runtime.scope(f"vm/{vm}")
        self._right: Lock
        self._journal: Journal
        self._operation = 0
        self._final = False
        self.half_way = False
        self.failures: list[str] = []

    def __enter__(self) -> typing.Self:
        right = self.scope.wait_busy()
        if right is None or not self.scope.alive():
            if right is not None:
                right.release()
            raise NotFound("it does not run any more", where=f"vm.{self.vm}")
        self._right, self._journal = right, self.scope.journal()
        try:
            self.half_way = bool(self._journal.overdue())
            self.failures = self._recover()
            self._operation = self._journal.begin()
        except BaseException:
            self._let_go()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        failures = []
        try:
            if error is not None and not self._final:
                self.scope.drop_drafts()
                failures = self._undo(lambda one: one.operation == self._operation)
            self._journal.compact()
        finally:
            self._let_go()
            if error is not None and self._coming is not None:  # nobody will wait for it
                self._seats.settle(self.vm, *self._coming)
        failures += session.reap(self.runtime, self.host)
        if isinstance(error, Exception) and not self.scope.alive():  # who notices that takes back what is left
            raise NotFound(f"it has ended meanwhile ({error})", where=f"vm.{self.vm}") from error
        if failures:
            raise NotTakenBack([*([str(error)] if error else []), *failures]) from error

    def _let_go(self) -> None:
        self._journal.close()
        self._right.release()

    def record(self) -> VmRecord:
        """Return the record of the vm."""
        known = self.scope.record()
        assert known is not None, "a vm that runs has one"
        return known

    def cards(self) -> dict[str, devices.Card]:
        """Ask QEMU for its cards; return those with an id by it."""
        return {card.id: card for card in devices.cards(self.host.monitors[self.vm]) if card.id}

    # ---------------------------------------------------------------- cards

    def add(self, look: Look, name: str, seat: dict[str, Json] | None = None) -> NicRecord:
        """Plug a card in, into a place that is free or the one that is given; return its row."""
        vm = look().old  # QEMU may take its time, and is asked while nobody waits for us
        place = seat or devices.free_seat(vm, self.host.monitors[self.vm], self._left())
        slot = devices.slot_of(place)
        self._coming = name, self._seats.sit(self.vm, name, slot, seat)
        found = self._perform(
            look, lambda found: plug.add(found.lab, found.old, card_of(found.new, name), place, found.facts)
        )
        nic = card_of(found.new, name)
        row = replace(nic_record(nic), slot=slot)  # it may be out again
        self._commit(found, (*found.old.nics, nic), row)
        return row

    def _left(self) -> tuple[str, ...]:
        """Return the places that were left lately; where a card is on record, it is about to be forgotten."""
        there = tuple(row.slot for row in self.record().nics if row.slot)
        return (*(slot for slot in self._seats.left(self.vm) if slot not in there), *there)

    def alter(self, look: Look, name: str) -> NicRecord:
        """Change a card in its place; return its row."""
        over: list[Step] = []
        hooks: list[plug.Hook] = []

        def think(found: Comparison) -> plug.Live:
            old, new = card_of(found.old, name), card_of(found.new, name)
            plan = plug.change(found.lab, found.old, old, new, found.facts)
            over[:] = plan.over
            hooks[:] = [plan.hook] if plan.hook is not None else []
            return plan

        found = self._perform(look, think)
        new, before = card_of(found.new, name), self.record().card(name)
        row = replace(nic_record(new), slot=before.slot, state=before.state)
        nics = tuple(new if one.id == name else one for one in found.old.nics)
        kept, owes = self._ways_back(), [(one.what, one.down, name) for one in hooks if one.down is not None]
        kept += self._numbers(lambda one: bool(hooks) and one.about == name and isinstance(one.undo, RunHook))
        self._commit(found, nics, row, kept=kept, over=self._numbers(lambda one: one.undo in over), owes=owes)
        failures = self._settle()
        if failures:
            raise NotTakenBack(failures)
        return row

    def forget(self, found: Comparison, nic: str) -> None:
        """Take back all that was made for a card that the guest has let go of."""
        failures = self._undo(
            lambda one: one.about == nic and isinstance(bare(one.undo), RunHook)
        )  # before the tap goes
        failure = runner.undo(DelNetdev(self.vm, f"host-{nic}"), self.host)
        failures += [str(failure)] if failure else []
        failures += self._undo(lambda one: one.about == nic)
        nics = tuple(one for one in found.old.nics if one.id != nic)
        self._commit(found, nics, None, over=self._numbers(lambda one: one.about == nic))
        if failures:
            raise NotTakenBack(failures)

    def note(self, nic: str, state: str) -> None:
        """Write down the state of a card."""
        known = self.record()
        rows = tuple(replace(row, state=state) if row.id == nic else row for row in known.nics)
        self.scope.save(replace(known, nics=rows))

    def perform(self, *steps: Step) -> None:
        """Do something that needs no way back."""
        for step in steps:
            self.host.perform(step)

    # ---------------------------------------------------------------- all or nothing

    def _perform(self, look: Look, think: Callable[[Comparison], plug.Live]) -> Comparison:
        """Look, think and do, while nobody else changes what is shared; return what was seen."""
        with self.runtime.exclusive():
            found = look()
            plan = think(found)
            refuse_taken_networks(self.runtime, Plan(shared=plan.shared))
            for part in plan.shared:
                session.make_shared(self.runtime, self.host, part, found.facts, of_shared(found.lab, part.scope))
            self._apply(found, plan.own)
        self._apply(found, plan.guest)
        return found

    def _apply(self, found: Comparison, parts: Sequence[Part]) -> None:
        for part in parts:
            runner.apply(part.steps, found.facts, self.host, self._journal, about=part.about, operation=self._operation)

    def _commit(
        self,
        found: Comparison,
        nics: tuple[Nic, ...],
        row: NicRecord | None,
        *,
        kept: Sequence[int] = (),
        over: Sequence[int] = (),
        owes: Sequence[tuple[str, Step, str]] = (),
    ) -> None:
        """Make the change final; `row` is that of the card that is new, or another one.

        `kept` are records that are to be undone no more, `over` those that are to be undone now, `owes` what is then.
        """
        from qemunet.config.write import vm_toml

        record = self.record()
        vm: Vm = replace(found.old, nics=nics)
        rows = tuple(row if row and row.id == nic.id else record.card(nic.id) for nic in nics)
        self._journal.prepare(self._operation)
        self.scope.draft_text("vm.toml", vm_toml(found.lab, vm))
        self.scope.draft(replace(record, nics=rows))
        self._journal.commit(self._operation, kept=kept, over=over, owes=owes)
        self._final = True
        self.scope.publish()

    def _ways_back(self) -> list[int]:
        """Return the records of this change that lead back to before it, and are of no use once it is final."""
        return self._numbers(lambda one: one.operation == self._operation and not isinstance(bare(one.undo), _LASTING))

    def _numbers(self, which: Callable[[Owed], bool]) -> list[int]:
        return [one.number for one in self._journal.owed(started=True) if which(one)]

    def _recover(self) -> list[str]:
        """Finish what a change before this one left; return what could not be taken back."""
        if self._journal.is_committed():
            self.scope.publish()
        else:
            self.scope.drop_drafts()
        return self._settle()

    def _settle(self) -> list[str]:
        overdue = {one.number for one in self._journal.overdue()}
        return self._undo(lambda one: one.number in overdue) if overdue else []

    def _undo(self, which: Callable[[Owed], bool]) -> list[str]:
        return [str(one) for one in runner.unwind(self._journal, self.host, started=True, which=which)]


def card_of(vm: Vm, name: str) -> Nic:
    """Return the card of that id; raises NotFound: who waited for his turn may find that it has gone."""
    found = next((nic for nic in vm.nics if nic.id == name), None)
    if found is None:
        raise NotFound(f"there is no card {name} any more", where=f"vm.{vm.name}")
    return found
