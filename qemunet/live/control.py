"""The private control socket of a keeper: framing, and the blocking client that every command uses.

One JSON object per line, both ways. A request is ``{"do": verb, …}``; its reply is ``{"ok": …}`` or ``{"error":
{kind, message, where, hint}}``, and carries the request's ``id`` if it had one. Requests of one connection are done
one after the other; whoever wants two at once opens two. Lines that nobody asked for are events, ``{"event": name,
…}``; only a connection that asked for a watch, a tether or events gets them.

=============  =================================  =============================================================
verb           takes                              gives
=============  =================================  =============================================================
``ping``                                          ``pid``, ``lab``, ``vms``
``status``     ``vm`` or nothing                  ``vms``: for each ``vm pid state since adopted``
``stop``       ``vm``, ``timeout`` (s), ``force``  ``how`` (powerdown, quit, kill), when all is taken back
``powerdown``  ``vm``                             at once: the power button is pressed, nothing else
``start``      ``file``, ``vms``, ``overrides``,  ``vms``; meanwhile events ``said`` with ``text``; with a true
               ``tether``, ``environ``            ``tether`` a single vm is bound to this connection, with
                                                  ``"all"`` all of them are; ``environ``: variables by name
                                                  that secrets of scripts come from
``tether``     ``vms``                            the vms end when this connection closes without a ``detach``
``watch``      ``vms``                            the events of a tether, without being one
``detach``                                        this connection is neither a tether nor a watch any more
``events``     ``vm`` or nothing                  ``vms``; the news of that vm, or of all, as long as this
                                                  connection lasts
``console``    ``vm``, ``replay`` (bytes),        nothing; after that line this connection is the console,
               ``masked``, ``screen``             with a true ``masked`` without the secrets of its script
                                                  and what you are too slow for; ``screen``: a terminal,
                                                  whose answers count if no other was there first
``capture``    ``vm``, ``nic``                    nothing; after that line this connection is a pcap stream
                                                  of a card that has no interface on the host, until you
                                                  shut it down for writing or the card is gone. The last
                                                  record has no time (all bits set) and is JSON: ``reason``
                                                  and ``dropped``, the frames that you did not take in time
``tail``       ``vm``, ``bytes``                  ``text``: the end of the console, bad bytes replaced
``qmp``        ``vm``, ``execute``, ``arguments``  ``return``
``nics``       ``vm``, ``compare``                ``nics``: its cards, ``foreign``: those of somebody else,
                                                  ``known``: by MAC ``guest_ifname`` and ``ip`` (``address``,
                                                  ``source``: guest, neighbour or file);
                                                  ``state``: QEMU's run state;
                                                  with a true ``compare`` also ``differs``: from its lab file,
                                                  or ``problem``: why that cannot be said
``nic-add``    ``vm``, ``keys``, ``timeout`` (s)  ``nic``, ``presence``: there, paused, not-booted or unseen,
                                                  ``guest_ifname`` or null;
                                                  ``keys`` are those of a ``[[vm.NAME.nic]]``
``nic-del``    ``vm``, ``nic``, ``timeout``,      ``nic``: what it was; ``nic`` is its id, address or network
               ``cut``
``nic-set``    ``vm``, ``nic``, ``keys``,         as ``nic-add``
               ``timeout``
``apply``      ``file``, ``overrides``, ``dry``,  ``changes`` (``vm``, ``what``, ``disruption``, ``done``, and
               ``timeout``                        ``error`` if it failed), ``vms``: those of the file that run
``exec``       ``vm``, ``argv``, ``input``,       nothing; after that line this connection carries frames
               ``bulk``, ``wait`` (s)             (`qemunet.live.frames`): a true ``input`` says that some
                                                  will come, a true ``bulk`` that output is only wanted in
                                                  large pieces. Whoever hangs up has the command killed;
                                                  ``wait`` is for a guest that has not booted
``adopt``                                         ``vms``: those that were taken in now
=============  =================================  =============================================================

Whoever shuts his side down for writing while he waits for ``nic-add`` or ``nic-set`` has it taken back: the answer is
an error of the kind ``interrupted`` that says what is so, or the usual one if it was done by then.

Events: ``watching`` (``vms``) when a tether or a watch begins, ``ended`` (``vm``, ``status``, ``reason``, ``text``)
for each vm, ``script`` (``vm``, ``what``: done or failed, ``text``) when its script has ended, and ``over``
(``failures``) when the last of them has ended and everything was taken back.

News, for whoever asked for `events`, have ``time`` (seconds since the epoch), ``lab`` and ``vm`` (null: it concerns
all): ``guest`` (``what``: running, started, adopted, ended, over), ``qmp`` (``name``, ``data``, ``timestamp``),
``link`` (``what``: new, changed, deleted), ``card`` (``what``, ``nic``), and ``gap`` (``what``: qmp, links) when some
may be missing; docs/events.md has all that is in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
import typing

from qemunet import interrupts
from qemunet.errors import NotFound, QemunetError, TimedOut, waits_for_itself
from qemunet.host import processes

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_LINE = 1 << 20  # bytes; a longer line is an error
_ANSWER = 30.0  # seconds that a keeper may take for what it does at once
_GLANCE = 0.2  # seconds between two looks at whether the user interrupted
_PIECE = 4096  # bytes looked at for the end of a line

_PEER = struct.Struct("iII")  # struct ucred of unix(7): process, user, group

Message = dict[str, object]


class Lost(QemunetError):
    """The keeper closed the connection or is not there."""

    kind = "keeper-lost"


class Control:
    """A blocking connection to a keeper; `keeper` is its process, if that is known."""

    def __init__(self, sock: socket.socket, keeper: int = 0) -> None:
        self.sock = sock
        self.keeper = keeper
        self._data = b""
        self._events: list[Message] = []

    @classmethod
    def open(cls, path: str) -> Control:
        """Connect to ``keeper.sock`` at `path`; raises `Lost` if nobody listens there."""
        try:
            sock = connect(path)
            return cls(sock, _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0])
        except OSError as error:
            raise Lost(f"no keeper answers ({error.strerror})", where=path) from error

    def ask(self, do: str, *, within: float | None = _ANSWER, **arguments: object) -> Message:
        """Send a request and return what ``ok`` holds; raises what the keeper reports, `Lost`, or `TimedOut`.

        Events that arrive meanwhile are kept for `events`. `within` (s) None waits as long as the keeper lives, for
        what may take a hook's time: raises Failed if this is a hook of the keeper.
        """
        if within is None and self.keeper in processes.ancestors():
            raise waits_for_itself("its lab's keeper")
        self._send({"do": do, **arguments})
        return self._answer(None if within is None else time.monotonic() + within, f"the keeper's answer to {do!r}")

    def withdraw(self, within: float) -> Message:
        """Have the request taken back whose answer is waited for, and return or raise the answer that it has then.

        Nothing more can be asked on this connection.
        """
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        return self._answer(time.monotonic() + within, "the keeper to take it back")

    def _answer(self, deadline: float | None, what: str) -> Message:
        while True:
            reply = self._wait(deadline, what)
            if "event" in reply:
                self._events.append(reply)
            elif "error" in reply:
                raise error_from(reply["error"])
            else:
                ok = reply.get("ok")
                return ok if isinstance(ok, dict) else {}

    def events(self) -> list[Message]:
        """Return the events that have arrived, without waiting; raises `Lost` when there will be no more."""
        lost: Lost | None = None
        try:
            while True:
                self._sort()
                self._receive(socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except Lost as error:
            lost = error
        events, self._events = self._events, []
        if lost and not events:
            raise lost
        return events

    def wait(self, timeout: float | None = None) -> Message:
        """Return the next event; raises `Lost` or `TimedOut`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._events:
            message = self._wait(deadline, "an event from the keeper")
            if "event" in message:
                return message
        return self._events.pop(0)

    def console(self, vm: str, replay: int = 0, *, screen: bool = False) -> socket.socket:
        """Turn this connection into the console of `vm`; return its socket.

        The first `replay` bytes at most are the end of what the console showed before; nothing is lost or doubled
        between them and the rest. Secrets of its script are asterisks: what people see goes into other logs.
        `screen`: what it shows goes to a terminal, which may answer what the guest asks.
        """
        self.ask("console", vm=vm, replay=replay, masked=True, screen=screen)
        return self.sock

    def capture(self, vm: str, nic: str) -> socket.socket:
        """Turn this connection into a pcap stream of a card; return its socket."""
        self.ask("capture", vm=vm, nic=nic)
        return self.sock

    def command(self, vm: str, argv: Sequence[str], wait: float, **settings: bool) -> socket.socket:
        """Turn this connection into the frames of a command in `vm`; return its socket.

        The settings are what else the verb ``exec`` takes.
        """
        self.ask("exec", vm=vm, argv=list(argv), wait=wait, **settings)
        return self.sock

    def said(self) -> list[str]:
        """Return what the keeper has said to the user since it was last asked; other events stay."""
        self._sort()
        texts = [str(event["text"]) for event in self._events if event["event"] == "said"]
        self._events = [event for event in self._events if event["event"] != "said"]
        return texts

    def see_off(self, within: float = _ANSWER) -> None:
        """Wait until a keeper that has no guest any more is gone, with its directory; return at once if it has some.

        For whoever ended a guest and promises that nothing is left when he returns.
        """
        deadline = time.monotonic() + within
        with contextlib.ExitStack() as held, contextlib.suppress(TimedOut):
            ending = None
            with contextlib.suppress(OSError):  # it is gone already, or in another pid namespace
                ending = held.enter_context(processes.Ending(self.keeper))
            try:
                while time.monotonic() < deadline and not self.ask("ping", within=within)["vms"]:
                    with contextlib.suppress(TimedOut):  # somebody may have had it start another guest just then
                        self.wait(_GLANCE)
            except Lost:
                if ending is not None:
                    ending.wait(within)

    def fileno(self) -> int:
        """Return the descriptor, for select(2): readable when there may be events."""
        return self.sock.fileno()

    def close(self) -> None:
        """Hang up."""
        self.sock.close()

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: Message) -> None:
        try:
            self.sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Lost(f"the keeper is gone ({error.strerror})") from error

    def _wait(self, deadline: float | None, what: str) -> Message:
        while (message := self._next()) is None:
            interrupts.check()
            left = _GLANCE if deadline is None else min(_GLANCE, deadline - time.monotonic())
            if left <= 0:
                raise TimedOut(f"waited too long for {what}", hint="its log is keeper.log beside its socket")
            if select.select([self.sock], [], [], left)[0]:
                self._receive(0)
        return message

    def _receive(self, flags: int) -> None:
        """Take in what there is of one line, and nothing after it: that may be for whoever gets the socket."""
        try:
            seen = self.sock.recv(_PIECE, flags | socket.MSG_PEEK)
            data = self.sock.recv(seen.find(b"\n") + 1 or len(seen)) if seen else b""
        except ConnectionResetError:
            data = b""
        if not data:
            raise Lost("the keeper has gone", hint="the guests run on; the next command finds them")
        self._data += data

    def _next(self) -> Message | None:
        line, newline, rest = self._data.partition(b"\n")
        if not newline:
            return None
        self._data = rest
        message = json.loads(line)
        return message if isinstance(message, dict) else {}

    def _sort(self) -> None:
        while (message := self._next()) is not None:
            if "event" in message:
                self._events.append(message)


