"""The text of a network's rules, and the switches that go with them; what they do is measured in tests/kernel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qemunet.errors import Failed
from qemunet.facts import Facts, LinkFact
from qemunet.frozen import replace
from qemunet.model.network import Firewall, HostSide, Masquerade, Network, NetworkMode, OwnBridge, PortForward
from qemunet.plan import firewall, links
from qemunet.steps import LoadTable, Part, SetSysctl

BRIDGE = OwnBridge("virbr4", "02:00:00:00:00:04", 1500, False, 0, 300, ("192.168.50.1/24", "fd77::1/64"))
CABLE = replace(BRIDGE, host=HostSide.VETH, host_ifname="vmh2", port_ifname="vmh1")
SHUT = Firewall(None, None, (), ("dhcp", "dns", "icmp"))
NAT = replace(SHUT, masquerade=Masquerade())
WEB = PortForward("tcp", "", (8080, 8080), "192.168.50.12", (80, 80))
ETH0 = LinkFact(2, "eth0", "", "02:00:00:00:00:02", 1500, up=True)
KEY4, KEY6 = "net.ipv4.conf.eth0.forwarding", "net.ipv6.conf.eth0.force_forwarding"
ALL6, FORCED = "net.ipv6.conf.all.forwarding", "net.ipv6.conf.all.force_forwarding"
FACTS = Facts(
    "/r",
    "m",
    0,
    can_switch_user=True,
    links={"eth0": ETH0},
    addresses={"eth0": ("203.0.113.1/24", "2001:db8::1/64")},
    sysctls={KEY4: "0", KEY6: "0", ALL6: "0", FORCED: "0"},
)


def network(mode: NetworkMode, rules: Firewall | None, switch: OwnBridge = BRIDGE) -> Network:
    return Network("lab", mode, switch, firewall=rules)


def table(mode: NetworkMode, rules: Firewall | None, switch: OwnBridge = BRIDGE, name: str = "lab") -> LoadTable:
    (step,) = firewall.load(replace(network(mode, rules, switch), name=name), switch, FACTS)
    assert isinstance(step, LoadTable)
    return step


CASES = [
    (NetworkMode.NAT, NAT, BRIDGE),
    (NetworkMode.NAT, replace(NAT, forwards=(WEB,), uplink="eth0", host_services=("all",)), CABLE),
    (NetworkMode.NAT, replace(NAT, masquerade=Masquerade((1, 2), "203.0.113.4")), BRIDGE),
    (NetworkMode.NAT, replace(NAT, masquerade=Masquerade((1, 2), "2001:db8::4")), BRIDGE),
    (NetworkMode.ROUTED, replace(SHUT, forwards=(WEB,)), BRIDGE),
    (NetworkMode.ISOLATED, replace(SHUT, host_services=("tcp:3128", "udp:5-9")), CABLE),
    (NetworkMode.ISOLATED, replace(SHUT, forwards=(replace(WEB, address="127.0.0.1"),)), BRIDGE),
    (NetworkMode.ISOLATED, None, BRIDGE),
    (NetworkMode.ISOLATED, SHUT, replace(BRIDGE, ifname="br*", addresses=())),
]


@pytest.mark.parametrize(("mode", "rules", "switch"), CASES)
def test_every_rule_of_a_base_chain_names_an_interface_of_ours(
    mode: NetworkMode, rules: Firewall | None, switch: OwnBridge
) -> None:
    """So that nothing else on the host is touched; but a forward of the host's own ports, and what leaves a subnet."""
    text = table(mode, rules, switch).rules
    assert "policy drop" not in text
    bases = re.findall(r"chain (\S+) \{\n +type [^\n]*\n((?:        .*\n)*)", text)
    known = re.compile(r'"(virbr4|vmh2|br\\\*)"|dnat ip|saddr|oifgroup|ip6? daddr (\{ 224|ff00)')
    strange = [line for name, body in bases for line in body.splitlines() if not known.search(line)]
    assert (bool(bases), strange) == (True, [])


@pytest.mark.parametrize("mode", [NetworkMode.OPEN, NetworkMode.PRIVATE])
def test_open_and_private_networks_have_no_table(mode: NetworkMode) -> None:
    assert list(firewall.load(network(mode, None), BRIDGE, FACTS)) == []


def test_an_isolated_network_is_isolated_whatever_the_host_serves() -> None:
    """Its table says nothing of the host then."""
    text = table(NetworkMode.ISOLATED, None).rules
    assert "chain from-guests" in text
    assert "input" not in text
    assert not re.search(r"\bct ", text), "nothing has to be remembered for it"


def test_a_table_is_known_by_its_name_and_comment() -> None:
    """Two runtime directories may have a network of one name; a long name is cut."""
    mine, long = table(NetworkMode.NAT, NAT), table(NetworkMode.NAT, NAT, name="n" * 63)
    assert re.fullmatch(r"qemunet-lab-[4-7][0-9a-f]{7}", mine.name)
    assert f'table inet {mine.name} {{\n    comment "qemunet.net-lab.firewall"\n' in mine.rules
    assert mine.name != firewall.table_name("lab", firewall.table_mark("lab", "/other"))
    assert len(long.name) == 57


