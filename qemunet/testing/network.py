"""The network of a host in memory: links, addresses, routes and sysctls, as strict as Linux about all of them."""

from __future__ import annotations

import errno
import ipaddress
import typing

from qemunet.errors import Taken
from qemunet.facts import Facts, LinkFact, RouteFact, WireFact
from qemunet.frozen import replace
from qemunet.host.links import Vanished, holder, is_ours
from qemunet.model.names import is_ifname
from qemunet.model.nic import MacvtapMode
from qemunet.steps import (
    AddAddress,
    AddLink,
    AddNeighbour,
    AddRoute,
    DelAddress,
    DelGroup,
    DelLink,
    DelNeighbour,
    DelRoute,
    DropTable,
    FilterVlans,
    IfbLink,
    LoadTable,
    MacvlanLink,
    MacvtapLink,
    PinBridge,
    SetCarrier,
    SetLink,
    SetMaster,
    SetPort,
    SetSysctl,
    SetVlans,
    VethLink,
    sysctl_name,
)
from qemunet.testing.kernel import defaults, refused
from qemunet.testing.ports import FakePorts
from qemunet.testing.queues import FakeQueues
from qemunet.testing.vlans import FakeVlans

if typing.TYPE_CHECKING:
    from qemunet.steps import OpenTap
    from qemunet.testing.queues import QueueStep

    ShapeStep = QueueStep | LoadTable | DropTable | FilterVlans | SetVlans
    LinkStep = AddLink | DelLink | DelGroup | SetLink | SetMaster | SetPort | PinBridge | SetCarrier

MIN_MTU, MAX_MTU = 68, 65535
NO_MAC, ETHERNET_MTU = "00:00:00:00:00:00", 1500


