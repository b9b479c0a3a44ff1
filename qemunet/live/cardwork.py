"""What a keeper has done about cards in its thread that may block, each a change of one vm of its own."""

from __future__ import annotations

import contextlib
import typing

from qemunet.config import edit, read
from qemunet.errors import Duplicate, Failed, NotFound, Refused, Taken, UsageError
from qemunet.frozen import frozen, replace
from qemunet.host import hooks
from qemunet.host.cards import NO_SUCH_DEVICE
from qemunet.host.linux import LinuxHost
from qemunet.live import devices, helpers, running
from qemunet.live.change import Change, card_of
from qemunet.live.record import pick, refuse_taken
from qemunet.live.taken import refuse_taken_networks
from qemunet.plan import links, live, plug
from qemunet.runner import why
from qemunet.steps import Plan, SetGuestLink

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from qemunet.config.spec import LabSpec, NicSpec
    from qemunet.host.cards import Monitor
    from qemunet.live.running import Comparison
    from qemunet.live.seats import Seats
    from qemunet.model.nic import Nic
    from qemunet.plan.words import Json
    from qemunet.records import NicRecord, VmRecord
    from qemunet.state import Runtime

    Wish = Callable[[LabSpec], LabSpec]
    Keys = dict[str, object]  # as a [[vm.NAME.nic]] has them

UNPLUGGING, PLUGGED = "unplugging", "plugged"


@frozen
class Other:
    """A card that cannot become what it shall be in its place: it has to be unplugged, and plugged in again there."""

    nic: str
    seat: dict[str, Json]
    was: Wish
    shall: Wish
    old: Nic
    new: Nic


@frozen
class Left:
    """What a killed keeper left of a vm: what could not be taken back, cards on their way out, cards that have gone.

    `half_way`: it was killed in a change, so QEMU may still have descriptors that it was given for that.
    """

    failures: tuple[str, ...]
    half_way: bool
    leaving: tuple[str, ...]
    gone: tuple[str, ...]