def test_a_shifted_range_is_spelled_out() -> None:
    """nft would choose any port of a range."""
    shifted = replace(WEB, ports=(8000, 8002), to_ports=(9000, 9002))
    text = table(NetworkMode.NAT, replace(NAT, forwards=(shifted,))).rules
    to = "192.168.50.12"
    assert f"dnat ip to tcp dport map {{ 8000 : {to} . 9000, 8001 : {to} . 9001, 8002 : {to} . 9002 }}" in text


def test_a_name_that_nft_cannot_write_is_refused() -> None:
    """It would be read as rules."""
    with pytest.raises(Failed, match='nft has no way to write the interface a";drop'):
        table(NetworkMode.NAT, NAT, replace(BRIDGE, ifname='a";drop'))


# ---------------------------------------------------------------- switches


def written(mode: NetworkMode, rules: Firewall | None, switch: OwnBridge = BRIDGE, facts: Facts = FACTS) -> list[str]:
    own = links.bridge(network(mode, rules, switch), switch, facts).steps
    found = [f"{step.key}={step.value}" for step in own if isinstance(step, SetSysctl)]
    return [one for one in found if not one.endswith(("disable_ipv6=1", "accept_ra=0", "autoconf=0"))]


def test_only_interfaces_of_ours_pass_packets_on() -> None:
    """By a switch of their own; for IPv6 by two, of which the kernel may not have one."""
    own = ["net.ipv4.conf.virbr4.forwarding=1", "net.ipv6.conf.virbr4.forwarding=1"]
    forced = "net.ipv6.conf.virbr4.force_forwarding=1"
    old = replace(FACTS, sysctls={ALL6: "0"})
    assert written(NetworkMode.NAT, NAT) == [*own, forced]
    assert written(NetworkMode.OPEN, None) == [*own, forced]
    assert written(NetworkMode.NAT, NAT, facts=old) == own
    assert written(NetworkMode.ISOLATED, SHUT) == []


def test_a_bridge_without_an_address_does_not_answer_for_the_host() -> None:
    closed = ["net.ipv4.conf.virbr4.arp_ignore=8", "net.ipv4.conf.virbr4.rp_filter=1"]
    assert written(NetworkMode.PRIVATE, None, replace(BRIDGE, addresses=())) == closed
    assert written(NetworkMode.ISOLATED, SHUT, CABLE) == closed


def test_127_0_0_1_leads_to_a_guest_by_a_switch_of_the_bridge() -> None:
    """Which then needs no other forward to be switched on; one address of the host does not need it."""
    key = "net.ipv4.conf.virbr4.route_localnet=1"
    assert written(NetworkMode.ISOLATED, replace(SHUT, forwards=(WEB,)))[-1] == key
    assert key not in written(NetworkMode.NAT, replace(NAT, forwards=(replace(WEB, address="203.0.113.1"),)))


def test_uplinks_are_switched_on_for_as_long_as_somebody_needs_them() -> None:
    """By the scopes that point-to-point taps use as well; one that is named stands for all."""
    four, six = (
        Part("host/forward-eth0", (SetSysctl(KEY4, "1"),), "1"),
        Part("host/forward6-eth0", (SetSysctl(KEY6, "1"),), "1"),
    )
    assert list(firewall.ways(network(NetworkMode.NAT, NAT), BRIDGE, FACTS)) == [four, six]
    bound = network(NetworkMode.NAT, replace(NAT, uplink="eth9"))
    assert list(firewall.ways(bound, BRIDGE, FACTS)) == []
    assert list(firewall.ways(network(NetworkMode.ISOLATED, SHUT), BRIDGE, FACTS)) == []
    forwards = network(NetworkMode.ISOLATED, replace(SHUT, forwards=(WEB,)))
    assert list(firewall.ways(forwards, BRIDGE, FACTS)) == [four]


def test_where_only_the_whole_host_can_pass_ipv6_on_it_is_said() -> None:
    """With what to do; not where it is so already, or nobody asked."""
    old = replace(FACTS, sysctls={ALL6: "0"})
    (note,) = firewall.notes(network(NetworkMode.NAT, NAT), old)
    assert "sysctl -w net.ipv6.conf.all.forwarding=1" in note
    for facts in (FACTS, replace(FACTS, sysctls={ALL6: "1"}), replace(FACTS, sysctls={})):
        assert firewall.notes(network(NetworkMode.NAT, NAT), facts) == ()
    assert firewall.notes(network(NetworkMode.NAT, NAT, replace(BRIDGE, addresses=("10.0.0.1/8",))), old) == ()


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("nat", table(NetworkMode.NAT, replace(NAT, forwards=(WEB,)))),
        ("routed", table(NetworkMode.ROUTED, SHUT)),
        ("isolated", table(NetworkMode.ISOLATED, SHUT)),
    ],
)
def test_a_table_as_a_whole(name: str, step: LoadTable, request: pytest.FixtureRequest) -> None:
    """For the reader; ``--update-golden`` writes it anew."""
    path = Path(__file__).parent / "firewall" / f"{name}.nft"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(step.rules)
    assert step.rules == path.read_text()
