"""What went through an interface, as the kernel counts it (struct rtnl_link_stats64)."""

from __future__ import annotations

import errno
import struct
import typing

from qemunet.frozen import frozen
from qemunet.host import links
from qemunet.host import netlink as nl

if typing.TYPE_CHECKING:
    from qemunet.host.netlink import Netlink

_STATS64 = 23
_FIRST_EIGHT = struct.Struct("=8Q")  # packets, bytes, errors, dropped; of each what came in, then what went out


@frozen
class Flow:
    """What went one way."""

    bytes: int
    packets: int
    errors: int
    dropped: int


@frozen
class Counters:
    """What the interface itself received (`rx`) and sent (`tx`)."""

    rx: Flow
    tx: Flow

    def from_behind(self) -> Counters:
        """Return the same as whoever holds the other end sees it: a tap's guest receives what the tap sends."""
        return Counters(self.tx, self.rx)


def read(net: Netlink, name: str, group: int) -> Counters | None:
    """Return the counters of the interface of that name in the link group `group`; None if there is no such."""
    try:
        body = net.ask(nl.Request(nl.GETLINK, 0, links.ifinfo() + nl.text(links.IFNAME, name)))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    values = nl.attributes(body[len(links.ifinfo()) :])
    if nl.integer(values.get(links.GROUP, b"")) != group or _STATS64 not in values:
        return None
    return parse(values[_STATS64])


def parse(stats: bytes) -> Counters:
    """Return what the attribute IFLA_STATS64 says."""
    in_, out, in_bytes, out_bytes, in_errors, out_errors, in_dropped, out_dropped = _FIRST_EIGHT.unpack_from(stats)
    return Counters(Flow(in_bytes, in_, in_errors, in_dropped), Flow(out_bytes, out, out_errors, out_dropped))
