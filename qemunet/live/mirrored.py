"""The frames of a card that has no interface on the host, as its keeper passes them on (`qemunet.live.capture`)."""

from __future__ import annotations

import socket
import time
import typing

from qemunet.errors import TimedOut
from qemunet.host.pcap import Stream
from qemunet.live.control import Lost

if typing.TYPE_CHECKING:
    from qemunet.live.control import Control

_CHUNK = 1 << 18  # bytes read at a time
_REST = 15.0  # seconds that the keeper may take for the rest


class Mirrored:
    """The frames of the card `nic` of `vm`, from the moment of making; `over` says why there will be no more.

    Raises what the keeper reports.
    """

    def __init__(self, keeper: Control, vm: str, nic: str) -> None:
        self.over = ""
        self._sock = keeper.capture(vm, nic)
        self._stream = Stream()
        self._deadline: float | None = None
        self._sock.settimeout(0)

    def fileno(self) -> int:
        """Return the descriptor, for select(2)."""
        return self._sock.fileno()

    def read(self) -> list[bytes]:
        """Return the pcap records that are there, without waiting; raises Lost when the keeper vanished, TimedOut."""
        records = self._stream.feed(self._receive())
        words = self._stream.words
        if words is not None:
            self.over = str(words.get("reason", "stopped"))
        elif self._deadline is not None and time.monotonic() > self._deadline:
            raise TimedOut(f"the keeper did not pass on the rest of the frames within {_REST:g} s")
        return records

    def stop(self) -> None:
        """Want nothing that comes later; what came before is still to be read."""
        if self._deadline is None:
            self._deadline = time.monotonic() + _REST
            self._sock.shutdown(socket.SHUT_WR)

    def dropped(self) -> int | None:
        """Return how many frames we did not take in time; None if that is not known."""
        count = (self._stream.words or {}).get("dropped")
        return count if isinstance(count, int) else None

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return b""
        except ConnectionResetError:
            data = b""
        if not data:
            raise Lost("the keeper of the guest is gone, and the capture with it", hint="the guest runs on")
        return data