class CardWork:
    """Changes the cards of one vm; `monitor` is for a thread that may wait for it, `seats` are the keeper's."""

    def __init__(self, runtime: Runtime, vm: str, monitor: Monitor, seats: Seats | None = None) -> None:
        self.runtime = runtime
        self.vm = vm
        self.monitor = monitor
        self.seats = seats

    def add(self, keys: Keys, expected: Callable[[], Collection[str]] = tuple) -> NicRecord:
        """Plug in a card that has these keys; raises any QemunetError, and then nothing has changed.

        `expected` are the ids of cards that are out and about to come back.
        """
        with _of_another(), self._change() as change:
            record, soon = change.record(), expected()
            name = edit.free_id((*(row.id for row in record.nics), *change.cards(), *soon))
            given = read.nic({"id": name, **keys}, f"vm {self.vm}", "nic")
            name = given.id or name
            if name in soon:
                raise coming_back(self.vm, name)
            refuse_taken(record.nics, self.vm, name)
            wish = running.with_cards(self.runtime, record, lambda nics: (*nics, given), given.port_profile)
            return change.add(lambda: self._compared(change, record, wish), name)

    def add_as(self, wish: Wish, nic: str, seat: dict[str, Json] | None = None) -> NicRecord:
        """Plug in a card as a wish has it, at a place that is given or free."""
        with self._change() as change:
            record = change.record()
            refuse_taken(record.nics, self.vm, nic)
            return change.add(lambda: self._compared(change, record, wish), nic, seat)

    def followed(self, other: Other) -> None:
        """Let the forwards that led to a card lead to what it is, now that it is plugged in again."""
        with contextlib.closing(self._host()) as host:
            self._followed(host, self.runtime.vm(self.vm), other.old, other.new)

    def again(self, nic: str, seat: dict[str, Json] | None) -> NicRecord:
        """Plug in a card once more that the guest has thrown out; raises NotFound if that is not wanted any more."""
        record = self.runtime.vm(self.vm)
        if record.card(nic).state == UNPLUGGING:
            raise NotFound(f"{nic} was unplugged by another command before the guest had it", where=f"vm.{self.vm}")
        there = running.read_spec(self.runtime, record)
        self.forget(nic)
        return self.add_as(lambda _: there, nic, seat)

    def alter(self, word: str, keys: Keys) -> NicRecord | Other:
        """Change keys of a card; return its row, or what it takes if that cannot be done in its place."""
        with _of_another(), self._change() as change:
            record = change.record()
            name = self._still(pick(record.nics, self.vm, word)).id
            given = edit.given(keys, f"vm {self.vm}", f"nic.{name}")
            if given.id not in (None, name):
                raise UsageError("a card keeps its id while it is plugged in", where=f"vm.{self.vm}")

            def edited(nics: tuple[NicSpec, ...]) -> tuple[NicSpec, ...]:
                return tuple(edit.changed_live(nic, given) if nic.id == name else nic for nic in nics)

            wish = running.with_cards(self.runtime, record, edited, given.port_profile or None)
            return self._altered(change, record, name, wish)

    def alter_as(self, wish: Wish, nic: str) -> NicRecord | Other:
        """Make a card what it is in a wish; return its row, or what it takes if that cannot be done in its place."""
        with self._change() as change:
            record = change.record()
            self._still(record.card(nic))
            return self._altered(change, record, nic, wish)

    def part(self, nic: str) -> None:
        """Note that a card is being unplugged."""
        with self._change() as change:
            change.note(nic, UNPLUGGING)

    def stay(self, nic: str) -> None:
        """Note that a card stays after all."""
        with self._change() as change:
            change.note(nic, PLUGGED)

    def cut(self, nic: str) -> None:
        """Stop the traffic of a card that is on its way out."""
        with self._change() as change:
            found = self._compared(change, change.record(), lambda there: there, strict=False)
            model = card_of(found.old, nic)
            try:
                change.perform(SetGuestLink(self.vm, nic, up=False), *links.cable(model, on=False))
            except Refused as error:
                if error.error_class != NO_SUCH_DEVICE:  # it has just gone
                    raise

    def forget(self, nic: str) -> bool:
        """Take back all that was made for a card that the guest has let go of; tell whether it has.

        QEMU may say late that a card is gone, when there is another one of its id.
        """
        with self._change() as change:
            record = change.record()
            if devices.has(self.monitor, nic):
                return False
            if any(row.id == nic for row in record.nics):
                change.forget(self._compared(change, record, lambda there: there, strict=False), nic)
        return True

    def recover(self) -> Left:
        """Finish what a killed keeper left; return what is left to do."""
        with self._change() as change:
            hooks.end_left(change.scope.directory)
            there, rows = change.cards(), change.record().nics
            return Left(
                failures=tuple(change.failures),
                half_way=change.half_way,
                leaving=tuple(row.id for row in rows if row.state == UNPLUGGING and row.id in there),
                gone=tuple(row.id for row in rows if row.id not in there),
            )

    def rows(self) -> tuple[VmRecord, list[devices.Card]]:
        """Return the record of the vm, and the cards that QEMU has."""
        record = self.runtime.vm(self.vm)
        directory = self.runtime.scope(f"vm/{self.vm}").directory
        nics = tuple(helpers.as_it_is(directory, row) for row in record.nics)
        return replace(record, nics=nics), list(devices.cards(self.monitor))

    def differences(self, wish: Wish, *, strict: bool) -> tuple[live.Difference, ...]:
        """Return what it takes to make the vm what it is in a wish."""
        host = self._host()
        try:
            found = running.compare(self.runtime, host, self.runtime.vm(self.vm), wish, strict=strict)
        finally:
            host.close()
        return live.differences(found.old, found.new)

    def unlike_its_file(self) -> tuple[live.Difference, ...]:
        """Return what it would take to make the vm what its lab file says now."""
        spec = read.load(self.runtime.vm(self.vm).file)
        if all(vm.name != self.vm for vm in spec.vms):
            raise NotFound(f"{self.vm} is not in it any more", where=spec.file)
        return self.differences(running.as_in(spec, self.vm), strict=False)

    # ---------------------------------------------------------------- one change

    def _altered(self, change: Change, record: VmRecord, name: str, wish: Wish) -> NicRecord | Other:
        found = self._compared(change, record, wish)
        old, new = card_of(found.old, name), card_of(found.new, name)
        difference = next((one for one in live.differences(found.old, found.new) if _is_about(one, name)), None)
        match difference:
            case None:
                return record.card(name)
            case live.Change():
                row = change.alter(lambda: self._compared(change, record, wish), name)
                self._followed(change.host, record, old, new)
                return row
            case live.Replug():
                self._refuse_impossible(found, old, new)
                return self._other(change, record, old, new, wish)
        raise UsageError(f"{name}: {difference.describe()}", where=f"vm.{self.vm}", hint="stop it and change its file")

    def _followed(self, host: LinuxHost, record: VmRecord, old: Nic, new: Nic) -> None:
        """Let the forwards that led to a card lead to what it has become."""
        if live.moves(old, new) or old.ips != new.ips or type(old.backend) is not type(new.backend):
            from qemunet.live import forwards

            forwards.follow(self.runtime, host, record, old, new)

    def _other(self, change: Change, record: VmRecord, old: Nic, new: Nic, wish: Wish) -> Other:
        card = change.cards().get(old.id)
        seat: dict[str, Json] = {"bus": card.bus, "addr": card.addr} if card else {}
        there = running.read_spec(self.runtime, record)
        target = wish(there)
        return Other(old.id, seat, lambda _: there, lambda _: target, old, new)

    def _refuse_impossible(self, found: Comparison, old: Nic, new: Nic) -> None:
        """Raise Taken if the card that is to come cannot be had, before the one that is there goes for it."""
        mine = getattr(old.backend, "ifname", None)
        links_then = {name: link for name, link in found.facts.links.items() if name != mine}
        planned = plug.add(found.lab, found.old, new, {}, replace(found.facts, links=links_then))
        refuse_taken_networks(self.runtime, Plan(shared=planned.shared))

    def _compared(self, change: Change, record: VmRecord, wish: Wish, *, strict: bool = True) -> Comparison:
        return running.compare(self.runtime, change.host, record, wish, strict=strict)

    def _still(self, row: NicRecord) -> NicRecord:
        if row.state == UNPLUGGING:
            raise UsageError(f"{row.id} is being unplugged", where=f"vm.{self.vm}")
        return row

    @contextlib.contextmanager
    def _change(self) -> Iterator[Change]:
        host = self._host()
        try:
            with Change(self.runtime, host, self.vm, self.seats) as change:
                yield change
        except OSError as error:
            text = f"could not write down the change: {why(error)}"
            raise Failed(text, where=f"vm.{self.vm}", hint="when it can be, the same command does it") from error
        finally:
            host.close()

    def _host(self) -> LinuxHost:
        host = LinuxHost(self.runtime.path)
        host.monitors[self.vm] = self.monitor
        return host


def coming_back(vm: str, nic: str) -> Taken:
    """Return the error for an id whose card is out, and comes back as another one."""
    return Taken(f"{nic} is about to be plugged in again", where=f"vm.{vm}")


@contextlib.contextmanager
def _of_another() -> Iterator[None]:
    """What two cards of a file cannot both have is, for a card that comes to another one, taken."""
    try:
        yield
    except Duplicate as error:
        raise Taken(error.message, where=error.where, hint=error.hint) from error


def _is_about(one: live.Difference, name: str) -> bool:
    match one:
        case live.Change(new=nic) | live.Replug(new=nic):
            return nic.id == name
        case live.Restart(nic=nic):
            return nic == name
    return False
