"""A managed network is resolved to what the host does there: addresses, services, rules, and what stands in the way."""

from __future__ import annotations

import pytest

from qemunet.config import profiles, read, resolve
from qemunet.config.origins import origins
from qemunet.config.subnets import POOLS, upper_half
from qemunet.config.units import inside, plain
from qemunet.config.write import lab_toml, net_toml, vm_toml
from qemunet.errors import HostLacks, NotFound, Taken, UsageError
from qemunet.facts import Facts, LinkFact, RouteFact
from qemunet.frozen import replace
from qemunet.model.lab import Lab
from qemunet.model.network import (
    Boot,
    Dhcp,
    Dhcp6,
    Dns,
    Firewall,
    HostSide,
    KnownHost,
    Masquerade,
    Network,
    NetworkMode,
    OwnBridge,
    Parent,
    PortForward,
    Services,
)
from qemunet.model.nic import MacvtapBackend, MacvtapMode, OnNetwork, TapBackend
from qemunet.plan.links import network_fingerprint
from tests.unit.config_host import FACTS, FILE
from tests.unit.config_host import lab as resolved

HOST = replace(FACTS, programs={**FACTS.programs, "dnsmasq": "/usr/sbin/dnsmasq"})
QEMU_ONLY = {name: path for name, path in FACTS.programs.items() if name.startswith("qemu")}
ADDRESS = 'address = "192.168.50.1/24"\n'
NAT = '[network.lab]\nmode = "nat"\n' + ADDRESS
CARD = '[vm.a]\n[[vm.a.nic]]\nnetwork = "lab"\n'


def lab(text: str, facts: Facts = HOST, *, strict: bool = True) -> Lab:
    return resolved(text, facts, strict=strict)


def network(text: str, facts: Facts = HOST, *, strict: bool = True) -> Network:
    return lab(text, facts, strict=strict).networks[0]


def services(text: str) -> Services:
    found = network(text).services
    assert found is not None
    return found


def firewall(text: str) -> Firewall:
    found = network(text).firewall
    assert found is not None
    return found


def switch(text: str, facts: Facts = HOST) -> OwnBridge:
    found = network(text, facts).switch
    assert isinstance(found, OwnBridge)
    return found


# ---------------------------------------------------------------- defaults


def test_a_nat_network_serves_and_masquerades() -> None:
    """DHCP from the upper half, names, and out with the host's address; guests reach what is served, and may ping."""
    found = network(NAT)
    assert found.services == Services(
        dhcp=Dhcp("192.168.50.128", "192.168.50.254", 3600, gateway=True),
        dhcp6=None,
        dns=Dns(None, (), (), local_only=False),
        hosts=(),
        mtu=1500,
    )
    assert found.firewall == Firewall(None, Masquerade(), (), ("dhcp", "dns", "icmp"))


def test_a_routed_network_has_rules_but_no_other_address() -> None:
    """Its guests keep their own."""
    assert firewall(NAT.replace("nat", "routed")).masquerade is None


def test_an_open_network_is_served_and_has_no_rule() -> None:
    found = network(NAT.replace("nat", "open"))
    assert found.firewall is None
    assert found.services is not None


def test_an_isolated_network_stays_as_it_was_unless_it_is_told() -> None:
    """No DHCP, no rules: its guests have set their addresses themselves so far."""
    found = network("[network.lab]\n" + ADDRESS + CARD + 'ip = "192.168.50.9/24"\n', FACTS)
    assert (found.services, found.firewall) == (None, None)


def test_an_isolated_network_with_dhcp_leads_nowhere() -> None:
    """No gateway is told, no name of the world, and rules keep its guests in."""
    found = network("[network.lab]\ndhcp = true\n" + ADDRESS)
    assert found.services is not None
    assert found.services.dhcp is not None
    assert not found.services.dhcp.gateway
    assert found.services.dns == Dns(None, (), (), local_only=True)
    assert found.firewall == Firewall(None, None, (), ("dhcp", "dns", "icmp"))


