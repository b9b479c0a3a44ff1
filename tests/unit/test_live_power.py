"""A guest is ended by the gentlest means that works."""

from __future__ import annotations

import asyncio

import pytest

from qemunet.errors import Failed, NotFound, TimedOut
from qemunet.live import power
from qemunet.live.power import How


class Guest:
    """A guest whose QEMU ends upon the first thing of `dies_of`."""

    vm = "one"

    def __init__(self, *dies_of: str, state: str = "running", deaf_to: int = 0) -> None:
        self.dies_of = dies_of
        self.state = state
        self.deaf_to = deaf_to
        self.heard: list[str] = []
        self.gone = False
        self.now = 0.0
        self.error: Exception | None = None

    async def execute(self, command: str, seconds: float) -> object:
        self.heard.append(command)
        if self.error:
            raise self.error
        self.gone = self.gone or (command in self.dies_of and self.heard.count(command) > self.deaf_to)
        return {}

    async def run_state(self) -> str:
        return self.state

    def kill(self) -> None:
        self.heard.append("kill")
        self.gone = "kill" in self.dies_of

    async def wait(self, seconds: float) -> bool:
        if not self.gone:
            self.now += seconds
        return self.gone


def stop(guest: Guest, *arguments: float, force: bool = False) -> How:
    """End the guest by a clock that only its waits move."""

    async def go() -> How:
        asyncio.get_running_loop().time = lambda: guest.now  # type: ignore[method-assign]
        return await power.stop(guest, *arguments, force=force)

    return asyncio.run(go())


def test_a_guest_that_hears_its_button_shuts_down_by_itself() -> None:
    guest = Guest("system_powerdown")
    assert stop(guest) is How.POWERDOWN
    assert guest.heard == ["system_powerdown"]


def test_the_button_is_pressed_again_because_early_presses_get_lost() -> None:
    guest = Guest("system_powerdown", deaf_to=2)
    assert stop(guest, 30) is How.POWERDOWN
    assert guest.heard == ["system_powerdown"] * 3


def test_when_its_time_is_over_qemu_is_told_to_quit() -> None:
    guest = Guest("quit")
    assert stop(guest, 12) is How.QUIT
    assert guest.heard == ["system_powerdown"] * 3 + ["quit"]


def test_a_qemu_that_does_not_quit_is_killed() -> None:
    guest = Guest("kill")
    assert stop(guest, 0) is How.KILL
    assert guest.heard == ["quit", "kill"]


def test_force_leaves_out_the_button() -> None:
    guest = Guest("system_powerdown", "quit")
    assert stop(guest, 30, force=True) is How.QUIT
    assert guest.heard == ["quit"]


@pytest.mark.parametrize("state", ["paused", "prelaunch", "internal-error", "guest-panicked"])
def test_a_guest_whose_processors_stand_still_is_not_asked(state: str) -> None:
    """Nobody would hear the button, and the user would wait for nothing."""
    guest = Guest("quit", state=state)
    assert stop(guest, 30) is How.QUIT
    assert guest.heard == ["quit"]


@pytest.mark.parametrize("error", [NotFound("gone"), TimedOut("stuck"), Failed("refused")])
def test_a_broken_monitor_leads_to_the_kill(error: Exception) -> None:
    guest = Guest("kill")
    guest.error = error
    assert stop(guest, 1) is How.KILL


def test_a_process_that_survives_its_kill_is_reported() -> None:
    with pytest.raises(TimedOut, match="killed and is still there"):
        stop(Guest(), 0)
