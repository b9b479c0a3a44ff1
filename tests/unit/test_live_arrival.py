"""A new card is waited for: one that went by a request for another one comes again, one that was meant does not."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable, Coroutine

import pytest

from qemunet.errors import Failed, Interrupted, NotFound, NotTakenBack, QemunetError, Taken, TimedOut
from qemunet.frozen import replace
from qemunet.live import presence
from qemunet.live.arrival import Arrivals
from qemunet.live.cards import Cards
from qemunet.live.cardwork import CardWork, Other
from qemunet.live.control import errors_in
from qemunet.live.presence import Presence
from qemunet.live.seats import Seats
from qemunet.model.nic import Nic, UserBackend
from qemunet.plan import live
from qemunet.records import NicRecord, VmRecord

if typing.TYPE_CHECKING:
    from qemunet.live.care import Keeper
    from qemunet.live.process import Guest

D = NicRecord("d", "tap", "virtio-net-pci", "52:54:00:00:00:0d", "up", slot="rp.0")
NIC = Nic("d", "virtio-net-pci", D.mac, UserBackend())
OK = "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"
SEAT: dict[str, typing.Any] = {"bus": "rp.0", "addr": "0x0"}

Event = dict[str, object]


def deleted(nic: str) -> Event:
    return {"event": "DEVICE_DELETED", "data": {"device": nic}}


class FakeGuest:
    """A guest whose driver takes a card at a look to come; before each look, something may happen."""

    vm = "a"
    adopted = False
    ended = False

    def __init__(self, *happens: Callable[[], object], looks: int = 3, state: str = "running") -> None:
        self.happens = list(happens)
        self.looks = looks
        self.state = state
        self.plugged: list[str] = []
        self.hear: list[Callable[[Event], None]] = []
        self.missed: list[Callable[[], None]] = []

    def tell(self, event: Event) -> None:
        for listener in self.hear:
            listener(event)

    async def run_state(self) -> str:
        return self.state

    async def wait(self, seconds: float) -> bool:
        return self.ended

    async def execute(self, command: str, seconds: float = 10.0, arguments: object = None) -> object:
        if command == "human-monitor-command":
            return ""
        if command == "qom-list":
            return [{"name": nic, "type": "child<virtio-net-pci>"} for nic in self.plugged]
        if self.happens:
            self.happens.pop(0)()
        self.looks -= 1
        return {"status": {"statuses": [OK] if self.looks <= 0 and self.state == "running" else []}}


class Doer:
    """Does what an arrival takes, and notes it; a card that comes again sits somewhere else, if it may."""

    def __init__(self) -> None:
        self.seats = Seats()
        self.arrivals = Arrivals(self.seats, self)
        self.done: list[str] = []
        self.log: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.error: QemunetError | None = None

    async def do(self, work: Callable[..., object], guest: Guest, *arguments: object) -> object:
        if work is CardWork.rows:
            return VmRecord("a", "l", "f", "q35", "tcg", (D,)), []
        assert work is CardWork.again, work
        nic, seat = arguments
        self.done.append(f"again {nic} {seat['bus'] if isinstance(seat, dict) else 'anywhere'}")
        if self.error:
            raise self.error
        slot = "rp.0" if seat else "rp.1"
        self.seats.sit(guest.vm, "d", slot, typing.cast("dict[str, typing.Any] | None", seat))
        return replace(D, slot=slot)

    async def forget(self, guest: Guest, nic: str) -> None:
        self.done.append(f"forget {nic}")

    def tell(self, guest: Guest, nic: str, what: str) -> None:
        self.done.append(f"tell {nic} {what}")

    def say(self, text: str) -> None:
        self.log.append(text)

    def begin(self, work: Coroutine[typing.Any, typing.Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    def out(self, *, asked: bool = False) -> None:
        """The card goes."""
        self.seats.leave("a", "d", "rp.0")
        assert self.arrivals.gone(typing.cast("Guest", FakeGuest(looks=10**6)), "d", asked=asked)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon."""
    monkeypatch.setattr(presence, "_GLANCE", 0.001)


@pytest.fixture
def doer() -> Doer:
    """Card d has just been plugged in where another one was before."""
    made = Doer()
    made.seats.leave("a", "net0", "rp.0")
    made.seats.sit("a", "d", "rp.0")
    return made


