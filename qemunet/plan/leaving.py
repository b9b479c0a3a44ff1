"""Which addresses of before the host keeps on a network whose addresses have changed: guests have leases by them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Protocol

from qemunet.frozen import frozen
from qemunet.model.network import Network, OwnBridge


class Lent(Protocol):
    """An address that a guest has until `expires` (seconds since the epoch, None: for ever)."""

    @property
    def ip(self) -> str: ...

    @property
    def expires(self) -> int | None: ...


@frozen
class Leaving:
    """An address (CIDR) that the host has on a network until then (seconds since the epoch), or until nobody has a
    lease by it."""

    address: str
    until: int | None


def leaving(
    old: Network, new: Network, lent: Iterable[Lent], known: Mapping[str, int | None], now: float
) -> tuple[Leaving, ...]:
    """Return what of the host's old addresses stays when a network becomes another one.

    `known`: those that stay already, and until when that is. What guests are given now is nobody else's.
    """
    assert isinstance(old.switch, OwnBridge), "others are not ours to change"
    assert isinstance(new.switch, OwnBridge), "others are not ours to change"
    kept = {ipaddress.ip_interface(one).ip for one in new.switch.addresses}
    leases = tuple(lent)
    found = []
    for address in old.switch.present:
        if ipaddress.ip_interface(address).ip in kept or _is_given_out(address, new):
            continue
        until = known[address] if address in known else _last(address, leases)
        if not is_over(address, until, leases, now):
            found.append(Leaving(address, until))
    return tuple(found)


def is_over(address: str, until: int | None, lent: Iterable[Lent], now: float) -> bool:
    """Tell whether nobody has a lease by an address any more that he was given when it was the network's."""
    if until is not None and until <= now:
        return True
    return not any(one.expires is None or one.expires > now for one in _by(address, lent))


def _last(address: str, lent: Iterable[Lent]) -> int | None:
    ends = [one.expires for one in _by(address, lent)]
    return max((end for end in ends if end is not None), default=0) if None not in ends else None


def _by(address: str, lent: Iterable[Lent]) -> list[Lent]:
    subnet = ipaddress.ip_interface(address).network
    return [one for one in lent if ipaddress.ip_address(one.ip) in subnet]


def _is_given_out(address: str, network: Network) -> bool:
    """Tell whether a guest may get that address."""
    services = network.services
    ip = ipaddress.ip_interface(address).ip
    if services is None:
        return False
    for pool in (services.dhcp, services.dhcp6):
        if pool is None or pool.first is None or pool.last is None:
            continue
        first, last = ipaddress.ip_address(pool.first), ipaddress.ip_address(pool.last)
        if first.version == ip.version and int(first) <= int(ip) <= int(last):
            return True
    return str(ip) in {host.ip for host in services.hosts}
