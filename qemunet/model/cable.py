"""A cable: a veth pair, and where each of its two ends is."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.model.vlan import Vlans


@frozen
class OnSwitch:
    """An end that is a port of a bridge. `network`: the one whose bridge it is, unless it is somebody else's."""

    bridge: str
    network: str | None = None
    stp: bool = False  # the bridge takes part in the spanning tree
    netns: str = ""  # the namespace of the lab that the bridge is in, empty for the host's

    @property
    def key(self) -> str:
        """What is another one for every bridge, wherever it is."""
        return f"{self.netns}/{self.bridge}" if self.netns else self.bridge


@frozen
class AtHost:
    """An end that is an interface of the host's."""


@frozen
class InNetns:
    """An end that is an interface in a namespace of the lab."""

    netns: str


@frozen
class Loose:
    """An end that is left free, for somebody else to take."""


Where = OnSwitch | AtHost | InNetns | Loose


@frozen
class Route:
    """A way by an end: to a network (CIDR), or ``default`` for all others."""

    destination: str
    gateway: str | None = None
    device: str = ""  # the interface, where that is still to be found out

    def __str__(self) -> str:
        return f"{self.destination} via {self.gateway}" if self.gateway else self.destination


@frozen
class End:
    """One end of a cable: its interface, where that is, and what it is given there."""

    ifname: str
    mac: str
    where: Where
    addresses: tuple[str, ...] = ()  # CIDR
    routes: tuple[Route, ...] = ()
    vlans: Vlans | None = None  # of an end in a bridge; None: as that puts every new port

    @property
    def netns(self) -> str:
        """The namespace of the lab that its interface is in, empty for the host's."""
        return self.where.netns if isinstance(self.where, InNetns | OnSwitch) else ""


@frozen
class Cable:
    """A veth pair."""

    name: str
    a: End
    b: End
    mtu: int

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces of the lab that it reaches into."""
        return tuple(dict.fromkeys(filter(None, (end.netns for end in self.ends))))

    @property
    def ends(self) -> tuple[End, End]:
        """Both ends."""
        return self.a, self.b

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it is plugged into."""
        found = (end.where.network for end in self.ends if isinstance(end.where, OnSwitch))
        return tuple(dict.fromkeys(name for name in found if name is not None))

    @property
    def expendable(self) -> list[End]:
        """Its ends, first those that lose the least when they are set down, as one is for pulling the cable.

        The kernel takes routes and IPv6 addresses from an interface that goes down, not from one without a carrier.
        """
        rank = (OnSwitch, Loose)
        return sorted(self.ends, key=lambda end: rank.index(type(end.where)) if isinstance(end.where, rank) else 2)
