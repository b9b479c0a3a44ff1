"""A card is gone when the guest has let go of that very card, in whatever state the guest is asked."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Callable, Coroutine

import pytest

from qemunet.errors import Failed, NotFound, QemunetError, Refused, TimedOut, UsageError
from qemunet.live import unplug

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.live.process import Guest

MISSING = Refused("device_del", "Device 'net1' not found", "DeviceNotFound")


class FakeGuest:
    """A guest that lets go of its card as it is told to: `answers` are tried one after the other, the last for ever."""

    vm = "a"

    def __init__(self, *answers: Callable[[FakeGuest], None], states: tuple[str, ...] = ("running",)) -> None:
        self.hear: list[Callable[[Message], None]] = []
        self.asked = 0
        self.answers = answers
        self.states = list(states)

    async def run_state(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    async def execute(self, command: str, seconds: float = 10.0, arguments: dict[str, object] | None = None) -> object:
        assert (command, arguments) == ("device_del", {"id": "net1"})
        self.asked += 1
        self.answers[min(self.asked, len(self.answers)) - 1](self)
        return {}

    def tell(self, event: str, **data: object) -> None:
        for listener in list(self.hear):
            listener({"event": event, "data": data, "timestamp": {}})

    def later(self, event: str, **data: object) -> None:
        asyncio.get_running_loop().call_soon(lambda: self.tell(event, **data))


def gone(guest: FakeGuest) -> None:
    guest.later("DEVICE_DELETED", device="net1", path="/machine/peripheral/net1")


def lost(guest: FakeGuest) -> None:
    """It was asked, and whoever has the machine does not hear it."""


def refused(error: Exception) -> Callable[[FakeGuest], None]:
    def answer(guest: FakeGuest) -> None:
        raise error

    return answer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again soon."""
    monkeypatch.setattr(unplug, "_AGAIN", 0.02)
    monkeypatch.setattr(unplug, "_LATE", 0.1)


def run(work: Coroutine[object, object, None], seconds: float = 10.0) -> None:
    async def go() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(go())


def unplugged(guest: FakeGuest) -> int:
    """Unplug the card; return how often the guest was asked for it."""
    run(unplug.unplug(typing.cast("Guest", guest), "net1"))
    assert guest.hear == []
    return guest.asked


def test_a_guest_that_runs_is_asked_once() -> None:
    assert unplugged(FakeGuest(gone)) == 1


def test_word_that_comes_before_the_answer_is_heard() -> None:
    """Events are listened to before the first request."""
    assert unplugged(FakeGuest(lambda guest: guest.tell("DEVICE_DELETED", device="net1"))) == 1


def test_the_inner_half_of_a_virtio_card_is_not_the_card() -> None:
    """Its end is told first, by its path alone; QEMU has the card until the second word."""

    def halves(guest: FakeGuest) -> None:
        guest.tell("DEVICE_DELETED", path="/machine/peripheral/net1/virtio-backend")

    assert unplugged(FakeGuest(halves, gone)) == 2


def test_the_end_of_another_card_is_not_this_ones() -> None:
    def other(guest: FakeGuest) -> None:
        guest.tell("DEVICE_DELETED", device="net10", path="/machine/peripheral/net10")
        guest.tell("DEVICE_UNPLUG_GUEST_ERROR", device="net10", path="/machine/peripheral/net10")
        guest.tell("RESET", guest=True, reason="guest-reset")
        guest.tell("STOP")

    assert unplugged(FakeGuest(other, gone)) == 2


def test_a_request_that_is_lost_is_repeated_until_it_is_heard() -> None:
    """Firmware, or an early kernel, has the machine: it says nothing at all."""
    assert unplugged(FakeGuest(lost, lost, lost, gone)) == 4


def test_a_guest_that_was_never_run_is_not_asked_before_it_is() -> None:
    """QEMU would take it for asked until its next reset, and refuse every further request."""
    guest = FakeGuest(gone, states=("prelaunch", "prelaunch", "running"))
    assert unplugged(guest) == 1