def test_an_isolated_network_may_say_what_is_reached_on_the_host() -> None:
    """Then there are rules, though nothing is served."""
    found = network('[network.lab]\nhost-services = ["tcp:3128", "icmp"]\n' + ADDRESS)
    assert found.services is None
    assert found.firewall == Firewall(None, None, (), ("tcp:3128", "icmp"))


def test_what_is_served_can_be_turned_off() -> None:
    """And then guests need not reach it."""
    assert network(NAT + "dhcp = false\n").services is None
    assert firewall(NAT + "dhcp = false\n").host_services == ("icmp",)
    assert services(NAT + "dns = false\n").dns is None
    assert services(NAT + "dhcp = false\ndns = true\n").dhcp is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.168.120.1/24", ("192.168.120.128", "192.168.120.254")),
        ("192.168.120.254/24", ("192.168.120.128", "192.168.120.253")),
        ("192.168.120.200/24", ("192.168.120.128", "192.168.120.199")),
        ("192.168.120.130/24", ("192.168.120.131", "192.168.120.254")),
        ("10.0.0.1/30", ("10.0.0.2", "10.0.0.2")),
        ("10.0.0.1/8", ("10.128.0.0", "10.255.255.254")),
    ],
)
def test_the_usual_range_is_the_upper_half_without_the_host(address: str, expected: tuple[str, str]) -> None:
    """Nor is the broadcast address in it; where the host is in the midst of it, the longer part is taken."""
    assert upper_half(address) == expected


# ---------------------------------------------------------------- what a file may say


def test_everything_about_dhcp_can_be_said() -> None:
    """As in the specification, in a real table."""
    text = """
[network.lab.dhcp]
range = ["192.168.50.100", "192.168.50.200"]
lease = "2h"
gateway = false
options = { ntp-server = "192.0.2.1", "6" = ["192.0.2.2", "192.0.2.3"], mtu = 1400 }
boot = { file = "pxelinux.0", tftp = "dir" }
"""
    found = services(NAT + text)
    options = (("ntp-server", "192.0.2.1"), ("6", "192.0.2.2,192.0.2.3"), ("mtu", "1400"))
    boot = Boot("pxelinux.0", None, "/lab/dir")
    assert found.dhcp == Dhcp("192.168.50.100", "192.168.50.200", 7200, gateway=False, options=options, boot=boot)
    assert "udp:69" in firewall(NAT + text).host_services


def test_everything_about_names_can_be_said() -> None:
    """A name may have several addresses."""
    text = 'dns = { domain = "lab.test", forwarders = "192.0.2.53", hosts = { db = ["192.168.50.20", "fd77::2"] } }\n'
    hosts = (("db", "192.168.50.20"), ("db", "fd77::2"))
    assert services(NAT + text).dns == Dns("lab.test", ("192.0.2.53",), hosts, local_only=False)


def test_those_who_are_known_come_in_order() -> None:
    """In inline tables or real ones; inside the range or outside of it."""
    one = 'hosts = [{ mac = "52-54-00-AA-BB-CC", ip = "192.168.50.9", name = "printer" }]\n'
    assert services(NAT + one).hosts == (KnownHost("52:54:00:aa:bb:cc", "192.168.50.9", "printer"),)
    other = '[[network.lab.hosts]]\nmac = "52:54:00:aa:bb:cc"\nip = "192.168.50.200"\n'
    assert services(NAT + other).hosts == (KnownHost("52:54:00:aa:bb:cc", "192.168.50.200", ""),)


def test_ipv6_is_by_slaac_unless_there_is_a_range() -> None:
    """Which may then be in a network of any size."""
    both = NAT.replace('"192.168.50.1/24"', '["192.168.50.1/24", "fd77::1/64"]')
    assert services(both).dhcp6 == Dhcp6(slaac=True)
    ranged = both.replace("/64", "/120")
    ranged += 'dhcp.range = ["fd77::10", "fd77::20", "192.168.50.10", "192.168.50.20"]\n'
    assert services(ranged).dhcp6 == Dhcp6(slaac=False, first="fd77::10", last="fd77::20")
    alone = services(NAT.replace("192.168.50.1/24", "fd77::1/64") + "dhcp = true\n")
    assert (alone.dhcp, alone.dhcp6) == (None, Dhcp6(slaac=True))


def test_ports_and_source_of_a_nat_network() -> None:
    facts = replace(HOST, addresses={"eth1": ("203.0.113.4/24",)})
    found = network(NAT + 'nat = { ports = "2000-3000", source = "203.0.113.4" }\n', facts)
    assert found.firewall is not None
    assert found.firewall.masquerade == Masquerade((2000, 3000), "203.0.113.4")


def test_a_forward_leads_to_the_address_that_a_guest_has_there() -> None:
    """Of each kind that it listens on; an address may stand in the guest's place."""
    text = NAT.replace('"192.168.50.1/24"', '["192.168.50.1/24", "fd77::1/64"]')
    text += 'forward = ["tcp::8080:a:80", "udp:127.0.0.1:53-54:a:1053-1054", "tcp:[2001:db8::1]:22:a:22"]\n'
    text += '[vm.a]\n[[vm.a.nic]]\n[[vm.a.nic]]\nnetwork = "lab"\nip = ["192.168.50.12/24", "fd77::12/64"]\n'
    assert firewall(text).forwards == (
        PortForward("tcp", "", (8080, 8080), "192.168.50.12", (80, 80)),
        PortForward("tcp", "", (8080, 8080), "fd77::12", (80, 80)),
        PortForward("udp", "127.0.0.1", (53, 54), "192.168.50.12", (1053, 1054)),
        PortForward("tcp", "2001:db8::1", (22, 22), "fd77::12", (22, 22)),
    )
    plain = NAT + 'forward = "tcp::8080:192.168.50.77:80"\n'
    assert firewall(plain).forwards == (PortForward("tcp", "", (8080, 8080), "192.168.50.77", (80, 80)),)


@pytest.mark.parametrize(
    ("side", "expected", "addressed"),
    [
        ("bridge", (HostSide.BRIDGE, "", ""), "qn-lab"),
        ("veth", (HostSide.VETH, "qn-lab-host", "qn-lab-port"), "qn-lab-host"),
    ],
)
def test_the_host_is_on_the_bridge_or_at_the_end_of_a_cable(
    side: str, expected: tuple[HostSide, str, str], addressed: str
) -> None:
    """Its addresses are at one place only."""
    found = switch(NAT + f'host = "{side}"\n')
    assert (found.host, found.host_ifname, found.port_ifname) == expected
    assert found.addressed == addressed


def test_the_host_need_not_be_on_it() -> None:
    found = switch('[network.lab]\nhost = "none"\n')
    assert (found.host, found.addressed) == (HostSide.NONE, "")


def test_a_card_knows_that_it_is_given_its_address() -> None:
    """So the built-in guest asks for it."""
    for text, dhcp in ((NAT + CARD, True), ("[network.lab]\n" + ADDRESS + CARD, False)):
        backend = lab(text).vms[0].nics[0].backend
        assert isinstance(backend, TapBackend)
        assert backend.attach == OnNetwork("lab", "qn-lab", dhcp)


# ---------------------------------------------------------------- macvtaps


def test_every_card_on_a_network_of_macvtaps_is_one() -> None:
    """With the parent and the mode of the network."""
    text = '[network.lab]\nmode = "macvtap"\nparent = "eth9"\nmacvtap = "vepa"\n' + CARD
    found = lab(text)
    assert found.networks[0].switch == Parent("eth9", 9000, MacvtapMode.VEPA, host_macvlan=False)
    backend = found.vms[0].nics[0].backend
    assert backend == MacvtapBackend("qn-a-net0", "eth9", MacvtapMode.VEPA, 9000, None, "lab")
    assert found.vms[0].nics[0].network == "lab"