def run(work: Coroutine[object, object, typing.Any]) -> typing.Any:
    async def go() -> object:
        async with asyncio.timeout(10):
            return await work

    return asyncio.run(go())


def arrive(doer: Doer, guest: FakeGuest, seconds: float = 10.0) -> tuple[NicRecord, Presence]:
    found: tuple[NicRecord, Presence] = run(doer.arrivals.arrive(typing.cast("Guest", guest), D, seconds))
    return found


# ---------------------------------------------------------------- one that waits


def test_a_card_that_the_guest_takes_is_there_and_its_place_as_new(doer: Doer) -> None:
    assert arrive(doer, FakeGuest()) == (D, Presence.THERE)
    assert doer.done == []
    assert (doer.seats.newcomer("a", "d"), doer.seats.left("a")) == (None, ())


def test_a_card_that_a_request_for_another_one_took_out_comes_again(doer: Doer) -> None:
    """Wherever there is room; the log says so."""
    row, found = arrive(doer, FakeGuest(doer.out, looks=4))
    assert (row.slot, found) == ("rp.1", Presence.THERE)
    assert doer.done == ["again d anywhere", "tell d plugged"]
    assert doer.log == ["a: d was thrown out of rp.0, as the card before it was to be"]
    assert doer.seats.left("a") == ("rp.0",)


def test_a_card_that_was_out_before_it_was_waited_for_comes_again(doer: Doer) -> None:
    """Between the plug and the record."""
    doer.out()
    assert arrive(doer, FakeGuest())[1] is Presence.THERE
    assert doer.done == ["again d anywhere", "tell d plugged"]


def test_late_word_of_an_earlier_card_of_its_id_is_no_end_of_this_one(doer: Doer) -> None:
    guest = FakeGuest(doer.out)
    guest.plugged.append("d")
    assert arrive(doer, guest) == (D, Presence.THERE)
    assert doer.done == []


def test_a_card_that_has_its_place_comes_again_there() -> None:
    doer = Doer()
    doer.seats.leave("a", "net0", "rp.0")
    doer.seats.sit("a", "d", "rp.0", SEAT)
    row, _ = arrive(doer, FakeGuest(doer.out, doer.out, looks=6))
    assert row.slot == "rp.0"
    assert doer.done == ["again d rp.0", "tell d plugged"] * 2


def test_a_guest_that_throws_a_card_out_again_and_again_is_told_of() -> None:
    """Nothing is left of it then."""
    doer = Doer()
    doer.seats.leave("a", "net0", "rp.0")
    doer.seats.sit("a", "d", "rp.0", SEAT)
    with pytest.raises(Failed, match="the guest throws d out again and again"):
        arrive(doer, FakeGuest(*[doer.out] * 100, looks=100))
    assert doer.done.count("again d rp.0") == 8
    assert doer.done[-1] == "forget d"
    assert doer.seats.newcomer("a", "d") is None


def test_a_card_that_somebody_else_unplugs_meanwhile_is_forgotten_and_said_so() -> None:
    """Nothing was at its place before."""
    doer = Doer()
    doer.seats.sit("a", "d", "rp.0")
    with pytest.raises(NotFound, match="d was unplugged by somebody else before the guest had it"):
        arrive(doer, FakeGuest(doer.out))
    assert doer.done == ["forget d"]
    assert doer.log == ["a: d was unplugged by somebody else"]


def test_a_card_that_another_command_unplugs_meanwhile_is_left_to_that(doer: Doer) -> None:
    with pytest.raises(NotFound, match="d was unplugged by another command before the guest had it"):
        arrive(doer, FakeGuest(lambda: doer.out(asked=True)))
    assert doer.done == []


def test_a_card_that_cannot_come_again_says_why(doer: Doer) -> None:
    doer.error = Failed("no")
    with pytest.raises(Failed, match="no"):
        arrive(doer, FakeGuest(doer.out))
    assert doer.seats.newcomer("a", "d") is None


def test_a_card_that_nobody_takes_is_no_newcomer_any_more(doer: Doer) -> None:
    """Whoever unplugs it from then on means it."""
    assert arrive(doer, FakeGuest(looks=10**6), 0.0) == (D, Presence.NOT_BOOTED)
    assert doer.seats.newcomer("a", "d") is None
    assert not doer.arrivals.gone(typing.cast("Guest", FakeGuest()), "d", asked=False)


