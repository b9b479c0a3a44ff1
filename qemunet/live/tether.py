"""Talks over the tether, the socket pair that joins the two processes of ``run``: one line of JSON after the other.

The parent begins with the order; the child answers with any number of ``tell`` (what people should know), then
with ``ready``, ``error`` or ``elsewhere`` (the lab has a keeper already), and after the parent's ``go`` with ``final``.
With an order that says ``thinks``, the parent thinks for the child: that sends the file ``parsed``, gets a ``brief``,
looks at the host and sends the ``facts``, and gets the ``agenda`` or an ``error``. Values of ours follow their line,
pickled: ``bytes`` says how long they are.
"""

from __future__ import annotations

import contextlib
import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import MappingProxyType
    from typing import Any


def send(tether: socket.socket, message: dict[str, Any], value: object = None) -> None:
    """Send one message, maybe with a value; nobody minds if the other side is gone: that is seen when it is to answer.

    A value is made of value types, enums, tuples, sets and mappings.
    """
    data = b""
    if value is not None:
        data = _packed(value)
        message = {**message, "bytes": len(data)}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        tether.sendall(json.dumps(message).encode() + b"\n" + data)


def receive(tether: socket.socket) -> dict[str, Any]:
    """Return one message and leave what follows for the next reader; an empty one if the other side is gone.

    If a value came with it, it is there as ``value``.
    """
    message = _line(tether)
    if "bytes" not in message:
        return message
    data = _exactly(tether, message.pop("bytes"))
    if data is None:
        return {}
    import pickle

    return {**message, "value": pickle.loads(data)}  # noqa: S301 - the other side is ourselves


def _packed(value: object) -> bytes:
    import copyreg
    import pickle  # not before the order is on its way
    from types import MappingProxyType

    copyreg.pickle(MappingProxyType, _plain)
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _plain(mapping: MappingProxyType[Any, Any]) -> tuple[Callable[..., Any], tuple[object]]:
    """Say how a mapping that is only for reading is pickled: as a dictionary."""
    return dict, (dict(mapping),)


def _line(tether: socket.socket) -> dict[str, Any]:
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


def _exactly(tether: socket.socket, size: int) -> bytes | None:
    """Return so many bytes; None if the other side is gone before."""
    data = b""
    while len(data) < size:
        try:
            more = tether.recv(size - len(data))
        except ConnectionResetError:
            more = b""
        if not more:
            return None
        data += more
    return data