def connect(path: str) -> socket.socket:
    """Connect to a Unix socket whose path may be longer than the 108 bytes of sockaddr_un; raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            sock.connect(short)
    except OSError:
        sock.close()
        raise
    return sock


def listen(path: str) -> socket.socket:
    """Return a non-blocking Unix socket (mode 0600) that listens at `path`; raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), 0o600)  # before it has a name: bind(2) gives the name these bits
        with _short(path) as short:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}.new")
            sock.bind(f"{short}.new")
            sock.listen(128)
            sock.settimeout(0)
            os.rename(f"{path}.new", path)  # whoever sees it can connect to it
    except OSError:
        sock.close()
        raise
    return sock


def error_from(report: object) -> QemunetError:
    """Return the exception that an ``error`` object stands for, of the class that its kind names.

    Only what every `QemunetError` has is filled in.
    """
    told = report if isinstance(report, dict) else {}
    kind = str(told.get("kind", ""))
    words = {key: str(told.get(key, "")) for key in ("where", "hint")}
    found = next((one for one in _tree(QemunetError) if one.kind == kind), QemunetError)
    error = found.__new__(found)
    QemunetError.__init__(error, str(told.get("message", "the keeper reports an error")), **words)
    return error


def errors_in(rows: Iterable[Mapping[str, object]]) -> list[QemunetError]:
    """Return what the rows of an answer to ``apply`` say that failed."""
    return [error_from(row["error"]) for row in rows if "error" in row]


def no_such_vm(vm: object, known: list[str]) -> NotFound:
    """Return the error for a vm that a keeper does not have."""
    return NotFound(f"no vm of the name {vm} runs here (running: {', '.join(known) or 'none'})")


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """Give a name of any length a short one, by way of an open directory."""
    directory, name = os.path.split(path)
    fd = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def _tree(top: type[QemunetError]) -> Iterator[type[QemunetError]]:
    yield top
    for below in top.__subclasses__():
        yield from _tree(below)
