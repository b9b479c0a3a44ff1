"""Finds the way into a guest by which a command is run there, and serves whoever asked for it."""

from __future__ import annotations

import typing

from qemunet.errors import TimedOut

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from qemunet.live.client import Client
    from qemunet.live.process import Guest

WAIT = 60.0  # seconds that a guest has to boot and to say that it listens


async def run(guest: Guest, argv: Sequence[bytes], seconds: float, client: Client) -> None:
    """Run a command in a guest for a client, to its end."""
    await client.serve(_run(guest, argv, seconds, client))


async def _run(guest: Guest, argv: Sequence[bytes], seconds: float, client: Client) -> int:
    agent = guest.agent or guest.qga
    if agent is None:
        return await guest.prompt.run(argv, seconds, client)
    if not await client.while_wanted(agent.awake(seconds)):
        state = await guest.run_state()
        hint = f"`qemunet console {guest.vm}` shows what it does"
        problem = f"its agent has not said anything within {seconds:g} s; QEMU says that it is {state}"
        if guest.qga:
            hint += "; qemu-guest-agent has to be installed and to run there"
            problem = f"its QEMU guest agent has not answered within {seconds:g} s; QEMU says that it is {state}"
        raise TimedOut(problem, where=f"vm.{guest.vm}", hint=hint)
    return await agent.run(argv, client)
