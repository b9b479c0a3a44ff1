"""Runs a command inside a guest and returns what it wrote and how it ended: blocking, for commands and tests."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
import typing

from qemunet import interrupts
from qemunet.errors import Failed, Interrupted, TimedOut
from qemunet.frozen import frozen
from qemunet.live.control import Lost, error_from
from qemunet.live.frames import BULK, Frames, Kind, frame
from qemunet.live.reach import reach

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qemunet.state import Runtime

BOOT = 60.0  # seconds that a guest has to say that its agent listens
_CHUNK = 65536  # bytes
_GLANCE = 0.2  # seconds between two looks at whether the user interrupted
_DYING = 15.0  # seconds for a command to end that is not wanted any more


class Expired(TimedOut):
    """A command has taken longer than it was allowed to, and was killed."""


@frozen
class Outcome:
    """How a command ended in a guest: as `qemunet exec` would, 128 and a signal's number, 127 if it is not there."""

    status: int
    stdout: bytes
    stderr: bytes


def call(
    here: Runtime,
    vm: str,
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout: float | None = None,
    boot: float = BOOT,
) -> Outcome:
    """Run a program with its arguments in a guest and wait for its end; no shell is in between.

    After `timeout` seconds it is killed, and Expired (a TimedOut) is raised with the last that it wrote. A guest that
    still boots has `boot` seconds for that besides. Raises NotFound if no such vm runs, Failed if it ends or reboots
    meanwhile or cannot do it, `Lost` if its keeper is gone.
    """
    written: dict[Kind, bytearray] = {Kind.OUT: bytearray(), Kind.ERR: bytearray()}
    with Command.begin(here, vm, argv, has_input=bool(stdin), boot=boot) as command:
        rest = memoryview(stdin)
        deadline = None if timeout is None else time.monotonic() + timeout
        while command.status is None:
            _in_time(command, deadline, timeout, bytes(written[Kind.ERR] or written[Kind.OUT]))
            rest = command.turn(rest, lambda kind, data: written[kind].extend(data))
        return Outcome(command.status, bytes(written[Kind.OUT]), bytes(written[Kind.ERR]))


def _in_time(command: Command, deadline: float | None, timeout: float | None, said: bytes) -> None:
    """Raise Expired if it is too late, when the command has been killed; Interrupted if that was asked for."""
    try:
        interrupts.check()
    except Interrupted:
        command.kill()
        raise
    if deadline is not None and timeout is not None and time.monotonic() > deadline:
        command.kill()
        last = said[-200:].decode(errors="replace").strip()
        problem = f"the command was killed after {timeout:g} s; "
        raise Expired(problem + (f'the last it wrote is "{last}"' if last else "it wrote nothing"), where=command.place)


class Command:
    """A command in a guest, on a connection of its own; `status` is None until it has ended."""

    def __init__(self, vm: str, sock: socket.socket) -> None:
        self.place = f"vm.{vm}"
        self.status: int | None = None
        self.sock = sock
        self._frames = Frames()
        self._unsent = bytearray()
        self._eof = False
        sock.settimeout(0)

    @classmethod
    def begin(
        cls,
        here: Runtime,
        vm: str,
        argv: Sequence[str],
        *,
        has_input: bool,
        is_typed: bool = False,
        is_bulk: bool = False,
        boot: float = BOOT,
    ) -> Command:
        """Have a command begun in a guest; raises NotFound, and what its keeper reports.

        `is_typed`: input comes if somebody types it. `is_bulk`: what it writes comes in large pieces, and is not waited
        for by anybody.
        """
        keeper = reach(here, here.vm(vm).lab)
        try:
            told = {"input": has_input, "typed": is_typed, "bulk": is_bulk}
            return cls(vm, keeper.command(vm, argv, wait=boot, **told))
        except BaseException:
            keeper.close()
            raise

    def turn(self, rest: memoryview, give: Callable[[Kind, bytes], object]) -> memoryview:
        """Wait for something to happen, a moment at most; return what of the input is still to be sent.

        `give` gets what the command has written.
        """
        if not self._unsent and not self._eof:
            piece, rest = rest[:BULK], rest[BULK:]
            self.send(Kind.INPUT if piece else Kind.EOF, bytes(piece))
        for kind, data in self.frames(readable=self.wait()):
            give(kind, data)
        return rest

    def send(self, kind: Kind, data: bytes = b"") -> None:
        """Send a frame, as far as it is taken now; the rest goes by `wait`."""
        self._eof = self._eof or kind is Kind.EOF
        self._unsent += frame(kind, data)
        self.flush()

    @property
    def full(self) -> bool:
        """Tell whether something is still to be sent before more input."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what the connection takes now."""
        with contextlib.suppress(BlockingIOError):
            try:
                while self._unsent:
                    del self._unsent[: self.sock.send(self._unsent)]
            except (BrokenPipeError, ConnectionResetError):  # reading will say why
                self._unsent.clear()

    def wait(self) -> bool:
        """Wait a moment for the connection; tell whether something can be read."""
        ready, writable, _ = select.select([self.sock], [self.sock] if self._unsent else [], [], _GLANCE)
        if writable:
            self.flush()
        return bool(ready)

    def frames(self, *, readable: bool = True) -> list[tuple[Kind, bytes]]:
        """Return what the command has written since the last time; sets `status`, and raises what went wrong."""
        if readable:
            self._receive()
        found = []
        while self.status is None and (one := self._frames.next()) is not None:
            if one[0] is Kind.END:
                self._end(json.loads(one[1]))
            else:
                found.append(one)
        return found

    def kill(self) -> None:
        """Have the command killed, and wait for its end; what goes wrong with that does not matter any more."""
        deadline = time.monotonic() + _DYING
        with contextlib.suppress(Exception):
            self.send(Kind.KILL)
            while self.status is None and time.monotonic() < deadline:
                self.frames(readable=self.wait())

    def close(self) -> None:
        """Hang up: if the command runs, it is killed."""
        self.sock.close()

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            hint = "the guest runs on; if our agent is in it, the command is killed when the next keeper comes"
            raise Lost("the keeper has gone while the command ran", where=self.place, hint=hint)
        self._frames.add(data)

    def _end(self, report: dict[str, object]) -> None:
        if "error" in report:
            error = error_from(report["error"])
            error.where = error.where or self.place
            raise error
        status = report.get("status")
        if not isinstance(status, int):
            raise Failed("the keeper does not say how the command ended", where=self.place)
        self.status = status
