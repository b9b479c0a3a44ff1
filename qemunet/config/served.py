"""What a managed network does for its guests, as far as its file says it: DHCP and DNS or not, and who is known."""

from __future__ import annotations

from qemunet.config import modes, subnets, units
from qemunet.config.hints import Bad, did_you_mean, listed
from qemunet.frozen import replace
from qemunet.model.network import HostSide, NetworkMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemunet.config.spec import KnownHostSpec, LabSpec, NetworkSpec, NicSpec, VmSpec
    from qemunet.model.nic import Forward

OUTWARD = (NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.OPEN)  # the guests' way out is the host
LEAST_LEASE = 120  # seconds, dnsmasq's
LEAST_MTU6 = 1280  # of a network with IPv6


def has_dhcp(network: NetworkSpec) -> bool:
    """Tell whether guests are given addresses."""
    if network.dhcp is not None:
        return network.dhcp.on
    has4 = any(":" not in address for address in network.address or ())
    return modes.network_mode(network) in OUTWARD and has4


def has_dns(network: NetworkSpec) -> bool:
    """Tell whether guests have a name server on the host."""
    return has_dhcp(network) if network.dns is None else network.dns.on


def has_rules(network: NetworkSpec) -> bool:
    """Tell whether a network has a table: an isolated one always, for nobody else keeps it apart."""
    return modes.network_mode(network) is NetworkMode.ISOLATED or has_firewall(network)


def has_firewall(network: NetworkSpec) -> bool:
    """Tell whether a network has rules of ours.

    An isolated one has some where the host serves on it, or where it says what guests may reach there.
    """
    match modes.network_mode(network):
        case NetworkMode.NAT | NetworkMode.ROUTED:
            return True
        case NetworkMode.ISOLATED:
            return has_dhcp(network) or has_dns(network) or network.host_services is not None
        case _:
            return False


def is_auto(network: NetworkSpec) -> bool:
    """Tell whether an address is to be worked out."""
    return "auto" in (network.address or ())


def cards(spec: LabSpec, network: str) -> Iterator[tuple[VmSpec, int, NicSpec]]:
    """Yield the cards on a network, with their vm and their place in it."""
    for vm in spec.vms:
        for index, nic in enumerate(vm.nic or ()):
            if nic.network == network:
                yield vm, index, nic


def home(addresses: Sequence[str], address: str) -> str | None:
    """Return that address of the host in whose network another one is."""
    return next((one for one in addresses if units.inside(address, one)), None)


# ---------------------------------------------------------------- what the file alone tells


def check(spec: LabSpec, network: NetworkSpec) -> None:
    """Raise ConfigError for what cannot be whatever its addresses are."""
    mode, path = modes.network_mode(network), network.path
    if network.external:
        return
    if network.host is HostSide.NONE and network.address:
        problem = "the host is not on it, and it has addresses there"
        raise spec.error(f"{path}.host", problem, 'leave out address, or take host = "bridge" or "veth"')
    needy = "dhcp" if has_dhcp(network) else "dns" if has_dns(network) else ""
    if (mode in OUTWARD or needy) and not network.address:
        problem = f"{needy} needs an address of the host" if needy else f'mode "{mode}" needs an address of the host'
        raise spec.error(f"{path}.address", problem, 'as in address = ["192.168.50.1/24"], or "auto"')
    if network.mtu is not None and network.mtu < LEAST_MTU6 and any(":" in one for one in network.address or ()):
        raise spec.error(f"{path}.mtu", f"{network.mtu} is less than IPv6 needs", f"{LEAST_MTU6} or more")
    _uplink(spec, network)
    _server(spec, network)
    _dhcp(spec, network)
    _dns(spec, network)
    _forwards(spec, network)
    if not is_auto(network):
        check_addresses(spec, network, network.address or ())


def _uplink(spec: LabSpec, network: NetworkSpec) -> None:
    for other in spec.networks:
        own = modes.makes_bridge(other) and other.ports is None and network.uplink == modes.bridge_name(other)
        if network.uplink is not None and own:
            problem = f'"{network.uplink}" is the bridge that {other.path} makes, and no way out'
            raise spec.error(f"{network.path}.uplink", problem)


def _server(spec: LabSpec, network: NetworkSpec) -> None:
    """Raise ConfigError for a network whose server is not there, or could not reach it."""
    name = network.dhcp.server if network.dhcp is not None else None
    if name is None:
        return
    if spec.server(name) is None:
        known = [server.name for server in spec.servers]
        every = f"there is {listed(known)}" if known else f"written [dhcp-server.{name}], a table that may be empty"
        hint = did_you_mean(name, known, every)
        raise spec.error(f"{network.path}.dhcp.server", f'unknown DHCP server "{name}"', hint)
    if network.host not in (None, HostSide.VETH):
        problem = "a server of several networks listens at the end of a cable into each"
        raise spec.error(f"{network.path}.host", problem, 'leave it out, or take host = "veth"')
    dns = network.dns
    if dns is not None and any(one is not None for one in (dns.domain, dns.forwarders, dns.hosts, dns.local_only)):
        problem = f'"{name}" answers names here, for all its networks alike'
        hint = f"[dhcp-server.{name}] has domain, forwarders and local-only; here dns is true or false"
        raise spec.error(f"{network.path}.dns", problem, hint)


def _dhcp(spec: LabSpec, network: NetworkSpec) -> None:
    path, dhcp = f"{network.path}.dhcp", network.dhcp
    if not has_dhcp(network):
        if network.hosts:
            problem = "these are reservations, and there is no DHCP here"
            raise spec.error(f"{network.path}.hosts", problem, "dhcp = true turns it on")
        return
    if dhcp is not None and dhcp.lease is not None and dhcp.lease < LEAST_LEASE:
        raise spec.error(f"{path}.lease", f"{dhcp.lease}s is less than {LEAST_LEASE}s, the shortest lease there is")
    for host in network.hosts or ():
        for key, value, example in (("mac", host.mac, '"52:54:00:aa:bb:cc"'), ("ip", host.ip, '"192.168.50.9"')):
            if value is None:
                raise spec.error(f"{host.path}.{key}", f"a known host needs its {key}", f"as in {key} = {example}")


def _dns(spec: LabSpec, network: NetworkSpec) -> None:
    dns = network.dns
    if dns is not None and dns.local_only and dns.forwarders:
        problem = "nothing else is to be known, and so nobody is asked"
        raise spec.error(f"{network.path}.dns.forwarders", problem, "leave out one of local-only and forwarders")


def _forwards(spec: LabSpec, network: NetworkSpec) -> None:
    for forward in network.forward or ():
        known = [vm.name for vm in spec.vms]
        if not units.is_address(forward.vm) and forward.vm not in known:
            every = f"this file has {listed(known)}" if known else "this file has no vm; an address will do as well"
            problem = f'"{units.format_forward(forward)}" leads to an unknown vm'
            raise spec.error(f"{network.path}.forward", problem, did_you_mean(forward.vm, known, every))


# ---------------------------------------------------------------- what its addresses tell


def check_addresses(spec: LabSpec, network: NetworkSpec, addresses: Sequence[str]) -> None:
    """Raise ConfigError for what cannot be with these addresses of the host."""
    if has_dhcp(network):
        ranges(spec, network, addresses)
        _reservations(spec, network, addresses)
    for forward in network.forward or ():
        targets(spec, network, addresses, forward)


def ranges(spec: LabSpec, network: NetworkSpec, addresses: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Return what DHCP gives out, by the length of an address: 32 if there is IPv4, 128 if it is to have IPv6.

    Raises ConfigError; an IPv6 network without a range must be one in which guests make their own addresses.
    """
    given = (network.dhcp and network.dhcp.range) or ()
    found = {units.bits(given[at]): (given[at], given[at + 1]) for at in range(0, len(given), 2)}
    for first, last in found.values():
        _range(spec, f"{network.path}.dhcp.range", addresses, first, last)
    if 32 not in found and any(":" not in one for one in addresses):
        try:
            found[32] = subnets.upper_half(next(one for one in addresses if ":" not in one))
        except Bad as bad:
            raise spec.error(f"{network.path}.dhcp", bad.problem, bad.hint) from None
    for address in addresses:
        if ":" in address and 128 not in found and not address.endswith("/64"):
            problem = f"guests make their own addresses in an IPv6 network of /64 only, and {address} is none"
            hint = "give it a /64, or a range for IPv6 in dhcp.range"
            raise spec.error(f"{network.path}.address", problem, hint)
    return found


def _range(spec: LabSpec, path: str, addresses: Sequence[str], first: str, last: str) -> None:
    where = home(addresses, first)
    if where is None or not units.inside(last, where):
        kind = [subnets.network(one) for one in addresses if units.bits(units.plain(one)) == units.bits(first)]
        inside = f"it has {listed(kind)}" if kind else "it has none of that kind"
        raise spec.error(path, f"{first} to {last} is not within a network of the host there", inside)
    low, high = subnets.usable(where)
    for address in (first, last):
        if not low <= units.number(address) <= high:
            raise spec.error(path, f"{address} is no address that a guest can have in {subnets.network(where)}")
    for own in addresses:
        plain = units.plain(own)
        if units.bits(plain) == units.bits(first) and units.number(first) <= units.number(plain) <= units.number(last):
            raise spec.error(path, f"{plain} in it is the host's own", "end the range before it, or begin it after it")


def _reservations(spec: LabSpec, network: NetworkSpec, addresses: Sequence[str]) -> None:
    """Raise ConfigError for an address that is reserved outside of the network, and for whatever is there twice."""
    seen: dict[str, tuple[str, KnownHostSpec]] = {}
    for host in network.hosts or ():
        assert host.mac is not None, "checked before"
        assert host.ip is not None, "checked before"
        _inside(spec, f"{host.path}.ip", addresses, host.ip)
        for key, value in (("mac", host.mac), ("ip", host.ip), ("name", host.name)):
            if value is not None:
                other, _ = seen.setdefault(value, (host.path, host))
                if other != host.path:
                    raise spec.error(f"{host.path}.{key}", f'"{value}" is also that of {other}')
    for vm, _, nic in cards(spec, network.name):
        for address in nic.ip or ():
            _inside(spec, f"{nic.path}.ip", addresses, units.plain(address))
        known = seen.get(vm.name)
        if known is not None and known[1].name == vm.name and known[1].mac != nic.mac:
            raise spec.error(f"{known[0]}.name", f'"{vm.name}" is the name of a vm on this network')
        _known_card(spec, seen, nic)


def _known_card(spec: LabSpec, seen: dict[str, tuple[str, KnownHostSpec]], nic: NicSpec) -> None:
    """Refuse a card that has what is another's by `hosts`; the entry may be about the card itself."""
    plain = [units.plain(address) for address in nic.ip or ()]
    by_mac = seen.get(nic.mac or "")
    if by_mac is not None and plain and by_mac[1].ip not in plain:
        raise spec.error(f"{by_mac[0]}.ip", f"{nic.path} has this mac, and {listed(plain)}")
    for address in plain:
        known = seen.get(address)
        if known is not None and nic.mac != known[1].mac:
            problem = f'"{address}" is also that of {nic.path}'
            raise spec.error(f"{known[0]}.ip", problem, "the ip of a card is reserved for it without an entry here")


def _inside(spec: LabSpec, path: str, addresses: Sequence[str], address: str) -> None:
    where = home(addresses, address)
    known = listed(subnets.network(one) for one in addresses)
    if where is None:
        raise spec.error(path, f"{address} is in no network that is served there", f"that is {known}")
    low, high = subnets.usable(where)
    if not low <= units.number(address) <= high:
        raise spec.error(path, f"{address} is no address that a guest can have in {subnets.network(where)}")
    if address in map(units.plain, addresses):
        raise spec.error(path, f"{address} is the host's own")


def targets(spec: LabSpec, network: NetworkSpec, addresses: Sequence[str], forward: Forward) -> list[str]:
    """Return the addresses to which a forward leads: one of each kind that it listens on; raises ConfigError."""
    path = f"{network.path}.forward"
    text = units.format_forward(forward)
    own = [forward.vm] if units.is_address(forward.vm) else _addresses_of(spec, network, addresses, forward.vm)
    if own == [forward.vm] and home(addresses, forward.vm) is None:
        hint = f"those are in {listed(subnets.network(one) for one in addresses)}"
        raise spec.error(path, f'"{text}" leads to an address that no guest of this network can have', hint)
    if not own:
        hint = f'give a card of {forward.vm} that has network = "{network.name}" an ip, as in ip = ["192.168.50.12/24"]'
        raise spec.error(path, f'"{text}" leads to a vm whose address on this network is not known', hint)
    wanted = [one for one in own if not forward.address or units.bits(one) == units.bits(forward.address)]
    if not wanted:
        kinds = ("IPv6", "IPv4") if ":" in forward.address else ("IPv4", "IPv6")
        raise spec.error(path, f'"{text}" listens on {kinds[0]}, and the guest has {kinds[1]} only')
    return list({units.bits(one): one for one in reversed(wanted)}.values())[::-1]


def by_address(spec: LabSpec) -> LabSpec:
    """Return a lab that was checked with forwards to addresses, so that a network of it means the same without vms.

    One whose own address is still to be worked out stays as it is.
    """
    return replace(spec, networks=tuple(_by_address(spec, network) for network in spec.networks))


def _by_address(spec: LabSpec, network: NetworkSpec) -> NetworkSpec:
    if network.forward is None or is_auto(network):
        return network
    own = network.address or ()
    found = (replace(one, vm=to) for one in network.forward for to in targets(spec, network, own, one))
    return replace(network, forward=tuple(found))


def _addresses_of(spec: LabSpec, network: NetworkSpec, addresses: Sequence[str], vm: str) -> list[str]:
    own = [one for named, _, nic in cards(spec, network.name) if named.name == vm for one in nic.ip or ()]
    return [units.plain(one) for one in own if home(addresses, units.plain(one)) is not None]