def test_who_hangs_up_is_not_waited_for(doer: Doer) -> None:
    """What becomes of the card is up to whoever it was plugged in for."""
    looks = iter((False, False, True))
    waits = doer.arrivals.arrive(typing.cast("Guest", FakeGuest(looks=10**6)), D, 10.0, lambda: next(looks))
    with pytest.raises(Interrupted):
        run(waits)
    assert doer.seats.newcomer("a", "d") is None


# ---------------------------------------------------------------- one that nobody waits for


@pytest.mark.parametrize("thrown", [False, True])
def test_a_card_of_a_paused_guest_is_seen_in_when_that_runs_on(doer: Doer, *, thrown: bool) -> None:
    guest = FakeGuest(state="paused", looks=5)

    async def go() -> None:
        assert await doer.arrivals.arrive(typing.cast("Guest", guest), D, 10.0) == (D, Presence.PAUSED)
        assert doer.seats.resting("a") == ["d"]
        doer.arrivals.heard(typing.cast("Guest", guest), {"event": "STOP"})
        assert doer.tasks == []
        guest.state = "running"
        guest.happens = [doer.out] if thrown else []
        doer.arrivals.heard(typing.cast("Guest", guest), {"event": "RESUME"})
        await asyncio.gather(*doer.tasks)

    run(go())
    assert doer.done == (["again d anywhere", "tell d plugged"] if thrown else [])
    assert (doer.seats.newcomer("a", "d"), doer.seats.resting("a")) == (None, [])


def test_a_card_of_a_paused_guest_that_somebody_else_unplugs_is_forgotten() -> None:
    doer = Doer()
    doer.seats.sit("a", "d", "rp.0")

    async def go() -> None:
        await doer.arrivals.arrive(typing.cast("Guest", FakeGuest(state="paused")), D, 10.0)
        doer.out()
        await asyncio.gather(*doer.tasks)

    run(go())
    assert doer.done == ["forget d"]
    assert doer.log[-1] == "a: d: vm.a: d was unplugged by somebody else before the guest had it"


# ---------------------------------------------------------------- all cards


class FakeCards(Cards):
    """All cards of one guest, which has the ones of `rows`; while one is added, something happens."""

    def __init__(self, guest: FakeGuest, happens: Event) -> None:
        self.doer = Doer()
        super().__init__(typing.cast("Keeper", None))
        self._seats = self.doer.seats
        self._arrivals = Arrivals(self._seats, self)
        self.guest = guest
        self.happens = happens
        self.rows: list[NicRecord] = []

    async def do(self, work: Callable[..., object], guest: Guest, *arguments: object, **named: object) -> object:
        if work is CardWork.add:
            self._seats.sit("a", "d", "rp.0")
            self.guest.tell(self.happens)
            self.rows.append(D)
            return D
        if work is CardWork.forget:
            self.rows = [row for row in self.rows if row.id != arguments[0]]
            self.doer.done.append(f"forget {arguments[0]}")
            return True
        return await self.doer.do(work, guest, *arguments)

    def _rows(self, guest: Guest) -> tuple[NicRecord, ...]:
        return tuple(self.rows)

    def tell(self, guest: Guest, nic: str, what: str) -> None:
        self.doer.tell(guest, nic, what)

    def say(self, text: str) -> None:
        self.doer.say(text)

    def begin(self, work: Coroutine[typing.Any, typing.Any, None]) -> None:
        self.doer.begin(work)


def added(cards: FakeCards) -> tuple[NicRecord, Presence]:
    async def go() -> tuple[NicRecord, Presence]:
        guest = typing.cast("Guest", cards.guest)
        await cards.attend(guest)
        return await cards.add(guest, {"id": "d"}, 10.0)

    found: tuple[NicRecord, Presence] = run(go())
    return found


def test_a_card_that_goes_before_it_is_written_down_is_not_lost_sight_of() -> None:
    """Its record would else tell of a card that is not there."""
    cards = FakeCards(FakeGuest(), deleted("d"))
    with pytest.raises(NotFound, match="unplugged by somebody else"):
        added(cards)
    assert cards.rows == []
    assert cards.doer.done == ["tell d plugged", "forget d", "tell d unplugged"]


