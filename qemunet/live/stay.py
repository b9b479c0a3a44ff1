"""Stays with a guest in the foreground until it has ended, and says how that went."""

from __future__ import annotations

import contextlib
import os
import typing

from qemunet import interrupts
from qemunet.errors import Failed, Interrupted, NotFound, NotTakenBack, TimedOut
from qemunet.live.control import Control, Lost

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.live.terminal import Outcome
    from qemunet.state import Runtime

_KEEPER = 60.0  # seconds for a keeper to end a guest and take it back
_REPLAY = 65536  # bytes of what the guest said before the terminal was there
_WANTED = frozenset({"guest-shutdown", "guest-reset", "quit"})  # ends that nobody has to explain


def stay(runtime: Runtime, vm: str, tether: Control, console: bool) -> int:
    """Return 0 when the guest has ended as it should, or the user has detached.

    Raises Failed with QEMU's story if it has not, NotTakenBack, Interrupted after a signal, and TimedOut when its
    script has failed and nobody is there to go on by hand; with the last two the guest is ended and taken back.
    """
    from qemunet.live.terminal import End

    interrupts.install()
    try:
        _await_keeper(tether)
        outcome = _at_console(runtime, vm, tether) if console else _waiting(tether)
    except (Interrupted, TimedOut):
        interrupts.forget()
        tether.ask("stop", within=_KEEPER, vm=vm, force=True)
        tether.see_off()
        raise
    if outcome.how is End.LOST:
        raise Failed(
            f"the keeper of {vm} is gone",
            hint=f"`qemunet status {vm}` finds the guest if it runs, `qemunet gc` clears up",
        )
    if outcome.how is End.ENDED:
        tether.see_off()
    if outcome.failures:
        raise NotTakenBack(outcome.failures)
    for event in outcome.ended:
        _judge(event)
    return 0


def _await_keeper(tether: Control) -> None:
    """Wait until the keeper watches over the guest."""
    with contextlib.suppress(Lost):  # what comes next finds out
        while tether.wait(_KEEPER)["event"] != "watching":
            pass


def _at_console(runtime: Runtime, vm: str, tether: Control) -> Outcome:
    from qemunet.live.terminal import attach, is_screen

    try:
        keeper = Control.open(runtime.lab(runtime.vm(vm).lab).path("keeper.sock"))
        connection = keeper.console(vm, _REPLAY, screen=is_screen())
    except (NotFound, Lost):  # it has ended already
        return _waiting(tether)
    return attach(connection, vm, tether, attended=os.isatty(0))


def _waiting(tether: Control) -> Outcome:
    """Wait for the end without showing the console."""
    from qemunet.live.terminal import End, Outcome, refuse_failed

    ended = []
    try:
        while True:
            event = tether.wait()
            if event["event"] == "ended":
                ended.append(event)
            elif event["event"] == "script":
                refuse_failed(event)
            elif event["event"] == "over":
                failures = event["failures"]
                assert isinstance(failures, list), "a list of texts"
                return Outcome(End.ENDED, tuple(ended), tuple(failures))
    except Lost:
        return Outcome(End.LOST, tuple(ended))


def _judge(event: Message) -> None:
    """Raise Failed if QEMU did not end as it should."""
    if event["status"] not in {0, None} or event["reason"] not in _WANTED:
        raise Failed(str(event["text"]), where=f"vm.{event['vm']}")
