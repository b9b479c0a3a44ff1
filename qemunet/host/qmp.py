"""Says a few things to a QEMU over its control socket, blocking and without a library: enough for a start."""

from __future__ import annotations

import json
import time
import typing

from qemunet import interrupts
from qemunet.errors import Failed, TimedOut

if typing.TYPE_CHECKING:
    import socket

_SLICE = 0.1  # seconds between looks at the interrupts
_DEADLINE = 30.0  # seconds; a busy machine starts many QEMUs at once

Reply = dict[str, typing.Any]  # JSON, looked at here and nowhere else


class HungUp(Exception):
    """QEMU closed the connection."""


def negotiate(sock: socket.socket) -> None:
    """Wait for the greeting and leave the negotiation mode. Raises HungUp, TimedOut."""
    _next(sock, "the greeting", lambda reply: "QMP" in reply)
    execute(sock, "qmp_capabilities")


def execute(sock: socket.socket, command: str, **arguments: str | bool) -> typing.Any:
    """Have a command done and return its answer. Raises HungUp, TimedOut, and Failed with QEMU's own words."""
    order = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
    try:
        sock.sendall(json.dumps(order).encode() + b"\n")
    except OSError as error:
        raise HungUp from error
    reply = _next(sock, f"the answer to {command}", lambda reply: "return" in reply or "error" in reply)
    if "error" in reply:
        raise Failed(f"QEMU refused {command}: {reply['error'].get('desc', reply['error'])}")
    return reply["return"]


def _next(sock: socket.socket, what: str, fits: typing.Callable[[Reply], bool]) -> Reply:
    """Return the first message that fits; what else comes is an event, for which it is too early.

    Reads up to the end of a line, so that the next reader of the socket starts with a whole message.
    """
    data = b""
    deadline = time.monotonic() + _DEADLINE
    while True:
        data += _receive(sock, what, data, deadline)
        if data.endswith(b"\n"):
            replies: list[Reply] = [json.loads(line) for line in data.splitlines() if line.strip()]
            found = next(filter(fits, replies), None)
            if found is not None:
                return found


def _receive(sock: socket.socket, what: str, seen: bytes, deadline: float) -> bytes:
    sock.settimeout(_SLICE)
    while True:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            interrupts.check()
            if time.monotonic() > deadline:
                last = seen[-200:].decode(errors="replace") or "nothing"
                raise TimedOut(f"QEMU has not sent {what} within {_DEADLINE:g} s; it sent {last}") from None
            continue
        except OSError as error:
            raise HungUp from error
        finally:
            sock.settimeout(None)
        if not data:
            raise HungUp
        return data
