"""Ends a guest: the power button, then QEMU's ``quit``, then SIGKILL, each with its time, and says which it took."""

from __future__ import annotations

import asyncio
import contextlib
import typing
from enum import StrEnum

from qemunet.errors import Failed, NotFound, TimedOut

TIMEOUT = 30.0  # seconds that a guest has for its shutdown
AGAIN = 5.0  # seconds between two presses: firmware and an early kernel lose them
QUIT = 10.0  # seconds for QEMU to flush its disks and go
KILL = 10.0  # seconds for the kernel to end a killed process

# In these states no processor runs that could hear the button.
DEAF = frozenset({"prelaunch", "paused", "internal-error", "guest-panicked", "io-error", "shutdown", "inmigrate"})


class How(StrEnum):
    """What ended a guest."""

    POWERDOWN = "powerdown"
    QUIT = "quit"
    KILL = "kill"


class Mortal(typing.Protocol):
    """What this needs of a guest."""

    vm: str

    async def execute(self, command: str, seconds: float) -> object:
        """Tell QEMU something; raises a QemunetError."""

    async def run_state(self) -> str:
        """Return QEMU's run state."""

    def kill(self) -> None:
        """Send SIGKILL, if the process is still there."""

    async def wait(self, seconds: float) -> bool:
        """Wait for the end of the process; tell whether it came."""


async def stop(guest: Mortal, seconds: float = TIMEOUT, *, force: bool = False) -> How:
    """End the guest, which has `seconds` for its own shutdown; `force` leaves that out.

    Raises TimedOut if even a SIGKILL did not help.
    """
    if not force and await _powerdown(guest, seconds):
        return How.POWERDOWN
    if await _quit(guest):
        return How.QUIT
    guest.kill()
    if await guest.wait(KILL):
        return How.KILL
    raise TimedOut(
        f"QEMU of {guest.vm} was killed and is still there after {KILL:g} s",
        where=f"vm.{guest.vm}",
        hint="the kernel holds it, perhaps for a disk or a network file system that does not answer",
    )


async def _powerdown(guest: Mortal, seconds: float) -> bool:
    if await guest.run_state() in DEAF:
        return False
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while (left := deadline - clock()) > 0:
        with contextlib.suppress(Failed, NotFound, TimedOut):
            await guest.execute("system_powerdown", min(left, QUIT))
        if await guest.wait(min(AGAIN, max(0.0, deadline - clock()))):
            return True
    return await guest.wait(0)


async def _quit(guest: Mortal) -> bool:
    try:
        await guest.execute("quit", QUIT)
    except NotFound:
        return await guest.wait(1.0)  # no monitor: it is on its way out, or it has to be killed
    except (Failed, TimedOut):
        return False
    return await guest.wait(QUIT)
