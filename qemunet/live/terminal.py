"""The user's terminal at a guest's console: raw mode, a menu behind Ctrl-], and everything as before afterwards.

Whatever ends this, an exception, TERM and KILL included, the terminal gets its old settings back (`rawmode`). A serial
line does not tell the size of a window; the menu types it into the guest's shell.

Output that the terminal does not take yet (a pager, a slow line) waits here, `BACKLOG` bytes at most; more than that is
left out, with a line that says so. So the keeper never finds its client slow.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import typing
from dataclasses import dataclass, field
from enum import StrEnum

from qemunet import interrupts
from qemunet.errors import Interrupted, QemunetError, TimedOut
from qemunet.live import queries
from qemunet.live.control import Control, Lost, connect
from qemunet.live.rawmode import Raw, wakeups

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message

MENU_KEY = b"\x1d"  # Ctrl-]
BACKLOG = 16 << 20  # bytes
INPUT = 65536  # bytes that may wait for the guest
PIECE = 4096  # bytes: PIPE_BUF, so that a writable pipe takes it whole
AFTER_EOF = 60.0  # seconds for the keeper to say how a guest ended once its console is closed

MENU = (
    "\r\n[qemunet] d: detach, the guest runs on   p: press its power button   "
    "q: end it at once   w: type the window's size   Ctrl-]: send Ctrl-]   any other key: back "
)


class End(StrEnum):
    """Why the terminal was left."""

    DETACHED = "detached"  # the user said so; the guest runs on
    ENDED = "ended"  # the guest has ended
    LOST = "lost"  # the keeper is gone; the guest may run on


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended; `ended` are the keeper's events of that name, `failures` what could not be taken back."""

    how: End
    ended: tuple[Message, ...] = ()
    failures: tuple[str, ...] = ()


def attach(
    console: str | socket.socket,
    vm: str,
    control: Control | None = None,
    *,
    attended: bool = True,
    stdin: int = 0,
    stdout: int = 1,
) -> Outcome:
    """Join the terminal with a console until the guest ends or the user detaches.

    `console` is the path of a ``console.sock`` or a connection. `control` is a
    tether or a watch of `vm`: it tells how the guest ended, and carries out what is chosen from the menu (which only a
    terminal has). Raises Interrupted on a signal, or when nobody reads the output any more, and TimedOut when the
    guest's script has failed, unless somebody is there to be told (`attended`).
    """
    sock = connect(console) if isinstance(console, str) else console
    try:
        with wakeups() as wakeup, Raw(stdin, stdout) as raw:
            return _Attached(sock, vm, control, raw, wakeup, attended).run()
    finally:
        sock.close()


def is_screen(stdin: int = 0, stdout: int = 1) -> bool:
    """Tell whether a terminal is there, with somebody at it."""
    return os.isatty(stdin) and os.isatty(stdout)


def refuse_failed(event: Message) -> None:
    """Raise TimedOut if a keeper's event says that the script of a guest has failed."""
    if event["what"] == "failed":
        raise TimedOut(str(event["text"]), where=f"vm.{event['vm']}")


