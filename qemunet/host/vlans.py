"""Puts ports of bridges into VLANs, and finds out whether a kernel can."""

from __future__ import annotations

import errno
import struct
import typing

from qemunet.frozen import frozen
from qemunet.host import links, netns
from qemunet.host import netlink as nl
from qemunet.host.links import Vanished
from qemunet.model.vlan import Vlans, others, ranges
from qemunet.steps import FilterVlans, SetVlans

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qemunet.host.netlink import Netlink

_AF_BRIDGE, _AF_SPEC, _FLAGS, _VLAN = 7, 26, 0, 2
_SELF = struct.pack("=H", 2)
_PVID, _UNTAGGED, _BEGIN, _END = 2, 4, 8, 16  # BRIDGE_VLAN_INFO_*
_INFO = struct.Struct("=BxHiII")
_ENTRY = struct.Struct("=HH")  # struct bridge_vlan_info: flags, number
_KIND, _DATA = 1, 2
_FILTERING, _DEFAULT = 7, 39  # IFLA_BR_VLAN_FILTERING, IFLA_BR_VLAN_DEFAULT_PVID


@frozen
class Entries:
    """VLANs from a first to a last one, as a port has them."""

    first: int
    last: int
    flags: int = 0

    def encoded(self) -> Iterator[bytes]:
        if self.first == self.last:
            yield nl.raw(_VLAN, _ENTRY.pack(self.flags, self.first))
        else:
            yield nl.raw(_VLAN, _ENTRY.pack(self.flags | _BEGIN, self.first))
            yield nl.raw(_VLAN, _ENTRY.pack(self.flags | _END, self.last))


def perform(net: Netlink, step: FilterVlans | SetVlans) -> None:
    """Do a step about VLANs. Raises Vanished if the interface is not there, or no port of a bridge."""
    match step:
        case FilterVlans():
            let_filter(net, step)
        case SetVlans():
            put(net, step)
        case _:
            typing.assert_never(step)


def let_filter(net: Netlink, step: FilterVlans) -> None:
    """Let a bridge tell VLANs apart, or no longer."""
    net.do(_filtering(_index(net, step.name), on=step.on))


def put(net: Netlink, step: SetVlans) -> None:
    """Put a port into VLANs: first into those that it is to be in, then out of all others."""
    index = _index(net, step.name)
    vlans = step.vlans if step.vlans is not None else _usual(net, index, own=step.own)
    native = () if vlans.native is None else (Entries(vlans.native, vlans.native, _PVID | _UNTAGGED),)
    wanted = (*native, *(Entries(*one) for one in ranges(vlans.tagged)))
    try:
        if wanted:
            net.do(_change(nl.SETLINK, index, wanted, own=step.own))
        net.do(_change(nl.DELLINK, index, (Entries(*one) for one in others(vlans)), own=step.own))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and not step.own and links.find_index(net, index).master is None:
            raise Vanished(error.errno, f"{step.name} is no port of a bridge") from error
        raise (Vanished(*error.args) if error.errno == errno.ENODEV else error) from error


def _usual(net: Netlink, index: int, *, own: bool) -> Vlans:
    """Return what a new port of the bridge is in, of which this is one."""
    bridge = index
    if not own:
        master = links.find_index(net, index).master
        if master is None:
            raise Vanished(errno.ENODEV, "it is no port of a bridge any more")
        bridge = _index(net, master)
    body = net.ask(nl.Request(nl.GETLINK, 0, links.ifinfo(bridge) + links.WITHOUT_STATISTICS))
    info = nl.attributes(nl.attributes(body[_INFO.size :]).get(links.LINKINFO, b""))
    number = nl.integer(nl.attributes(info.get(_DATA, b"")).get(_DEFAULT, b""))
    return Vlans(number or None)


def _index(net: Netlink, name: str) -> int:
    try:
        return net.index(name)
    except OSError as error:
        raise (Vanished(*error.args) if error.errno == errno.ENODEV else error) from error


# ---------------------------------------------------------------- messages


def _filtering(index: int, *, on: bool) -> nl.Request:
    data = nl.nested(_DATA, nl.raw(_FILTERING, bytes((on,))))
    info = nl.nested(links.LINKINFO, nl.text(_KIND, "bridge"), data)
    return nl.Request(nl.NEWLINK, 0, links.ifinfo(index) + info)


def _change(kind: int, index: int, entries: Iterable[Entries], *, own: bool) -> nl.Request:
    """Return what adds or deletes entries: of a port by its bridge, of a bridge by itself (rtnetlink(7))."""
    where = nl.raw(_FLAGS, _SELF) if own else b""
    listed = b"".join(text for one in entries for text in one.encoded())
    return nl.Request(kind, 0, _INFO.pack(_AF_BRIDGE, 0, index, 0, 0) + nl.nested(_AF_SPEC, where, listed))


# ---------------------------------------------------------------- what a kernel can


def is_able() -> bool:
    """Tell whether bridges of this kernel tell VLANs apart, seen in a namespace made for that.

    Where none can be made, it is taken for granted.
    """
    try:
        return netns.in_fresh_namespace(_tried)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSPC, errno.EINVAL):
            raise
        return True


def _tried() -> bool:
    data = nl.nested(_DATA, nl.raw(_FILTERING, b"\1"))
    info = nl.nested(links.LINKINFO, nl.text(_KIND, "bridge"), data)
    net = nl.Netlink(nl.open_socket())
    try:
        net.do(nl.Request(nl.NEWLINK, nl.CREATE | nl.EXCLUSIVE, links.ifinfo() + info))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    finally:
        net.close()
    return True