class FakeNetwork(FakePorts, FakeVlans, FakeQueues):
    """A network as a few dictionaries, filled from a photograph.

    `parents`: of each macvtap, with its mode. `unpinned`: the bridges that take their address and MTU from their ports.
    `carriers`: of the taps whose cable was touched. `peers`: of each end of a cable where the other is, and its name.
    """

    def __init__(self, facts: Facts) -> None:
        self.links: dict[str, LinkFact] = dict(facts.links)
        self.parents: dict[str, tuple[str, MacvtapMode]] = {}
        self.unpinned: set[str] = set()
        self.carriers: dict[str, bool] = {}
        self.peers: dict[str, tuple[FakeNetwork, str]] = {}
        self.places: dict[str, FakeNetwork] = {}  # namespaces of labs
        self.remember_vlans(facts)
        self.addresses = {name: list(texts) for name, texts in facts.addresses.items()}
        self.routes: list[RouteFact] = list(facts.routes)
        self.remember(facts)
        self.neighbours: dict[tuple[str, str, bool], str | None] = {}  # by interface, address and whether it is a proxy
        self.begin_queues()
        self.tables: dict[str, tuple[str, str]] = {}  # name to comment and rules
        self.sysctls: dict[str, str] = {}
        for name in self.links:
            self.sysctls |= defaults(name)
        self.sysctls |= facts.sysctls
        self._index = max((link.index for link in self.links.values()), default=1)

    def find(self, name: str) -> LinkFact | None:
        """Return the link of that name or alternative name."""
        named = (link for link in self.links.values() if name in link.altnames)
        return self.links.get(name) or next(named, None)

    def link_step(self, step: LinkStep) -> None:
        """Do a step about links."""
        match step:
            case AddLink():
                self._add(step)
            case DelLink():
                self.remove_link(self._own(step))
            case DelGroup(links):
                there = [link for link in links if self._is_there(link)]
                for one in there:
                    if self._is_there(one):  # else it was the other end of one of them
                        self.remove_link(self._own(one))
                if not there:
                    raise Vanished(errno.ENODEV, "nothing of the group is there")
            case SetLink():
                self.change(step)
            case SetMaster(name, master):
                self.enslave(self.get(name), master)
            case SetPort(name, isolated):
                self.set_port(self.get(name), isolated=isolated)
            case PinBridge(name):
                self.unpinned.discard(self.get(name).name)
            case SetCarrier(name, on):
                self._set_carrier(self.get(name), on=on)
            case _:
                typing.assert_never(step)

    def get(self, name: str) -> LinkFact:
        """Return the link of that name; raises Vanished."""
        link = self.find(name)
        if link is None:
            raise Vanished(errno.ENODEV, f"there is no interface {name}")
        return link

    def _own(self, step: DelLink) -> str:
        link = self.find(step.name) or self.find(step.mark.altname)
        if link is None or not is_ours(link, step.mark):
            raise Vanished(errno.ENODEV, f"there is no {step.name} of {step.mark.scope}")
        return link.name

    def _is_there(self, step: DelLink) -> bool:
        try:
            self._own(step)
        except Vanished:
            return False
        return True

    def _free(self, *names: str) -> None:
        for name in names:
            if self.find(name) is not None:
                raise Taken(holder(self.find(name), name))

    def _check(self, name: str, mac: str, mtu: int) -> None:
        if not is_ifname(name):
            raise refused(errno.EINVAL, f"{name!r} is no name for an interface")
        if not MIN_MTU <= mtu <= MAX_MTU:
            raise refused(errno.EINVAL, f"an mtu of {mtu}")
        if int(mac[:2], 16) & 1:
            raise refused(errno.EADDRNOTAVAIL)

    def _insert(self, link: LinkFact) -> None:
        self._index += 1
        self.links[link.name] = replace(link, index=self._index)
        self.sysctls |= defaults(link.name)

    def _add_cable(self, step: AddLink, link: VethLink) -> None:
        nets = (self, self.place(link.peer_netns) if link.peer_netns else self)
        ends = list(zip(nets, step.ends, (link.mac, link.peer_mac), strict=True))
        for net, (name, mark), mac in ends:
            net._check(name, mac, link.mtu)
            net._free(name, mark.altname)
        for net, (name, mark), mac in ends:
            marked = (mark.altname,)
            net._insert(LinkFact(0, name, "veth", mac, link.mtu, up=False, group=mark.group, altnames=marked))
        nets[0].peers[step.name] = nets[1], link.peer
        nets[1].peers[link.peer] = nets[0], step.name

    def place(self, name: str) -> FakeNetwork:
        """Return the network of a namespace; raises Vanished."""
        if name not in self.places:
            raise Vanished(errno.ENOENT, f"there is no namespace {name}")
        return self.places[name]

    def wires(self) -> tuple[WireFact, ...]:
        """Return the cables of which both ends are ports here."""
        pairs = [(self.links[name], net.links[other]) for name, (net, other) in self.peers.items() if net is self]
        ports = [(one, other) for one, other in pairs if one.master and other.master and one.index < other.index]
        return tuple(WireFact((a.master or "", b.master or ""), (a.name, b.name), a.altnames[0]) for a, b in ports)

    def _add(self, step: AddLink) -> None:
        if isinstance(step.link, VethLink):
            self._add_cable(step, step.link)
            return
        self._check(step.name, step.link.mac, step.link.mtu)
        self._free(step.name, step.mark.altname)
        kind, mac = "ifb" if isinstance(step.link, IfbLink) else "bridge", step.link.mac
        if isinstance(step.link, MacvtapLink):
            kind, mac = "macvtap", self._on_parent(step.name, step.link)
        elif isinstance(step.link, MacvlanLink):
            below = MacvtapLink(step.link.parent, MacvtapMode.BRIDGE, mac, step.link.mtu)
            kind, mac = "macvlan", self._on_parent(step.name, below)
        names = (step.mark.altname,)
        made = LinkFact(0, step.name, kind, mac, step.link.mtu, up=False, group=step.mark.group, altnames=names)
        self._insert(made)

    def _on_parent(self, name: str, link: MacvtapLink) -> str:
        """Register a macvtap with its parent; return the address that it gets."""
        parent = self.get(link.parent)
        others = [other for other, (above, _) in self.parents.items() if above == parent.name]
        alone = MacvtapMode.PASSTHRU in (link.mode, *(self.parents[other][1] for other in others))
        if parent.master or (others and alone):
            raise Taken(f"{parent.name} cannot carry a macvtap in mode {link.mode}")
        if link.mtu > parent.mtu:
            raise refused(errno.EINVAL, f"an mtu of {link.mtu} on a parent of {parent.mtu}")
        self.parents[name] = (parent.name, link.mode)
        return parent.mac if link.mode is MacvtapMode.PASSTHRU else link.mac

    def remove_link(self, name: str) -> None:
        """Delete a link with everything that goes with it."""
        net, other = self.peers.pop(name, (self, ""))
        if other in net.peers:
            net.remove_link(other)
        for above in [other for other, (parent, _) in self.parents.items() if parent == name]:
            self.remove_link(above)
        del self.links[name]
        self.parents.pop(name, None)
        self.carriers.pop(name, None)
        self.forget_vlans(name)
        self.forget_queues(name)
        self.addresses.pop(name, None)
        self.routes = [route for route in self.routes if route.device != name]
        self.neighbours = {key: mac for key, mac in self.neighbours.items() if key[0] != name}
        for key in defaults(name):
            self.sysctls.pop(key, None)
        for port in [link for link in self.links.values() if link.master == name]:
            self.links[port.name] = replace(port, master=None)
            self.forget_vlans(port.name)
        self._adopt()

    def change(self, step: SetLink) -> None:
        link = self.get(step.name)
        new = replace(link, mac=step.mac or link.mac, mtu=step.mtu or link.mtu)
        self._check(new.name, new.mac, new.mtu)
        if step.up and link.name in self.parents:
            parent = self.parents[link.name][0]
            beside = [self.links[name] for name, (above, _) in self.parents.items() if above == parent]
            if any(other.mac == new.mac and other.up and other.name != new.name for other in beside):
                raise Taken(f"{link.name} cannot go up: its address is in use on the same parent")
        self.links[link.name] = new if step.up is None else replace(new, up=step.up)
        if step.up is False:
            self.routes = [route for route in self.routes if route.device != link.name]

    def _set_carrier(self, link: LinkFact, *, on: bool) -> None:
        if link.kind != "tun":
            raise refused(errno.EOPNOTSUPP)
        self.carriers[link.name] = on

    def enslave(self, link: LinkFact, master: str | None) -> None:
        if master is not None:
            bridge = self.get(master)
            if bridge.kind != "bridge":
                raise refused(errno.EOPNOTSUPP)
            if link.kind == "bridge":
                raise refused(errno.ELOOP)
            if any(parent == link.name for parent, _ in self.parents.values()):
                raise refused(errno.EBUSY)
            master = bridge.name
        if master != link.master:
            self.forget_vlans(link.name)
        self.links[link.name] = replace(self.links[link.name], master=master)
        self._adopt()

    def _adopt(self) -> None:
        """Let bridges without an address and MTU of their own have those of their ports."""
        for name in self.unpinned & self.links.keys():
            ports = [link for link in self.links.values() if link.master == name]
            mac = min((link.mac for link in ports), default=NO_MAC)
            mtu = min((link.mtu for link in ports), default=ETHERNET_MTU)
            self.links[name] = replace(self.links[name], mac=mac, mtu=mtu)

    def make_tap(self, step: OpenTap) -> None:
        """Make a tap, which goes with `remove_link`."""
        self._check(step.name, step.mac, step.mtu)
        self._free(step.name, step.mark.altname)
        if step.master is not None and self.get(step.master).kind != "bridge":
            raise refused(errno.EOPNOTSUPP)
        master = self.get(step.master).name if step.master else None
        mark = (step.mark.altname,)
        made = LinkFact(0, step.name, "tun", step.mac, step.mtu, up=True, group=step.mark.group, altnames=mark)
        self._insert(replace(made, master=master))
        self._adopt()
        self.settle_tap(step)
        if master:
            self.sysctls[f"net.ipv6.conf.{sysctl_name(step.name)}.disable_ipv6"] = "1"

    # ------------------------------------------------------------ addresses, routes, sysctls

    def setting_step(self, step: AddAddress | DelAddress | AddRoute | DelRoute | SetSysctl) -> None:
        """Do a step about addresses, routes and sysctls."""
        match step:
            case AddAddress(name, address):
                self._add_address(self.get(name).name, address)
            case DelAddress(name, address):
                if address not in self.addresses.get(self.get(name).name, ()):
                    raise Vanished(errno.EADDRNOTAVAIL, f"{name} does not have {address}")
                self.addresses[name].remove(address)
            case AddRoute(destination, name, gateway, source):
                if source and not any(
                    source == text.partition("/")[0] for known in self.addresses.values() for text in known
                ):
                    raise refused(errno.EINVAL, "Invalid source address")
                self._add_route(destination, self.get(name), gateway)
            case DelRoute(destination, name, gateway):
                try:
                    self.routes.remove(RouteFact(destination, name, gateway))
                except ValueError:
                    raise Vanished(errno.ESRCH, f"there is no route to {destination}") from None
            case SetSysctl(key, value, only_if):
                if key not in self.sysctls or (only_if is not None and self.sysctls[key] != only_if):
                    raise Vanished(errno.ENOENT, f"{key} is not {only_if or 'there'}")
                self.sysctls[key] = value
            case _:
                typing.assert_never(step)

    def neighbour_step(self, step: AddNeighbour | DelNeighbour) -> None:
        """Do a step about neighbours."""
        match step:
            case AddNeighbour(name, address, mac):
                self.neighbours[self.get(name).name, address, mac is None] = mac
            case DelNeighbour(name, address, proxy):
                try:
                    del self.neighbours[self.get(name).name, address, proxy]
                except KeyError:
                    raise Vanished(errno.ENOENT, f"{address} is not known on {name}") from None
            case _:
                typing.assert_never(step)

    def table_step(self, step: LoadTable | DropTable) -> None:
        """Do a step about tables of nft rules."""
        whose, _ = self.tables.get(step.name, (None, ""))
        match step:
            case LoadTable(name, mark, rules):
                if whose not in (None, mark.altname):
                    raise Taken(f"there is a table inet {name} already, of {whose or 'somebody else'}")
                self.tables[name] = (mark.altname, rules)
            case DropTable(name, mark):
                if whose != mark.altname:
                    raise Vanished(errno.ENOENT, f"there is no table inet {name} of {mark.scope}")
                del self.tables[name]
            case _:
                typing.assert_never(step)

    def shape_step(self, step: ShapeStep) -> None:
        """Do a step about what becomes of packets."""
        if isinstance(step, LoadTable | DropTable):
            self.table_step(step)
        elif isinstance(step, FilterVlans | SetVlans):
            self.vlan_step(step)
        else:
            self.rate_step(step)

    def _add_address(self, name: str, address: str) -> None:
        off = self.sysctls.get(f"net.ipv6.conf.{sysctl_name(name)}.disable_ipv6") == "1"
        if ipaddress.ip_interface(address).version == 6 and off:
            raise refused(errno.EACCES, "IPv6 is disabled on this device")
        if address in self.addresses.get(name, ()):
            raise Taken(f"{name} has the address {address} already")
        self.addresses.setdefault(name, []).append(address)

    def _add_route(self, destination: str, link: LinkFact, gateway: str | None) -> None:
        if not link.up:
            raise refused(errno.ENETDOWN)
        if any(route.destination == destination for route in self.routes):
            raise Taken(f"there is a route to {destination} already")
        near = [ipaddress.ip_interface(text).network for text in self.addresses.get(link.name, ())]
        if gateway and not any(ipaddress.ip_address(gateway) in network for network in near):
            raise refused(errno.ENETUNREACH)
        self.routes.append(RouteFact(destination, link.name, gateway))
