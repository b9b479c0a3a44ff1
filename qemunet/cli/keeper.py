"""Reaches the keeper of a lab, and starts a new one for guests that have lost theirs."""

from __future__ import annotations

import json
import os
import select
import sys
import time

from qemunet import interrupts
from qemunet.errors import NotFound, TimedOut
from qemunet.live.control import Control, Lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.state import Runtime

_START = 15.0  # seconds for a new keeper to answer
_GLANCE = 0.02  # seconds between two looks whether it does


def reach(here: Runtime, lab: str) -> Control:
    """Return a connection to the lab's keeper; raises NotFound if there is no guest to keep, TimedOut."""
    socket = here.lab(lab).path("keeper.sock")
    try:
        return Control.open(socket)
    except Lost:
        pid = _begin(here, lab)
    return _await(socket, pid, lab)


def _begin(here: Runtime, lab: str) -> int:
    """Start a keeper that takes in the guests of the lab that run; return its process."""
    handover = json.dumps({"runtime": here.path, "lab": lab, "guests": [], "adopt": True})
    argv = [sys.executable, "-m", "qemunet.live.keeper", handover]
    return os.posix_spawn(sys.executable, argv, os.environ, setsid=True)


def _await(socket: str, pid: int, lab: str) -> Control:
    """Connect as soon as somebody listens; that may be another keeper than the one just begun."""
    process = os.pidfd_open(pid)
    deadline = time.monotonic() + _START
    try:
        while time.monotonic() < deadline:
            interrupts.check()
            ended = select.select([process], [], [], _GLANCE)[0]
            try:
                return Control.open(socket)
            except Lost as lost:
                if ended:
                    raise NotFound(f"nothing of the lab {lab} runs any more", hint="`qemunet gc` clears up") from lost
    finally:
        os.close(process)
    raise TimedOut(f"the new keeper of the lab {lab} does not answer after {_START:g} s", where=socket)
