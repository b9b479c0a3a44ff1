"""Steps about addresses, routes and sysctls."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step


@frozen
class AddAddress:
    """Put an address (CIDR) on an interface; IPv6 without duplicate address detection, usable at once."""

    name: str
    address: str

    def describe(self) -> str:
        return f"add address {self.address} to {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        known = self.name in before.links and self.address not in before.addresses.get(self.name, ())
        return DelAddress(self.name, self.address) if known else None

    def shell(self) -> tuple[str, ...]:
        nodad = ("nodad",) if ":" in self.address else ()
        return (line("ip", "address", "add", self.address, "dev", self.name, *nodad),)


@frozen
class DelAddress:
    """Take an address (CIDR) from an interface."""

    name: str
    address: str

    def describe(self) -> str:
        return f"delete address {self.address} from {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        there = self.address in before.addresses.get(self.name, ())
        return AddAddress(self.name, self.address) if there else None

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "address", "del", self.address, "dev", self.name),)


@frozen
class AddRoute:
    """Route a destination (CIDR) through an interface, in the main table; `source` is the host's address towards it."""

    destination: str
    name: str
    gateway: str | None = None
    source: str | None = None

    def describe(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        source = f" as {self.source}" if self.source else ""
        return f"route {self.destination}{via} through {self.name}{source}"

    def inverse(self, before: Facts) -> Step | None:
        # Also for a new interface, with which it would go: that may be shared, and stay for others.
        same = any((r.destination, r.device) == (self.destination, self.name) for r in before.routes)
        return None if same else DelRoute(self.destination, self.name, self.gateway)

    def shell(self) -> tuple[str, ...]:
        via = ("via", self.gateway) if self.gateway else ()
        source = ("src", self.source) if self.source else ()
        return (line("ip", "route", "add", self.destination, *via, "dev", self.name, *source, "proto", "static"),)


@frozen
class DelRoute:
    """Take a route from the main table."""

    destination: str
    name: str
    gateway: str | None = None

    def describe(self) -> str:
        return f"delete route {self.destination} through {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        same = any((r.destination, r.device) == (self.destination, self.name) for r in before.routes)
        return AddRoute(self.destination, self.name, self.gateway) if same else None

    def shell(self) -> tuple[str, ...]:
        return (line("ip", "route", "del", self.destination, "dev", self.name),)


@frozen
class AddNeighbour:
    """Say where an IP address is found on a link: at `mac`, or, without it, here, and whoever asks is told so.

    Nobody is asked about one that is known, so nobody learns of us by the question. One told of is IPv6 only: an
    interface answers for another one's IPv4 addresses anyway, for its IPv6 addresses only as a proxy.
    """

    name: str
    address: str
    mac: str | None = None

    def describe(self) -> str:
        if self.mac is None:
            return f"answer for {self.address} on {self.name}"
        return f"know that {self.address} is at {self.mac} on {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return DelNeighbour(self.name, self.address, proxy=self.mac is None)

    def shell(self) -> tuple[str, ...]:
        if self.mac is None:
            return (line("ip", "neighbour", "add", "proxy", self.address, "dev", self.name),)
        found = ("lladdr", self.mac, "nud", "permanent")
        return (line("ip", "neighbour", "replace", self.address, *found, "dev", self.name),)


@frozen
class DelNeighbour:
    """Forget where an IP address is found on a link."""

    name: str
    address: str
    proxy: bool = False

    def describe(self) -> str:
        return f"forget {self.address} on {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        proxy = ("proxy",) if self.proxy else ()
        return (line("ip", "neighbour", "del", *proxy, self.address, "dev", self.name),)


@frozen
class SetSysctl:
    """Write a sysctl; with `only_if`, and another value there now, somebody else has changed it and it stays.

    On a host without IPv6 none of ``net.ipv6`` is there, and nothing has to be written.
    """

    key: str  # slash-free, sysctl(8): a dot inside an interface name is written as a slash
    value: str
    only_if: str | None = None

    def describe(self) -> str:
        return f"set {self.key} = {self.value}"

    def inverse(self, before: Facts) -> Step | None:
        old = before.sysctls.get(self.key)
        return None if old is None or old == self.value else SetSysctl(self.key, old, only_if=self.value)

    def shell(self) -> tuple[str, ...]:
        unknown = ("-e",) if self.key.startswith("net.ipv6.") else ()
        return (line("sysctl", *unknown, "-qw", f"{self.key}={self.value}"),)
