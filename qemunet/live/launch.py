"""Runs a lab: one process starts the guests and becomes their keeper, the other is the user's terminal.

Theory of operation. The command forks before anything heavy is loaded. The child starts the guests, tells the parent,
and executes the keeper in its own place: the same process, so it stays QEMU's parent and sees how it ends, but
fresh, with nothing but the descriptors it needs. The two are joined by a socket pair, the *tether*:

* while the guests start, the parent's death closes it, which interrupts the child, and everything is taken back;
* the child sends one line, ``ready`` or ``error``; the parent answers ``go``, and only then is the start final; the
  child writes that down and says so;
* in the foreground it stays: when the terminal goes away without a word, the keeper ends the guests. With
  ``-d`` the parent closes it and is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import typing

from qemunet import interrupts, state
from qemunet.errors import Failed, Interrupted, NotFound, QemunetError, describe_status, of_the_host
from qemunet.frozen import frozen
from qemunet.live import control, stay
from qemunet.live.reach import reach
from qemunet.locks import Lock

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemunet.host.linux import LinuxHost


@frozen
class Order:
    """What the user asked for."""

    file: str
    vms: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    detach: bool = False
    console: bool = True


def run(order: Order, tell: Callable[[str], None]) -> int:
    """Start the guests; in the foreground stay until they have ended. Return the exit status (SPEC, section 4)."""
    tether, theirs = socket.socketpair()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        tether.close()
        _child(order, theirs, tell)
    theirs.close()
    return _Parent(order, child, tether, tell).run()


# ---------------------------------------------------------------- the child


def _child(order: Order, tether: socket.socket, tell: Callable[[str], None]) -> typing.NoReturn:
    """Start the guests and become their keeper, or end with the status of what went wrong."""
    interrupts.install()
    interrupts.watch(tether)
    try:
        argv = _start(order, tether, tell)
    except QemunetError as error:
        _send(tether, error.as_json())
        os._exit(error.exit_status)
    except OSError as error:
        _send(tether, of_the_host(error).as_json())
        os._exit(QemunetError.exit_status)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(Failed.exit_status)
    os.execv(sys.executable, argv)  # noqa: S606 - it does not return, and there is no shell in it


def _start(order: Order, tether: socket.socket, tell: Callable[[str], None]) -> list[str]:
    """Start the guests; return the command line of the keeper."""
    from qemunet.host.linux import LinuxHost
    from qemunet.live import session
    from qemunet.live.source import Source

    runtime = state.Runtime(state.locate())
    source = Source.read(order.file, order.overrides)
    keeper = _take_keepers_lock(runtime, source.spec.name)
    if keeper is None:
        _send(tether, {"elsewhere": source.spec.name})
        os._exit(0)
    host = LinuxHost(runtime.path)
    tethered = not order.detach and len(source.chosen(order.vms)) == 1
    try:
        session.start(
            runtime,
            host,
            source,
            order.vms,
            tethered=tethered,
            tell=tell,
            commit=lambda names: _commit(tether, names, tethered=tethered),
        )
    except BaseException:
        runtime.leave_lab(source.spec.name, keeper)
        raise
    _send(tether, {"final": True})
    _let_go(runtime.lab(source.spec.name).path("keeper.log"))
    return _keeper_argv(runtime, source.spec.name, host, keeper, tether if tethered else None)


def _take_keepers_lock(runtime: state.Runtime, lab: str) -> Lock | None:
    """Take the place of the lab's keeper; None if there is one."""
    with runtime.exclusive():
        scope = runtime.lab(lab)
        if not scope.exists():
            scope.create()
        return Lock.take(scope.path("lock"), create=True)


def _commit(tether: socket.socket, vms: Sequence[str], *, tethered: bool) -> None:
    """Agree with the parent that the start is final; raises Interrupted if the parent is gone."""
    interrupts.check()
    _send(tether, {"ready": list(vms), "tethered": tethered})
    if tether.recv(16) != b"go\n":
        raise Interrupted("the process that asked for this is gone")


