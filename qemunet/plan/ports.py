"""Interfaces of the host that become ports of a bridge of ours, and what moves to the bridge from an uplink.

An uplink is one that carries addresses of the host, or routes. The bridge has its MAC and MTU, so that for everybody
outside it is the same host. In this order the host is never long without a way to them: what arrives is heard at the
bridge from the moment when the uplink is plugged in; then the addresses are on both, the routes go through both, and
only then they are taken from the uplink. The way back is the same backwards.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from qemunet.facts import Facts, LinkFact
from qemunet.frozen import replace
from qemunet.model.network import OwnBridge
from qemunet.model.routing import (
    BY_KERNEL,
    IPV4_SETTINGS,
    IPV6_SETTINGS,
    MAIN,
    NO_PREFIX_ROUTE,
    Carried,
    IpAddress,
    IpRoute,
)
from qemunet.model.vlan import Vlans
from qemunet.steps import (
    ChangePort,
    PlugPort,
    PutAddress,
    PutRoute,
    SetSysctl,
    Step,
    TakeAddress,
    TakeRoute,
    sysctl_name,
)

PREFIX_METRIC = 256  # of the IPv6 routes that come with addresses
_EUI64, _NO_LINK_LOCAL = "0", "1"  # addr_gen_mode: what a bridge can have without a secret


def uplink_of(switch: OwnBridge, facts: Facts) -> str | None:
    """Return the port from which addresses and routes move to the bridge, None if there is none."""
    bare = Carried()
    found = (name for name in switch.ports if not facts.carried.get(name, bare).is_bare)
    return next(found, None) if switch.move_address else None


def plugs(switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    """Yield what plugs in those ports that carry nothing; it may be done before the bridge is up."""
    uplink = uplink_of(switch, facts)
    for name in switch.ports:
        if name != uplink:
            yield from _plugged(_link(name, facts), switch)


def settings(switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    """Yield what gives the bridge the settings of its uplink, where they are not those of every new interface."""
    uplink = uplink_of(switch, facts)
    if uplink is None:
        return
    for version, keys in ((4, IPV4_SETTINGS), (6, IPV6_SETTINGS)):
        for key in keys:
            value = facts.sysctls.get(f"net.ipv{version}.conf.{sysctl_name(uplink)}.{key}")
            usual = facts.sysctls.get(f"net.ipv{version}.conf.default.{key}")
            possible = key != "addr_gen_mode" or value in (_EUI64, _NO_LINK_LOCAL)
            if value is not None and value != usual and possible:
                yield SetSysctl(f"net.ipv{version}.conf.{sysctl_name(switch.ifname)}.{key}", value)


def move(switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    """Yield what plugs the uplink in and moves what it carries to the bridge, which is up."""
    uplink = uplink_of(switch, facts)
    if uplink is None:
        return
    link, carried = _link(uplink, facts), facts.carried[uplink]
    own = [one for one in carried.addresses if one.is_link_local]
    moving = sorted((one for one in carried.addresses if not one.is_link_local), key=_is_ipv6)
    first = next((at for at, one in enumerate(moving) if _is_ipv6(one)), len(moving))
    moving[first:] = reversed(moving[first:])  # of IPv6 the kernel has the newest first
    routes = [one for one in carried.routes if not any(_comes_with(one, address) for address in carried.addresses)]
    routes.sort(key=lambda route: any(way.gateway for way in route.ways))  # by which a gateway is reached
    yield from (PutAddress(switch.ifname, 0, _on(switch, one, link)) for one in own)
    yield from _plugged(link, switch)
    yield from (PutAddress(switch.ifname, 0, _on(switch, one, link)) for one in moving)
    yield from (PutRoute(_by(switch, one, link)) for one in routes)
    yield from (TakeRoute(one, switch.ifname) for one in reversed(routes))
    yield from (TakeAddress(link.name, link.index, one, switch.ifname) for one in reversed(moving))


def remembered(undos: Sequence[Step], facts: Facts) -> Facts:
    """Return a photograph in which ports carry again what moved from them; `undos` are what gives it back to them."""
    carried = dict(facts.carried)
    for undo in undos:
        known = carried.get(_port_of(undo))
        match undo:
            case PutAddress(name=name, address=address) if known and address not in known.addresses:
                carried[name] = replace(known, addresses=(*known.addresses, address))
            case PutRoute(route=route) if known and route not in known.routes:
                carried[_port_of(undo)] = replace(known, routes=(*known.routes, route))
            case _:
                pass
    return replace(facts, carried=carried)


def _port_of(undo: Step) -> str:
    """Return the interface that an undo gives something back to, by the name that it had."""
    match undo:
        case PutAddress(name=name):
            return name
        case PutRoute(route=route, like=bridge):
            return next((way.device for way in route.ways if bridge and way.index), "")
        case _:
            return ""


def _plugged(link: LinkFact, switch: OwnBridge) -> Iterator[Step]:
    return plug(link, switch.ifname, switch.mtu, dict(switch.port_vlans).get(link.name))


def plug(link: LinkFact, bridge: str, mtu: int, vlans: Vlans | None = None) -> Iterator[Step]:
    """Yield what plugs an interface in; one that is down would get an IPv6 address when it goes up."""
    if link.mtu != mtu:
        yield ChangePort(link.name, link.index, mtu=mtu, was_mtu=link.mtu)
    if not link.up:
        yield SetSysctl(f"net.ipv6.conf.{sysctl_name(link.name)}.disable_ipv6", "1")
    yield PlugPort(link.name, link.index, bridge, vlans)
    if not link.up:
        yield ChangePort(link.name, link.index, up=True, was_up=False)


def _link(name: str, facts: Facts) -> LinkFact:
    known = (link for link in facts.links.values() if link.name == name)
    return next(known, LinkFact(0, name, "", "", 1500, up=True))


def _on(switch: OwnBridge, address: IpAddress, link: LinkFact) -> IpAddress:
    """Return an address as the bridge has it. That of a router has its prefix's route beside it, not with it."""
    label = address.label.replace(link.name, switch.ifname, 1)
    apart = NO_PREFIX_ROUTE if _is_lent6(address) else 0
    return replace(address, label=label if len(label) <= 15 else "", flags=address.flags | apart)


def _by(switch: OwnBridge, route: IpRoute, link: LinkFact) -> IpRoute:
    ways = (replace(way, device=switch.ifname, index=0) if way.index == link.index else way for way in route.ways)
    return replace(route, ways=tuple(ways))


def _comes_with(route: IpRoute, address: IpAddress) -> bool:
    """Tell whether the kernel adds and deletes a route with an address."""
    if route.protocol != BY_KERNEL or route.table != MAIN or any(way.gateway for way in route.ways):
        return False
    if address.flags & NO_PREFIX_ROUTE or _is_lent6(address):
        return False
    plain, _, prefix = address.address.partition("/")
    metric = address.metric or (PREFIX_METRIC if ":" in plain else 0)
    network = ipaddress.ip_interface(f"{address.peer or plain}/{prefix}").network
    return (route.destination, route.metric) == (str(network), metric)


def _is_ipv6(address: IpAddress) -> bool:
    return ":" in address.address


def _is_lent6(address: IpAddress) -> bool:
    return _is_ipv6(address) and address.valid is not None
