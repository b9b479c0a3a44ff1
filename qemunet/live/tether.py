"""Talks over the tether, the socket pair that joins the two processes of ``run``: one line of JSON after the other.

The parent begins with the order; the child answers with any number of ``tell`` (what people should know), then
with ``ready``, ``error`` or ``elsewhere`` (the lab has a keeper already), and after the parent's ``go`` with ``final``.
"""

from __future__ import annotations

import contextlib
import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def send(tether: socket.socket, message: dict[str, Any]) -> None:
    """Send one message; nobody minds if the other side is gone: that is seen when its answer is waited for."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        tether.sendall(json.dumps(message).encode() + b"\n")


def receive(tether: socket.socket) -> dict[str, Any]:
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
    message: dict[str, Any] = json.loads(data)
    return message
