"""What a lab file expects of its guests and namespaces: who reaches whom, and how that is tried."""

from __future__ import annotations

from enum import StrEnum

from qemunet.frozen import frozen


class Family(StrEnum):
    """A kind of addresses."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


@frozen
class AtVm:
    """In a guest."""

    name: str


@frozen
class AtNetns:
    """In a namespace of the lab."""

    name: str


@frozen
class OnHost:
    """On the host itself, in its own namespace."""


@frozen
class Elsewhere:
    """Beyond the lab: an address, or a name that is looked up where it is tried from."""

    name: str


Source = AtVm | AtNetns | OnHost
Target = AtVm | AtNetns | OnHost | Elsewhere


@frozen
class Ping:
    """An ICMP echo request is answered."""


@frozen
class Tcp:
    """A connection is taken. `listen`: by us, if nobody else does."""

    port: int
    listen: bool = False


@frozen
class Udp:
    """A datagram arrives."""

    port: int


@frozen
class Dhcp:
    """A DHCP server offers an address."""


Check = Ping | Tcp | Udp | Dhcp


@frozen
class Expect:
    """One ``[[expect]]``, complete; `target` is None for DHCP, which asks whoever answers.

    `network`: only by the cards that are on it. `timeout` in seconds: how long to try until it gets through, or how
    long nothing may.
    """

    path: str
    source: Source
    target: Target | None
    check: Check
    allow: bool
    timeout: int
    network: str | None = None
    family: Family | None = None
    name: str | None = None

    @property
    def title(self) -> str:
        """What people call it: its name, or what it says."""
        return self.name or " ".join(filter(None, (word(self.source), word(self.target), said(self.check))))


def word(end: Source | Target | None) -> str:
    """Return an end as a lab file has it; nothing for none."""
    match end:
        case None:
            return ""
        case OnHost():
            return "host"
        case AtVm(name) | AtNetns(name) | Elsewhere(name):
            return name


def said(check: Check) -> str:
    """Return what is tried, as ``tcp 5432``."""
    match check:
        case Ping():
            return "ping"
        case Tcp(port):
            return f"tcp {port}"
        case Udp(port):
            return f"udp {port}"
        case Dhcp():
            return "dhcp"
