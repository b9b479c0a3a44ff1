"""Plugs interfaces of the host into bridges of ours, and moves what they carry: addresses and routes as they are."""

from __future__ import annotations

import errno
import time
import typing

from qemunet.errors import Failed, Taken
from qemunet.frozen import replace
from qemunet.host import links, routing
from qemunet.host import netlink as nl
from qemunet.host.links import Vanished
from qemunet.model.routing import NODAD, Way
from qemunet.steps import ChangePort, PlugPort, PutAddress, PutRoute, SetVlans, TakeAddress, TakeRoute, UnplugPort

if typing.TYPE_CHECKING:
    from qemunet.host.netlink import Netlink
    from qemunet.model.routing import IpAddress, IpRoute

    PortStep = PlugPort | UnplugPort | ChangePort | PutAddress | TakeAddress | PutRoute | TakeRoute

_ABSENT = (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT)
_NO_BRIDGE_PORT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ELOOP)


def perform(net: Netlink, step: PortStep) -> None:
    """Do a step about a port, or about what moves from it. Raises OSError, Vanished, and Taken if nothing was done."""
    match step:
        case PlugPort():
            plug(net, step)
        case UnplugPort():
            unplug(net, step)
        case ChangePort():
            change(net, step)
        case PutAddress():
            put(net, step)
        case TakeAddress():
            take(net, step)
        case PutRoute():
            put_route(net, step)
        case TakeRoute():
            take_route(net, step)
        case _:
            typing.assert_never(step)


def plug(net: Netlink, step: PlugPort) -> None:
    """Plug an interface into a bridge, and put it into its VLANs there.

    Raises Taken, and nothing was done, if the kernel does not let it.
    """
    index = _index(net, step.name, step.index)
    try:
        _set(net, index, nl.number(links.MASTER, _index(net, step.bridge, 0)))
    except OSError as error:
        raise _refusal(net, step, index, error) from error
    if step.vlans is not None:
        from qemunet.host import vlans  # only where it is needed

        vlans.put(net, SetVlans(links.find_index(net, index).name, step.vlans))


def unplug(net: Netlink, step: UnplugPort) -> None:
    """Plug an interface out of a bridge; raises Vanished if it is not in that one."""
    index = _index(net, step.name, step.index)
    master = links.find_index(net, index).master
    if master != step.bridge:
        raise Vanished(errno.ENODEV, f"{step.name} is not in {step.bridge} any more")
    _set(net, index, nl.number(links.MASTER, 0))


def change(net: Netlink, step: ChangePort) -> None:
    """Set an interface up or down, or its MTU; raises Vanished if it is not there."""
    properties = b"" if step.mtu is None else nl.number(links.MTU, step.mtu)
    flags, mask = (0, 0) if step.up is None else (links.UP * step.up, links.UP)
    _set(net, _index(net, step.name, step.index), properties, flags, mask)


def put(net: Netlink, step: PutAddress) -> None:
    """Put an address on an interface; one that is no longer valid is over, and stays away."""
    index = _index(net, step.name, step.index)
    address = _renewed(net, step)
    if _is_over(address.valid):
        return
    try:
        net.do(nl.Request(nl.NEWADDR, nl.CREATE | nl.EXCLUSIVE, routing.address_body(address, index, NODAD)))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    if ":" in address.address and not address.flags & NODAD:  # it was not there before, and is not wanted to stay
        net.do(nl.Request(nl.NEWADDR, nl.REPLACE, routing.address_body(address, index)))


def take(net: Netlink, step: TakeAddress) -> None:
    """Take an address from an interface; raises Vanished if it does not have it."""
    body = routing.address_body(step.address, _index(net, step.name, step.index))
    try:
        net.do(nl.Request(nl.DELADDR, 0, body))
    except OSError as error:
        raise (Vanished(*error.args) if error.errno in _ABSENT else error) from error


def put_route(net: Netlink, step: PutRoute) -> None:
    """Add a route; one whose time is over stays away. Raises Vanished if an interface of it is gone."""
    route = _renewed_route(net, step)
    if _is_over(route.expires):
        return
    try:
        net.do(nl.Request(nl.NEWROUTE, nl.CREATE | nl.APPEND, _route(net, route)))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def take_route(net: Netlink, step: TakeRoute) -> None:
    """Delete a route; raises Vanished if it is not there."""
    try:
        net.do(nl.Request(nl.DELROUTE, 0, _route(net, step.route)))
    except OSError as error:
        raise (Vanished(*error.args) if error.errno in _ABSENT else error) from error


def _route(net: Netlink, route: IpRoute) -> bytes:
    return routing.route_body(route, lambda way: _index(net, way.device, way.index))


def _is_over(until: int | None) -> bool:
    return until is not None and until <= time.clock_gettime(time.CLOCK_BOOTTIME)


def _renewed_route(net: Netlink, step: PutRoute) -> IpRoute:
    """Return the route with the time that it has through the other interface."""
    if not step.like or step.route.expires is None:
        return step.route
    known = (_without_ways(one) for one in routing.through(net, _index(net, step.like, 0)))
    own = _without_ways(step.route)
    return next((replace(step.route, expires=one.expires) for one in known if _is_same(one, own)), step.route)


def _without_ways(route: IpRoute) -> IpRoute:
    return replace(route, ways=tuple(Way("", 0, way.gateway) for way in route.ways))


def _is_same(one: IpRoute, other: IpRoute) -> bool:
    keys = ("destination", "ways", "table", "metric", "tos", "sender")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def _renewed(net: Netlink, step: PutAddress) -> IpAddress:
    """Return the address with the time that it has where somebody may have renewed it."""
    if step.like and step.address.valid is not None:
        for name, one in routing.addresses(net):
            if name == step.like and one.address == step.address.address:
                return replace(step.address, valid=one.valid, preferred=one.preferred)
    return step.address


def _index(net: Netlink, name: str, index: int) -> int:
    """Return the index of an interface if it is there, whatever its name is now; raises Vanished."""
    try:
        if index:
            net.name(index)
            return index
        return net.index(name)
    except OSError as error:
        raise (Vanished(errno.ENODEV, f"there is no interface {name}") if error.errno in _ABSENT else error) from error


def _set(net: Netlink, index: int, properties: bytes, flags: int = 0, mask: int = 0) -> None:
    try:
        net.do(nl.Request(nl.NEWLINK, 0, links.ifinfo(index, flags, mask) + properties))
    except OSError as error:
        raise (Vanished(*error.args) if error.errno == errno.ENODEV else error) from error


def _refusal(net: Netlink, step: PlugPort, index: int, error: OSError) -> Exception:
    """Say why the kernel does not plug an interface in."""
    link = links.find_index(net, index)
    if error.errno == errno.EBUSY:
        above = routing.above(net, index)
        if link.master:
            return Taken(f"{step.name} is a port of {link.master} already")
        return Taken(f"{step.name} cannot be a port of a bridge: it carries {', '.join(above) or 'something else'}")
    if error.errno in _NO_BRIDGE_PORT:
        hint = "a wireless card, for example, is none; mode nat or routed gets guests out by any interface"
        return _NotPlugged(f"the kernel does not take {step.name} as a port of a bridge: {error.strerror}", hint=hint)
    return error


class _NotPlugged(Taken, Failed):
    """The kernel does not plug such an interface in at all; nothing was done."""

    kind = Failed.kind
    exit_status = Failed.exit_status
