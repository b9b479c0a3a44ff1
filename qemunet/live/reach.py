"""Reaches the keeper of a lab, and starts a new one for guests that have lost theirs."""

from __future__ import annotations

import json
import os
import select
import sys
import time
import typing

from qemunet import interrupts
from qemunet.errors import NotFound, TimedOut, waits_for_itself
from qemunet.host import processes
from qemunet.live.control import Control, Lost

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.state import Runtime

_START = 60.0  # seconds for a keeper to answer; on a busy machine one that takes in fifty guests needs half of it
_ANSWER = 30.0  # seconds for it to answer a question
_GLANCE = 0.02  # seconds between two looks whether it does


def reach(here: Runtime, lab: str) -> Control:
    """Return a connection to the lab's keeper; raises NotFound if there is no guest to keep, TimedOut.

    A keeper that holds the lab but does not listen yet is waited for; where there is none, one is begun.
    """
    socket = here.lab(lab).path("keeper.sock")
    deadline = time.monotonic() + _START
    begun: int | None = None
    while time.monotonic() < deadline:
        interrupts.check()
        try:
            return _answering(socket)
        except Lost as lost:
            if begun is not None and _ended(begun):
                raise NotFound(f"nothing of the lab {lab} runs any more", hint="`qemunet gc` clears up") from lost
            if begun is None and not here.lab(lab).alive():
                begun = _begin(here, lab)
            elif processes.is_locked_by_ancestor(here.lab(lab).path("lock")):
                raise waits_for_itself(f"lab {lab}") from lost
        select.select([], [], [], _GLANCE)
    raise TimedOut(f"the keeper of the lab {lab} does not answer after {_START:g} s", where=socket)


def learn(here: Runtime, lab: str, do: str, **arguments: object) -> Message:
    """Return what the lab's keeper answers to a question that changes nothing, so that it may be asked again.

    A keeper that ends between its greeting and its answer has its successor asked: it may have seen its last guest off,
    or was told to go, and neither is a fault of whoever asks. Raises NotFound if there is no guest to keep, what the
    keeper reports, TimedOut, and `Lost` if one keeper after the other ends that way.
    """
    deadline = time.monotonic() + _START
    while True:
        try:
            with reach(here, lab) as keeper:
                return keeper.ask(do, within=_ANSWER, **arguments)
        except Lost:
            if time.monotonic() >= deadline:
                raise


def _answering(socket: str) -> Control:
    """Connect, and make sure that somebody is there: a keeper that is just being killed still takes connections."""
    control = Control.open(socket)
    try:
        control.ask("ping")
    except BaseException:
        control.close()
        raise
    return control


def _begin(here: Runtime, lab: str) -> int:
    """Start a keeper that takes in the guests of the lab that run; return its process."""
    handover = json.dumps({"runtime": here.path, "lab": lab, "guests": [], "adopt": True})
    argv = [sys.executable, "-P", "-m", "qemunet.live.keeper", handover]
    return os.posix_spawn(sys.executable, argv, os.environ, setsid=True)


def _ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid
