"""What the host answers on a network, by one dnsmasq: its configuration, whom it knows, and how it is started.

It has its files in a directory of its own, which `FILES` stands for; nothing in it is its to change
but the leases. What it is told at the start is in ``dnsmasq.conf``; the reservations are a file each in ``hosts/``, so
that those of cards that come later are heard of at once.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterator

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
    inside, directory = switch.addressed, f"{facts.runtime}/net/{network.name}"
    yield SetOffload(inside, on=False)
    if services.dhcp6 is not None:
        # Who is told by RA where to send packets may do so at once; the kernel would try its address for a second.
        yield SetSysctl(f"net.ipv6.conf.{sysctl_name(inside)}.accept_dad", "0")
    text = conf(network, dns_taken=bool(dns_holder(facts)))
    yield WriteFile(f"{directory}/{NAME}/{CONF}", text)
    yield WriteFile(f"{directory}/{NAME}/{NAMES}", known_names(services))
    yield WriteFile(f"{directory}/{NAME}/{HOSTS}/{_KNOWN}", "".join(map(_known, _reserved(services))))
    yield StartDaemon(
        name=NAME,
        directory=directory,
        argv=argv(),
        where=f"network.{network.name}",
        ready=_READY,
        uid=uid(network, facts),
        writes=(LEASES,),
        script=tuple(_script(network, text, services)),
    )


def reserve(vm: Vm, nic: Nic, network: Network, facts: Facts) -> Iterator[Step]:
    """Yield what tells a network's dnsmasq of a card, if it has one."""
    services = network.services
    if services is not None and services.dhcp is not None and nic.mac not in {host.mac for host in services.hosts}:
        directory = f"{facts.runtime}/net/{network.name}"
        yield Reserve(NAME, directory, f"{HOSTS}/{vm.name}.{nic.id}", reservation(vm, nic, network))


def dns_holder(facts: Facts) -> str:
    """Return who has the port of name servers on all of the host's addresses, so that we cannot; empty for nobody."""
    return facts.listeners.get("udp/53") or facts.listeners.get("tcp/53") or ""


def uid(network: Network, facts: Facts) -> int | None:
    """Return the numeric user for a network's dnsmasq, None if there can be none: then it is the caller.

    Guests have the lower half of the numbers; of two networks that get the same one, neither can read the other's
    files.
    """
    if not facts.can_switch_user:
        return None
    block = 0 if facts.runtime == USUAL_RUNTIME else 1 + int(names.digest(facts.runtime, 4), 16) % 0xFFFF
    half = UIDS // 2
    return FIRST_UID + block * UIDS + half + int(names.digest(f"net/{network.name}", 4), 16) % half


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


def _script(network: Network, text: str, services: Services) -> Iterator[str]:
    """Yield the same for a shell: there it goes to the background itself, as the user whom its package has for it."""
    folder = f'"$run"/{shlex.quote(network.name)}.{NAME}'
    yield f"mkdir -p {folder}/{HOSTS}"
    reservations = "".join(map(_known, _reserved(services)))
    for name, content in ((CONF, text), (NAMES, known_names(services)), (f"{HOSTS}/{_KNOWN}", reservations)):
        yield f"cat >{folder}/{name} <<'{_END}'\n{content}{_END}"
    words = [f"--conf-file={folder}/{CONF}", *(f"{option}{folder}{rest}" for option, rest in _PATHS)]
    yield " ".join([line(NAME), *words, f"--pid-file={folder}/pid"])


# ---------------------------------------------------------------- whom it knows


def reservation(vm: Vm, nic: Nic, network: Network) -> str:
    """Return the line about a card: its MAC, its addresses on that network, and the name of the vm.

    The second card that a vm has on a network has the card's id behind the vm's name: no two have the same name.
    """
    first = next((one for one in vm.nics if _is_on(one, network)), nic)
    name = vm.name if first.id == nic.id else f"{vm.name}-{nic.id}"
    subnets = _subnets(network)
    ips = (ipaddress.ip_interface(text).ip for text in nic.ips)
    inside = (str(ip) for ip in ips if any(ip in subnet for subnet in subnets))
    return _line(nic.mac, tuple(inside), name)


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


def _subnets(network: Network) -> list[Subnet]:
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
    subnets = _subnets(network)
    lines = [
        f"# network {network.name}",
        f"interface={_quoted(switch.addressed)}",
        "except-interface=lo",
        "bind-dynamic",  # else it would listen to everybody, and drop what is not for it
        "no-hosts",
        *(_dns(dns, subnets) if dns else ("port=0",)),
        *((f"domain={services.dns.domain}",) if services.dns and services.dns.domain else ()),
    ]
    if services.dhcp or services.dhcp6:
        lines += _common()
    if services.dhcp:
        lines += _dhcp(services.dhcp, services, subnets)
        if dns is None and services.dns and not services.dns.local_only:
            lines += _elsewhere(services.dns)
    if services.dhcp6:
        gateway = services.dhcp.gateway if services.dhcp else True
        lines += _dhcp6(services, switch.addressed, subnets, gateway=gateway and network.mode in _HAS_WAY_OUT)
    return "".join(f"{_checked(text)}\n" for text in lines)


def _dns(dns: Dns, subnets: list[Subnet]) -> Iterator[str]:
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


def _common() -> Iterator[str]:
    """Yield what holds for both kinds of addresses. A guest cannot fill a disk by asking again and again."""
    yield from ("quiet-dhcp", "quiet-dhcp6", "quiet-ra")
    # Who calls himself so would tell every browser which proxy to use.
    yield "dhcp-name-match=set:wpad,wpad"
    yield "dhcp-ignore-names=tag:wpad"


def _dhcp(dhcp: Dhcp, services: Services, subnets: list[Subnet]) -> Iterator[str]:
    first, last = ipaddress.ip_address(dhcp.first), ipaddress.ip_address(dhcp.last)
    subnet = next((one for one in subnets if first in one), None)
    netmask = f",{subnet.netmask}" if subnet else ""
    yield f"dhcp-range={first},{last}{netmask},{dhcp.lease}"
    yield f"dhcp-lease-max={min(int(last) - int(first) + 1 + len(services.hosts) + 256, _MOST_LEASES)}"
    yield "dhcp-authoritative"
    yield "dhcp-no-override"
    yield "no-ping"  # which would take three seconds; guests look themselves whether somebody has their address
    if not dhcp.gateway:
        yield "dhcp-option=option:router"
    yield f"dhcp-option=option:mtu,{services.mtu}"
    for option, value in dhcp.options:
        yield f"dhcp-option={_option(option)},{','.join(map(_quoted, value.split(',')))}"
    if dhcp.boot:
        yield from _boot(dhcp.boot)


def _elsewhere(dns: Dns) -> Iterator[str]:
    """Yield what sends guests straight to the name servers that we would have asked for them."""
    fourth = [address for address in dns.forwarders if ":" not in address]
    if fourth:
        yield f"dhcp-option=option:dns-server,{','.join(fourth)}"


def _option(name: str) -> str:
    return name if name.isdecimal() else f"option:{name}"


def _boot(boot: Boot) -> Iterator[str]:
    yield f"dhcp-boot={_quoted(boot.file)}" + (f",,{boot.server}" if boot.server else "")
    if boot.root is not None:
        yield "enable-tftp"
        yield "tftp-single-port"
        yield f"tftp-root={_quoted(boot.root)}"


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


def _quoted(text: str) -> str:
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
