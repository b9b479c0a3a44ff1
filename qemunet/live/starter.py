"""Starts the guests of a lab in the child of ``run``, and becomes their keeper: what that takes, all of it loaded."""

from __future__ import annotations

import json
import os
import signal
import sys

from qemunet import interrupts, state
from qemunet.config import toml
from qemunet.errors import Interrupted
from qemunet.host.linux import LinuxHost
from qemunet.live import session
from qemunet.live.source import Source
from qemunet.live.tether import receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from qemunet.locks import Lock


def start(tether: socket.socket) -> list[str]:
    """Wait for the parent's order and start what it says; return the command line of the keeper, to be executed.

    Raises any QemunetError; then everything was taken back. Without an order, or if the lab has a keeper already, it
    ends the process.
    """
    order = receive(tether)
    if not order:
        os._exit(0)
    toml.expect(order.get("parsed", ()))
    runtime = state.Runtime(state.locate())
    source = Source.read(order["file"], order["overrides"])
    keeper = runtime.take_lab(source.spec.name)
    if keeper is None:
        send(tether, {"elsewhere": source.spec.name, "environ": _environment(source)})
        os._exit(0)
    environ = _environment(source)
    for name in environ:
        os.unsetenv(name)  # QEMU and the keeper, which are executed, do not get it
    host = LinuxHost(runtime.path)
    tethered = order["hold"] or (not order["detach"] and len(source.chosen(order["vms"])) == 1)
    try:
        session.start(
            runtime,
            host,
            source,
            order["vms"],
            tethered=tethered,
            tell=lambda text: send(tether, {"tell": text}),
            environ=environ,
            commit=lambda names: _commit(tether, names, tethered=tethered),
        )
    except BaseException:
        runtime.leave_lab(source.spec.name, keeper)
        raise
    send(tether, {"final": True, "lab": source.spec.name})
    _let_go(runtime.lab(source.spec.name).path("keeper.log"))
    return keeper_argv(runtime, source.spec.name, host, keeper, tether if tethered else None)


def _environment(source: Source) -> dict[str, str]:
    """Return what the secrets of a lab are of this process's environment: its keeper has another one."""
    if not any(vm.secret or vm.login.password for vm in source.spec.vms):
        return {}
    from qemunet.live import secrets

    return secrets.environment(source.spec, os.environ)


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
