"""Finds the rules of others that will drop a network's traffic, and says what lets it through.

An accept in one table does not overrule a drop in another: what stands in the way has to be opened by whoever put it
there. Nothing here is refused, for rules that are not understood may let the traffic pass.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Iterator, Sequence

from qemunet.frozen import frozen
from qemunet.model.network import ForeignBridge, Network, NetworkMode, OwnBridge
from qemunet.plan.traversal import DROPPED, Chain, Packet, concerns, fate

OURS = "qemunet-"  # what the names of our tables begin with
_PORTS = {"dhcp": (("udp", "67"),), "dns": (("udp", "53"), ("tcp", "53"))}
_PRODUCTS = (  # by how their chains and tables are named
    ("DOCKER", "Docker"),
    ("docker-", "Docker"),
    ("ufw", "ufw"),
    ("firewalld", "firewalld"),
    ("nixos-", "the NixOS firewall"),
    ("LIBVIRT_", "libvirt"),
    ("libvirt_", "libvirt"),
    ("KUBE-", "Kubernetes"),
    ("cali-", "Calico"),
)


@frozen
class Probe:
    """A packet that has to get through: what it stands for, and what a rule has to let in for it."""

    what: str
    packet: Packet
    side: str  # iifname | oifname: by which a rule knows the packets of the network
    interface: str


def notes(
    network: Network, chains: Sequence[Chain], bridged: frozenset[int], programs: frozenset[str]
) -> tuple[str, ...]:
    """Return a line for each chain of others that will drop what a network needs.

    `bridged`: the versions of IP of which rules see also what is only bridged (``bridge-nf-call-*``); `programs`: those
    that the host has.
    """
    found: dict[Chain, list[Probe]] = {}
    foreign = [chain for chain in chains if chain.hook and not chain.table.startswith(OURS)]
    for probe in _probes(network, bridged):
        for chain in foreign:
            if concerns(chain, probe.packet) and fate(chain, chains, probe.packet) == DROPPED:
                found.setdefault(chain, []).append(probe)
    return tuple(_note(chain, probes, chains, programs) for chain, probes in found.items())


# ---------------------------------------------------------------- what has to get through


def _probes(network: Network, bridged: frozenset[int]) -> Iterator[Probe]:
    switch = network.switch
    if isinstance(switch, OwnBridge | ForeignBridge):
        for version in sorted(bridged):
            known = {"iifname": switch.ifname, "oifname": switch.ifname, "ct state": "new", "ct status": ""}
            yield Probe("what guests send each other", Packet("forward", version, known), "iifname", switch.ifname)
    if isinstance(switch, OwnBridge) and switch.addressed:
        for address in switch.addresses:
            yield from _forwarded(network, switch, ipaddress.ip_interface(address).network)
        yield from _to_host(network, switch)


def _forwarded(
    network: Network, switch: OwnBridge, subnet: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> Iterator[Probe]:
    inside, name = switch.addressed, {4: "ip", 6: "ip6"}[subnet.version]
    uplink = network.firewall.uplink if network.firewall else None
    out = {"iifname": inside, f"{name} saddr": str(subnet)} | ({"oifname": uplink} if uplink else {})
    back = {"oifname": inside, f"{name} daddr": str(subnet)} | ({"iifname": uplink} if uplink else {})
    if network.mode in (NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.OPEN):
        new = {"ct state": "new", "ct status": ""}
        known = {"ct state": "established", "ct status": ""}
        yield Probe("what guests send out", Packet("forward", subnet.version, out | new), "iifname", inside)
        yield Probe("the answers to it", Packet("forward", subnet.version, back | known), "oifname", inside)
        if network.mode is not NetworkMode.NAT:
            yield Probe("what is sent to guests", Packet("forward", subnet.version, back | new), "oifname", inside)
    for forward in network.firewall.forwards if network.firewall else ():
        if ipaddress.ip_address(forward.to).version == subnet.version:
            port = {"l4proto": forward.protocol, "dport": str(forward.to_ports[0])}
            packet = back | port | {"ct state": "new", "ct status": "dnat"}
            yield Probe("forwarded ports", Packet("forward", subnet.version, packet), "oifname", inside)


def _to_host(network: Network, switch: OwnBridge) -> Iterator[Probe]:
    versions = {ipaddress.ip_interface(address).version for address in switch.addresses}
    for version in sorted(versions):
        for service, protocol, port in _services(network, version):
            known = {"iifname": switch.addressed, "l4proto": protocol, "ct state": "new", "ct status": ""}
            packet = Packet("input", version, known | ({"dport": port} if port else {}))
            yield Probe(service, packet, "iifname", switch.addressed)


def _services(network: Network, version: int) -> Iterator[tuple[str, str, str]]:
    """Yield what guests use on the host: its name, its protocol and its port."""
    for service in _names(network):
        if service == "icmp":
            yield "ping", "icmp" if version == 4 else "ipv6-icmp", ""
        elif service == "dhcp" and version == 6:
            yield "DHCPv6", "udp", "547"
        elif service in _PORTS:
            yield from ((service.upper(), protocol, port) for protocol, port in _PORTS[service])
        elif ":" in service:
            protocol, _, ports = service.partition(":")
            yield service, protocol, ports.partition("-")[0]


def _names(network: Network) -> tuple[str, ...]:
    if network.firewall is not None and "all" not in network.firewall.host_services:
        return network.firewall.host_services
    served = network.services
    if served is None:
        return ()
    return (*(["dhcp"] if served.dhcp or served.dhcp6 else []), *(["dns"] if served.dns else []))


# ---------------------------------------------------------------- what to say about it


def _note(chain: Chain, probes: Sequence[Probe], chains: Sequence[Chain], programs: frozenset[str]) -> str:
    what = _listed(list(dict.fromkeys(probe.what for probe in probes)))
    what += " from guests to the host" if chain.hook == "input" else ""
    owner = product(chain, chains)
    whose = f" of {owner}" if owner else ""
    tables = "" if chain.tool == "nft" else f" ({chain.tool})"
    place = f"table {chain.family} {chain.table}{tables}, chain {chain.name}, hook {chain.hook}, policy {chain.policy}"
    return f"the firewall{whose} ({place}) will drop {what}; to let it pass: {remedy(chain, probes, chains, programs)}"


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def product(chain: Chain, chains: Iterable[Chain]) -> str:
    """Return whose a table is, by the names in it; empty if they say nothing."""
    names = [chain.table, *(other.name for other in chains if other.place == chain.place)]
    for start, owner in _PRODUCTS:
        if any(name.startswith(start) for name in names):
            return owner
    return "iptables" if _is_iptables(chain) else ""


def remedy(chain: Chain, probes: Sequence[Probe], chains: Sequence[Chain], programs: frozenset[str]) -> str:
    """Return the shortest command that lets the packets through, in the words of whose chain it is."""
    wanted = list(dict.fromkeys((probe.side, probe.interface) for probe in probes))
    owner = product(chain, chains)
    if owner == "firewalld" and "firewall-cmd" in programs:
        return _and(f"firewall-cmd --zone=trusted --add-interface={shlex.quote(name)}" for name in _names_of(wanted))
    if owner == "ufw" and "ufw" in programs:
        return _and(_ufw(chain, *one) for one in wanted)
    user = next((one.name for one in chains if one.place == chain.place and one.name == "DOCKER-USER"), "")
    target = user if user and chain.name == "FORWARD" else chain.name
    program = _iptables(chain)
    if chain.tool != "nft" or (_is_iptables(chain) and program in programs):
        return _and(
            f"{program} -I {target} {'-i' if side == 'iifname' else '-o'} {name} -j ACCEPT" for side, name in wanted
        )
    rules = (f'insert rule {chain.family} {chain.table} {target} {side} "{name}" accept' for side, name in wanted)
    return f"nft {shlex.quote('; '.join(rules))}"


def _ufw(chain: Chain, side: str, name: str) -> str:
    route = "route " if chain.hook == "forward" else ""
    return f"ufw {route}allow {'in' if side == 'iifname' else 'out'} on {shlex.quote(name)}"


def _iptables(chain: Chain) -> str:
    program = "ip6tables" if chain.family == "ip6" else "iptables"
    return f"{program}-legacy" if chain.tool != "nft" else program


def _is_iptables(chain: Chain) -> bool:
    """Tell whether a chain is one that iptables makes, by its old name for it."""
    return chain.table == "filter" and chain.family in ("ip", "ip6") and chain.name in ("INPUT", "FORWARD")


def _names_of(wanted: Iterable[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for _, name in wanted))


def _and(commands: Iterable[str]) -> str:
    return " && ".join(commands)
