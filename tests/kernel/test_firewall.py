"""What gets through a network's rules, by packets: between guests, host, the world beyond it, and who is not wanted."""

from __future__ import annotations

import socket

import pytest

from qemunet.frozen import replace
from qemunet.model.network import (
    Firewall,
    HostSide,
    Masquerade,
    Network,
    NetworkMode,
    PortForward,
)
from tests.firewall_scene import (
    A6,
    B6,
    ELSEWHERE,
    GATE,
    GATE6,
    HOST,
    HOST6,
    HOST_ELSEWHERE,
    NAT,
    OUTSIDE,
    OUTSIDE6,
    SHUT,
    A,
    B,
    Scene,
    bridge,
    forwarded,
    network,
    to_web,
)
from tests.wires import PATIENCE, SILENCE, host_of, ping, reset, tcp, udp, wire

either = pytest.mark.parametrize("bridged", [True, False], ids=["br_netfilter", "plain"])
sides = pytest.mark.parametrize("side", [HostSide.BRIDGE, HostSide.VETH], ids=["bridge", "veth"])
REFUSED = {"EHOSTUNREACH", "EACCES"}  # what is told of a packet that is prohibited, by IPv4 and IPv6


# ---------------------------------------------------------------- out and in


@either
@sides
def test_nat_lets_guests_out_with_the_hosts_address(scene: Scene, bridged: bool, side: HostSide) -> None:
    """TCP, UDP and ping, by IPv4 and IPv6, each by the uplink that leads there."""
    scene.build(network(NetworkMode.NAT, NAT, side), bridged=bridged)
    assert host_of(tcp(scene.a, OUTSIDE, 80, scene.outside.serve(80))) == HOST
    assert host_of(udp(scene.a, OUTSIDE, 53, scene.outside.serve_udp(53))) == HOST
    assert host_of(tcp(scene.b, ELSEWHERE, 80, scene.elsewhere.serve(80))) == HOST_ELSEWHERE
    assert host_of(tcp(scene.a, OUTSIDE6, 80, scene.outside.serve(80, "::"))) == HOST6
    assert ping(scene.a, OUTSIDE, PATIENCE)
    assert ping(scene.a, OUTSIDE6, PATIENCE)


@either
def test_nobody_outside_gets_into_a_nat_network(scene: Scene, bridged: bool) -> None:
    """With a route to it; and is told so."""
    scene.build(network(NetworkMode.NAT, NAT), bridged=bridged)
    server, server6 = scene.a.serve(80), scene.a.serve(81, "::")
    for who, address, listener in (
        (scene.outside, A, server),
        (scene.elsewhere, A, server),
        (scene.outside, A6, server6),
    ):
        assert tcp(who, address, 80 if listener is server else 81, listener) in REFUSED
    assert udp(scene.outside, A, 53, scene.a.serve_udp(53)) in REFUSED
    assert not ping(scene.outside, A)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_source_ports_are_in_the_range(scene: Scene, protocol: str) -> None:
    """Whatever the guest's own port is."""
    rules = replace(NAT, masquerade=Masquerade(ports=(30000, 30100)))
    scene.build(network(NetworkMode.NAT, rules))
    send, server = (tcp, scene.outside.serve(80)) if protocol == "tcp" else (udp, scene.outside.serve_udp(80))
    seen = [send(scene.a, OUTSIDE, 80, server, ("0.0.0.0", port)) for port in (80, 700, 1024, 29999, 45000, 60000)]
    seen6 = []
    if protocol == "tcp":
        server6 = scene.outside.serve(81, "::")
        seen6 = [tcp(scene.a, OUTSIDE6, 81, server6, ("::", port)) for port in (80, 60000)]
    ports = [int(one.rpartition(":")[2]) for one in seen + seen6]
    assert all(30000 <= port <= 30100 for port in ports), (seen, seen6)
    assert {host_of(one) for one in seen} == {HOST}


