"""Runs a lab: one process starts the guests and becomes their keeper, the other is the user's terminal.

Theory of operation. The command forks before anything heavy is loaded, even before the command line is read: the
parent loads what thinking takes, and reads the lab file, while the child loads what acting takes
(`qemunet.live.starter`). The child looks at the host, the parent works out what there is to do, and the child does it.
It starts the guests, tells the parent, and executes the keeper in its own place: the same process, so it stays QEMU's
parent and sees how it ends, but fresh, with nothing but the descriptors it needs. The two are joined by a socket pair,
the *tether*:

* while the guests start, the parent's death closes it, which interrupts the child, and everything is taken back;
* the parent sends the order, the child the file parsed, the parent what it has to look at, the child what it sees,
  the parent what there is to do; the child sends ``ready`` or ``error``; the parent answers ``go``, and only then is
  the start final; the child writes that down and says so;
* in the foreground it stays: when the terminal goes away without a word, the keeper ends the guests. With
  ``-d`` the parent closes it and is done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

from qemunet import interrupts
from qemunet.errors import Failed, NotFound, QemunetError, describe_status, of_the_host
from qemunet.frozen import as_dict, frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from qemunet.facts import Facts
    from qemunet.live.agenda import Thinker
    from qemunet.live.control import Control
    from qemunet.state import Runtime


@frozen
class Order:
    """What the user asked for."""

    file: str
    vms: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    detach: bool = False
    console: bool = True
    hold: bool = False  # all vms end with whoever asks for them, not only a single one in the foreground


@frozen
class _Child:
    """A process that waits for its order at the other end of the tether."""

    pid: int
    tether: socket.socket


_ahead: list[_Child] = []


@contextlib.contextmanager
def ahead() -> Iterator[None]:
    """Within, there is a child that `run` can use, loading already. One that was not used is gone afterwards."""
    _ahead.append(_fork())
    try:
        yield
    finally:
        for child in _ahead:
            child.tether.close()
            os.waitpid(child.pid, 0)
        _ahead.clear()


def run(order: Order, tell: Callable[[str], None]) -> int:
    """Start the guests; in the foreground stay until they have ended. Return the exit status (SPEC, section 4)."""
    child = _ahead.pop() if _ahead else _fork()
    return _Parent(order, child.pid, child.tether, tell).run()


def _fork() -> _Child:
    tether, theirs = socket.socketpair()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        tether.close()
        _child(theirs)
    theirs.close()
    return _Child(pid, tether)


def _child(tether: socket.socket) -> NoReturn:
    """Start the guests and become their keeper, or end with the status of what went wrong."""
    try:
        interrupts.install()
        interrupts.watch(tether)
        from qemunet.live.order import take

        order = take(tether)
        from qemunet.live import starter  # now that the parent has the file

        argv = starter.start(tether, order)
    except QemunetError as error:
        _report(tether, error)
        os._exit(error.exit_status)
    except OSError as error:
        _report(tether, of_the_host(error))
        os._exit(QemunetError.exit_status)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(Failed.exit_status)
    os.execv(sys.executable, argv)  # noqa: S606 - it does not return, and there is no shell in it


def _report(tether: socket.socket, error: QemunetError) -> None:
    from qemunet.live.tether import send

    send(tether, error.as_json())


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
        try:
            reply = self._answer()
        except BaseException:  # it finds the tether closed, and takes back what it has done
            self.tether.close()
            os.waitpid(self.child, 0)
            raise
        if "ready" in reply:
            interrupts.install()  # a TERM would tell the keeper to leave its guests alone
            return self._go_on(reply)
        _, status = os.waitpid(self.child, 0)
        if "error" in reply:
            from qemunet.live.control import error_from

            raise error_from(reply["error"])
        if "elsewhere" in reply:
            return self._join(reply["elsewhere"], reply["environ"])
        return self._clean_up(os.waitstatus_to_exitcode(status))

    def _answer(self) -> dict[str, Any]:
        """Send the order and read the lab file; return the child's answer, having thought for it before that."""
        from qemunet.live.tether import receive, send

        send(self.tether, {**as_dict(self.order), "thinks": True})
        from qemunet.config import toml  # this, and all that it takes to read, while the child parses the file
        from qemunet.live.source import Source
        from qemunet.live.thinker import Here, environment

        toml.expect(receive(self.tether).get("parsed", ()))
        source = Source.read(self.order.file, self.order.overrides)
        environ = environment(source)
        thinker = Here(source, self.order.vms, environ=environ, tell=self.tell)
        send(self.tether, {"environ": environ}, thinker.brief)
        thinker.get_ready()  # while the child looks
        reply = receive(self.tether)
        if "facts" in reply:
            self._think(thinker, reply["value"])
            reply = receive(self.tether)
        return reply

    def _think(self, thinker: Thinker, facts: Facts) -> None:
        from qemunet.live.tether import send

        try:
            agenda = thinker.agenda(facts)
        except QemunetError as error:
            send(self.tether, error.as_json())
        except OSError as error:
            send(self.tether, of_the_host(error).as_json())
        else:
            send(self.tether, {"agenda": True}, agenda)

    def _pass_on(self, number: int, _frame: object) -> None:
        """A signal sent to this process alone is meant for both."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)

    def _go_on(self, reply: dict[str, Any]) -> int:
        """Say that the start is final, and wait for the word that it is."""
        from qemunet.live.tether import receive

        with contextlib.suppress(BrokenPipeError):
            self.tether.sendall(b"go\n")
        if "final" not in receive(self.tether):
            return self._clean_up(os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1]))
        if not reply["tethered"]:
            return 0
        from qemunet import state
        from qemunet.live import control, stay

        keeper = control.Control(self.tether, self.child)
        return stay.stay(state.Runtime(state.locate()), reply["ready"][0], keeper, self.order.console)

    def _join(self, lab: str, environ: dict[str, str]) -> int:
        """The lab has a keeper already: let that start these vms, unless it is just about to end."""
        from qemunet import state
        from qemunet.live import stay
        from qemunet.live.control import Lost
        from qemunet.live.reach import reach

        interrupts.install()
        runtime = state.Runtime(state.locate())
        try:
            keeper = reach(runtime, lab)
        except NotFound:  # whoever held the lab gave up
            return run(self.order, self.tell)
        try:
            vms = self._ask_to_start(keeper, environ)
        except Lost:
            return run(self.order, self.tell)
        if self.order.detach or len(vms) > 1:
            return 0
        return stay.stay(runtime, vms[0], keeper, self.order.console)

    def _ask_to_start(self, keeper: Control, environ: dict[str, str]) -> list[str]:
        reply = keeper.ask(
            "start",
            within=None,
            file=os.path.abspath(self.order.file),
            vms=list(self.order.vms),
            overrides=list(self.order.overrides),
            tether=not self.order.detach,
            environ=environ,
        )
        vms = reply["vms"]
        assert isinstance(vms, list), "the keeper names what it started"
        for text in keeper.said():
            self.tell(text)
        return vms

    def _clean_up(self, status: int) -> NoReturn:
        from qemunet import state

        clean_up(state.Runtime(state.locate()), status)


def clean_up(runtime: Runtime, status: int | None) -> NoReturn:
    """Finish what a process left that started guests and died without a word; raises Failed."""
    from qemunet.host.linux import LinuxHost
    from qemunet.live import session

    with contextlib.closing(LinuxHost(runtime.path)) as host:
        session.gc(runtime, host)
    raise Failed(
        f"the process that started the guests died ({describe_status(status)})",
        hint="what it had done was taken back",
    )


if __name__ == "__main__":  # for a process that must not fork: it has threads, or an event loop
    _inherited = socket.socket(fileno=int(sys.argv[1]))
    _inherited.set_inheritable(False)
    _child(_inherited)
