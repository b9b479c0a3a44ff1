"""Prints what happens to the guests of a lab while something does: one boots, is paused, goes on and powers off.

sudo .venv/bin/python examples/python/watch_events.py
"""

import asyncio
from pathlib import Path

import qemunet
from qemunet.api import Lab

LAB = Path(__file__).with_name("cards.toml")


async def watch(lab: Lab) -> None:
    """Print one line for each event until all guests have ended."""
    async for event in lab.events():
        print(f"{event.time:.3f} {event.kind} {event.vm}: {event.what or event.details.get('name')}")


async def main() -> None:
    async with qemunet.open(LAB, ["alice"]) as lab, asyncio.TaskGroup() as tasks:
        tasks.create_task(watch(lab))
        alice = lab.vm["alice"]
        await alice.wait_for_console("qemunet guest ready", 120)
        await alice.qmp("stop")
        await alice.qmp("cont")
        await alice.set_link("net0", up=False)
        print("it took:", await alice.stop())


asyncio.run(main())
