"""What the host answers on a network, by one dnsmasq: its configuration, whom it knows, and how it is started.

It has its files in a directory of its own, which `FILES` stands for; nothing in it is its to change
but the leases. What it is told at the start is in ``dnsmasq.conf``; the reservations are a file each in ``hosts/``, so
that those of cards that come later are heard of at once.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from qemunet.config.resolve import FIRST_UID, UIDS, USUAL_RUNTIME
from qemunet.errors import Failed
from qemunet.facts import Facts
from qemunet.model import names
from qemunet.model.network import Boot, Dhcp, Dhcp6, Dns, KnownHost, Network, NetworkMode, OwnBridge, Services
from qemunet.model.nic import Nic, OnNetwork, TapBackend
from qemunet.model.vm import Vm
from qemunet.steps import (
    FILES,
    Handle,
    Reserve,
    SetOffload,
    SetSysctl,
    StartDaemon,
    Step,
    Word,
    WriteFile,
    line,
    sysctl_name,
)
from qemunet.steps.spaces import inside

NAME = "dnsmasq"
CONF, HOSTS, NAMES, LEASES = "dnsmasq.conf", "hosts", "names", "leases"
_KNOWN = "known"  # the file of the reservations that come with the network; no card's name is without a dot
_READY = ": started,"
_MOST_LEASES = 65536
_HAS_WAY_OUT = (NetworkMode.NAT, NetworkMode.ROUTED, NetworkMode.OPEN)
_END = "QEMUNET"  # no line of a file is like it

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


# ---------------------------------------------------------------- steps


def steps(network: Network, switch: OwnBridge, facts: Facts) -> Iterator[Step]:
    """Yield what starts the network's dnsmasq, if there is to be one; its interface has to be up and addressed."""
    services = network.services
    if services is None:
        return
    yield from heard(switch, services)
    text = conf(network, dns_taken=bool(dns_holder(facts)))
    yield from started(f"net/{network.name}", f"network.{network.name}", text, (services,), facts, network.netns)


def heard(switch: OwnBridge, services: Services) -> Iterator[Step]:
    """Yield what lets guests hear what is answered at the host's side of their network."""
    yield SetOffload(switch.addressed, on=False)
    if services.dhcp6 is not None:
        # Who is told by RA where to send packets may do so at once; the kernel would try its address for a second.
        yield SetSysctl(f"net.ipv6.conf.{sysctl_name(switch.addressed)}.accept_dad", "0")


def started(
    scope: str, where: str, text: str, services: Sequence[Services], facts: Facts, netns: str = ""
) -> Iterator[Step]:
    """Yield what starts a dnsmasq with that text as its configuration, which knows whom these services know.

    It serves in a namespace of the lab, if one is given.
    """
    directory = f"{facts.runtime}/{scope}"
    known = "".join(_known(host) for one in services for host in _reserved(one))
    files = {CONF: text, NAMES: "".join(map(known_names, services)), f"{HOSTS}/{_KNOWN}": known}
    for name, content in files.items():
        yield WriteFile(f"{directory}/{NAME}/{name}", content)
    yield StartDaemon(
        name=NAME,
        directory=directory,
        argv=argv(),
        where=where,
        ready=_READY,
        uid=uid(scope, facts),
        writes=(LEASES,),
        script=tuple(_script(scope, files, netns)),
        netns=netns,
    )


def reserve(vm: Vm, nic: Nic, network: Network, facts: Facts) -> Iterator[Step]:
    """Yield what tells a network's dnsmasq of a card, if it has one."""
    services = network.services
    if services is not None and services.dhcp is not None and nic.mac not in {host.mac for host in services.hosts}:
        directory = f"{facts.runtime}/{serving_scope(network)}"
        yield Reserve(NAME, directory, f"{HOSTS}/{vm.name}.{nic.id}", reservation(vm, nic, network))


def serving_scope(network: Network) -> str:
    """Return the scope in which what serves a network has its files."""
    return f"net/{network.name}" if network.server is None else server_scope(network.server.name)


