"""A network: a switch that cards plug into, and what the host does for its guests."""

from __future__ import annotations

from enum import StrEnum

from qemunet.frozen import frozen
from qemunet.model.nic import MacvtapMode, Rate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.model.guard import GuardLevel
    from qemunet.model.impair import Impairment
    from qemunet.model.vlan import Vlans


class NetworkMode(StrEnum):
    """Who is on the network besides the guests, and how far they get."""

    PRIVATE = "private"  # the bridge is ours, the host is not on it
    ISOLATED = "isolated"  # the bridge is ours, the host has an address on it
    NAT = "nat"  # the same, and the guests get out with the host's address
    ROUTED = "routed"  # the same, and the guests get out with their own addresses
    OPEN = "open"  # the same, and no rule of ours says who gets where
    BRIDGE = "bridge"  # an existing bridge of somebody else's, used and never altered; or ours, with ports outside
    MACVTAP = "macvtap"  # no bridge: every card is a macvtap on one parent


class HostSide(StrEnum):
    """Where the host's addresses on a network sit."""

    BRIDGE = "bridge"  # on the bridge itself
    VETH = "veth"  # at the end of a cable into the bridge, which stays bare
    NONE = "none"  # nowhere: the host has no address on it


@frozen
class OwnBridge:
    """A bridge that we make and take down again.

    `host_ifname` and `port_ifname` are the two ends of the host's cable, the host's and the one in the bridge; empty
    unless `host` is VETH. `ports` are interfaces of the host that are plugged in, some into `port_vlans`; with
    `move_address` the addresses and routes of the one that carries them are on the bridge meanwhile. `leaving` are
    addresses of before that guests still have leases by: no setting of the network, but how it is just now. With
    `vlan_filtering` it tells VLANs apart, and the host is in `host_vlan`, None for that of every new port.
    """

    ifname: str
    mac: str
    mtu: int
    stp: bool
    forward_delay: int  # seconds; the kernel forces 2 or more while STP is on
    ageing: int  # seconds
    addresses: tuple[str, ...]  # of the host on it, CIDR
    host: HostSide = HostSide.BRIDGE
    host_ifname: str = ""
    port_ifname: str = ""
    ports: tuple[str, ...] = ()
    port_vlans: tuple[tuple[str, Vlans], ...] = ()
    move_address: bool = False
    vlan_filtering: bool = False
    host_vlan: int | None = None
    leaving: tuple[str, ...] = ()

    @property
    def present(self) -> tuple[str, ...]:
        """The addresses that the host has there."""
        return (*self.addresses, *self.leaving)

    @property
    def addressed(self) -> str:
        """The interface that has the host's addresses, and at which the guests' packets come in; empty for none."""
        return {HostSide.BRIDGE: self.ifname, HostSide.VETH: self.host_ifname, HostSide.NONE: ""}[self.host]


@frozen
class ForeignBridge:
    """A bridge that was there before us."""

    ifname: str
    mtu: int


@frozen
class Parent:
    """An interface that was there before us, on which every card of the network is a macvtap of its own.

    `host_macvlan`: beside a card in mode bridge there is a macvlan of the host, by which the two reach each other.
    """

    ifname: str
    mtu: int
    mode: MacvtapMode
    host_macvlan: bool


Switch = OwnBridge | ForeignBridge | Parent


# ---------------------------------------------------------------- what gets through


@frozen
class Masquerade:
    """Guests get out with the host's address: from these ports, first and last, and `source` if it is not to be the
    one that the way out has."""

    ports: tuple[int, int] = (1024, 65535)
    source: str | None = None


@frozen
class PortForward:
    """Ports of the host, first and last, that lead to as many of a guest. `address` is empty for all the host's."""

    protocol: str  # tcp | udp
    address: str
    ports: tuple[int, int]
    to: str  # the guest's address, without a prefix length
    to_ports: tuple[int, int]


@frozen
class Firewall:
    """The rules of a network. `uplink` None: any way out.

    `host_services` is what guests reach on the host: ``dhcp``, ``dns``, ``icmp``, ``tcp:3128``, ``udp:69``, or ``all``.
    """

    uplink: str | None
    masquerade: Masquerade | None
    forwards: tuple[PortForward, ...]
    host_services: tuple[str, ...]


# ---------------------------------------------------------------- what is served


@frozen
class Boot:
    """What guests that boot from the network are told. `root`: the directory that is served by TFTP, absolute;
    `server`: whose TFTP they use where it is not ours."""

    file: str
    server: str | None = None
    root: str | None = None


@frozen
class Dhcp:
    """DHCP: the addresses given out, first and last. `gateway`: the host is the way out.

    `options` are pairs of an option, its number or the name that dnsmasq has for it, and its value.
    """

    first: str
    last: str
    lease: int  # seconds
    gateway: bool
    options: tuple[tuple[str, str], ...] = ()
    boot: Boot | None = None


@frozen
class Dhcp6:
    """Addresses by router advertisements: guests make their own (`slaac`), or get one of a range by DHCPv6."""

    slaac: bool
    first: str | None = None
    last: str | None = None


@frozen
class Dns:
    """Names: of the guests, of `hosts` (name, address), and those that the forwarders know (none: the host's).

    `local_only`: nothing but the guests and `hosts` is known here.
    """

    domain: str | None
    forwarders: tuple[str, ...]
    hosts: tuple[tuple[str, str], ...]
    local_only: bool


@frozen
class KnownHost:
    """A reservation: who has this MAC gets this address and name. An empty name is none."""

    mac: str
    ip: str
    name: str


@frozen
class Services:
    """What the host answers on a network, at the addresses that it has there. `mtu` is announced.

    `hosts` are those that the network itself names; each card brings the reservation of its `ips` when it comes.
    """

    dhcp: Dhcp | None
    dhcp6: Dhcp6 | None
    dns: Dns | None
    hosts: tuple[KnownHost, ...]
    mtu: int


# ---------------------------------------------------------------- all of it


@frozen
class PortProfile:
    """Values for the cards of a network that name it, None for what it leaves to them."""

    name: str
    guard: GuardLevel | None = None
    rate: Rate | None = None
    impair: Impairment | None = None
    port_isolation: bool | None = None
    vlan: Vlans | None = None


@frozen
class DhcpServer:
    """One server of several networks; their services are those that it has there."""

    name: str
    networks: tuple[Network, ...]


@frozen
class Network:
    """A named switch. `keep`: it stays when its last vm stops. `external`: another lab makes it, this one uses it.

    `server`: who serves it, where that is not one for it alone.
    `port_isolation` is that of its cards which do not say it themselves. `netns`: the namespace of the lab that its
    switch is in, empty for the host's own. `port_profiles` are for its cards to name.
    """

    name: str
    mode: NetworkMode
    switch: Switch
    keep: bool = False
    services: Services | None = None
    firewall: Firewall | None = None
    external: bool = False
    server: DhcpServer | None = None
    port_isolation: bool = False
    netns: str = ""
    port_profiles: tuple[PortProfile, ...] = ()

    def port_profile(self, name: str | None) -> PortProfile | None:
        """Return the port profile of that name."""
        return next((one for one in self.port_profiles if one.name == name), None)