def test_nat_may_use_another_address_of_the_host(scene: Scene) -> None:
    """For ICMP as well."""
    scene.home.ip("address", "add", "203.0.113.4/24", "dev", "eth0")
    scene.build(network(NetworkMode.NAT, replace(NAT, masquerade=Masquerade((1024, 65535), "203.0.113.4"))))
    assert host_of(tcp(scene.a, OUTSIDE, 80, scene.outside.serve(80))) == "203.0.113.4"
    scene.outside.ip("route", "add", "blackhole", f"{HOST}/32")
    assert ping(scene.a, OUTSIDE, PATIENCE)


def test_only_addresses_of_the_network_get_out(scene: Scene) -> None:
    """A guest that pretends to be somebody else stays inside, in every mode that has rules."""
    scene.build(network(NetworkMode.ROUTED, SHUT))
    scene.a.ip("address", "add", "10.9.9.9/32", "dev", "eth0")
    scene.outside.ip("route", "add", "10.9.9.9/32", "via", HOST)
    scene.home.ip("route", "add", "10.9.9.9/32", "dev", "virbr4")
    server = scene.outside.serve_udp(53)
    assert udp(scene.a, OUTSIDE, 53, server, ("10.9.9.9", 4000)) in REFUSED
    assert host_of(udp(scene.a, OUTSIDE, 53, server, (A, 4001))) == A


@pytest.mark.parametrize("mode", [NetworkMode.NAT, NetworkMode.ROUTED])
def test_no_private_address_gets_out_of_a_nat_network(scene: Scene, mode: NetworkMode) -> None:
    """Not even in a packet of which the kernel does not know what it belongs to, and which it would leave as it is."""
    scene.build(network(mode, NAT if mode is NetworkMode.NAT else SHUT))
    listener, sender = (
        one.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        for one in (scene.outside, scene.a)
    )
    with listener, sender:
        listener.settimeout(SILENCE if mode is NetworkMode.NAT else PATIENCE)
        sender.sendto(reset(A, OUTSIDE, 4000, 80), (OUTSIDE, 0))
        if mode is NetworkMode.ROUTED:
            assert listener.recvfrom(100)[1][0] == A
        else:
            with pytest.raises(TimeoutError):
                listener.recvfrom(100)


def test_what_is_for_everybody_is_not_disguised(scene: Scene) -> None:
    """A multicast or broadcast of the host itself, from its address in the network."""
    scene.build(network(NetworkMode.NAT, NAT))
    listener = scene.outside.serve_udp(5354)
    member = socket.inet_aton("224.0.0.251") + socket.inet_aton(OUTSIDE)
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    sender = scene.home.open(socket.SOCK_DGRAM, GATE, 5353)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    for address in ("224.0.0.251", "255.255.255.255"):
        sender.sendto(b"hello", (address, 5354))
        assert listener.recvfrom(10) == (b"hello", (GATE, 5353))


@either
@sides
def test_a_routed_network_keeps_its_addresses(scene: Scene, bridged: bool, side: HostSide) -> None:
    """Out and in, by IPv4 and IPv6, without any translation."""
    scene.build(network(NetworkMode.ROUTED, SHUT, side), bridged=bridged)
    assert host_of(tcp(scene.a, OUTSIDE, 80, scene.outside.serve(80))) == A
    assert host_of(tcp(scene.outside, A, 81, scene.a.serve(81))) == OUTSIDE
    assert host_of(tcp(scene.a, OUTSIDE6, 82, scene.outside.serve(82, "::"))) == A6
    assert host_of(tcp(scene.outside, A6, 83, scene.a.serve(83, "::"))) == OUTSIDE6


@either
@sides
def test_nobody_gets_out_of_an_isolated_network_or_in(scene: Scene, bridged: bool, side: HostSide) -> None:
    """Also where the host forwards for everybody; guests are told so, and reach each other and the host."""
    scene.build(network(NetworkMode.ISOLATED, SHUT, side), bridged=bridged)
    for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        scene.home.sysctl(key, "1")
    for address in (GATE, GATE6):
        scene.a.ip("route", "add", "default", "via", address)
    assert tcp(scene.a, OUTSIDE, 80, scene.outside.serve(80)) in REFUSED
    assert tcp(scene.a, OUTSIDE6, 81, scene.outside.serve(81, "::")) in REFUSED
    assert tcp(scene.outside, A, 80, scene.a.serve(80)) in REFUSED
    assert host_of(tcp(scene.a, B, 80, scene.b.serve(80))) == A
    assert ping(scene.a, GATE, PATIENCE)
    assert host_of(tcp(scene.home, A, 82, scene.a.serve(82))) == GATE


@pytest.mark.parametrize(("mode", "rules"), [(NetworkMode.NAT, NAT), (NetworkMode.ROUTED, SHUT)], ids=["nat", "routed"])
def test_another_uplink_carries_nothing(scene: Scene, mode: NetworkMode, rules: Firewall) -> None:
    """Neither out nor in; guests reach each other as ever."""
    scene.build(network(mode, replace(rules, uplink="eth0")))
    scene.home.sysctl("net/ipv4/conf/eth1/forwarding", "1")
    assert host_of(tcp(scene.a, OUTSIDE, 80, scene.outside.serve(80))) in (HOST, A)
    assert tcp(scene.a, ELSEWHERE, 80, scene.elsewhere.serve(80)) in REFUSED
    assert tcp(scene.elsewhere, A, 80, scene.a.serve(80)) in REFUSED
    assert host_of(tcp(scene.a, B, 81, scene.b.serve(81))) == A


@either
def test_guests_of_one_network_reach_each_other(scene: Scene, bridged: bool) -> None:
    """By TCP, UDP and ping, also when bridged frames go through the rules of forwarding."""
    scene.build(network(NetworkMode.NAT, NAT), bridged=bridged)
    assert host_of(tcp(scene.a, B, 80, scene.b.serve(80))) == A
    assert host_of(udp(scene.a, B, 53, scene.b.serve_udp(53))) == A
    assert host_of(tcp(scene.a, B6, 81, scene.b.serve(81, "::"))) == A6
    assert ping(scene.a, B, PATIENCE)


def test_networks_of_ours_know_each_others_addresses(scene: Scene) -> None:
    """A guest of a nat network is seen in a routed one as it is, and gets its answers; the other way is shut."""
    scene.build(network(NetworkMode.NAT, NAT))
    routed = replace(bridge(HostSide.BRIDGE, "192.168.60.1/24"), ifname="virbr6", mac="02:00:00:00:00:06")
    scene.make(Network("other", NetworkMode.ROUTED, routed, firewall=SHUT))
    wire(scene.home, "pc", scene.elsewhere, "eth5", "virbr6")
    scene.elsewhere.ip("address", "add", "192.168.60.5/24", "dev", "eth5")
    scene.elsewhere.ip("route", "replace", "192.168.50.0/24", "via", "192.168.60.1")
    assert host_of(tcp(scene.a, "192.168.60.5", 80, scene.elsewhere.serve(80))) == A
    assert tcp(scene.elsewhere, A, 80, scene.a.serve(80)) in REFUSED


# ---------------------------------------------------------------- forwards


@either
@sides
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_forwarded_port_leads_to_the_guest(scene: Scene, bridged: bool, side: HostSide, protocol: str) -> None:
    """From outside, who is seen as he is; from the host, also by way of 127.0.0.1; from another guest."""
    forward = to_web(protocol=protocol)
    scene.build(network(NetworkMode.NAT, forwarded(forward), side), bridged=bridged)
    send, server = (tcp, scene.a.serve(80)) if protocol == "tcp" else (udp, scene.a.serve_udp(80))
    assert host_of(send(scene.outside, HOST, 8080, server)) == OUTSIDE
    for address in (HOST, GATE, "127.0.0.1"):
        assert host_of(send(scene.home, address, 8080, server)) == GATE
    for address in (HOST, GATE):
        assert host_of(send(scene.b, address, 8080, server)) == GATE


@pytest.mark.parametrize(
    ("side", "bridged", "works"),
    [(HostSide.BRIDGE, False, True), (HostSide.VETH, True, True), (HostSide.BRIDGE, True, False)],
)
def test_a_guest_reaches_its_own_forwarded_port(scene: Scene, side: HostSide, bridged: bool, works: bool) -> None:
    """Unless br_netfilter sends the frame back to the port of the bridge by which it came, which the bridge refuses."""
    scene.build(network(NetworkMode.NAT, forwarded(to_web()), side), bridged=bridged)
    found = tcp(scene.a, HOST, 8080, scene.a.serve(80))
    assert host_of(found) == GATE if works else found == "silence"


