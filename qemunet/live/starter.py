"""Starts the guests of a lab in the child of ``run``, and becomes their keeper: what that takes, all of it loaded."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial

from qemunet import interrupts, state
from qemunet.errors import Interrupted
from qemunet.host.linux import LinuxHost
from qemunet.live import session
from qemunet.live.tether import receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any

    from qemunet.facts import Facts
    from qemunet.live.agenda import Agenda, Brief, Thinker
    from qemunet.locks import Lock


class There:
    """Thinks in the process at the other end of the tether."""

    def __init__(self, tether: socket.socket, brief: Brief) -> None:
        self.tether = tether
        self.brief = brief

    def agenda(self, facts: Facts) -> Agenda:
        """Ask it what there is to do; raises the QemunetError that it met, Interrupted if it is gone."""
        send(self.tether, {"facts": True}, facts)
        from qemunet.host import guests, openings, taps  # while it thinks

        del guests, openings, taps
        reply = receive(self.tether)
        if "error" in reply:
            from qemunet.live.control import error_from

            raise error_from(reply["error"])
        if "value" not in reply:
            raise Interrupted("the process that asked for this is gone")
        agenda: Agenda = reply["value"]
        return agenda


def start(tether: socket.socket, order: dict[str, Any]) -> list[str]:
    """Start what the parent's order says; return the command line of the keeper, to be executed.

    Raises any QemunetError; then everything was taken back. If the lab has a keeper already, it ends the process.
    """
    runtime = state.Runtime(state.locate())
    thinker, environ = _thinker(order, tether)
    brief = thinker.brief
    keeper = runtime.take_lab(brief.lab)
    if keeper is None:
        send(tether, {"elsewhere": brief.lab, "environ": environ})
        os._exit(0)
    for name in environ:
        os.unsetenv(name)  # QEMU and the keeper, which are executed, do not get it
    host = LinuxHost(runtime.path)
    tethered = order["hold"] or (not order["detach"] and len(brief.vms) == 1)
    try:
        session.start(runtime, host, thinker, tethered=tethered, commit=partial(_commit, tether, tethered=tethered))
    except BaseException:
        runtime.leave_lab(brief.lab, keeper)
        raise
    send(tether, {"final": True, "lab": brief.lab})
    _let_go(runtime.lab(brief.lab).path("keeper.log"))
    return keeper_argv(runtime, brief.lab, host, keeper, tether if tethered else None)


def _thinker(order: dict[str, Any], tether: socket.socket) -> tuple[Thinker, dict[str, str]]:
    """Return who thinks about the lab file, and what of the environment its secrets come from."""
    if order.get("thinks"):
        return _there(tether)
    from qemunet.live.source import Source
    from qemunet.live.thinker import Here, environment

    source = Source.read(order["file"], order["overrides"])
    environ = environment(source)
    return Here(source, order["vms"], environ=environ, tell=lambda text: send(tether, {"tell": text})), environ


def _there(tether: socket.socket) -> tuple[There, dict[str, str]]:
    """Have the parent think; load what it takes to look until it has read the file."""
    import pickle

    from qemunet.guest import image
    from qemunet.host import photograph

    del image, photograph, pickle
    reply = receive(tether)
    if "value" not in reply:  # there is something wrong with the file
        os._exit(0)
    return There(tether, reply["value"]), reply["environ"]


def _commit(tether: socket.socket, vms: Sequence[str], *, tethered: bool) -> None:
    """Agree with the parent that the start is final; raises Interrupted if the parent is gone."""
    interrupts.check()
    send(tether, {"ready": list(vms), "tethered": tethered})
    if tether.recv(16) != b"go\n":
        raise Interrupted("the process that asked for this is gone")


def keeper_argv(
    runtime: state.Runtime, lab: str, host: LinuxHost, lock: Lock, tether: socket.socket | None
) -> list[str]:
    """Return the keeper's command line; the descriptors it names stay open across the exec."""
    named: dict[str, int | None] = {"lock": lock.fd, "tether": tether.fileno() if tether else None}
    handed = []
    for guest in host.guests.values():
        fds = {"console": guest.console.detach(), "qmp": guest.qmp.detach() if guest.qmp else None}
        handed.append({"vm": guest.vm, "pid": guest.pid, "start_time": guest.start_time, **fds})
        named |= {f"{guest.vm} {what}": fd for what, fd in fds.items()}
    for fd in named.values():
        if fd is not None:
            os.set_inheritable(fd, True)  # noqa: FBT003 - its own signature
    handover = {"runtime": runtime.path, "lab": lab, "guests": handed, "lock": lock.fd, "tether": named["tether"]}
    handover |= {"adopt": True}  # others of the lab may have lost their keeper
    return [sys.executable, "-P", "-m", "qemunet.live.keeper", json.dumps(handover)]


def _let_go(log: str) -> None:
    """Leave the terminal to the parent, whose caller may wait for the end of its output.

    The keeper will ignore the terminal's signals, but only once it is there.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