def server_scope(name: str) -> str:
    """Return the scope of a server of several networks."""
    return f"host/dhcp-{name}"


def dns_holder(facts: Facts) -> str:
    """Return who has the port of name servers on all of the host's addresses, so that we cannot; empty for nobody."""
    return facts.listeners.get("udp/53") or facts.listeners.get("tcp/53") or ""


def uid(scope: str, facts: Facts) -> int | None:
    """Return the numeric user for the dnsmasq of a scope, None if there can be none: then it is the caller.

    Guests have the lower half of the numbers; of two that get the same one, neither can read the other's files.
    """
    if not facts.can_switch_user:
        return None
    block = 0 if facts.runtime == USUAL_RUNTIME else 1 + int(names.digest(facts.runtime, 4), 16) % 0xFFFF
    half = UIDS // 2
    return FIRST_UID + block * UIDS + half + int(names.digest(scope, 4), 16) % half


def argv() -> tuple[Word, ...]:
    """Return the command line of dnsmasq; nothing that the system has configured for one is read."""
    return (
        Word((NAME,)),
        Word(("--keep-in-foreground",)),
        Word(("--conf-file=", Handle(FILES), f"/{CONF}")),
        *(Word((option, Handle(FILES), rest)) for option, rest in _PATHS),
        Word(("--log-facility=-",)),
        *(Word((f"--{option}=",)) for option in ("pid-file", "user", "group")),
    )


_PATHS = (
    ("--dhcp-hostsdir=", f"/{HOSTS}"),
    ("--addn-hosts=", f"/{NAMES}"),
    ("--dhcp-leasefile=", f"/{LEASES}"),
)


def _script(scope: str, files: Mapping[str, str], netns: str) -> Iterator[str]:
    """Yield the same for a shell: there it goes to the background itself, as the user whom its package has for it."""
    folder = f'"$run"/{shlex.quote(scope.rpartition("/")[2])}.{NAME}'
    yield f"mkdir -p {folder}/{HOSTS}"
    for name, content in files.items():
        yield f"cat >{folder}/{name} <<'{_END}'\n{content}{_END}"
    words = [f"--conf-file={folder}/{CONF}", *(f"{option}{folder}{rest}" for option, rest in _PATHS)]
    start = " ".join([line(NAME), *words, f"--pid-file={folder}/pid"])
    yield inside(netns, start) if netns else start


# ---------------------------------------------------------------- whom it knows


def reservation(vm: Vm, nic: Nic, network: Network) -> str:
    """Return the line about a card: its MAC, its addresses on that network, and the name of the vm.

    The second card that a vm has on a network has the card's id behind the vm's name: no two have the same name.
    """
    served = (network,) if network.server is None else network.server.networks
    first = next((one for one in vm.nics if any(_is_on(one, other) for other in served)), nic)
    name = vm.name if first.id == nic.id else f"{vm.name}-{nic.id}"
    return _reserved_for(name, nic.mac, nic.ips, network)


def told(name: str, mac: str, ips: Sequence[str], network: Network) -> str:
    """Return the line about a card of that name, empty if nobody is told of it there."""
    services = network.services
    if services is None or services.dhcp is None or mac in {host.mac for host in services.hosts}:
        return ""
    return _reserved_for(name, mac, ips, network)


def _reserved_for(name: str, mac: str, ips: Sequence[str], network: Network) -> str:
    subnets = subnets_of(network)
    found = (ipaddress.ip_interface(text).ip for text in ips)
    inside = (str(ip) for ip in found if any(ip in subnet for subnet in subnets))
    return _line(mac, tuple(inside), name)


def known_names(services: Services) -> str:
    """Return the names that are known whether who has them is there or not, as in hosts(5)."""
    dns = services.dns.hosts if services.dns else ()
    pairs = [(address, name) for name, address in dns]
    pairs += [(host.ip, host.name) for host in services.hosts if host.ip and host.name]
    return "".join(f"{_checked(address)} {_checked(name)}\n" for address, name in dict.fromkeys(pairs))


