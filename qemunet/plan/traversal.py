"""Follows a packet through somebody's chains of rules, as far as one can tell without sending it.

A rule whose conditions are not all known to hold is passed over: what it accepts may be something else. So a packet
that is found to be dropped may get through by a rule that is not understood, which is why it is only worth a note.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from qemunet.frozen import frozen

UNKNOWN = ""  # the key of a condition that is not understood
DROPPED, ACCEPTED = "drop", "accept"
_DEPTH = 16  # of jumps; the kernel allows as many


@frozen
class Condition:
    """What a rule asks of a packet: one of `values` (or none of them: `negated`); ``80-90`` is a range, ``qn-*`` a name
    that begins so, ``10.0.0.0/8`` a network. `key` is as nft writes it: ``iifname``, ``tcp dport``, ``ct state``."""

    key: str
    values: tuple[str, ...] = ()
    negated: bool = False


@frozen
class Rule:
    """`verdict` is accept, drop, jump, goto, return, or empty for a rule that only looks."""

    conditions: tuple[Condition, ...]
    verdict: str
    target: str = ""


@frozen
class Chain:
    """A chain of a table; one with a hook is where packets come in. `tool`: what made it, nft or iptables-legacy."""

    family: str
    table: str
    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    policy: str = ACCEPTED
    tool: str = "nft"

    @property
    def place(self) -> tuple[str, str, str]:
        """The table it belongs to."""
        return self.tool, self.family, self.table


@frozen
class Packet:
    """A packet at a hook; `known` is what is known of it, by the key of a condition."""

    hook: str
    version: int
    known: Mapping[str, str]


def fate(base: Chain, chains: Iterable[Chain], packet: Packet) -> str:
    """Return whether a base chain drops a packet or accepts it; others may still drop what one accepts."""
    table = {chain.name: chain for chain in chains if chain.place == base.place}
    verdict = _through(base, table, packet, _DEPTH)
    return base.policy if verdict in ("", "return") else verdict


def concerns(base: Chain, packet: Packet) -> bool:
    """Tell whether a packet comes to a chain at all."""
    families = ("inet", "ip") if packet.version == 4 else ("inet", "ip6")
    return base.hook == packet.hook and base.family in families


def _through(chain: Chain, table: Mapping[str, Chain], packet: Packet, depth: int) -> str:
    for rule in chain.rules:
        if not all(holds(condition, packet) for condition in rule.conditions):
            continue
        match rule.verdict:
            case "jump" | "goto" if rule.target in table and depth:
                verdict = _through(table[rule.target], table, packet, depth - 1)
                if verdict not in ("", "return") or rule.verdict == "goto":
                    return verdict
            case "accept" | "drop" | "return":
                return rule.verdict
    return ""


def holds(condition: Condition, packet: Packet) -> bool:
    """Tell whether a condition is known to hold."""
    found = _value(condition.key, packet)
    if found is None or condition.key == UNKNOWN:
        return False
    if condition.negated:
        return not any(_may_be(found, value) for value in condition.values)
    return any(_is(found, value) for value in condition.values)


def _value(key: str, packet: Packet) -> str | None:
    if key == "nfproto":
        return f"ipv{packet.version}"
    protocol, _, port = key.partition(" ")
    if port == "dport":  # a condition on a port is one on the protocol as well
        known = packet.known.get("l4proto")
        return packet.known.get("dport") if protocol in ("th", known) else None
    return packet.known.get(key)


def _is(found: str, wanted: str) -> bool:
    if wanted.endswith("*"):
        return found.startswith(wanted[:-1])
    first, dash, last = wanted.partition("-")
    if dash and found.isdecimal() and first.isdecimal():
        return int(first) <= int(found) <= int(last)
    if "/" in wanted and "/" in found:
        return _covers(wanted, found)
    return found == wanted


def _may_be(found: str, wanted: str) -> bool:
    """Tell whether one of several packets, for example from all addresses of a network, can be what is named."""
    if "/" not in found:
        return _is(found, wanted)
    return _overlap(wanted, found)


def _covers(wide: str, narrow: str) -> bool:
    one, other = ipaddress.ip_network(wide, strict=False), ipaddress.ip_network(narrow, strict=False)
    return (
        one.version == other.version
        and int(one.network_address) <= int(other.network_address)
        and (int(other.broadcast_address) <= int(one.broadcast_address))
    )


def _overlap(one: str, other: str) -> bool:
    try:
        first, second = ipaddress.ip_network(one, strict=False), ipaddress.ip_network(other, strict=False)
    except ValueError:
        return True
    return first.version == second.version and first.overlaps(second)