def test_the_place_of_any_card_that_goes_is_known_to_be_left() -> None:
    """One that was there from the start, and then this one at its place; others' cards are none of ours."""
    guest = FakeGuest(lambda: guest.tell(deleted("d")), looks=4)
    cards = FakeCards(guest, deleted("theirs"))
    cards.rows = [replace(D, id="net0", slot="rp.0")]

    async def go() -> tuple[NicRecord, Presence]:
        await cards.attend(typing.cast("Guest", guest))
        guest.tell(deleted("net0"))
        await asyncio.gather(*cards.doer.tasks)
        return await cards.add(typing.cast("Guest", guest), {"id": "d"}, 10.0)

    assert run(go()) == (replace(D, slot="rp.1"), Presence.THERE)
    assert cards._seats.left("a") == ("rp.0",)
    assert cards.doer.done[:2] == ["forget net0", "tell net0 unplugged"]
    assert cards.doer.done[2:] == ["tell d plugged", "again d anywhere", "tell d plugged"]


def test_of_two_who_change_a_card_that_has_to_be_unplugged_for_that_one_is_refused() -> None:
    """Nothing was done for him, and the other one goes on."""
    cards = FakeCards(FakeGuest(), deleted("theirs"))
    other = Other("d", SEAT, lambda spec: spec, lambda spec: spec, NIC, NIC)
    cards._replugs._coming_back.add(("a", "d"))
    with pytest.raises(Taken, match="d is about to be plugged in again"):
        run(cards._replugs.replug(typing.cast("Guest", cards.guest), other, 10.0))
    assert cards._replugs._coming_back == {("a", "d")}
    assert cards._leaving == {}


@pytest.mark.parametrize("ended", [False, True])
def test_a_guest_that_ends_while_its_card_is_out_has_ended_and_nothing_more(*, ended: bool) -> None:
    """There is nothing to bring back then; else what could not be brought back is said."""
    cards = FakeCards(FakeGuest(), deleted("theirs"))
    cards.guest.ended = ended
    other = Other("d", SEAT, lambda spec: spec, lambda spec: spec, NIC, NIC)
    cards._replugs._coming_back.add(("a", "d"))

    async def refuses(work: Callable[..., object], *_: object) -> object:
        assert work is CardWork.add_as
        raise Failed("QEMU does not answer")

    cards.do = refuses  # type: ignore[method-assign, assignment]
    with pytest.raises(
        NotFound if ended else NotTakenBack, match="vm.a: it has ended meanwhile" if ended else "d could not be"
    ):
        run(cards._replugs._plug_other(typing.cast("Guest", cards.guest), other))
    assert cards._replugs._coming_back == set()


# ---------------------------------------------------------------- several at once


def test_a_card_that_fails_is_in_nobody_elses_way() -> None:
    """What a lab file wants of the other cards is done, and each says what came of it."""

    class Applied(FakeCards):
        found: tuple[live.Difference, ...] = tuple(live.Remove("a", NIC) for _ in range(3))

        async def do(self, work: Callable[..., object], guest: Guest, *arguments: object, **named: object) -> object:
            return self.found

        async def remove(self, guest: Guest, word: str, seconds: float, *, cut: bool) -> NicRecord:
            self.doer.done.append(word)
            if len(self.doer.done) == 2:
                raise TimedOut("the guest has not let go of d", where="vm.a")
            return D

    cards = Applied(FakeGuest(), {})
    rows = run(cards.apply(typing.cast("Guest", cards.guest), lambda spec: spec, 1.0, dry=False))
    assert [row["done"] for row in rows] == [True, False, True]
    assert [str(error) for error in errors_in(rows)] == ["vm.a: the guest has not let go of d"]
    assert isinstance(errors_in(rows)[0], TimedOut)


def test_a_card_that_its_guest_does_not_take_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is plugged in, and that is said."""

    class Applied(FakeCards):
        async def do(self, work: Callable[..., object], guest: Guest, *arguments: object, **named: object) -> object:
            return (live.Add("a", NIC),) if work is CardWork.differences else D

    async def waited(*_: object) -> tuple[NicRecord, Presence]:
        return D, Presence.UNSEEN

    cards = Applied(FakeGuest(), {})
    monkeypatch.setattr(cards._arrivals, "arrive", waited)
    (row,) = run(cards.apply(typing.cast("Guest", cards.guest), lambda spec: spec, 0.0, dry=False))
    assert row["done"] is False
    assert "is plugged in, and no driver" in str(errors_in([row])[0])