def test_a_network_of_macvtaps_may_have_the_host_beside_its_cards() -> None:
    """At the addresses that they have."""
    text = '[network.lab]\nmode = "macvtap"\nparent = "eth9"\nhost-macvlan = true\n' + CARD + 'ip = "192.0.2.9/24"\n'
    backend = lab(text, replace(HOST, addresses={"eth9": ("192.0.2.1/24",)})).vms[0].nics[0].backend
    assert isinstance(backend, MacvtapBackend)
    assert backend.host is not None
    assert backend.host.ways == (("192.0.2.9", "192.0.2.1"),)


# ---------------------------------------------------------------- automatic addresses


def test_an_automatic_network_is_free_and_stays_the_same() -> None:
    """By the network's name, on any host where nobody uses it."""
    (first,) = switch(NAT.replace("192.168.50.1/24", "auto")).addresses
    assert first == switch(NAT.replace("192.168.50.1/24", "auto")).addresses[0]
    assert inside(plain(first), POOLS[0])
    assert first.endswith(".1/24")
    used = replace(HOST, addresses={"br9": (first.replace(".1/24", ".77/26"),)})
    (second,) = switch(NAT.replace("192.168.50.1/24", "auto"), used).addresses
    assert second != first
    assert inside(plain(second), POOLS[0])


def test_a_vpn_that_has_a_whole_pool_leaves_others() -> None:
    """And its ways to half the world are none to a network."""
    routes = (RouteFact("10.0.0.0/8", "tun0"), RouteFact("0.0.0.0/1", "tun0"), RouteFact("128.0.0.0/1", "tun0"))
    (found,) = switch(NAT.replace("192.168.50.1/24", "auto"), replace(HOST, routes=routes)).addresses
    assert inside(plain(found), POOLS[1])
    everything = (*routes, RouteFact("172.16.0.0/12", "tun0"), RouteFact("192.168.0.0/16", "tun0"))
    with pytest.raises(Taken, match="no network is free in"):
        switch(NAT.replace("192.168.50.1/24", "auto"), replace(HOST, routes=everything))


def test_two_automatic_networks_are_apart() -> None:
    """From each other, and from what the file gives to a third."""
    names = "".join(f'[network.n{number}]\naddress = "auto"\n' for number in range(50))
    found = [one.switch.addresses[0] for one in lab(names).networks if isinstance(one.switch, OwnBridge)]
    assert len({*found}) == 50
    (first,) = switch('[network.lab]\naddress = "auto"\n').addresses
    both = f'[network.lab]\naddress = "auto"\n[network.other]\naddress = "{first}"\n'
    assert switch(both).addresses != (first,)


def test_an_automatic_network_that_is_up_keeps_its_address() -> None:
    """Others join it where it is."""
    up = replace(HOST, scopes={"net/lab": "x"}, networks={"lab": '[network.lab]\naddress = ["10.9.8.1/24"]\n'})
    assert switch('[network.lab]\naddress = "auto"\n', up).addresses == ("10.9.8.1/24",)


def test_a_damaged_record_of_a_network_is_none() -> None:
    """What cannot be read is not believed."""
    up = replace(HOST, scopes={"net/lab": "x"}, networks={"lab": "[network"})
    assert (
        switch('[network.lab]\naddress = "auto"\n', up).addresses
        == switch('[network.lab]\naddress = "auto"\n').addresses
    )


# ---------------------------------------------------------------- networks of others


def test_an_external_network_is_what_its_lab_made_of_it() -> None:
    """And users of both see one and the same."""
    text = NAT + 'keep = true\nforward = "tcp::80:192.168.50.7:80"\n'
    theirs = lab(text)
    record = net_toml(theirs, theirs.networks[0])
    up = replace(HOST, scopes={"net/lab": "x"}, networks={"lab": record})
    ours = network("[network.lab]\nexternal = true\n" + CARD, up)
    assert ours == replace(theirs.networks[0], external=True)
    assert network_fingerprint(ours) == network_fingerprint(theirs.networks[0])


