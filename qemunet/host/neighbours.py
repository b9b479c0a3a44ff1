"""Whom the host has talked to over an interface: the kernel's neighbour tables (ARP and NDP), by MAC."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
import typing

from qemunet.host import netlink as nl

if typing.TYPE_CHECKING:
    from qemunet.host.netlink import Netlink

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_DST, _LLADDR, _IFINDEX = 1, 2, 8
_SEEN = 0x02 | 0x04 | 0x08 | 0x10  # reachable, stale, delay, probe: there was an answer; a permanent one is a wish
_MAC = 6  # bytes


def addresses(net: Netlink, name: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses that were last seen at an interface, by MAC; nothing if there is no such interface.

    IPv6 addresses that follow from the MAC (fe80::/10) are left out.
    """
    try:
        index = net.index(name)
    except OSError:
        return {}
    request = nl.Request(nl.GETNEIGH, 0, _NDMSG.pack(0, 0, 0, 0, 0) + nl.number(_IFINDEX, index))
    found: dict[str, tuple[str, ...]] = {}
    for body in net.dump(request):
        _family, where, state, _flags, _kind = _NDMSG.unpack_from(body)
        values = nl.attributes(body[_NDMSG.size :])
        mac = values.get(_LLADDR, b"")
        if where == index and state & _SEEN and len(mac) == _MAC and (address := _address(values.get(_DST, b""))):
            found[nl.colons(mac)] = (*found.get(nl.colons(mac), ()), address)
    return found


def _address(value: bytes) -> str:
    with contextlib.suppress(ValueError):
        found = ipaddress.ip_address(value)
        return "" if found.version == 6 and found.is_link_local else str(found)
    return ""