@pytest.mark.parametrize("mode", [NetworkMode.ISOLATED, NetworkMode.ROUTED])
def test_a_forward_leads_into_networks_without_nat(scene: Scene, mode: NetworkMode) -> None:
    """A guest that has no way out answers by way of the host, and still has none."""
    scene.build(network(mode, forwarded(to_web(), rules=SHUT)))
    server = scene.a.serve(80)
    seen = host_of(tcp(scene.outside, HOST, 8080, server))
    assert seen == (GATE if mode is NetworkMode.ISOLATED else OUTSIDE)
    assert host_of(tcp(scene.home, "127.0.0.1", 8080, server)) == GATE
    assert host_of(tcp(scene.b, GATE, 8080, server)) == GATE
    if mode is NetworkMode.ISOLATED:
        assert tcp(scene.outside, A, 80, server) in REFUSED


def test_a_forward_leads_to_an_ipv6_guest(scene: Scene) -> None:
    """From outside, from the host and from another guest."""
    forward = PortForward("tcp", "", (8080, 8080), A6, (80, 80))
    scene.build(network(NetworkMode.NAT, forwarded(forward)))
    server = scene.a.serve(80, "::")
    assert host_of(tcp(scene.outside, HOST6, 8080, server)) == OUTSIDE6
    assert host_of(tcp(scene.home, HOST6, 8080, server)) == GATE6
    assert host_of(tcp(scene.b, HOST6, 8080, server)) == GATE6
    assert tcp(scene.home, "::1", 8080, server) == "ECONNREFUSED", "the kernel lets no packet from ::1 out"


def test_a_range_leads_to_a_range_port_by_port(scene: Scene) -> None:
    """Also to one that begins elsewhere."""
    same = PortForward("tcp", "", (7000, 7003), A, (7000, 7003))
    other = PortForward("udp", "", (7000, 7003), A, (9000, 9003))
    scene.build(network(NetworkMode.NAT, forwarded(same, other)))
    for offset in (0, 3):
        assert host_of(tcp(scene.outside, HOST, 7000 + offset, scene.a.serve(7000 + offset))) == OUTSIDE
        assert host_of(udp(scene.outside, HOST, 7000 + offset, scene.a.serve_udp(9000 + offset))) == OUTSIDE


def test_a_forward_of_one_address_is_of_that_address(scene: Scene) -> None:
    """On the others the port is the host's own."""
    scene.build(network(NetworkMode.NAT, forwarded(to_web(HOST))))
    server, own = scene.a.serve(80), scene.home.serve(8080)
    assert host_of(tcp(scene.outside, HOST, 8080, server)) == OUTSIDE
    assert host_of(tcp(scene.elsewhere, HOST_ELSEWHERE, 8080, own)) == ELSEWHERE
    assert host_of(tcp(scene.home, "127.0.0.1", 8080, own)) == "127.0.0.1"


def test_a_forward_of_127_0_0_1_is_of_the_host_alone(scene: Scene) -> None:
    """Nobody outside gets in by it."""
    scene.build(network(NetworkMode.NAT, forwarded(to_web("127.0.0.1"))))
    server = scene.a.serve(80)
    assert host_of(tcp(scene.home, "127.0.0.1", 8080, server)) == GATE
    assert tcp(scene.outside, HOST, 8080, server) == "ECONNREFUSED"


def test_no_guest_reaches_what_listens_on_127_0_0_1(scene: Scene) -> None:
    """Though the bridge may carry such addresses then."""
    scene.build(network(NetworkMode.NAT, replace(forwarded(to_web()), host_services=("all",))))
    scene.a.sysctl("net/ipv4/conf/eth0/route_localnet", "1")
    scene.a.ip("route", "del", "local", "127.0.0.0/8", "table", "local", "dev", "lo")
    scene.a.ip("route", "del", "local", "127.0.0.1", "table", "local", "dev", "lo")
    scene.a.ip("route", "add", "127.0.0.0/8", "via", GATE, "src", A)
    server = scene.home.serve_udp(5000, "127.0.0.1")
    assert udp(scene.a, "127.0.0.1", 5000, server) == "silence"