@dataclass(slots=True)
class _Attached:
    """One stay at a console."""

    sock: socket.socket
    vm: str
    control: Control | None
    raw: Raw
    wakeup: int
    attended: bool
    menu: bool = False
    typing: bool = True  # stdin has more
    closed: bool = False  # the console has no more
    output: bytearray = field(default_factory=bytearray)
    skipped: int = 0
    input: bytearray = field(default_factory=bytearray)
    ended: list[Message] = field(default_factory=list)
    outcome: Outcome | None = None

    def run(self) -> Outcome:
        self.sock.settimeout(0)
        while self.outcome is None:
            interrupts.check()
            self._turn()
        self._flush()
        return self.outcome

    def _turn(self) -> None:
        """Wait until something can be done, and do it."""
        hearing = [self.wakeup] + ([] if self.closed else [self.sock.fileno()])
        hearing += [self.control.fileno()] if self.control else []
        hearing += [self.raw.stdin] if self.typing and len(self.input) < INPUT else []
        telling = [self.raw.stdout] if self.output and not self.menu else []
        telling += [self.sock.fileno()] if self.input and not self.closed else []
        patience = AFTER_EOF if self.closed else None
        ready, writable, _ = select.select(hearing, telling, [], patience)
        if not ready and not writable:
            self.outcome = Outcome(End.LOST, tuple(self.ended))
        if self.wakeup in ready:
            self._signalled()
        if self.raw.stdout in writable:
            self._write()
        if self.sock.fileno() in writable:
            self._send()
        if self.sock.fileno() in ready and not self.closed:
            self._hear()
        if self.control and self.control.fileno() in ready:
            self._learn()
        if self.raw.stdin in ready and self.outcome is None:
            self._typed()

    # ------------------------------------------------------------ from the guest

    def _hear(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._show(data)
            return
        self.closed = True
        if self.control is None:
            self.outcome = Outcome(End.ENDED)

    def _show(self, data: bytes) -> None:
        if len(self.output) + len(data) > BACKLOG:
            self.skipped += len(data)
            return
        if self.skipped:
            self.output += f"\r\n[qemunet: {self.skipped} bytes left out]\r\n".encode()
            self.skipped = 0
        self.output += data

    def _write(self) -> None:
        piece = bytes(self.output[:PIECE])
        try:
            written = os.write(self.raw.stdout, piece)
        except BlockingIOError:
            return
        except OSError as error:
            raise Interrupted(f"nobody reads the output any more ({error.strerror})") from None
        del self.output[:written]
        if written:
            self.raw.column_zero = piece[written - 1] in b"\r\n"

    def _flush(self) -> None:
        """Write what is left, as long as somebody takes it; nobody reads a terminal's answers any more."""
        if self.raw.is_tty:
            self.output[:] = queries.without(bytes(self.output))
        while self.output and select.select([], [self.raw.stdout], [], 2.0)[1]:
            self._write()

    # ------------------------------------------------------------ from the keeper

    def _learn(self) -> None:
        assert self.control is not None, "only then"
        try:
            events = self.control.events()
        except Lost:
            self.control = None
            self.outcome = Outcome(End.LOST, tuple(self.ended))
            return
        for event in events:
            if event["event"] == "ended":
                self.ended.append(event)
            elif event["event"] == "script":
                self._scripted(event)
            elif event["event"] == "over":
                self._over(event)

    def _scripted(self, event: Message) -> None:
        if not self.attended:
            refuse_failed(event)
        elif event["what"] == "failed":
            self._show(f"\r\n[qemunet] {event['text']}\r\n".encode())

    def _over(self, event: Message) -> None:
        """The guest's last bytes are here before this event: the keeper closed the console first."""
        while not self.closed and select.select([self.sock], [], [], 0)[0]:
            self._hear()
        failures = event.get("failures")
        texts = tuple(str(one) for one in failures) if isinstance(failures, list) else ()
        self.outcome = Outcome(End.ENDED, tuple(self.ended), texts)

    # ------------------------------------------------------------ from the user

    def _typed(self) -> None:
        try:
            data = os.read(self.raw.stdin, 4096)
        except BlockingIOError:
            return
        except OSError as error:
            if self.raw.is_tty:
                raise Interrupted(f"the terminal is gone ({error.strerror})") from None
            data = b""
        if not data:
            if self.raw.is_tty:
                raise Interrupted("the terminal is gone")
            self.typing = False
        elif self.raw.is_tty:
            self._keys(data)
        else:
            self.input += data

    def _keys(self, data: bytes) -> None:
        for number in data:
            key = bytes([number])
            if self.menu:
                self._choose(key)
            elif key == MENU_KEY:
                self._open_menu()
            else:
                self.input += key

    def _open_menu(self) -> None:
        """Show the menu on a line of its own; what the guest writes meanwhile waits."""
        self.menu = True
        os.write(self.raw.stdout, MENU.encode())

    def _choose(self, key: bytes) -> None:
        self.menu = False
        if key == MENU_KEY:
            self._note("Ctrl-] sent")
            self.input += key
        elif key == b"d":
            self._detach()
        elif key == b"p":
            self._ask("power button pressed", "powerdown", {})
        elif key == b"w":
            size = os.get_terminal_size(self.raw.stdout if os.isatty(self.raw.stdout) else self.raw.stdin)
            self._note(f"{size.columns} columns, {size.lines} lines")
            self.input += f"stty cols {size.columns} rows {size.lines}\r".encode()
        elif key in (b"q", b"k"):
            self._ask("ended", "stop", {"force": True})
        else:
            self._note("back")

    def _detach(self) -> None:
        self._note("detached")
        if self.control is not None:
            self.control.ask("detach")
        self.outcome = Outcome(End.DETACHED)

    def _ask(self, done: str, verb: str, arguments: dict[str, bool]) -> None:
        if self.control is None:
            self._note("not possible here: no keeper listens")
            return
        try:
            self.control.ask(verb, vm=self.vm, **arguments)
        except QemunetError as error:
            self._note(f"not done: {error}")
        else:
            self._note(done)
        self._learn()  # select does not see what came along with the answer

    def _note(self, text: str) -> None:
        os.write(self.raw.stdout, f"\r\n[qemunet] {text}\r\n".encode())
        self.raw.column_zero = True

    def _send(self) -> None:
        try:
            sent = self.sock.send(self.input[:PIECE])
        except BlockingIOError:
            return
        except OSError:
            self.input.clear()
            return
        del self.input[:sent]

    # ------------------------------------------------------------ signals

    def _signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTSTP in os.read(self.wakeup, 256):
                self.raw.off()
                os.kill(os.getpid(), signal.SIGSTOP)
                self.raw.on()
