"""Opens a lab and is killed, interrupted or left alone at a certain place.

``holder.py FILE PLACE [FAULT]``: PLACE is ``order`` (it is sent), ``ready`` (the guests are, and nothing is final),
``go`` (they are for good), ``block`` (it is entered, and said so); FAULT is ``kill`` (itself, the default), ``error``,
``wait`` (for somebody else to do something) or ``sync`` (the same, blocking).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Any

import qemunet
from qemunet.live import begin
from qemunet.live.wire import Wire


def die(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str) -> None:
    """Be killed at that place of a start."""
    write = Wire.write

    def after(wire: Wire, data: bytes) -> None:
        write(wire, data)
        if (data == b"go\n") is (place == "go"):
            die()

    if place == "ready":
        begin._Child.settle = die  # type: ignore[method-assign]
    elif place in ("order", "go"):
        Wire.write = after  # type: ignore[method-assign]


async def hold(file: str, fault: str) -> None:
    """Enter the block."""
    async with qemunet.open(file) as lab:
        print(*(vm.pid for vm in lab.vm.values()), flush=True)
        if fault == "kill":
            die()
        elif fault == "error":
            raise ZeroDivisionError
        await asyncio.Event().wait()


def hold_blocking(file: str) -> None:
    """Enter the block of the blocking API."""
    with qemunet.sync.open(file) as lab:
        print(*(vm.pid for vm in lab.vm.values()), flush=True)
        for _ in lab.events():
            pass


def main(file: str, place: str, fault: str = "kill") -> None:
    """Do as the command line says."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    arm(place)
    if fault == "sync":
        hold_blocking(file)
    else:
        asyncio.run(hold(file, fault))


if __name__ == "__main__":
    main(*sys.argv[1:])
