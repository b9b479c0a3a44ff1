"""Networks of addresses: what in one of them is given out, whose they are on the host, and which are free."""

from __future__ import annotations

from qemunet.config import units
from qemunet.config.hints import Bad
from qemunet.model.names import digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from qemunet.facts import Facts

# From where an automatic network is taken: corners of the private networks that hardly anybody else gives away.
POOLS = ("10.160.0.0/11", "172.24.0.0/14", "192.168.160.0/19")
AUTO_PREFIX = 24
LEAST_PREFIX = 4  # what is shorter is a way to everywhere, as the halves 0.0.0.0/1 and 128.0.0.0/1 of VPNs are
_LINK_LOCAL = "fe80::/10"


def network(address: str) -> str:
    """Return the network that an address with its prefix length is in."""
    plain, mask = units.host_mask(address)
    prefix = address.partition("/")[2]
    return f"{units.dotted(units.number(plain) & ~mask, units.bits(plain))}/{prefix}"


def usable(address: str) -> tuple[int, int]:
    """Return the first and the last number that somebody in a network can have."""
    plain, mask = units.host_mask(address)
    base = units.number(plain) & ~mask
    edge = int(mask > 1)
    return base + edge, base + mask - edge * (units.bits(plain) == 32)


def upper_half(address: str) -> tuple[str, str]:
    """Return the first and last address of the upper half of a network, without this one of it; raises Bad.

    Where that is in the midst of them, it is the longer of the two parts.
    """
    own, mask = units.number(units.plain(address)), units.host_mask(address)[1]
    first, last = usable(address)
    first = max(first, (own & ~mask) + (mask + 1) // 2)
    parts = [(first, min(last, own - 1)), (max(first, own + 1), last)] if first <= own <= last else [(first, last)]
    first, last = max(parts, key=lambda part: part[1] - part[0])
    if first > last:
        raise Bad(f"there is no room in {network(address)} for addresses to give out", "a shorter prefix has more")
    size = units.bits(address.partition("/")[0])
    return units.dotted(first, size), units.dotted(last, size)


def user(facts: Facts, address: str, own: Collection[str]) -> str:
    """Say who on the host has addresses of the network of `address`, empty if nobody. `own`: interfaces of ours."""
    for cidr, name, has in _used(facts):
        if name not in own and units.overlap(cidr, address):
            return f"{name} {has}"
    return ""


def _used(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield every network in use on the host, the interface, and what that has to do with it."""
    for name, addresses in facts.addresses.items():
        for address in addresses:
            if not units.inside(units.plain(address), _LINK_LOCAL):
                yield address, name, f"has the address {address}"
    for route in facts.routes:
        cidr = route.destination
        narrow = cidr != "default" and int(cidr.partition("/")[2]) >= LEAST_PREFIX
        if narrow and route.device and not units.inside(units.plain(cidr), _LINK_LOCAL):
            yield cidr, route.device, f"is the way to {cidr}"


def free(facts: Facts, name: str, given: Iterable[str]) -> str:
    """Return an address for the host in an IPv4 network that nobody uses; raises Bad if there is none.

    `given` are other networks of the lab. The same name gets the same one wherever that is free.
    """
    used = [cidr for cidr in (*given, *(one for one, _, _ in _used(facts))) if ":" not in cidr]
    for pool in POOLS:
        if not any(_covers(cidr, pool) for cidr in used):
            for candidate in _candidates(pool, name):
                if not any(units.overlap(candidate, cidr) for cidr in used):
                    return candidate
    raise Bad(
        "no network is free in " + ", ".join(POOLS), "`ip route` lists what is in use; give an address of your own"
    )


def _covers(cidr: str, pool: str) -> bool:
    return int(cidr.partition("/")[2]) <= int(pool.partition("/")[2]) and units.overlap(cidr, pool)


def _candidates(pool: str, name: str) -> Iterator[str]:
    """Yield the first address of each network of a pool, beginning with one that depends on the name."""
    base, mask = units.host_mask(pool)
    count = (mask + 1) >> 32 - AUTO_PREFIX
    start = int(digest(name, 4), 16)
    for step in range(count):
        at = units.number(base) + ((start + step) % count << 32 - AUTO_PREFIX)
        yield f"{units.dotted(at + 1, 32)}/{AUTO_PREFIX}"