def test_with_an_uplink_forwards_are_of_that_uplink(scene: Scene) -> None:
    """And of the host and its guests."""
    scene.build(network(NetworkMode.NAT, replace(forwarded(to_web()), uplink="eth0")))
    server = scene.a.serve(80)
    assert host_of(tcp(scene.outside, HOST, 8080, server)) == OUTSIDE
    assert tcp(scene.elsewhere, HOST_ELSEWHERE, 8080, server) == "ECONNREFUSED"
    assert host_of(tcp(scene.b, GATE, 8080, server)) == GATE
    assert host_of(tcp(scene.home, "127.0.0.1", 8080, server)) == GATE


# ---------------------------------------------------------------- the host


@either
@sides
def test_guests_reach_the_services_of_the_host_that_are_named(scene: Scene, bridged: bool, side: HostSide) -> None:
    """And no others, by any of its addresses; a client is told at once."""
    rules = replace(NAT, host_services=("dhcp", "dns", "icmp", "tcp:3128", "udp:600-610"))
    scene.build(network(NetworkMode.NAT, rules, side), bridged=bridged)
    for port in (53, 3128):
        assert host_of(tcp(scene.a, GATE, port, scene.home.serve(port))) == A
    for port in (53, 67, 600, 610):
        assert host_of(udp(scene.a, GATE, port, scene.home.serve_udp(port))) == A
    assert host_of(udp(scene.a, GATE6, 547, scene.home.serve_udp(547, "::"))) == A6
    assert ping(scene.a, GATE, PATIENCE)
    assert ping(scene.a, GATE6, PATIENCE)
    closed = scene.home.serve(22)
    for address in (GATE, HOST, HOST_ELSEWHERE):
        assert tcp(scene.a, address, 22, closed) == "ECONNREFUSED"
    assert udp(scene.a, GATE, 69, scene.home.serve_udp(69)) == "ECONNREFUSED"


def test_a_client_of_a_service_that_is_shut_is_told_at_once(scene: Scene) -> None:
    """By a reset: what ICMP says is passed over by a connection that is just being made, until its next attempt."""
    scene.build(network(NetworkMode.NAT, NAT))
    for address in (GATE, GATE6):
        assert ping(scene.a, address, PATIENCE), "the neighbours are known"
        with scene.a.open(socket.SOCK_STREAM, address) as client:
            client.settimeout(SILENCE)
            with pytest.raises(ConnectionRefusedError):
                client.connect((address, 22))


def test_nothing_is_open_that_is_not_named(scene: Scene) -> None:
    """The host reaches its guests all the same, by IPv6 too: neighbours are always found."""
    scene.build(network(NetworkMode.ISOLATED, replace(SHUT, host_services=())))
    assert udp(scene.a, GATE, 53, scene.home.serve_udp(53)) == "ECONNREFUSED"
    assert not ping(scene.a, GATE)
    assert host_of(tcp(scene.home, A, 80, scene.a.serve(80))) == GATE
    assert host_of(tcp(scene.home, A6, 81, scene.a.serve(81, "::"))) == GATE6
    assert ping(scene.home, B, PATIENCE)


def test_all_is_everything(scene: Scene) -> None:
    scene.build(network(NetworkMode.ISOLATED, replace(SHUT, host_services=("all",))))
    assert host_of(tcp(scene.a, GATE, 22, scene.home.serve(22))) == A


def test_a_private_bridge_leads_nobody_to_the_host(scene: Scene) -> None:
    """The kernel would answer for each of the host's addresses on a bridge that has none."""
    switch = bridge(HostSide.NONE)
    scene.make(Network("lab", NetworkMode.PRIVATE, replace(switch, addresses=())))
    wire(scene.home, "pa", scene.a, "eth0", "virbr4")
    scene.a.ip("address", "add", "203.0.113.77/24", "dev", "eth0")
    server = scene.home.serve_udp(9999)
    assert udp(scene.a, HOST, 9999, server) == "silence"
    scene.a.ip("neighbour", "replace", HOST, "lladdr", switch.mac, "dev", "eth0")
    assert udp(scene.a, HOST, 9999, server) == "silence"