def _keeper_argv(
    runtime: state.Runtime, lab: str, host: LinuxHost, lock: Lock, tether: socket.socket | None
) -> list[str]:
    """Return the keeper's command line; the descriptors it names stay open across the exec."""
    named: dict[str, int | None] = {"lock": lock.fd, "tether": tether.fileno() if tether else None}
    guests = []
    for guest in host.guests.values():
        fds = {"console": guest.console.detach(), "qmp": guest.qmp.detach() if guest.qmp else None}
        guests.append({"vm": guest.vm, "pid": guest.pid, "start_time": guest.start_time, **fds})
        named |= {f"{guest.vm} {what}": fd for what, fd in fds.items()}
    for fd in named.values():
        if fd is not None:
            os.set_inheritable(fd, True)  # noqa: FBT003 - its own signature
    handover = {"runtime": runtime.path, "lab": lab, "guests": guests, "lock": lock.fd, "tether": named["tether"]}
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


# ---------------------------------------------------------------- the parent


class _Parent:
    """The side of the terminal."""

    def __init__(self, order: Order, child: int, tether: socket.socket, tell: Callable[[str], None]) -> None:
        self.order = order
        self.child = child
        self.tether = tether
        self.tell = tell

    def run(self) -> int:
        """Wait for the start, then for the end if that is wanted; return the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        reply = _receive(self.tether)
        if "ready" in reply:
            interrupts.install()  # a TERM would tell the keeper to leave its guests alone
            return self._go_on(reply)
        _, status = os.waitpid(self.child, 0)
        if "error" in reply:
            raise control.error_from(reply["error"])
        if "elsewhere" in reply:
            return self._join(reply["elsewhere"])
        return self._clean_up(os.waitstatus_to_exitcode(status))

    def _pass_on(self, number: int, _frame: object) -> None:
        """A signal sent to this process alone is meant for both."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)

    def _go_on(self, reply: dict[str, typing.Any]) -> int:
        """Say that the start is final, and wait for the word that it is."""
        with contextlib.suppress(BrokenPipeError):
            self.tether.sendall(b"go\n")
        if "final" not in _receive(self.tether):
            return self._clean_up(os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1]))
        if not reply["tethered"]:
            return 0
        keeper = control.Control(self.tether)
        return stay.stay(state.Runtime(state.locate()), reply["ready"][0], keeper, self.order.console)

    def _join(self, lab: str) -> int:
        """The lab has a keeper already: let that start these vms, unless it is just about to end."""
        interrupts.install()
        runtime = state.Runtime(state.locate())
        try:
            keeper = reach(runtime, lab)
        except NotFound:  # whoever held the lab gave up
            return run(self.order, self.tell)
        try:
            vms = self._ask_to_start(keeper)
        except control.Lost:
            return run(self.order, self.tell)
        if self.order.detach or len(vms) > 1:
            return 0
        return stay.stay(runtime, vms[0], keeper, self.order.console)

    def _ask_to_start(self, keeper: control.Control) -> list[str]:
        reply = keeper.ask(
            "start",
            within=None,
            file=os.path.abspath(self.order.file),
            vms=list(self.order.vms),
            overrides=list(self.order.overrides),
            tether=not self.order.detach,
        )
        vms = reply["vms"]
        assert isinstance(vms, list), "the keeper names what it started"
        for text in keeper.said():
            self.tell(text)
        return vms

    def _clean_up(self, status: int) -> int:
        """The child died without a word: finish what it left."""
        from qemunet.host.linux import LinuxHost
        from qemunet.live import session

        runtime = state.Runtime(state.locate())
        session.gc(runtime, LinuxHost(runtime.path))
        raise Failed(
            f"the process that started the guests died ({describe_status(status)})",
            hint="what it had done was taken back",
        )


def _send(tether: socket.socket, message: dict[str, typing.Any]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        tether.sendall(json.dumps(message).encode() + b"\n")


def _receive(tether: socket.socket) -> dict[str, typing.Any]:
    """Return one message and leave what follows for the next reader; an empty one if the other side is gone."""
    data = b""
    while not data.endswith(b"\n"):
        try:
            seen = tether.recv(65536, socket.MSG_PEEK)
            data += tether.recv(seen.find(b"\n") + 1 or len(seen)) if seen else b""
        except ConnectionResetError:
            seen = b""
        if not seen:
            return {}
    message: dict[str, typing.Any] = json.loads(data)
    return message
