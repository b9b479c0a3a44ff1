"""Resolves what the host does for a network: its addresses there, what it serves, and its rules."""

from __future__ import annotations

from qemunet.config import modes, toml, units
from qemunet.config.hints import Bad
from qemunet.config.scene import absolute, first
from qemunet.config.spec import DhcpSpec, DnsSpec, NatSpec
from qemunet.errors import ConfigError, NotFound, Taken
from qemunet.frozen import replace
from qemunet.later import later
from qemunet.model.network import (
    Dhcp,
    Dhcp6,
    DhcpServer,
    Dns,
    Firewall,
    HostSide,
    KnownHost,
    Masquerade,
    NetworkMode,
    PortForward,
    Services,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qemunet.config import listeners, reader, served, subnets
    from qemunet.config.scene import Scene
    from qemunet.config.spec import LabSpec, NetworkSpec
    from qemunet.facts import Facts
    from qemunet.model.network import Boot, Network
else:
    listeners = later("qemunet.config.listeners")
    reader = later("qemunet.config.reader")
    served = later("qemunet.config.served")
    subnets = later("qemunet.config.subnets")

NFT, DNSMASQ = "nft", "dnsmasq"
REMEDIES = ("iptables", "ip6tables", "ufw", "firewall-cmd")  # by which other rules are changed, if they made them
LEASE = 3600  # seconds
NOBODYS = "192.0.2.1"  # an address for documentation: what listens there listens everywhere


def programs(spec: LabSpec) -> set[str]:
    """Return the programs that the networks of a lab need, or that change rules of others which are in their way."""
    through = [one for one in spec.networks if served.has_rules(one) or modes.network_mode(one) is NetworkMode.BRIDGE]
    found = {NFT, *REMEDIES} if through else set()
    return found | {DNSMASQ for network in spec.networks if _has_services(network)}


def ports(spec: LabSpec) -> frozenset[tuple[str, str, int, int]]:
    """Return the ports of which it matters who has them: protocol, address, first, last.

    Those that lead into networks, and that of name servers: who has it on all addresses is in the way of ours.
    """
    every = (forward for network in spec.networks for forward in network.forward or ())
    found = {(one.protocol, one.address, *one.ports) for one in every}
    named = any(served.has_dns(network) for network in spec.networks)
    return frozenset(found | ({(protocol, NOBODYS, 53, 53) for protocol in ("tcp", "udp")} if named else set()))


def files(spec: LabSpec) -> Iterator[str]:
    """Yield the directories that networks serve."""
    for network in spec.networks:
        boot = network.dhcp and network.dhcp.boot
        if boot and boot.root is not None:
            yield absolute(spec, boot.root)


def asks_others(spec: LabSpec) -> bool:
    """Tell whether it matters what the networks that are up already are like."""
    return any(
        served.is_auto(one) or one.external or one.forward or modes.network_mode(one) in served.OUTWARD
        for one in spec.networks
    )


def _has_services(network: NetworkSpec) -> bool:
    return served.has_dhcp(network) or served.has_dns(network)


def settled(scene: Scene, spec: NetworkSpec) -> NetworkSpec:
    """Return a network with the addresses that the host has there, none of them ``auto`` any more.

    An external one is what the lab that has it up says of it. Raises ConfigError, Taken, and NotFound.
    """
    if spec.external:
        return _external(scene, spec)
    if served.is_auto(spec):
        spec = replace(spec, address=_worked_out(scene, spec))
        served.check_addresses(scene.spec, spec, spec.address or ())
    if not is_up(scene, spec):
        _subnets_free(scene, spec)
    return spec


def is_up(scene: Scene, spec: NetworkSpec) -> bool:
    """Tell whether somebody has made a network already."""
    return f"net/{spec.name}" in scene.facts.scopes


# ---------------------------------------------------------------- addresses


def _external(scene: Scene, spec: NetworkSpec) -> NetworkSpec:
    known = as_it_is(scene.facts, spec.name)
    if known is None and scene.strict:
        hint = f"`qemunet net up FILE {spec.name}` brings it up, with the file of the lab that makes it"
        raise NotFound(f'network "{spec.name}" is not up', where=f"{scene.spec.file}: {spec.path}", hint=hint)
    if known is None:
        return spec
    known = replace(known, path=spec.path, external=True)
    served.check_addresses(scene.spec, known, known.address or ())
    return known


def as_it_is(facts: Facts, name: str) -> NetworkSpec | None:
    """Return a network that is up as it was made."""
    text = facts.networks.get(name)
    if text is None:
        return None
    try:
        file = f"{facts.runtime}/net/{name}/net.toml"
        return reader.Reader(file, file).lab(toml.parse(text, file)).network(name)
    except ConfigError:  # of another version, or damaged
        return None


def _worked_out(scene: Scene, spec: NetworkSpec) -> tuple[str, ...]:
    """Return the addresses with an automatic one: that which it has if it is up, else a free one."""
    before = as_it_is(scene.facts, spec.name)
    own = spec.address or ()
    if before is not None and len(before.address or ()) == len(own):
        return tuple(was if one == "auto" else one for one, was in zip(own, before.address or (), strict=True))
    given = [one for other in scene.spec.networks for one in other.address or () if one != "auto"]
    given += scene.subnets.values()
    given += [
        one
        for name in scene.facts.networks
        for one in (as_it_is(scene.facts, name) or spec).address or ()
        if one != "auto"
    ]
    try:
        found = subnets.free(scene.facts, spec.name, given)
    except Bad as bad:
        raise Taken(bad.problem, where=f"{spec.path}.address", hint=bad.hint) from None
    scene.subnets[spec.name] = found
    return tuple(found if one == "auto" else one for one in own)


def _subnets_free(scene: Scene, spec: NetworkSpec) -> None:
    """Raise Taken if somebody on the host uses a network of this one's."""
    own = {modes.bridge_name(spec), modes.host_ifname(spec), *(spec.ports or ())}
    for address in (spec.address or ()) if scene.strict and spec.netns is None else ():
        user = subnets.user(scene.facts, address, own)
        if user:
            problem = f"the network {subnets.network(address)} is in use on this host: {user}"
            hint = 'give it another one, or address = "auto", which takes one that is free'
            raise Taken(problem, where=f"{spec.path}.address", hint=hint)


# ---------------------------------------------------------------- services


def services(scene: Scene, spec: NetworkSpec, mtu: int) -> Services | None:
    """Return what the host serves on a settled network, and note what it lacks for that; raises ConfigError."""
    if not _has_services(spec):
        return None
    if scene.facts.programs.get(DNSMASQ) is None and not is_up(scene, spec):
        hint = f"Debian has it in dnsmasq-base; or {spec.path}.dhcp = false and dns = false"
        scene.lack(f"{DNSMASQ}, which serves DHCP and DNS", hint)
    addresses = spec.address or ()
    ranges = served.ranges(scene.spec, spec, addresses) if served.has_dhcp(spec) else {}
    dhcp6 = None
    if served.has_dhcp(spec) and any(":" in one for one in addresses):
        dhcp6 = Dhcp6(128 not in ranges, *ranges.get(128, (None, None)))
    return Services(
        dhcp=_dhcp(scene, spec, *ranges[32]) if 32 in ranges else None,
        dhcp6=dhcp6,
        dns=_names(scene.spec, spec) if served.has_dns(spec) else None,
        hosts=tuple(KnownHost(one.mac or "", one.ip or "", one.name or "") for one in spec.hosts or ()),
        mtu=mtu,
    )


def _dhcp(scene: Scene, spec: NetworkSpec, low: str, high: str) -> Dhcp:
    given = spec.dhcp or DhcpSpec()
    return Dhcp(
        first=low,
        last=high,
        lease=first(given.lease, otherwise=LEASE),
        gateway=first(given.gateway, otherwise=modes.network_mode(spec) in served.OUTWARD),
        options=given.options or (),
        boot=None if given.boot is None else _boot(scene, spec, given.boot),
    )


def _boot(scene: Scene, spec: NetworkSpec, boot: Boot) -> Boot:
    if boot.root is None:
        return boot
    path, root = f"{spec.path}.dhcp.boot", absolute(scene.spec, boot.root)
    if not scene.file(path, root).directory and not scene.running:
        raise scene.spec.error(path, f"{root} is not a directory")
    return replace(boot, root=root)


def _names(lab: LabSpec, spec: NetworkSpec) -> Dns:
    server = lab.server(spec.dhcp.server) if spec.dhcp is not None else None
    if server is None:
        return _dns(spec)
    forwarders = server.forwarders or ()
    modes_of_all = {modes.network_mode(one) for one in fellows(lab, spec)}
    closed = modes_of_all == {NetworkMode.ISOLATED} and not forwarders
    return Dns(server.domain, forwarders, (), first(server.local_only, otherwise=closed))


def _dns(spec: NetworkSpec) -> Dns:
    given = spec.dns or DnsSpec()
    forwarders = given.forwarders or ()
    closed = modes.network_mode(spec) is NetworkMode.ISOLATED and not forwarders
    return Dns(given.domain, forwarders, given.hosts or (), first(given.local_only, otherwise=closed))


def fellows(lab: LabSpec, spec: NetworkSpec) -> tuple[NetworkSpec, ...]:
    """Return the networks that the server of a network serves, itself among them; none if it has one of its own."""
    name = spec.dhcp.server if spec.dhcp is not None else None
    every = (one for one in lab.networks if one.dhcp is not None and one.dhcp.server == name)
    return () if name is None else tuple(every)


def with_servers(lab: LabSpec, networks: Mapping[str, Network]) -> dict[str, Network]:
    """Return resolved networks with the servers that they share; what one serves is to be among them."""
    found = dict(networks)
    for spec in lab.networks:
        if spec.name in networks and spec.dhcp is not None and spec.dhcp.server is not None:
            members = tuple(networks[one.name] for one in fellows(lab, spec))
            found[spec.name] = replace(networks[spec.name], server=DhcpServer(spec.dhcp.server, members))
    return found


# ---------------------------------------------------------------- rules


def firewall(scene: Scene, spec: NetworkSpec) -> Firewall | None:
    """Return the rules of a settled network, and note what the host lacks for them; raises ConfigError and Taken."""
    up = is_up(scene, spec)
    if served.has_rules(spec) and scene.facts.programs.get(NFT) is None and not up:
        scene.lack(f"{NFT}, for the rules of mode {modes.network_mode(spec)}", "Debian has it in nftables")
    if not served.has_firewall(spec):
        return None
    uplink = _uplink(scene, spec)
    forwards = tuple(_forwards(scene.spec, spec))
    if scene.strict and not up:
        _ports_free(scene, spec, forwards)
    return Firewall(
        uplink=uplink,
        masquerade=_masquerade(scene, spec) if modes.network_mode(spec) is NetworkMode.NAT else None,
        forwards=forwards,
        host_services=spec.host_services or tuple(_reachable(spec)),
    )


def _uplink(scene: Scene, spec: NetworkSpec) -> str | None:
    """Return the interface by which guests get out; the bridge that has what it had, as long as it is a port of that.

    Raises Taken if that bridge leads nowhere.
    """
    link = scene.link(spec.uplink) if spec.uplink is not None else None
    if link is None:
        if spec.uplink is not None:
            scene.lack(f"the interface {spec.uplink}", f"`ip link` lists those there are ({spec.path}.uplink)")
        return spec.uplink
    from qemunet.config import ports

    bridge = ports.moved(scene.facts).get(link.name) if link.master is not None else None
    if bridge == link.master:
        return bridge or spec.uplink
    if scene.strict and not is_up(scene, spec):
        problem = f'"{spec.uplink}" is a port of the bridge {link.master}: packets come and go by that'
        hint = f'if the host is on it, uplink = "{link.master}"'
        raise Taken(problem, where=f"{spec.path}.uplink", hint=hint)
    return spec.uplink


def _reachable(spec: NetworkSpec) -> Iterator[str]:
    """Yield what guests reach on the host if the file does not say it."""
    if served.has_dhcp(spec):
        yield "dhcp"
    if served.has_dns(spec):
        yield "dns"
    yield "icmp"
    if spec.dhcp is not None and spec.dhcp.boot is not None and spec.dhcp.boot.root is not None:
        yield "udp:69"


def _masquerade(scene: Scene, spec: NetworkSpec) -> Masquerade:
    given = spec.nat or NatSpec()
    if given.source is not None and not is_up(scene, spec):
        own = {units.plain(address) for several in scene.facts.addresses.values() for address in several}
        if given.source not in own:
            hint = f"`ip address` lists those it has ({spec.path}.nat.source)"
            scene.lack(f"the address {given.source}, which guests are to come from", hint)
    return Masquerade(first(given.ports, otherwise=Masquerade().ports), given.source)


def _forwards(lab: LabSpec, spec: NetworkSpec) -> Iterator[PortForward]:
    for one in spec.forward or ():
        for to in served.targets(lab, spec, spec.address or (), one):
            yield PortForward(one.protocol, one.address, one.ports, to, one.guest_ports)


def _ports_free(scene: Scene, spec: NetworkSpec, forwards: Iterable[PortForward]) -> None:
    """Raise Taken if a program of the host listens on a forwarded port, or another network has it."""
    where, hint = f"{spec.path}.forward", "choose another port of the host"
    for one in forwards:
        for port in range(one.ports[0], one.ports[1] + 1):
            holder = scene.facts.listeners.get(f"{one.protocol}/{port}")
            if holder is not None:
                raise Taken(f"{one.protocol} port {port} is in use by {holder}", where=where, hint=hint)
    mine = [*listeners.of_network(spec)]
    for name in scene.facts.networks:
        other = as_it_is(scene.facts, name) if name != spec.name else None
        for theirs in listeners.of_network(other) if other is not None else ():
            for ours in mine:
                if listeners.collide(ours, theirs):
                    port = max(ours.ports[0], theirs.ports[0])
                    raise Taken(f"{ours.protocol} port {port} is forwarded by network {name}", where=where, hint=hint)


def host_side(spec: NetworkSpec) -> tuple[HostSide, str, str]:
    """Return where the host's addresses are, and the ends of its cable if they are at one."""
    side = modes.host_place(spec)
    return (side, modes.host_ifname(spec), modes.port_ifname(spec)) if side is HostSide.VETH else (side, "", "")