def test_a_paused_guest_lets_go_when_it_runs_on() -> None:
    """It may be asked; nothing comes of it while it stands still."""
    assert unplugged(FakeGuest(lost, lost, gone, states=("paused", "paused", "running"))) == 3


@pytest.mark.parametrize(
    "words",
    [
        "Device net1 is already in the process of unplug",
        "Hot-unplug failed: guest is busy (power indicator blinking)",
    ],
)
def test_a_request_that_is_refused_for_now_is_repeated(words: str) -> None:
    """It was asked before it had run, or is on its way already."""
    assert unplugged(FakeGuest(refused(Refused("device_del", words)), gone)) == 2


def test_a_qemu_that_does_not_answer_in_time_is_asked_again() -> None:
    """It is stopped by a signal, or busy."""
    assert unplugged(FakeGuest(refused(TimedOut("QEMU did not answer within 10 s")), gone)) == 2


@pytest.mark.parametrize("before", [(), (lost,)])
def test_a_card_that_is_not_there_is_gone(before: tuple[Callable[[FakeGuest], None], ...]) -> None:
    """Somebody else was quicker, or the word of its end was missed."""
    assert unplugged(FakeGuest(*before, refused(MISSING))) == len(before) + 1


def test_word_that_comes_after_qemu_has_forgotten_the_card_is_waited_for() -> None:
    """Whoever plugs in the next one of that id must not hear it."""
    heard = []

    def missing(guest: FakeGuest) -> None:
        asyncio.get_running_loop().call_later(0.03, lambda: (heard.append(1), gone(guest)))
        raise MISSING

    assert unplugged(FakeGuest(lost, missing)) == 2
    assert heard


def test_a_guest_may_refuse() -> None:
    """It says so by an event, for this very card."""
    guest = FakeGuest(lambda guest: guest.later("DEVICE_UNPLUG_GUEST_ERROR", device="net1", path="/x"))
    with pytest.raises(Failed, match="the guest does not give up net1") as caught:
        unplugged(guest)
    assert (caught.value.where, guest.asked, guest.hear) == ("vm.a", 1, [])


@pytest.mark.parametrize(
    "words", ["Bus 'virtio-mmio-bus.0' does not support hotplugging", "Device 'e' cannot be hotplugged"]
)
def test_a_machine_that_lets_nothing_go_is_said_at_once(words: str) -> None:
    """Asking again would never help; QEMU's own words are in it."""
    guest = FakeGuest(refused(Refused("device_del", words)))
    with pytest.raises(UsageError, match=words):
        unplugged(guest)
    assert (guest.asked, guest.hear) == (1, [])


def test_a_qemu_that_is_gone_is_no_success_of_its_own() -> None:
    """Its keeper takes back all of it."""
    guest = FakeGuest(refused(NotFound("QEMU is gone")))
    with pytest.raises(NotFound):
        unplugged(guest)
    assert guest.hear == []


def test_a_wait_that_is_limited_says_for_how_long_it_was() -> None:
    """A guest that has panicked, or has no hot-plug, says nothing for ever; nobody listens to it any more."""
    guest = FakeGuest(lost)
    with pytest.raises(TimedOut, match=r"the guest has not let go of net1 within 0\.1 s"):
        run(unplug.within(typing.cast("Guest", guest), "net1", 0.1))
    assert guest.asked > 1
    assert guest.hear == []


def test_an_unplugging_that_is_cancelled_listens_no_more() -> None:
    async def go() -> None:
        asked = asyncio.Event()
        guest = FakeGuest(lambda guest: asked.set())
        task = asyncio.create_task(unplug.unplug(typing.cast("Guest", guest), "net1"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert guest.hear == []

    asyncio.run(go())


@pytest.mark.parametrize("error", [UsageError("x"), Failed("x"), NotFound("x")])
def test_what_goes_wrong_in_time_is_not_called_late(error: QemunetError) -> None:
    guest = FakeGuest(refused(error))
    with pytest.raises(type(error)):
        run(unplug.within(typing.cast("Guest", guest), "net1", 60.0))
