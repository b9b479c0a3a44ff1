"""One dnsmasq for several networks: it listens at the host's end of the cable into each, whose bridges stay bare.

It is up before the first of them and hears of each interface when that is there. It serves all networks of the file
that name it, whether they are up or not: one that comes later needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from qemunet.facts import Facts
from qemunet.model import names
from qemunet.model.network import DhcpServer, Dns, Network, OwnBridge, Services
from qemunet.plan import dhcp
from qemunet.steps import Part, Step, WriteFile

_ENTERPRISE = 32473  # of nobody; by itself dnsmasq takes a MAC for its number, and there may be no interface yet
SERVED_BY = "served-by"  # a file in the scope of a network: where its server has its files, and the network's subnets


def part(server: DhcpServer, facts: Facts) -> Part:
    """Return the shared part that starts a server."""
    scope = dhcp.server_scope(server.name)
    text = conf(server, dns_taken=bool(dhcp.dns_holder(facts)))
    known = tuple(network.services for network in server.networks if network.services is not None)
    made = () if scope in facts.scopes else dhcp.started(scope, f"dhcp-server.{server.name}", text, known, facts)
    return Part(scope, tuple(made), names.digest(repr((conf(server), known)), 16))


def joined(network: Network, switch: OwnBridge, services: Services, facts: Facts) -> Iterator[Step]:
    """Yield what makes a network one that its server, which is up, serves."""
    yield from dhcp.heard(switch, services)
    lines = (dhcp.serving_scope(network), *map(str, dhcp.subnets_of(network)))
    yield WriteFile(f"{facts.runtime}/net/{network.name}/{SERVED_BY}", "".join(f"{one}\n" for one in lines))


def conf(server: DhcpServer, *, dns_taken: bool = False) -> str:
    """Return the text of ``dnsmasq.conf`` (dnsmasq(8)); `dns_taken`: somebody has port 53, so no names are served."""
    members = [(one, one.switch, one.services) for one in server.networks]
    served = [(one, its, known) for one, its, known in members if isinstance(its, OwnBridge) and known is not None]
    told = next((known.dns for _, _, known in served if known.dns is not None), None)
    dns = None if dns_taken else told
    subnets = [subnet for one, _, _ in served for subnet in dhcp.subnets_of(one)]
    lines = [
        f"# dhcp-server {server.name}",
        *(f"interface={dhcp.quoted(switch.addressed)}" for _, switch, _ in served),
        "except-interface=lo",
        "bind-dynamic",  # it hears of interfaces that come later, and listens to nobody else
        "no-hosts",
        *(dhcp.answers(dns, subnets) if dns else ("port=0",)),
        *((f"domain={told.domain}",) if told and told.domain else ()),
        *((f"dhcp-duid={_ENTERPRISE},{served[0][1].mac}",) if any(known.dhcp6 for _, _, known in served) else ()),
        *dhcp.common(),
        *dhcp.most([known for _, _, known in served]),
    ]
    for number, (network, switch, known) in enumerate(served):
        lines += dhcp.addresses(network, switch, known, dns, f"net{number}")
        lines += _unnamed(known, dns, f"net{number}")
    return dhcp.written(dict.fromkeys(lines))


def _unnamed(services: Services, dns: Dns | None, tag: str) -> Iterator[str]:
    """Yield what keeps a network without names from being told of a name server that others have."""
    if dns is not None and services.dns is None:
        yield f"dhcp-option=tag:{tag},option:dns-server"
