"""What dnsmasq is told for each kind of network, and that nobody can tell it more by a strange name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemunet.errors import Failed
from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.model.network import (
    Boot,
    Dhcp,
    Dhcp6,
    Dns,
    HostSide,
    KnownHost,
    Network,
    NetworkMode,
    OwnBridge,
    Services,
)
from qemunet.model.nic import Nic, OnNetwork, TapBackend
from qemunet.model.vm import Accel, DirectBoot, Firmware, Machine, NicBus, Vm
from qemunet.plan import dhcp
from qemunet.steps import SetOffload, SetSysctl, StartDaemon, WriteFile

FACTS = Facts("/run/qemunet", "machine", 0, can_switch_user=True)
BRIDGE = OwnBridge("qn-lab", "52:54:00:aa:bb:01", 1500, False, 0, 300, ("192.168.50.1/24",))
POOL = Dhcp("192.168.50.100", "192.168.50.200", 3600, gateway=True)
NAMES = Dns("lab.test", (), (), local_only=False)
SERVICES = Services(POOL, None, NAMES, (), 1500)
MAC = "52:54:00:00:00:0a"


def network(mode: NetworkMode = NetworkMode.NAT, switch: OwnBridge = BRIDGE, **services: object) -> Network:
    return Network("lab", mode, switch, services=replace(SERVICES, **services))


def conf(net: Network) -> list[str]:
    return dhcp.conf(net).splitlines()


NAT = """\
# network lab
interface=qn-lab
except-interface=lo
bind-dynamic
no-hosts
strict-order
domain-needed
expand-hosts
local=/lab.test/
rev-server=192.168.50.0/24
domain=lab.test
quiet-dhcp
quiet-dhcp6
quiet-ra
dhcp-name-match=set:wpad,wpad
dhcp-ignore-names=tag:wpad
dhcp-range=192.168.50.100,192.168.50.200,255.255.255.0,3600
dhcp-lease-max=357
dhcp-authoritative
dhcp-no-override
no-ping
dhcp-option=option:mtu,1500
"""


def test_a_network_with_a_way_out() -> None:
    """Names that are not ours are asked of the servers that the host has."""
    assert dhcp.conf(network()) == NAT


def test_forwarders_of_the_file_are_the_only_ones() -> None:
    lines = conf(network(dns=replace(NAMES, forwarders=("192.0.2.53", "2001:db8::53"))))
    assert {"no-resolv", "server=192.0.2.53", "server=2001:db8::53"} <= set(lines)


def test_where_only_local_names_are_known_there_are_no_forwarders() -> None:
    """Even if some are named."""
    lines = conf(network(NetworkMode.ISOLATED, dns=replace(NAMES, forwarders=("192.0.2.53",), local_only=True)))
    assert "no-resolv" in lines
    assert not [line for line in lines if line.startswith("server=")]


def test_a_network_without_names() -> None:
    lines = conf(network(dns=None))
    assert "port=0" in lines
    assert not [line for line in lines if line.startswith(("domain", "local", "rev-server"))]


def test_where_somebody_has_the_port_guests_still_learn_their_domain() -> None:
    lines = dhcp.conf(network(), dns_taken=True).splitlines()
    assert "port=0" in lines
    assert "domain=lab.test" in lines
    assert not [line for line in lines if "dns-server" in line]


def test_where_somebody_has_the_port_guests_are_sent_to_the_forwarders() -> None:
    """If the file names some and they may be asked at all."""
    dns = replace(NAMES, forwarders=("192.0.2.53", "2001:db8::53"))
    said = "dhcp-option=option:dns-server,192.0.2.53"
    assert said in dhcp.conf(network(dns=dns), dns_taken=True).splitlines()
    assert said not in dhcp.conf(network(dns=replace(dns, local_only=True)), dns_taken=True).splitlines()
    assert said not in dhcp.conf(network(dns=dns)).splitlines()


def test_a_network_without_addresses_to_give() -> None:
    assert not [line for line in conf(network(dhcp=None)) if "dhcp" in line]


def test_no_gateway_is_said_by_an_empty_option() -> None:
    assert "dhcp-option=option:router" in conf(network(dhcp=replace(POOL, gateway=False)))


def test_options_by_name_and_number() -> None:
    options = (("ntp-server", "192.0.2.1,192.0.2.2"), ("17", 'a "b" #c'))
    lines = conf(network(dhcp=replace(POOL, options=options)))
    assert "dhcp-option=option:ntp-server,192.0.2.1,192.0.2.2" in lines
    assert r'dhcp-option=17,"a \"b\" #c"' in lines


def test_booting_from_here_and_from_elsewhere() -> None:
    here = conf(network(dhcp=replace(POOL, boot=Boot("pxe,linux.0", root="/srv/my tftp"))))
    assert {'dhcp-boot="pxe,linux.0"', "enable-tftp", "tftp-single-port", 'tftp-root="/srv/my tftp"'} <= set(here)
    there = conf(network(dhcp=replace(POOL, boot=Boot("pxelinux.0", server="192.0.2.9"))))
    assert "dhcp-boot=pxelinux.0,,192.0.2.9" in there
    assert "enable-tftp" not in there


SIXTH = replace(BRIDGE, addresses=("192.168.50.1/24", "fd77::1/64"))


@pytest.mark.parametrize(
    ("mode", "router"), [(NetworkMode.NAT, "60"), (NetworkMode.ROUTED, "60"), (NetworkMode.ISOLATED, "60,0")]
)
def test_who_is_a_router_in_ipv6(mode: NetworkMode, router: str) -> None:
    """Only a host with a way out."""
    lines = conf(network(mode, SIXTH, dhcp6=Dhcp6(slaac=True)))
    assert f"ra-param=qn-lab,mtu:1500,{router}" in lines
    assert "dhcp-range=fd77::,ra-stateless,ra-names,64,3600" in lines


def test_ipv6_addresses_of_a_range() -> None:
    lines = conf(network(switch=SIXTH, dhcp6=Dhcp6(slaac=False, first="fd77::100", last="fd77::1ff")))
    assert "dhcp-range=fd77::100,fd77::1ff,64,3600" in lines


def test_it_listens_at_the_end_of_the_cable_if_the_host_is_there() -> None:
    switch = replace(BRIDGE, host=HostSide.VETH, host_ifname="qn-lab-host", port_ifname="qn-lab-port")
    assert "interface=qn-lab-host" in conf(network(switch=switch))


# ---------------------------------------------------------------- reservations


def vm(*nics: Nic) -> Vm:
    machine = Machine("q35", "q35", NicBus.ROOT_PORTS, 4, "host", "max")
    boot = DirectBoot("/k", None, "")
    return Vm("kali2", machine, 1 << 28, 1, Accel.TCG, boot, Firmware.BIOS, (), nics)


def card(number: int, *ips: str, on: str = "lab") -> Nic:
    tap = TapBackend(f"t{number}", 1500, OnNetwork(on, f"qn-{on}"))
    return Nic(f"net{number}", "virtio-net-pci", f"52:54:00:00:00:0{number}", tap, ips=ips)


def test_a_card_is_known_by_the_name_of_its_vm() -> None:
    """A second one on the same network by its own behind that; addresses of other networks are not told."""
    elsewhere, first = card(0, on="other"), card(1, "192.168.50.12/24", "fd77::12/64", "10.0.0.1/8")
    second = card(2)
    alice = vm(elsewhere, first, second)
    net = network(switch=SIXTH)
    assert dhcp.reservation(alice, first, net) == "52:54:00:00:00:01,192.168.50.12,[fd77::12],kali2\n"
    assert dhcp.reservation(alice, second, net) == "52:54:00:00:00:02,kali2-net2\n"


def test_only_what_the_network_does_not_know_is_told_later() -> None:
    """A card of the file is among the hosts of the network."""
    net = network(hosts=(KnownHost("52:54:00:00:00:01", "192.168.50.12", "kali2"),))
    first, second = card(1, "192.168.50.12/24"), card(2)
    both = vm(first, second)
    assert list(dhcp.reserve(both, first, net, FACTS)) == []
    (told,) = dhcp.reserve(both, second, net, FACTS)
    assert (told.path, told.directory) == ("hosts/kali2.net2", "/run/qemunet/net/lab")  # type: ignore[union-attr]
    assert list(dhcp.reserve(both, second, replace(net, services=None), FACTS)) == []


def test_names_with_an_address_are_known_without_a_lease() -> None:
    hosts = (KnownHost(MAC, "192.168.50.9", "printer"), KnownHost(MAC, "", "bob"), KnownHost(MAC, "192.168.50.8", ""))
    services = replace(SERVICES, hosts=hosts, dns=replace(NAMES, hosts=(("db", "192.168.50.20"), ("db", "fd77::20"))))
    assert dhcp.known_names(services) == "192.168.50.20 db\nfd77::20 db\n192.168.50.9 printer\n"


# ---------------------------------------------------------------- steps


def test_what_it_takes() -> None:
    """The reservations are written before it is started, and nobody reads a list of files for that."""
    net = network(hosts=(KnownHost(MAC, "192.168.50.9", "printer"), KnownHost("", "192.168.50.8", "nobody")))
    steps = list(dhcp.steps(net, BRIDGE, FACTS))
    assert [type(step) for step in steps] == [SetOffload, WriteFile, WriteFile, WriteFile, StartDaemon]
    known = steps[3]
    assert isinstance(known, WriteFile)
    assert known.text == f"{MAC},192.168.50.9,printer\n"
    assert list(dhcp.steps(replace(net, services=None), BRIDGE, FACTS)) == []


def test_an_address_for_advertisements_is_used_at_once() -> None:
    steps = list(dhcp.steps(network(switch=SIXTH, dhcp6=Dhcp6(slaac=True)), SIXTH, FACTS))
    assert SetSysctl("net.ipv6.conf.qn-lab.accept_dad", "0") in steps


def test_each_network_has_a_user_of_its_own_if_there_can_be_one() -> None:
    """Far from those of the guests; also of a network of that name elsewhere."""
    elsewhere = replace(FACTS, runtime="/run/elsewhere")
    uids = {dhcp.uid("net/lab", FACTS), dhcp.uid("net/other", FACTS), dhcp.uid("net/lab", elsewhere)}
    assert len(uids) == 3
    assert dhcp.uid("net/lab", FACTS) in range(0x7000_0800, 0x7000_1000)
    assert dhcp.uid("net/lab", replace(FACTS, can_switch_user=False)) is None


def test_the_port_of_names_may_be_somebody_elses() -> None:
    taken = replace(FACTS, listeners={"udp/53": "named (pid 7)"})
    assert dhcp.dns_holder(taken) == "named (pid 7)"
    assert any("port=0" in step.text for step in dhcp.steps(network(), BRIDGE, taken) if isinstance(step, WriteFile))
    assert dhcp.dns_holder(FACTS) == ""


def test_a_script_does_the_same() -> None:
    """It writes the files, and waits for its end: what it has left to write is to be gone with the rest."""
    start = list(dhcp.steps(network(), BRIDGE, FACTS))[-1]
    text = "\n".join(start.shell())
    assert NAT in text
    assert 'dnsmasq --conf-file="$run"/lab.dnsmasq/dnsmasq.conf' in text
    assert text.endswith(' --pid-file="$run"/lab.dnsmasq/pid')
    back = start.inverse(FACTS)
    assert back is not None
    assert back.shell() == ("end lab.dnsmasq",)


# ---------------------------------------------------------------- hostile names

UNPRINTABLE = st.text(min_size=1).filter(lambda text: not text.isprintable())


@given(UNPRINTABLE)
def test_nothing_makes_two_lines_of_one(text: str) -> None:
    """Wherever it stands."""
    hostile = [
        network(dhcp=replace(POOL, options=(("17", text),))),
        network(dhcp=replace(POOL, boot=Boot(text))),
        network(dns=replace(NAMES, domain=text)),
    ]
    for net in hostile:
        with pytest.raises(Failed, match="no way to write"):
            dhcp.conf(net)
    with pytest.raises(Failed, match="no way to write"):
        dhcp.known_names(replace(SERVICES, hosts=(KnownHost(MAC, "192.168.50.9", text),)))
    with pytest.raises(Failed, match="no way to write"):
        list(dhcp.steps(network(hosts=(KnownHost(MAC, "", text),)), BRIDGE, FACTS))


@given(st.text(alphabet=st.sampled_from('ab ,#"\\='), min_size=1))
def test_every_printable_option_is_one_line(text: str) -> None:
    lines = conf(network(dhcp=replace(POOL, options=(("17", text),))))
    assert len([line for line in lines if line.startswith("dhcp-option=17,")]) == 1
    assert len(lines) == len(NAT.splitlines()) + 1