def test_an_external_network_has_to_be_up() -> None:
    """To run; to look at, it need not."""
    with pytest.raises(NotFound, match='network "lab" is not up'):
        network("[network.lab]\nexternal = true\n")
    assert network("[network.lab]\nexternal = true\n", strict=False).external


# ---------------------------------------------------------------- what stands in the way


def test_what_a_managed_network_needs_is_said_at_once() -> None:
    """Programs and interfaces, each with a remedy."""
    with pytest.raises(HostLacks) as caught:
        lab(NAT + 'uplink = "wan0"\nnat.source = "203.0.113.4"\n', replace(FACTS, uid=1000, programs=QEMU_ONLY))
    assert caught.value.lacks == (
        "the right to make a bridge (you are not root)",
        "dnsmasq, which serves DHCP and DNS",
        "nft, for the rules of mode nat",
        "the interface wan0",
        "the address 203.0.113.4, which guests are to come from",
    )
    assert "dnsmasq-base" in caught.value.hint
    assert "nftables" in caught.value.hint


def test_a_network_without_services_and_rules_needs_no_program() -> None:
    for text in (
        "[network.lab]\n" + ADDRESS,
        '[network.lab]\nmode = "private"\n',
        '[network.lab]\nmode = "bridge"\nbridge = "br0"\n',
    ):
        assert network(text, FACTS).services is None


def test_a_network_that_is_up_lacks_nothing() -> None:
    """Somebody else has made it, and what it takes was there."""
    assert network(NAT, replace(FACTS, scopes={"net/lab": "x"})).services is not None


@pytest.mark.parametrize(
    ("facts", "who"),
    [
        (replace(HOST, addresses={"eth1": ("192.168.50.77/24",)}), "eth1 has the address 192.168.50.77/24"),
        (replace(HOST, addresses={"eth1": ("192.168.0.1/16",)}), "eth1 has the address 192.168.0.1/16"),
        (replace(HOST, routes=(RouteFact("192.168.50.128/25", "tun0"),)), "tun0 is the way to 192.168.50.128/25"),
        (replace(HOST, routes=(RouteFact("192.168.0.0/16", "tun0", "10.0.0.1"),)), "tun0 is the way to 192.168.0.0/16"),
    ],
)
def test_a_network_that_the_host_uses_is_taken(facts: Facts, who: str) -> None:
    """Whichever of the two is in the other; by whom is said."""
    with pytest.raises(Taken) as caught:
        network("[network.lab]\n" + ADDRESS, facts)
    assert caught.value.message == f"the network 192.168.50.0/24 is in use on this host: {who}"
    assert caught.value.where == "network.lab.address"
    assert network("[network.lab]\n" + ADDRESS, facts, strict=False).name == "lab"
    assert network("[network.lab]\n" + ADDRESS, replace(facts, scopes={"net/lab": "x"})).name == "lab"


def test_a_network_of_ipv6_can_be_taken_too() -> None:
    """Link-local ones are on every interface and in nobody's way."""
    text = '[network.lab]\naddress = ["fd77::1/64", "fe80::1/64"]\n'
    for facts in (
        replace(HOST, addresses={"eth1": ("fd77::2/48",)}),
        replace(HOST, routes=(RouteFact("fd00::/8", "wg0"),)),
    ):
        with pytest.raises(Taken, match="fd77::/64 is in use"):
            network(text, facts)
    quiet = replace(
        HOST, addresses={"eth1": ("fe80::2/64",)}, routes=(RouteFact("fe80::/64", "eth1"), RouteFact("default", "eth1"))
    )
    assert network(text, quiet).name == "lab"


def test_the_own_bridge_is_nobody_else() -> None:
    """What a killed start has left there is taken back before."""
    facts = replace(HOST, addresses={"qn-lab": ("192.168.50.1/24",)}, routes=(RouteFact("192.168.50.0/24", "qn-lab"),))
    assert network(NAT, facts).name == "lab"


def test_a_route_to_nowhere_is_nobodys_network() -> None:
    """A blackhole is there to be overruled."""
    assert network(NAT, replace(HOST, routes=(RouteFact("192.168.0.0/16", ""),))).name == "lab"