def _reserved(services: Services) -> tuple[KnownHost, ...]:
    return tuple(host for host in services.hosts if host.mac and (host.ip or host.name))


def _known(host: KnownHost) -> str:
    return _line(host.mac, (host.ip,) if host.ip else (), host.name)


def _line(mac: str, ips: tuple[str, ...], name: str) -> str:
    addresses = (f"[{ip}]" if ":" in ip else ip for ip in ips)
    return _checked(",".join(word for word in (mac, *addresses, name) if word)) + "\n"


def _is_on(nic: Nic, network: Network) -> bool:
    attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
    return isinstance(attach, OnNetwork) and attach.network == network.name


def subnets_of(network: Network) -> list[Subnet]:
    """Return the networks in which the host has an address there."""
    addresses = network.switch.addresses if isinstance(network.switch, OwnBridge) else ()
    return [ipaddress.ip_interface(text).network for text in addresses]


# ---------------------------------------------------------------- dnsmasq.conf


def conf(network: Network, *, dns_taken: bool = False) -> str:
    """Return the text of ``dnsmasq.conf`` (dnsmasq(8)) of a network that has services.

    `dns_taken`: somebody has port 53 for all addresses, so no names can be served. Raises Failed for what cannot be
    written there.
    """
    services, switch = network.services, network.switch
    assert services is not None, "without services there is no dnsmasq"
    assert isinstance(switch, OwnBridge), "the host has addresses only on a bridge of ours"
    dns = None if dns_taken else services.dns
    subnets = subnets_of(network)
    lines = [
        f"# network {network.name}",
        f"interface={quoted(switch.addressed)}",
        "except-interface=lo",
        "bind-dynamic",  # else it would listen to everybody, and drop what is not for it
        "no-hosts",
        *(answers(dns, subnets) if dns else ("port=0",)),
        *((f"domain={services.dns.domain}",) if services.dns and services.dns.domain else ()),
    ]
    lines += addresses(network, switch, services, dns)
    return written(lines)


def written(lines: Iterable[str]) -> str:
    """Return lines as a text; raises Failed for one that would be two."""
    return "".join(f"{_checked(text)}\n" for text in lines)


def addresses(network: Network, switch: OwnBridge, services: Services, dns: Dns | None, tag: str = "") -> Iterator[str]:
    """Yield what gives addresses on a network; with a `tag` to those who have that only, where others are served too.

    `dns` is None if no names are served here.
    """
    subnets = subnets_of(network)
    if services.dhcp or services.dhcp6:
        yield from () if tag else common()
    if services.dhcp:
        yield from _dhcp(services.dhcp, services, subnets, switch.addressed if tag else "", tag)
        if dns is None and services.dns and not services.dns.local_only:
            yield from _elsewhere(services.dns, tag)
    if services.dhcp6:
        gateway = services.dhcp.gateway if services.dhcp else True
        yield from _dhcp6(services, switch.addressed, subnets, gateway=gateway and network.mode in _HAS_WAY_OUT)


def answers(dns: Dns, subnets: list[Subnet]) -> Iterator[str]:
    """Yield what answers names, and which addresses nobody else is asked about."""
    yield "strict-order"
    yield "domain-needed"
    yield "expand-hosts"
    if dns.local_only:
        yield "no-resolv"
    elif dns.forwarders:
        yield "no-resolv"
        yield from (f"server={address}" for address in dns.forwarders)
    if dns.domain:
        yield f"local=/{dns.domain}/"
    yield from (f"rev-server={subnet}" for subnet in subnets)  # who has an address here, nobody else knows


def common() -> Iterator[str]:
    """Yield what holds for both kinds of addresses. A guest cannot fill a disk by asking again and again."""
    yield from ("quiet-dhcp", "quiet-dhcp6", "quiet-ra")
    # Who calls himself so would tell every browser which proxy to use.
    yield "dhcp-name-match=set:wpad,wpad"
    yield "dhcp-ignore-names=tag:wpad"


