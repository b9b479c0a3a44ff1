"""Whether a guest has a card: seen by what its driver does, and said to be unknown only where it is."""

from __future__ import annotations

import asyncio
import typing

import pytest

from qemunet.errors import NotFound, Refused
from qemunet.live import presence
from qemunet.live.presence import Presence

if typing.TYPE_CHECKING:
    from qemunet.live.process import Guest

OK = "VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"
FOUND = "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"


def master(*names: str) -> str:
    alias = "alias bus master @system 0000000000000000-ffffffffffffffff"
    return "".join(f"    0-f (prio 0, i/o): {alias} owner:{{dev id={name}}}\r\n" for name in names)


class FakeGuest:
    """A guest as it looks at one glance after the other, the last for ever."""

    vm = "a"

    def __init__(
        self,
        *,
        statuses: tuple[list[str] | Exception, ...] = ([],),
        trees: tuple[str, ...] = ("",),
        states: tuple[str, ...] = ("running",),
    ) -> None:
        self.statuses, self.trees, self.states = list(statuses), list(trees), list(states)
        self.commands: list[str] = []

    async def run_state(self) -> str:
        return _next(self.states)

    async def execute(self, command: str, seconds: float = 10.0, arguments: dict[str, object] | None = None) -> object:
        self.commands.append(command)
        if command == "x-query-virtio-status":
            assert arguments == {"path": "/machine/peripheral/net1/virtio-backend"}
            found = _next(self.statuses)
            if isinstance(found, Exception):
                raise found
            return {"status": {"statuses": found}}
        assert (command, arguments) == ("human-monitor-command", {"command-line": "info mtree -o"})
        return _next(self.trees)


T = typing.TypeVar("T")


def _next(known: list[T]) -> T:
    return known.pop(0) if len(known) > 1 else known[0]


def wait(guest: FakeGuest, model: str = "virtio-net-pci", seconds: float = 0.1) -> Presence:
    async def go() -> Presence:
        async with asyncio.timeout(10):
            return await presence.wait(typing.cast("Guest", guest), "net1", model, seconds)

    return asyncio.run(go())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again soon."""
    monkeypatch.setattr(presence, "_GLANCE", 0.001)


def test_a_virtio_card_is_there_when_its_driver_is_ready() -> None:
    """Found by the kernel is not enough; nothing else is asked."""
    guest = FakeGuest(statuses=([], [FOUND], [FOUND, OK]))
    assert wait(guest, seconds=10) is Presence.THERE
    assert guest.commands == ["x-query-virtio-status"] * 3


@pytest.mark.parametrize("model", ["e1000", "e1000e", "rtl8139", "vmxnet3", "pcnet"])
def test_another_card_is_there_when_its_driver_lets_it_reach_the_memory(model: str) -> None:
    """Its own; that of others, or of its port, is no sign."""
    guest = FakeGuest(trees=("", master("rp.1", "net0"), master("rp.1", "net0", "net1")))
    assert wait(guest, model, seconds=10) is Presence.THERE
    assert set(guest.commands) == {"human-monitor-command"}


def test_a_qemu_that_cannot_say_it_of_virtio_is_asked_as_for_the_others() -> None:
    """The command may be another one in another version."""
    unknown = Refused(
        "x-query-virtio-status", "The command x-query-virtio-status has not been found", "CommandNotFound"
    )
    assert wait(FakeGuest(statuses=(unknown,), trees=("", master("net1"))), seconds=10) is Presence.THERE


@pytest.mark.parametrize("state", ["paused", "prelaunch", "inmigrate", "suspended", "internal-error"])
def test_a_guest_that_stands_still_is_not_waited_for(state: str) -> None:
    """It finds the card when it runs on: nothing could change until then."""
    guest = FakeGuest(states=(state,))
    assert wait(guest, seconds=1000) is Presence.PAUSED


def test_a_paused_guest_that_has_the_card_already_has_it() -> None:
    """It was paused after it took it."""
    assert wait(FakeGuest(statuses=([OK],), states=("paused",))) is Presence.THERE


def test_a_guest_that_is_paused_meanwhile_is_waited_for_no_longer() -> None:
    assert wait(FakeGuest(states=("running", "running", "paused")), seconds=1000) is Presence.PAUSED


def test_a_qemu_that_does_not_say_how_its_guest_is_does_not_make_it_paused() -> None:
    """It may be busy."""
    assert wait(FakeGuest(statuses=([], [OK]), states=("unknown",)), seconds=10) is Presence.THERE


@pytest.mark.parametrize("model", ["virtio-net-pci", "e1000"])
def test_a_guest_that_runs_and_does_not_take_it_is_told_from_one_that_has_not_booted(model: str) -> None:
    """Whose kernel is up uses something; whose is not finds the card when it is."""
    assert wait(FakeGuest(trees=(master("rp.0", "net0"),)), model) is Presence.UNSEEN
    assert wait(FakeGuest(trees=(master("rp.0"),)), model) is Presence.NOT_BOOTED
    assert wait(FakeGuest(), model) is Presence.NOT_BOOTED


def test_a_virtio_card_that_was_found_and_has_no_driver_is_unseen() -> None:
    """A kernel without virtio_net gets so far."""
    assert wait(FakeGuest(statuses=([FOUND],), trees=(master("net0"),))) is Presence.UNSEEN


def test_there_is_a_last_look_when_the_time_is_over() -> None:
    """At least one, however little time there is."""
    assert wait(FakeGuest(statuses=([OK],)), seconds=0) is Presence.THERE
    assert wait(FakeGuest(statuses=([],)), seconds=0) is Presence.NOT_BOOTED


def test_a_qemu_that_is_gone_is_not_found() -> None:
    with pytest.raises(NotFound):
        wait(FakeGuest(statuses=(NotFound("QEMU is gone"),)))