def test_a_forwarded_port_that_somebody_has_is_taken() -> None:
    """A program of the host, or another network that is up."""
    text = NAT + 'forward = "tcp::8080-8081:192.168.50.7:80-81"\n'
    with pytest.raises(Taken) as caught:
        network(text, replace(HOST, listeners={"tcp/8081": "nginx (pid 7)"}))
    assert str(caught.value) == "network.lab.forward: tcp port 8081 is in use by nginx (pid 7)"
    other = '[network.web]\nmode = "nat"\naddress = "10.0.9.1/24"\nforward = "tcp:127.0.0.1:8080:10.0.9.2:80"\n'
    with pytest.raises(Taken, match="tcp port 8080 is forwarded by network web"):
        network(text, replace(HOST, networks={"web": other}))
    assert network(text, replace(HOST, networks={"web": other.replace("tcp:", "udp:")})).name == "lab"


# ---------------------------------------------------------------- what the photograph has to show


def test_the_photograph_shows_what_a_network_depends_on() -> None:
    text = NAT + 'uplink = "eth1"\nhost = "veth"\nforward = "tcp::8080:192.168.50.7:80"\n'
    text += 'dhcp.boot = { file = "x", tftp = "dir" }\n'
    spec = read.loads(text, FILE)
    wanted = resolve.wanted(spec, profiles.load_all(spec))
    assert {"eth1", "qn-lab", "qn-lab-host", "qn-lab-port"} <= wanted.links
    assert {"nft", "dnsmasq"} <= wanted.programs
    assert wanted.files == {"/lab/dir"}
    assert wanted.routes
    assert wanted.networks
    assert ("tcp", "", 8080, 8080) in wanted.ports
    assert {port for _, _, port, _ in wanted.ports} == {8080, 53}


def test_a_plain_network_asks_for_nothing_more_than_before() -> None:
    """The start of a lab is not the place to look at everything."""
    spec = read.loads('[network.lab]\nmode = "private"\n' + CARD, FILE)
    wanted = resolve.wanted(spec, profiles.load_all(spec))
    assert (wanted.routes, wanted.networks, wanted.ports) == (False, False, frozenset())
    assert wanted.programs == {"qemu-system-x86_64"}


# ---------------------------------------------------------------- written and read back

EVERYTHING = """
[network.lab]
mode = "nat"
address = ["192.168.50.1/24", "fd77::1/120", "auto"]
host = "veth"
uplink = "eth1"
mtu = 1400
forward = ["tcp::8080:a:80", "udp:[::]:53:[fd77::9]:53"]
host-services = ["all"]
nat.ports = "2000-3000"
dns = { domain = "lab.test", hosts = { "db.lab" = ["192.168.50.20", "fd77::2"] }, forwarders = ["192.0.2.53"] }
[network.lab.dhcp]
range = ["192.168.50.9", "192.168.50.99", "fd77::10", "fd77::20"]
options = { "6" = "192.0.2.2" }
lease = "3m"
boot = { file = "x", server = "192.0.2.3" }
[[network.lab.hosts]]
mac = "52:54:00:aa:bb:cc"
ip = "192.168.50.9"
name = "printer"
[[network.lab.hosts]]
mac = "52:54:00:aa:bb:cd"
ip = "192.168.50.8"
"""
CARDS = CARD + 'ip = ["192.168.50.12/24"]\n'


