"""The rules of a network: one nft table that says what passes between its guests, the host and the rest of the world.

The base chains accept what they do not know, and every rule names an interface of the network: nothing else on the
host is touched, and an accept here cannot overrule a drop in somebody else's table (see `plan.obstacles`). Rules go by
the names of interfaces, so the table may be there before the bridge is, and after it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator

from qemunet.errors import Failed
from qemunet.facts import Facts
from qemunet.model import names
from qemunet.model.network import Firewall, HostSide, Masquerade, Network, NetworkMode, OwnBridge, PortForward
from qemunet.plan import uplinks
from qemunet.steps import LoadTable, Mark, Part, SetSysctl, Step, sysctl_name

OURS = "0x40000000-0x7fffffff"  # the link groups of all that qemunet made (model.names.group)
REJECT = "reject with icmpx admin-prohibited"
_FAMILIES = {4: "ip", 6: "ip6"}
_NFPROTO = {4: "ipv4", 6: "ipv6"}
_ALL = {4: "meta nfproto ipv4", 6: "ip6 daddr != ::1"}  # Linux lets no packet from ::1 out: it is refused at once
_EVERYBODY = {4: "{ 224.0.0.0/4, 255.255.255.255 }", 6: "ff00::/8"}  # multicast and broadcast
_DISCOVERY = (  # without these, nobody has a neighbour in IPv6
    "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, "
    "mld-listener-report, mld-listener-done, mld2-listener-report"
)
_SERVICES = {
    "dhcp": ("meta nfproto ipv4 udp dport 67 accept", "meta nfproto ipv6 udp dport 547 accept"),
    "dns": ("meta l4proto { tcp, udp } th dport 53 accept",),
    "icmp": ("meta l4proto { icmp, ipv6-icmp } accept",),
}
ISOLATION = Firewall(uplink=None, masquerade=None, forwards=(), host_services=("all",))  # what isolated means at least
IPV6_GLOBAL = (
    "IPv6 gets in and out only where the whole host passes it on, since this kernel asks no single interface; "
    "to let it: sysctl -w net.ipv6.conf.all.forwarding=1 (an interface that listens to router advertisements goes on "
    "to do so only with accept_ra = 2)"
)
_HAS_WAY_OUT = (NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.OPEN)


def load(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    """Yield what loads a network's table; it may be done before the bridge is there, so that no packet is earlier."""
    rules = network.firewall
    if rules is None and network.mode is NetworkMode.ISOLATED:
        rules = ISOLATION
    if rules is not None:
        mark = table_mark(network.name, facts.runtime)
        text = ruleset(network, switch, rules, mark, uplinks.moved_to(facts))
        yield LoadTable(table_name(network.name, mark), mark, text)


def notes(network: Network, facts: Facts) -> tuple[str, ...]:
    """Return a line for what the rules cannot do on this host."""
    wanted = isinstance(network.switch, OwnBridge) and 6 in _passed_on(network, network.switch)
    return (IPV6_GLOBAL,) if wanted and uplinks.ipv6_is_missing(facts) else ()


