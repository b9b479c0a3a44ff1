"""Sees the frames of one interface, both ways, by a packet socket in the place where the interface is (packet(7))."""

from __future__ import annotations

import errno
import socket
import struct
import time
import typing

from qemunet.errors import HostLacks, NotFound
from qemunet.host import pcap

if typing.TYPE_CHECKING:
    from qemunet.host.netns import Place

_ALL = 0x0003  # ETH_P_ALL
_SOL_PACKET, _STATISTICS, _AUXDATA = 263, 6, 8
_TIMESTAMPNS = 35  # SO_TIMESTAMPNS, and the type of its message; the same on every architecture but Sparc and PA-RISC
_RCVBUFFORCE = 33
_AUX = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata: status, length, captured, mac, net, tag, its protocol
_VLAN_VALID, _VLAN_TPID_VALID = 0x10, 0x40
_VLAN = 0x8100
_ADDRESSES = 12  # bytes of a frame before its tag
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY = socket.CMSG_SPACE(_AUX.size) + socket.CMSG_SPACE(_TIMESPEC.size)
_BUFFER = 32 << 20  # bytes that may wait in the kernel
_BATCH = 256  # frames


class Packets:
    """The frames of the interface `name`, from the moment of making; `over` says why there will be no more.

    Raises NotFound if there is no such interface, and HostLacks without the right to look.
    """

    def __init__(self, place: Place, name: str) -> None:
        self.over = ""
        self._until: int | None = None
        self._dropped = 0
        self._frame = bytearray(pcap.SNAPLEN)
        self._sock = place.inside(_open)
        try:
            _prepare(self._sock)
            self._sock.bind((name, _ALL))  # it hears nothing before
        except OSError as error:
            self._sock.close()
            if error.errno == errno.ENODEV:
                raise NotFound(f"there is no interface {name}") from error
            raise
        self._sock.settimeout(0)

    def fileno(self) -> int:
        """Return the descriptor, for select(2)."""
        return self._sock.fileno()

    def read(self) -> list[bytes]:
        """Return the pcap records of the frames that are there, a batch of them at most, without waiting."""
        records: list[bytes] = []
        while len(records) < _BATCH and not self.over:
            try:
                record = self._next()
            except BlockingIOError:
                self._look()
                break
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # told once each time somebody takes it down
                    raise
                continue
            if record is not None:
                records.append(record)
        return records

    def stop(self) -> None:
        """Want nothing that comes later; what came before is still to be read."""
        if self._until is None:
            self._until = time.time_ns()

    def dropped(self) -> int:
        """Return how many frames the kernel had no room for."""
        self._dropped += struct.unpack("=II", self._sock.getsockopt(_SOL_PACKET, _STATISTICS, 8))[1]
        return self._dropped

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _next(self) -> bytes | None:
        """Return the record of the next frame; None for one that came too late."""
        size, ancillary, _, _ = self._sock.recvmsg_into([self._frame], _ANCILLARY, socket.MSG_TRUNC)
        seen, tag = _told(ancillary)
        if self._until is not None and seen > self._until:
            self.over = "stopped"
            return None
        frame = memoryview(self._frame)[: min(size, len(self._frame))]
        if not tag:
            return pcap.record(seen, frame, size)
        return pcap.record(seen, b"".join((frame[:_ADDRESSES], tag, frame[_ADDRESSES:])), size + len(tag))

    def _look(self) -> None:
        """Nothing is there: see whether there ever will be."""
        if self._until is not None:
            self.over = "stopped"
        elif not self._sock.getsockname()[0]:  # an interface that is deleted leaves the socket without one
            self.over = "the interface is gone"


def _open() -> socket.socket:
    try:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except PermissionError as error:
        raise HostLacks(["the right to see the packets of an interface (CAP_NET_RAW)"], hint="try with sudo") from error


def _prepare(sock: socket.socket) -> None:
    sock.setsockopt(_SOL_PACKET, _AUXDATA, 1)
    sock.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)  # as much as the system allows


def _told(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, bytes]:
    """Return when a frame was seen (ns since the epoch), and the VLAN tag that the kernel took out of it."""
    seen, tag = 0, b""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPNS):
            seconds, rest = _TIMESPEC.unpack_from(data)
            seen = seconds * 1_000_000_000 + rest
        elif (level, kind) == (_SOL_PACKET, _AUXDATA):
            tag = _tag(data)
    return seen or time.time_ns(), tag


def _tag(data: bytes) -> bytes:
    status, _, _, _, _, tag, protocol = _AUX.unpack_from(data)
    if not status & _VLAN_VALID:
        return b""
    return struct.pack("!HH", protocol if status & _VLAN_TPID_VALID else _VLAN, tag)
