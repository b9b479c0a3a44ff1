"""Guards of cards: an nft table for each, that drops what its guest must not send before anybody else has it.

Where a guest's frames can be seen first depends on what its card is. Those of a port of a bridge pass the bridge's
prerouting, before the bridge learns from them. (What switches say to each other passes no table if the bridge does not
forward it; bridges of ours learn nothing from that.) A macvtap's leave by the macvtap, whose egress is the one place
that sees them. Those of a point-to-point tap reach the host's IP and ARP and nobody else. The ingress of a tap would
miss what a rate leads through an ifb.

Rules go by the names of interfaces, so that a table is there before its tap; only one at a macvtap's egress needs that
to be there. What is dropped is counted by its kind.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from enum import StrEnum

from qemunet.facts import Facts
from qemunet.frozen import frozen
from qemunet.model import mac, names
from qemunet.model.guard import GuardLevel
from qemunet.model.nic import Linked, MacvtapBackend, Nic, OnBridge, OnNetwork, TapBackend
from qemunet.model.vm import Vm
from qemunet.plan.firewall import quoted
from qemunet.steps import DropTable, LoadTable, Mark, Step

COUNTER = "bad-"  # begins the names of counters: many a kind is a word of nft's own
_PRIORITY = -300  # before everybody else's rules
_CONTROL = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00"  # what switches say to each other
_TARGET = "@th,64,128"  # the address that a neighbour message is about: after type, code, checksum and flags
_LINK_LOCAL = "@th,64,10 != 0x3fa"
_HARDWARE = "@th,288,48"  # the address that a DHCP client says is its own: 28 bytes into the message, after UDP's 8
_CLIENT = "udp sport 68 udp dport 67"
_NOBODY = "0.0.0.0"  # noqa: S104 - no address to listen at: whoever has none yet says so
_FROM_NOWHERE = (  # what a guest without an address may send
    "nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report"
)


class Family(StrEnum):
    """A family of nft tables."""

    BRIDGE = "bridge"
    NETDEV = "netdev"
    INET = "inet"
    ARP = "arp"


_KINDS = {
    Family.BRIDGE: ("mac", "arp", "vlan", "dhcp", "ra", "redirect", "nd", "ip", "other"),
    Family.NETDEV: ("mac", "arp", "vlan", "dhcp", "ra", "redirect", "nd", "ip", "other"),
    Family.INET: ("mac", "dhcp", "ra", "redirect", "nd", "ip"),
    Family.ARP: ("arp",),
}


def load(vm: Vm, nic: Nic, facts: Facts) -> Iterator[Step]:
    """Yield what guards a card that is to come; a macvtap is there, and down."""
    for table in _tables(vm, nic, facts).values():
        yield LoadTable(table.name, table.mark, table.rules, family=table.family)


def change(old: Nic, new: Nic, vm: Vm, facts: Facts) -> Iterator[Step]:
    """Yield what takes a card that stays in its slot from its old guard to its new one; it is never without."""
    was, now = _tables(vm, old, facts), _tables(vm, new, facts)
    for key, table in now.items():
        before = was.get(key)
        if before is None or before.rules != table.rules:
            yield LoadTable(table.name, table.mark, table.rules, before.rules if before else None, table.family)
    for key, table in was.items():
        if key not in now:
            yield DropTable(table.name, table.mark, table.rules, table.family)


def places(vm: str, nic: str, mode: str, *, bridged: bool, runtime: str) -> tuple[tuple[str, str], ...]:
    """Return family and name of each table of a card that has a guard, by its row in the tables of qemunet."""
    families = (Family.NETDEV,) if mode == "macvtap" else (Family.BRIDGE,) if bridged else (Family.INET, Family.ARP)
    return tuple((family, _name(vm, nic, family, runtime)) for family in families)


@frozen
class _Table:
    """One table: its text, and what it takes to load or drop it."""

    family: Family
    name: str
    mark: Mark
    rules: str


def _tables(vm: Vm, nic: Nic, facts: Facts) -> dict[Family, _Table]:
    if nic.guard.level is GuardLevel.OFF or not isinstance(nic.backend, Linked):
        return {}
    return {family: _table(family, vm, nic, nic.backend.ifname, facts) for family in _families(nic)}


def _families(nic: Nic) -> tuple[Family, ...]:
    match nic.backend:
        case MacvtapBackend():
            return (Family.NETDEV,)
        case TapBackend(attach=OnNetwork() | OnBridge()):
            return (Family.BRIDGE,)
        case _:
            return (Family.INET, Family.ARP)


def _name(vm: str, nic: str, family: Family, runtime: str) -> str:
    kind = "-arp" if family is Family.ARP else ""
    return f"qemunet-{vm[:40]}-{nic[:40]}-{names.group(runtime, f'vm/{vm}'):08x}{kind}"


def _table(family: Family, vm: Vm, nic: Nic, ifname: str, facts: Facts) -> _Table:
    scope = f"vm/{vm.name}"
    part = f"{nic.id}.guard-arp" if family is Family.ARP else f"{nic.id}.guard"
    mark, name = Mark(scope, part, names.group(facts.runtime, scope)), _name(vm.name, nic.id, family, facts.runtime)
    rules = tuple(_Rules(nic, family).all())
    used = [kind for kind in _KINDS[family] if any(_drop(kind) in rule for rule in rules)]
    blocks = [f"    counter {COUNTER}{kind} {{ }}\n" for kind in used]
    blocks += [_chain("card", rules), *_hooks(family, quoted(ifname))]
    return _Table(family, name, mark, f'table {family} {name} {{\n    comment "{mark.altname}"\n{"".join(blocks)}}}\n')


def _hooks(family: Family, interface: str) -> Iterator[str]:
    match family:
        case Family.NETDEV:
            first = f"type filter hook egress device {interface} priority 0; policy accept;"
            yield _chain("guest", (first, "goto card"))
        case Family.ARP:
            first = f"type filter hook input priority {_PRIORITY}; policy accept;"
            yield _chain("guest", (first, f"iifname {interface} goto card"))
        case _:
            first = f"type filter hook prerouting priority {_PRIORITY}; policy accept;"
            yield _chain("guest", (first, f"iifname {interface} goto card"))


def _chain(name: str, lines: Iterable[str]) -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return f"    chain {name} {{\n{body}    }}\n"


# ---------------------------------------------------------------- rules


class _Rules:
    """The rules of one card; each drops something or lets it pass for good, and what is left passes."""

    def __init__(self, nic: Nic, family: Family) -> None:
        self.mac = nic.mac
        self.family = family
        self.level = nic.guard.level
        self.own = {version: _of(nic.guard.addresses, version) for version in (4, 6)}
        self.foreign = {version: _of(nic.guard.foreign, version) for version in (4, 6)}
        self.behind = {version: _of(nic.guard.behind, version) for version in (4, 6)}
        self.link_local = mac.link_local(nic.mac)

    def all(self) -> Iterator[str]:
        """Yield the rules, in the order in which they are asked."""
        clean = self.level is not GuardLevel.MAC
        if self.family is not Family.ARP:
            yield f"ether saddr != {self.mac} {_drop('mac')}"
        if self.family is not Family.INET:
            if clean and self.family is not Family.ARP:
                yield f"ether type {{ 8021q, 8021ad, 0x9100 }} {_drop('vlan')}"  # it would hide what is inside
                yield f"{_CONTROL} {_drop('other')}"
            yield from self._arp(clean=clean)
        if clean and self.family is not Family.ARP:
            yield from self._roles()
            yield from self._ipv4()
            yield from self._ipv6()
        if self.level is GuardLevel.STRICT and self.family in (Family.BRIDGE, Family.NETDEV):
            yield f"ether type != {{ arp, ip, ip6 }} {_drop('other')}"

    def knows(self, version: int) -> bool:
        """Tell whether the guest may use certain addresses of a version of IP alone."""
        return bool(self.own[version]) or self.level is GuardLevel.STRICT

    def _arp(self, *, clean: bool) -> Iterator[str]:
        if clean:  # else its addresses might be elsewhere than they are looked for
            yield f"arp htype != 1 {_drop('arp')}"
            yield f"arp hlen != 6 {_drop('arp')}"
            yield f"arp plen != 4 {_drop('arp')}"
        yield f"arp saddr ether != {self.mac} {_drop('arp')}"
        if clean and self.knows(4):
            yield f"arp saddr ip != {_set(_NOBODY, *self.own[4])} {_drop('arp')}"
        elif clean and self.foreign[4]:
            yield f"arp saddr ip {_set(*self.foreign[4])} {_drop('arp')}"

    def _roles(self) -> Iterator[str]:
        """Yield what keeps a guest from being the DHCP server or the router of its network."""
        yield f"udp dport {{ 68, 546 }} {_drop('dhcp')}"
        yield f"{_CLIENT} {_HARDWARE} != 0x{self.mac.replace(':', '')} {_drop('dhcp')}"
        yield f"icmpv6 type nd-router-advert {_drop('ra')}"
        yield f"ip6 saddr fe80::/10 exthdr frag exists {_drop('ra')}"  # where one might hide (RFC 6980)
        yield f"icmpv6 type nd-redirect {_drop('redirect')}"
        yield f"icmp type redirect {_drop('redirect')}"

    def _ipv4(self) -> Iterator[str]:
        if self.knows(4):
            yield f"ip saddr {_NOBODY} {_CLIENT} accept"
            yield f"ip saddr {_NOBODY} ip protocol igmp accept"
            known = (*self.own[4], *self.behind[4])
            yield f"ip saddr != {_set(*known)} {_drop('ip')}" if known else f"ip version 4 {_drop('ip')}"
        elif self.foreign[4]:
            yield f"ip saddr {_set(*self.foreign[4])} {_drop('ip')}"

    def _ipv6(self) -> Iterator[str]:
        yield from self._neighbours("icmpv6 type nd-neighbor-advert")
        yield from self._neighbours("ip6 saddr :: icmpv6 type nd-neighbor-solicit")
        yield f"ip6 saddr :: icmpv6 type {{ {_FROM_NOWHERE} }} accept"
        yield f"ip6 saddr :: {_drop('ip')}"
        if self.knows(6):
            local = self.link_local if self.level is GuardLevel.STRICT else "fe80::/10"
            yield f"ip6 saddr != {_set(*self.own[6], *self.behind[6], local)} {_drop('ip')}"
        if self.foreign[6]:
            yield f"ip6 saddr {_set(*self.foreign[6])} {_drop('ip')}"

    def _neighbours(self, message: str) -> Iterator[str]:
        """Yield what keeps a guest from claiming an address by a neighbour message that is about it."""
        if self.level is GuardLevel.STRICT:
            yield f"{message} {_TARGET} != {_raw(*self.own[6], self.link_local)} {_drop('nd')}"
        elif self.own[6]:
            yield f"{message} {_LINK_LOCAL} {_TARGET} != {_raw(*self.own[6])} {_drop('nd')}"
        if self.foreign[6]:
            yield f"{message} {_TARGET} {_raw(*self.foreign[6])} {_drop('nd')}"


def _of(texts: Iterable[str], version: int) -> tuple[str, ...]:
    return tuple(text for text in texts if (":" in text) == (version == 6))


def _set(*addresses: str) -> str:
    return f"{{ {', '.join(addresses)} }}"


def _raw(*addresses: str) -> str:
    return f"{{ {', '.join(f'0x{int(ipaddress.IPv6Address(one)):032x}' for one in addresses)} }}"


def _drop(kind: str) -> str:
    return f'counter name "{COUNTER}{kind}" drop'
