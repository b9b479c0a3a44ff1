"""The host's interfaces by which packets come back to guests: each has a switch of its own that lets it pass them on.

The global switches would rewrite every interface and are never written. IPv4 asks the interface by which a packet
came. IPv6 asks the global switch; since Linux 6.17 an interface may say that it passes packets on all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qemunet import steps
from qemunet.facts import Facts, LinkFact
from qemunet.steps import Part, sysctl_name

IPV6_GLOBALLY = "net.ipv6.conf.all.forwarding"
IPV6_FORCED = "net.ipv6.conf.all.force_forwarding"  # there if the kernel has it for each interface


def ipv4(facts: Facts, only: str | None = None) -> Iterator[Part]:
    """Yield the shared switches of each interface that the way out may take, or of one."""
    yield from _switches("host/forward-", "net.ipv4.conf.{}.forwarding", ".", facts, only)


def ipv6(facts: Facts, only: str | None = None) -> Iterator[Part]:
    """Yield the same for IPv6, nothing if no interface has such a switch or all pass packets on anyway."""
    if ipv6_is_forced(facts):
        yield from _switches("host/forward6-", "net.ipv6.conf.{}.force_forwarding", ":", facts, only)


def ipv6_is_forced(facts: Facts) -> bool:
    """Tell whether single interfaces have to be told, and can be told, to pass IPv6 on."""
    return facts.sysctls.get(IPV6_GLOBALLY) == "0" and IPV6_FORCED in facts.sysctls


def ipv6_is_missing(facts: Facts) -> bool:
    """Tell whether IPv6 cannot be passed on before somebody says so for the whole host."""
    return facts.sysctls.get(IPV6_GLOBALLY) == "0" and IPV6_FORCED not in facts.sysctls


def is_ours(link: LinkFact) -> bool:
    """Tell whether a link was made by qemunet, of whichever runtime directory."""
    return any(altname.startswith("qemunet.") for altname in link.altnames)


def _switches(scope: str, key: str, sign: str, facts: Facts, only: str | None) -> Iterator[Part]:
    moved = moved_to(facts)
    for name in sorted(facts.addresses):
        found = key.format(sysctl_name(name))
        off = facts.sysctls.get(found) == "0"
        wanted = only in (None, name) and _is_uplink(name, sign, moved, facts)
        if wanted and (off or scope + name in facts.scopes):
            yield Part(scope + name, (steps.SetSysctl(found, "1"),), "1")


def moved_to(facts: Facts) -> Collection[str]:
    """Return the bridges of ours that have what an uplink had."""
    if not facts.networks:
        return ()
    from qemunet.config import ports  # only where it is needed

    return ports.moved(facts).values()


def _is_uplink(name: str, sign: str, moved: Collection[str], facts: Facts) -> bool:
    """Whose an interface is has to be known: forwarding on a network of ours would open it to the world.

    Not on one that has what an uplink had.
    """
    link = facts.links.get(name)
    foreign = link is not None and (not is_ours(link) or name in moved)
    known = (address for address in facts.addresses[name] if sign in address)
    return foreign and name != "lo" and any(not _is_local(address) for address in known)


def _is_local(address: str) -> bool:
    return address.startswith(("127.", "169.254.", "fe80:", "::1/"))