def sysctls(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    """Yield the switches of the network's own interfaces, which have to be there."""
    inside = sysctl_name(switch.addressed or switch.ifname)
    for version in _passed_on(network, switch):
        yield SetSysctl(f"net.{_NFPROTO[version]}.conf.{inside}.forwarding", "1")  # in IPv6: says that it is a router
        if version == 6 and uplinks.ipv6_is_forced(facts):
            yield SetSysctl(f"net.ipv6.conf.{inside}.force_forwarding", "1")
    if network.firewall is not None and any(map(_from_loopback, network.firewall.forwards)):
        yield SetSysctl(f"net.ipv4.conf.{inside}.route_localnet", "1")


def ways(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Part]:
    """Yield the shared switches by which packets from elsewhere are passed on to a network's guests."""
    only = network.firewall.uplink if network.firewall else None
    for version in _passed_on(network, switch):
        yield from uplinks.ipv6(facts, only) if version == 6 else uplinks.ipv4(facts, only)


def _passed_on(network: Network, switch: OwnBridge) -> list[int]:
    """Return the versions of IP that are passed on between a network and others."""
    forwards = network.firewall.forwards if network.firewall else ()
    versions = {ipaddress.ip_address(forward.to).version for forward in forwards}
    if network.mode in _HAS_WAY_OUT:
        versions |= {ipaddress.ip_interface(text).version for text in switch.present}
    return sorted(versions)


def table_mark(network: str, runtime: str) -> Mark:
    """Return the mark of a network's table."""
    scope = f"net/{network}"
    return Mark(scope, "firewall", names.group(runtime, scope))


def table_name(network: str, mark: Mark) -> str:
    """Return the table's name: readable, and another one for a network of that name in another runtime directory."""
    return f"qemunet-{network[:40]}-{mark.group:08x}"


def ruleset(network: Network, switch: OwnBridge, firewall: Firewall, mark: Mark, outward: Collection[str] = ()) -> str:
    """Return the table as nft reads it (nft(8)), without what replaces one that is there.

    `outward` are bridges of qemunet that lead to others: they have what an uplink had.
    """
    chains = _Chains(network.mode, switch, firewall, outward)
    bodies = [block for block in chains.all() if block]
    text = "\n".join(bodies)
    return f'table inet {table_name(network.name, mark)} {{\n    comment "{mark.altname}"\n\n{text}}}\n'


class _Chains:
    """The chains of one table. `inside` is the interface by which the guests' packets reach the host."""

    def __init__(self, mode: NetworkMode, switch: OwnBridge, firewall: Firewall, outward: Collection[str] = ()) -> None:
        self.mode = mode
        self.firewall = firewall
        self.outward = f"oifname != {{ {', '.join(map(quoted, sorted(outward)))} }} " if outward else ""
        self.bridge = quoted(switch.ifname)
        self.inside = quoted(switch.addressed or switch.ifname)
        self.bare = switch.host is not HostSide.BRIDGE
        self.subnets = [ipaddress.ip_interface(text).network for text in switch.present]

    def all(self) -> Iterator[str]:
        """Yield the text of each chain, empty for one that is not needed."""
        yield _base("early", "filter", "prerouting", "raw", self._early())
        yield _base("forward", "filter", "forward", "filter", self._forward())
        yield _chain("from-guests", self._from_guests())
        yield _chain("to-guests", self._to_guests())
        services = list(self._to_host())
        if services:
            jump = f"iifname {self.inside} jump to-host"
            yield _base("input", "filter", "input", "filter", [jump])
            yield _chain("to-host", services)
        yield _base("prerouting", "nat", "prerouting", "dstnat", self._redirect(local=False))
        yield _base("output", "nat", "output", "-100", self._redirect(local=True))
        yield _base("postrouting", "nat", "postrouting", "srcnat", self._postrouting())

    def _early(self) -> Iterator[str]:
        if self.bare:
            # With br_netfilter, conntrack would see each frame twice, and settle its fate while it is bridged.
            yield f"iifname {self.bridge} notrack"
        if any(_from_loopback(forward) for forward in self.firewall.forwards):
            # The bridge may carry 127.0.0.0/8, for connections of the host; a guest that sends such is up to no good.
            yield f"iifname {self.inside} ip daddr 127.0.0.0/8 drop"
            yield f"iifname {self.inside} ip saddr 127.0.0.0/8 drop"

    def _forward(self) -> Iterator[str]:
        # What goes from guest to guest passes here too if br_netfilter is on.
        for name in dict.fromkeys((self.bridge, self.inside)):
            yield f"iifname {name} oifname {name} accept"
        yield f"iifname {self.inside} jump from-guests"
        yield f"oifname {self.inside} jump to-guests"

    def _from_guests(self) -> Iterator[str]:
        yield from self._bound("oifname")
        if self.mode is NetworkMode.NAT:
            yield "ct state invalid drop"  # it would leave as it is, with an address that nobody out there knows
            yield "ct state established,related accept"
        elif self.firewall.forwards:
            yield "ct state established,related ct status dnat accept"
        if self.mode in _HAS_WAY_OUT:
            yield from (f"{_family(subnet)} saddr {subnet} accept" for subnet in self.subnets)
        yield REJECT

    def _to_guests(self) -> Iterator[str]:
        yield from self._bound("iifname")
        if self.mode is NetworkMode.NAT:
            yield "ct state established,related accept"
        elif self.firewall.forwards:
            yield "ct state established,related ct status dnat accept"
        if self.mode is NetworkMode.ROUTED:
            yield from (f"{_family(subnet)} daddr {subnet} accept" for subnet in self.subnets)
        else:
            yield from (_arrived(forward) for forward in self.firewall.forwards)
        yield REJECT

    def _bound(self, side: str) -> Iterator[str]:
        if self.firewall.uplink is not None:
            yield f"{side} != {quoted(self.firewall.uplink)} {REJECT}"

    def _to_host(self) -> Iterator[str]:
        """Yield what guests may reach on the host; nothing if they may reach everything."""
        if "all" in self.firewall.host_services:
            return
        yield "ct state established,related accept"
        yield f"icmpv6 type {{ {_DISCOVERY} }} accept"
        for service in self.firewall.host_services:
            yield from _SERVICES.get(service) or _port(service)
        yield "meta l4proto tcp reject with tcp reset"
        yield "reject"

    def _redirect(self, *, local: bool) -> Iterator[str]:
        """Yield what leads connections to guests: those from elsewhere and from guests, or those of the host itself."""
        where = ""
        if not local and self.firewall.uplink is not None:
            where = f"iifname {{ {quoted(self.firewall.uplink)}, {self.inside} }} "
        for forward in self.firewall.forwards:
            if local or not _is_loopback(forward.address):
                yield f"{where}{_towards(forward)} {_translated(forward)}"

    def _postrouting(self) -> Iterator[str]:
        if self.firewall.forwards:
            yield from self._answerable()
        if self.firewall.masquerade is None:
            return
        yield f"oifname {self.inside} accept"
        yield f"oifgroup {OURS} {self.outward}accept"  # the networks of qemunet know each other's addresses
        for version in dict.fromkeys(subnet.version for subnet in self.subnets):
            yield f"{_FAMILIES[version]} daddr {_EVERYBODY[version]} accept"
        for subnet in self.subnets:
            yield from _disguised(f"{_family(subnet)} saddr {subnet}", subnet.version, self.firewall.masquerade)

    def _answerable(self) -> Iterator[str]:
        """Yield what makes the answers to forwarded connections come back by way of the host."""
        if self.mode is NetworkMode.ISOLATED:  # its guests have no way to anybody else
            yield f"oifname {self.inside} ct status dnat masquerade"
            return
        for subnet in self.subnets:
            yield f"oifname {self.inside} ct status dnat {_family(subnet)} saddr {subnet} masquerade"
        yield f"oifname {self.inside} ct status dnat fib saddr type local masquerade"


# ---------------------------------------------------------------- rules


def _towards(forward: PortForward) -> str:
    version = ipaddress.ip_address(forward.to).version
    if _is_any(forward.address):
        address = f"{_ALL[version]} fib daddr type local"
    else:
        address = f"{_FAMILIES[version]} daddr {forward.address}"
    return f"{address} {forward.protocol} dport {_ports(forward.ports)}"


def _translated(forward: PortForward) -> str:
    """Say where a connection goes. nft has no word for a range of ports that is shifted: each gets its own."""
    to = ipaddress.ip_address(forward.to)
    word = f"dnat {_FAMILIES[to.version]} to"
    if forward.ports == forward.to_ports:
        return f"{word} {to}"
    first, last = forward.ports
    if first == last:
        return f"{word} {_with_ports(to, forward.to_ports)}"
    shift = forward.to_ports[0] - first
    ports = ", ".join(f"{port} : {to} . {port + shift}" for port in range(first, last + 1))
    return f"{word} {forward.protocol} dport map {{ {ports} }}"


def _arrived(forward: PortForward) -> str:
    family = _FAMILIES[ipaddress.ip_address(forward.to).version]
    return f"ct status dnat {family} daddr {forward.to} {forward.protocol} dport {_ports(forward.to_ports)} accept"


def _disguised(whose: str, version: int, masquerade: Masquerade) -> Iterator[str]:
    """Yield the rules for TCP and UDP, which have ports, and for the rest."""
    source = ipaddress.ip_address(masquerade.source) if masquerade.source else None
    if source is not None and source.version == version:
        word = f"snat {_FAMILIES[version]} to"
        plain, with_ports = f"{word} {source}", f"{word} {_with_ports(source, masquerade.ports)}"
    else:
        plain, with_ports = "masquerade", f"masquerade to :{_ports(masquerade.ports)}"
    yield f"{whose} meta l4proto {{ tcp, udp }} {with_ports}"
    yield f"{whose} {plain}"


def _port(service: str) -> Iterator[str]:
    protocol, _, ports = service.partition(":")
    yield f"{protocol} dport {ports} accept"


def _ports(ports: tuple[int, int]) -> str:
    first, last = ports
    return f"{first}" if first == last else f"{first}-{last}"


def _with_ports(address: ipaddress.IPv4Address | ipaddress.IPv6Address, ports: tuple[int, int]) -> str:
    return f"[{address}]:{_ports(ports)}" if address.version == 6 else f"{address}:{_ports(ports)}"


def _is_any(address: str) -> bool:
    return not address or ipaddress.ip_address(address).is_unspecified


def _is_loopback(address: str) -> bool:
    return bool(address) and ipaddress.ip_address(address).is_loopback


def _from_loopback(forward: PortForward) -> bool:
    """Tell whether connections to 127.0.0.0/8 lead to the guest: they leave by an interface that may not carry it."""
    covers = _is_any(forward.address) or _is_loopback(forward.address)
    return covers and ipaddress.ip_address(forward.to).version == 4


def _family(subnet: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return _FAMILIES[subnet.version]


def quoted(interface: str) -> str:
    """Return an interface's name as nft reads it, where an asterisk at the end stands for anything. Raises Failed."""
    if '"' in interface:
        raise Failed(f"nft has no way to write the interface {interface}", hint="give it a name without quotes")
    return f'"{interface[:-1]}\\*"' if interface.endswith("*") else f'"{interface}"'


# ---------------------------------------------------------------- chains


def _base(name: str, kind: str, hook: str, priority: str, rules: Iterable[str]) -> str:
    found = list(rules)
    return _block(name, [f"type {kind} hook {hook} priority {priority}; policy accept;", *found]) if found else ""


def _chain(name: str, rules: Iterable[str]) -> str:
    return _block(name, list(rules))


def _block(name: str, lines: list[str]) -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return f"    chain {name} {{\n{body}    }}\n"