def _dhcp(dhcp: Dhcp, services: Services, subnets: list[Subnet], inside: str, tag: str) -> Iterator[str]:
    first, last = ipaddress.ip_address(dhcp.first), ipaddress.ip_address(dhcp.last)
    subnet = next((one for one in subnets if first in one), None)
    netmask = f",{subnet.netmask}" if subnet else ""
    only = f"tag:{tag}," if tag else ""
    yield f"dhcp-range={f'set:{tag},' if tag else ''}{first},{last}{netmask},{dhcp.lease}"
    if not tag:
        yield from most((services,))
    if not dhcp.gateway:
        yield f"dhcp-option={only}option:router"
    yield f"dhcp-option={only}option:mtu,{services.mtu}"
    for option, value in dhcp.options:
        yield f"dhcp-option={only}{_option(option)},{','.join(map(quoted, value.split(',')))}"
    if dhcp.boot:
        yield from _boot(dhcp.boot, inside, only)


def most(services: Sequence[Services]) -> Iterator[str]:
    """Yield how many addresses are lent at most, and that nobody else lends any there."""
    counts = (_size(one.dhcp) + len(one.hosts) for one in services if one.dhcp)
    yield f"dhcp-lease-max={min(sum(counts) + 256, _MOST_LEASES)}"
    yield "dhcp-authoritative"
    yield "dhcp-no-override"
    yield "no-ping"  # which would take three seconds; guests look themselves whether somebody has their address


def _size(dhcp: Dhcp) -> int:
    return int(ipaddress.ip_address(dhcp.last)) - int(ipaddress.ip_address(dhcp.first)) + 1


def _elsewhere(dns: Dns, tag: str) -> Iterator[str]:
    """Yield what sends guests straight to the name servers that we would have asked for them."""
    fourth = [address for address in dns.forwarders if ":" not in address]
    if fourth:
        yield f"dhcp-option={f'tag:{tag},' if tag else ''}option:dns-server,{','.join(fourth)}"


def _option(name: str) -> str:
    return name if name.isdecimal() else f"option:{name}"


def _boot(boot: Boot, inside: str, only: str) -> Iterator[str]:
    yield f"dhcp-boot={only}{quoted(boot.file)}" + (f",,{boot.server}" if boot.server else "")
    if boot.root is not None:
        yield f"enable-tftp={quoted(inside)}" if inside else "enable-tftp"
        yield "tftp-single-port"
        yield f"tftp-root={quoted(boot.root)}" + (f",{quoted(inside)}" if inside else "")


def _dhcp6(services: Services, inside: str, subnets: list[Subnet], *, gateway: bool) -> Iterator[str]:
    assert services.dhcp6 is not None, "asked for only then"
    lease = services.dhcp.lease if services.dhcp else 3600
    yield "enable-ra"
    yield f"ra-param={inside},mtu:{services.mtu},{'60' if gateway else '60,0'}"
    yield from (f"dhcp-range={text},{lease}" for text in _ranges6(services.dhcp6, subnets))


def _ranges6(dhcp6: Dhcp6, subnets: list[Subnet]) -> Iterator[str]:
    for subnet in subnets:
        if subnet.version == 4:
            continue
        if dhcp6.first is None or dhcp6.last is None:
            yield f"{subnet.network_address},{'ra-stateless,ra-names' if dhcp6.slaac else 'static'},{subnet.prefixlen}"
        elif ipaddress.ip_address(dhcp6.first) in subnet:
            yield f"{dhcp6.first},{dhcp6.last},{'slaac,' if dhcp6.slaac else ''}{subnet.prefixlen}"


def quoted(text: str) -> str:
    """Return a word of the file, in quotes if it has anything that means something there."""
    if not any(char.isspace() or char in ',#"\\' for char in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _checked(text: str) -> str:
    """Return a line; raises Failed for one that would be two."""
    if not text.isprintable():
        raise Failed(f"dnsmasq has no way to write {text!r}", hint="take out what cannot be printed")
    return text
