"""Says a few things to a QEMU over its control socket, blocking and without a library: enough for a start."""

from __future__ import annotations

import json
import time

from qemunet import interrupts
from qemunet.errors import Failed, TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    Reply = dict[str, Any]  # JSON, looked at here and nowhere else

_SLICE = 0.1  # seconds between looks at the interrupts
_DEADLINE = 30.0  # seconds; a busy machine starts many QEMUs at once


class HungUp(Exception):
    """QEMU closed the connection."""


def negotiate(sock: socket.socket) -> None:
    """Wait for the greeting and leave the negotiation mode. Raises HungUp, TimedOut."""
    _up_to(sock, "the greeting", lambda reply: "QMP" in reply)
    execute(sock, "qmp_capabilities")


def execute(sock: socket.socket, command: str, **arguments: str | bool) -> Any:
    """Have a command done and return its answer. Raises HungUp, TimedOut, and Failed with QEMU's own words."""
    return _done(sock, command, arguments)[-1]["return"]


def execute_and_hear(sock: socket.socket, command: str) -> list[str]:
    """Have a command done and return the names of the events that came before its answer; raises as `execute` does."""
    return [message["event"] for message in _done(sock, command, {}) if "event" in message]


def _done(sock: socket.socket, command: str, arguments: dict[str, str | bool]) -> list[Reply]:
    """Return the messages up to a command's answer."""
    order = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
    try:
        sock.sendall(json.dumps(order).encode() + b"\n")
    except OSError as error:
        raise HungUp from error
    messages = _up_to(sock, f"the answer to {command}", lambda message: "return" in message or "error" in message)
    if "error" in messages[-1]:
        raise Failed(f"QEMU refused {command}: {messages[-1]['error'].get('desc', messages[-1]['error'])}")
    return messages


def _up_to(sock: socket.socket, what: str, fits: Callable[[Reply], bool]) -> list[Reply]:
    """Return the messages up to the first that fits.

    Reads up to the end of a line, so that the next reader of the socket starts with a whole message; what came after
    the one that fits is an event, for which it is too early.
    """
    data = b""
    deadline = time.monotonic() + _DEADLINE
    while True:
        data += _receive(sock, what, data, deadline)
        if data.endswith(b"\n"):
            messages: list[Reply] = [json.loads(line) for line in data.splitlines() if line.strip()]
            for number, message in enumerate(messages):
                if fits(message):
                    return messages[: number + 1]


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
