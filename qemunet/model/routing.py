"""Addresses and routes with everything that the kernel knows of them, so that they can be taken along and put back."""

from __future__ import annotations

from collections.abc import Iterator

from qemunet.frozen import frozen

MAIN = 254  # the table that everybody means who names none
LOCAL = 255  # the kernel's own
FOREVER = None

# Flags of addresses (linux/if_addr.h), as far as whoever adds one can choose them.
NODAD, HOME, MANAGES_TEMPORARY, NO_PREFIX_ROUTE, JOINS = 0x02, 0x10, 0x100, 0x200, 0x400
CHOSEN = NODAD | HOME | MANAGES_TEMPORARY | NO_PREFIX_ROUTE | JOINS
BY_KERNEL, STATIC, BY_RA = 2, 4, 9  # who made a route (RTPROT_*)
UNICAST = 1  # the type of a route that leads somewhere

# The settings of an interface that a bridge takes over from its uplink, where they are not what every new one has.
IPV4_SETTINGS = (
    "accept_local",
    "accept_redirects",
    "accept_source_route",
    "arp_accept",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "arp_notify",
    "forwarding",
    "log_martians",
    "proxy_arp",
    "route_localnet",
    "rp_filter",
    "secure_redirects",
    "send_redirects",
    "src_valid_mark",
)
IPV6_SETTINGS = (
    "disable_ipv6",  # first: the others are of no use with it
    "accept_dad",
    "accept_ra",
    "accept_ra_defrtr",
    "accept_ra_pinfo",
    "accept_ra_rt_info_max_plen",
    "accept_ra_rtr_pref",
    "accept_redirects",
    "addr_gen_mode",
    "autoconf",
    "dad_transmits",
    "forwarding",
    "proxy_ndp",
    "use_tempaddr",
)


@frozen
class IpAddress:
    """One address of an interface (CIDR). `valid` and `preferred` end so many seconds after boot, None is never.

    `label` is empty for that of the interface's own name; `scope`, `flags` and `origin` (IFA_PROTO) are the kernel's
    numbers, of the flags those that can be chosen.
    """

    address: str
    peer: str | None = None
    broadcast: str | None = None
    label: str = ""
    scope: int = 0
    flags: int = 0
    valid: int | None = None
    preferred: int | None = None
    origin: int = 0
    metric: int = 0

    @property
    def is_link_local(self) -> bool:
        """Tell whether it is one of those that every interface with IPv6 has."""
        return self.address.lower().startswith(("fe8", "fe9", "fea", "feb"))


@frozen
class Way:
    """One way of a route: an interface, and who is asked to pass on. An `index` of 0: whichever has the name."""

    device: str
    index: int = 0
    gateway: str | None = None
    weight: int = 1
    onlink: bool = False


@frozen
class IpRoute:
    """One route. `destination` is a CIDR also for the default; the numbers are those of rtnetlink(7).

    `options` are pairs of a metric's number (RTAX_*) and its value; `expires` is in seconds after boot. An IPv6 route
    with several ways is several routes.
    """

    destination: str
    ways: tuple[Way, ...]
    table: int = MAIN
    protocol: int = STATIC
    scope: int = 0
    kind: int = UNICAST
    tos: int = 0
    metric: int = 0
    source: str | None = None  # which of its addresses the host takes
    sender: str | None = None  # CIDR: only for packets from there (IPv6)
    preference: int | None = None
    options: tuple[tuple[int, int], ...] = ()
    expires: int | None = None


@frozen
class Carried:
    """What an interface carries that would be lost, or in the way, if it became a port of a bridge.

    `stuck` says what of it cannot be moved; `rules` are policy rules that name it; `above` are the macvlans, macvtaps
    and the like on it; `peer` is the other end of a cable in this namespace, `beyond` the bridge that that is in.
    """

    addresses: tuple[IpAddress, ...] = ()
    routes: tuple[IpRoute, ...] = ()
    stuck: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    peer: str = ""
    beyond: str = ""

    @property
    def is_bare(self) -> bool:
        """Tell whether nothing of the host is there but the link-local addresses that every interface has."""
        return not self.routes and not self.stuck and all(one.is_link_local for one in self.addresses)


def sysctls_of(port: str) -> Iterator[str]:
    """Yield the settings of a port that have to be known: its own, and what a new interface has."""
    of = port.replace(".", "/")
    yield f"net.ipv6.conf.{of}.disable_ipv6"
    for name in (of, "default"):
        yield from (f"net.ipv4.conf.{name}.{key}" for key in IPV4_SETTINGS)
        yield from (f"net.ipv6.conf.{name}.{key}" for key in IPV6_SETTINGS)
