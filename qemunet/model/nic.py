"""A network card of a guest and what stands behind it on the host."""

from __future__ import annotations

from enum import StrEnum

from qemunet.frozen import frozen
from qemunet.model.guard import Guard
from qemunet.model.remote import Remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.model.impair import Impairment
    from qemunet.model.vlan import Vlans

RATE_UNITS = (("tbit", 10**12), ("gbit", 10**9), ("mbit", 10**6), ("kbit", 10**3), ("bit", 1))


class LinkState(StrEnum):
    """Whether the cable is plugged in."""

    UP = "up"
    DOWN = "down"


class MacvtapMode(StrEnum):
    """How macvtaps on one parent see each other (ip-link(8), "MACVLAN and MACVTAP Type Support")."""

    BRIDGE = "bridge"
    VEPA = "vepa"
    PRIVATE = "private"
    PASSTHRU = "passthru"


@frozen
class Forward:
    """``PROTO:[ADDR]:PORT[-PORT]:[VM]:PORT[-PORT]``: ports of the host that lead into a guest.

    Both ranges have the same length. `address` is empty for all addresses.
    """

    protocol: str  # tcp | udp
    address: str
    ports: tuple[int, int]
    vm: str  # empty in a nic's own list
    guest_ports: tuple[int, int]


@frozen
class UserBackend:
    """QEMU's user-mode network (slirp): no privilege needed, the guest is behind NAT inside QEMU."""

    forwards: tuple[Forward, ...] = ()
    restrict: bool = False
    subnet: str | None = None
    hostname: str | None = None
    dns: str | None = None
    tftp: str | None = None
    bootfile: str | None = None


@frozen
class OnNetwork:
    """Plugged into a network of the lab; `bridge` is that network's interface. `dhcp`: it gives out addresses.

    `netns`: the namespace of a lab that the bridge is in, and so the tap, empty for the host's own.
    """

    network: str
    bridge: str
    dhcp: bool = False
    netns: str = ""


@frozen
class OnBridge:
    """Plugged into an existing bridge."""

    bridge: str


@frozen
class AsItIs:
    """Left in the place that whoever made it has given it."""


@frozen
class PointToPoint:
    """A cable from the guest to the host: the host's addresses on it, and what it routes through the guest."""

    addresses: tuple[str, ...] = ()  # CIDR
    routes: tuple[str, ...] = ()  # CIDR


@frozen
class TapBackend:
    """A tap interface, opened by us and handed to QEMU as file descriptors (one per queue).

    `adopted`: somebody else has made it, and keeps it.
    """

    ifname: str
    mtu: int
    attach: OnNetwork | OnBridge | PointToPoint | AsItIs
    adopted: bool = False


@frozen
class HostMacvlan:
    """The host's own macvlan on the parent of a macvtap, by which the two talk although the parent cannot.

    `ways`: each address of the guest with that of the host towards it, None where the parent has none. `answers`: the
    host's IPv6 addresses on the parent, for which the macvlan answers too.
    """

    ifname: str
    mac: str
    ways: tuple[tuple[str, str | None], ...]
    answers: tuple[str, ...] = ()


@frozen
class MacvtapBackend:
    """A macvtap on a parent interface, which has the guest's address (passthru: the parent's)."""

    ifname: str
    parent: str
    mode: MacvtapMode
    mtu: int
    host: HostMacvlan | None = None
    network: str | None = None  # of the lab, whose cards are all like this


Linked = TapBackend | MacvtapBackend  # with an interface of the host behind the card
Backend = UserBackend | Linked | Remote


@frozen
class Hook:
    """Programs of the user's, run when the host side of a card is ready (`up`) and before it goes (`down`)."""

    up: str | None = None
    down: str | None = None


@frozen
class Rate:
    """The most that passes a card in bits per second, as the guest sees it: what reaches it, and what it sends."""

    inbound: int | None = None
    outbound: int | None = None


def rate_text(rate: int) -> str:
    """Return bits per second in the words of tc(8), in the largest unit without a fraction: ``20mbit``."""
    return next(f"{rate // size}{unit}" for unit, size in RATE_UNITS if not rate % size)


@frozen
class Nic:
    """A card. `id` is the QEMU device id and the command-line handle; its netdev is ``host-<id>``.

    `queues` counts pairs; `vhost` is decided (no "auto" here); `ips` are CIDR addresses the guest is known to use.
    """

    id: str
    model: str  # QEMU's device name
    mac: str
    backend: Backend
    link: LinkState = LinkState.UP
    queues: int = 1
    vhost: bool = False
    guest_mtu: int | None = None  # announced to the guest (virtio host_mtu)
    boot_index: int | None = None
    acpi_index: int | None = None
    ips: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    hook: Hook = Hook()
    rate: Rate = Rate()  # of a card with a host side
    impair: Impairment | None = None  # of a card with a host side
    guard: Guard = Guard()  # of a card with a host side
    port_isolation: bool = False  # of a card on a bridge: none of the others there that have it reaches it
    vlans: Vlans | None = None  # of a card on a bridge; None: as its bridge puts every new port
    port_profile: str | None = None  # of its network, from which some of these values are

    @property
    def network(self) -> str | None:
        """The network of the lab that it is plugged into, if it is one."""
        match self.backend:
            case TapBackend(attach=OnNetwork(network=network)) | MacvtapBackend(network=network):
                return network
            case _:
                return None

    @property
    def netns(self) -> str:
        """The namespace of a lab that its host side is in, empty for the host's own."""
        match self.backend:
            case TapBackend(attach=OnNetwork(netns=netns)):
                return netns
            case _:
                return ""

    @property
    def netdev(self) -> str:
        """The id of QEMU's backend; QEMU would accept the card's own, and `set_link` would be ambiguous."""
        return f"host-{self.id}"