@pytest.mark.parametrize(
    "text",
    [
        EVERYTHING,
        NAT,
        NAT.replace("nat", "routed") + 'uplink = "eth1"\n',
        NAT.replace("nat", "open"),
        NAT + "dhcp = false\n",
        NAT + "dns = false\n",
        NAT + "dhcp = false\ndns = true\n",
        NAT + 'dhcp.boot = { file = "x", tftp = "dir" }\n',
        NAT.replace('"192.168.50.1/24"', '["192.168.50.1/24", "fd77::1/64"]'),
        NAT.replace("192.168.50.1/24", "auto").replace("nat", "isolated"),
        "[network.lab]\ndhcp = true\n" + ADDRESS,
        '[network.lab]\nhost-services = "icmp"\n' + ADDRESS,
        "[network.lab]\n" + ADDRESS,
        '[network.lab]\nhost = "none"\n',
        '[network.lab]\nmode = "private"\n',
        '[network.lab]\nmode = "macvtap"\nparent = "eth9"\nmacvtap = "private"\n',
    ],
)
def test_a_network_is_written_as_one_that_means_the_same(text: str) -> None:
    """In the lab's file, in a vm's and in its own: all that use it must agree on what it is."""
    first = lab(text + (CARDS if "auto" not in text or "192" in text else CARD))
    assert lab(lab_toml(first)) == first
    assert lab_toml(lab(lab_toml(first))) == lab_toml(first)
    vm = lab(vm_toml(first, first.vm("a")))
    assert (vm.networks, vm.vms) == (first.networks, first.vms)
    (alone,) = lab(net_toml(first, first.networks[0])).networks
    assert alone == first.networks[0]
    assert network_fingerprint(alone) == network_fingerprint(first.networks[0])


def test_what_a_network_serves_and_lets_through_is_part_of_what_it_is() -> None:
    """Whoever brings other services or rules is told so; whether it stays is nobody's business."""
    known = {network_fingerprint(network(NAT + more)) for more in ("", "dns = false\n", 'host-services = "all"\n')}
    assert len(known) == 3
    assert network_fingerprint(network(NAT + "keep = true\n")) in known


def test_every_value_says_where_it_came_from() -> None:
    """Those in the tables below a network as well."""
    text = NAT + 'hosts = [{ mac = "52:54:00:aa:bb:cc", ip = "192.168.50.9" }]\n'
    text += 'dns = false\n[network.lab.dhcp]\nlease = "2h"\n'
    spec = read.loads(text, FILE, ["network.lab.nat.ports=1-2", "network.lab.dhcp.gateway=false"])
    found = profiles.load_all(spec)
    written = lab_toml(resolve.resolve(spec, found, HOST), origins(spec, found)).splitlines()
    for line in (
        'address = ["192.168.50.1/24"]  # file',
        "dns = false  # file",
        'ports = "1-2"  # --set',
        'lease = "7200s"  # file',
        "gateway = false  # --set",
        'range = ["192.168.50.128", "192.168.50.254"]  # derived',
        'ip = "192.168.50.9"  # file',
        'host = "bridge"  # default',
    ):
        assert line in written
    assert all("  # " in line for line in written if " = " in line)


def test_a_table_can_be_turned_on_and_off_on_the_command_line() -> None:
    """Or a value be set in it, if the file only says that it is there."""
    text = "[network.lab]\ndhcp = true\n" + ADDRESS

    def dhcp(*overrides: str) -> object:
        (found,) = read.loads(text, FILE, overrides).networks
        return found.dhcp and (found.dhcp.on, found.dhcp.lease)

    assert dhcp("network.lab.dhcp=false") == (False, None)
    assert dhcp("network.lab.dhcp.lease=2h") == (True, 7200)
    with pytest.raises(UsageError):
        dhcp("network.lab.nat=false")
    with pytest.raises(UsageError):
        dhcp("network.lab.dhcp=false", "network.lab.dhcp.lease=2h")


def test_the_link_of_a_parent_may_be_missing_to_look_at_it() -> None:
    """But not to run it."""
    text = '[network.lab]\nmode = "macvtap"\nparent = "eth77"\n'
    assert network(text, strict=False).switch == Parent("eth77", 1500, MacvtapMode.BRIDGE, host_macvlan=False)
    with pytest.raises(HostLacks, match="the interface eth77"):
        network(text)
    assert network(text, replace(HOST, links={"eth77": LinkFact(9, "eth77", "", "52:54:00:00:00:01", 1500, up=True)}))
    assert network(text, strict=False).mode is NetworkMode.MACVTAP
