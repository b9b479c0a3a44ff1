"""Interfaces that are ports of a bridge, and what moves from them to it, on a host in memory."""

from __future__ import annotations

import errno
import os
import typing
from abc import abstractmethod

from qemunet.errors import HostLacks, Taken
from qemunet.host.links import Vanished
from qemunet.model.routing import BY_KERNEL, Carried, IpAddress
from qemunet.model.vlan import Vlans
from qemunet.steps import (
    AdoptTap,
    ChangePort,
    PlugPort,
    PutAddress,
    PutRoute,
    SetLink,
    SetVlans,
    TakeAddress,
    TakeRoute,
    UnplugPort,
)
from qemunet.testing.vlans import FakeVlans

if typing.TYPE_CHECKING:
    from qemunet.facts import Facts, LinkFact
    from qemunet.model.nic import MacvtapMode
    from qemunet.model.routing import IpRoute


def refused(code: int, what: str = "") -> OSError:
    """Return the error that the kernel would answer with."""
    return OSError(code, what or os.strerror(code))


class FakePorts(FakeVlans):
    """What a network in memory knows of ports; the rest of it is in `qemunet.testing.network.FakeNetwork`."""

    links: dict[str, LinkFact]
    addresses: dict[str, list[str]]
    parents: dict[str, tuple[str, MacvtapMode]]
    known_addresses: dict[tuple[str, str], IpAddress]
    carried_routes: list[IpRoute]

    @abstractmethod
    def get(self, name: str) -> LinkFact:
        """Return the link of that name; raises Vanished."""

    @abstractmethod
    def change(self, step: SetLink) -> None:
        """Set properties of a link."""

    @abstractmethod
    def enslave(self, link: LinkFact, master: str | None) -> None:
        """Plug a link into a bridge, or out of any."""

    def remember(self, facts: Facts) -> None:
        """Begin with what interfaces carry in a photograph."""
        self.known_addresses = {
            (name, one.address): one for name, carried in facts.carried.items() for one in carried.addresses
        }
        for name, address in self.known_addresses:
            known = self.addresses.setdefault(name, [])
            known += [address] * (address not in known)
        every = (route for carried in facts.carried.values() for route in carried.routes)
        self.carried_routes = [route for route in every if route.protocol != BY_KERNEL]

    def port_step(
        self, step: PlugPort | UnplugPort | ChangePort | PutAddress | TakeAddress | PutRoute | TakeRoute
    ) -> None:
        """Do a step about an interface that is a port, or what moves from it to the bridge."""
        match step:
            case PlugPort(name, index, bridge, vlans):
                self._plug(self._port(name, index), bridge, vlans)
            case UnplugPort(name, index, bridge):
                if self._port(name, index).master != bridge:
                    raise Vanished(errno.ENODEV, f"{name} is not in {bridge} any more")
                self.enslave(self._port(name, index), None)
            case ChangePort(name, index, up=up, mtu=mtu):
                self.change(SetLink(self._port(name, index).name, up=up, mtu=mtu))
            case PutAddress(name, index, address):
                known = self.addresses.setdefault(self._port(name, index).name, [])
                known += [address.address] * (address.address not in known)
                self.known_addresses[self._port(name, index).name, address.address] = address
            case TakeAddress(name, index, address):
                name = self._port(name, index).name
                if address.address not in self.addresses.get(name, ()):
                    raise Vanished(errno.EADDRNOTAVAIL, f"{name} does not have {address.address}")
                self.addresses[name].remove(address.address)
                self.known_addresses.pop((name, address.address), None)
            case PutRoute(route):
                for way in route.ways:
                    self._port(way.device, way.index)
                self.carried_routes += [route] * (route not in self.carried_routes)
            case TakeRoute(route):
                if route not in self.carried_routes:
                    raise Vanished(errno.ESRCH, f"there is no route to {route.destination}")
                self.carried_routes.remove(route)
            case _:
                typing.assert_never(step)

    def adopt_tap(self, step: AdoptTap) -> None:
        """Open a tap that is there; like the kernel, have it made for several queues for more than one."""
        link = self.links.get(step.name)
        if link is None or link.tun is None or not link.tun.tap or step.index not in (0, link.index):
            raise HostLacks([f"the tap {step.name}"])
        if link.tun.used:
            raise Taken(f"the tap {step.name} is in use")
        if step.queues > 1 and not link.tun.many:
            raise refused(errno.EBUSY)

    def carried(self, name: str) -> Carried:
        """Return what an interface carries that would move."""
        link = self.links[name]
        return Carried(
            addresses=tuple(
                self.known_addresses.get((name, text), IpAddress(text)) for text in self.addresses.get(name, ())
            ),
            routes=tuple(one for one in self.carried_routes if any(way.device == link.name for way in one.ways)),
            above=tuple(other for other, (parent, _) in self.parents.items() if parent == name),
        )

    def port_macs(self, bridge: str) -> frozenset[str]:
        """Return the addresses of a bridge's ports."""
        return frozenset(link.mac for link in self.links.values() if link.master == bridge)

    def _port(self, name: str, index: int) -> LinkFact:
        """Return an interface, by its index if that is given."""
        known = next((link for link in self.links.values() if link.index == index), None) if index else self.get(name)
        if known is None:
            raise Vanished(errno.ENODEV, f"there is no interface {name}")
        return known

    def _plug(self, link: LinkFact, bridge: str, vlans: Vlans | None) -> None:
        if link.master is not None:
            raise Taken(f"{link.name} is a port of {link.master} already")
        above = [other for other, (parent, _) in self.parents.items() if parent == link.name]
        if above:
            raise Taken(f"{link.name} cannot be a port of a bridge: it carries {', '.join(above)}")
        if link.kind == "bridge" or link.name == "lo":
            raise Taken(f"the kernel does not take {link.name} as a port of a bridge")
        self.enslave(link, bridge)
        if vlans is not None:
            self.vlan_step(SetVlans(link.name, vlans))
