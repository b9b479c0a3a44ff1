"""Networks with ways to others: existing bridges, guests as gateways, routes, several uplinks, and rules of others."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.cards import until
from tests.guest.managed import (
    BEYOND,
    ELSEWHERE,
    HOST,
    HOST_ELSEWHERE,
    REFUSED,
    Site,
    Turns,
    answers,
    between,
    dhcp_server,
    example,
    hears_nothing,
    knock,
    leased,
    page,
    page_for,
    refused,
    seen,
    site,
)
from tests.guest.scene import host_pings
from tests.wires import Machine, machine, wire
from tests.world import machine as firmware

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAN = "192.0.2.2"
STP = ("stp_state", "1", "forward_delay", "200", "max_age", "600", "ageing_time", "400")  # the last: as after a change
DHCP_AGAIN = 25.0  # seconds after which a guest that had no answer has asked again


# ---------------------------------------------------------------- bridges of others


def foreign_bridge(home: Machine, name: str, number: int, *ports: str, more: tuple[str, ...] = ()) -> None:
    """A bridge that somebody else has made, without an address of the host."""
    home.ip("link", "add", name, "address", f"02:00:00:00:00:0{number}", "type", "bridge", *more)
    for one in (name, *ports):
        home.sysctl(f"net/ipv6/conf/{one}/disable_ipv6", "1")
    for port in ports:
        home.ip("link", "set", port, "master", name, "up")
    home.ip("link", "set", name, "up")


@dataclass
class Lan:
    """A LAN with a switch and a DHCP server; its host is 192.0.2.2."""

    here: Site
    host: Machine


@contextlib.contextmanager
def lan(folder: Path) -> Iterator[Lan]:
    """The host is on it by the port ``p0`` of its bridge br0, and by ``p2`` and ``p3`` of br2, which mind loops."""
    with site(folder) as here, machine("lan") as host:
        home = here.home
        here.others.append(host)
        host.ip("link", "add", "sw", "type", "bridge")
        host.ip("address", "add", f"{LAN}/24", "dev", "sw")
        host.ip("link", "set", "sw", "up")
        for name in ("p0", "p2", "p3"):
            wire(home, name, host, name)
            home.ip("link", "set", name, "down")
            host.ip("link", "set", name, "master", "sw")
        foreign_bridge(home, "br0", 1, "p0")
        foreign_bridge(home, "br2", 2, "p2", "p3", more=STP)
        with dhcp_server(host, "sw", "192.0.2.100", "192.0.2.150"):
            yield Lan(here, host)
        for name in ("br0", "br2", "p0", "p2", "p3"):
            home.ip("link", "del", name)


@contextlib.contextmanager
def on_two_bridges(folder: Path) -> Iterator[Lan]:
    """Two examples at once, a guest each."""
    runs = (example("two-uplinks", "safe"), example("existing-bridge", "server"))
    with lan(folder) as found, found.here.lab(*runs):
        yield found


@pytest.fixture
def bridged(turns: Turns) -> Lan:
    return turns.at(on_two_bridges)


def test_a_guest_on_a_bridge_of_the_lan_is_one_of_the_lan(bridged: Lan) -> None:
    """It has its address from the server there, and who is there reaches it."""
    server = bridged.here.stage.guest("server")
    address = leased(server)
    assert between(address, "192.0.2.100", "192.0.2.150")
    assert bridged.here.leases() == []
    server.pings(LAN)
    assert page(bridged.host, address, 80) == "server"
    assert seen(server, LAN, bridged.host.serve(90))[0] == address


def states(lan: Lan) -> dict[str, str]:
    """What the spanning tree has made of the ports of br2."""
    ports = json.loads(lan.here.home.run("bridge", "-j", "link").stdout)
    return {port["ifname"]: port["state"] for port in ports if port["ifname"] in ("p2", "p3")}


def test_of_two_uplinks_one_takes_over_from_the_other(bridged: Lan) -> None:
    """And both together are no loop."""
    safe = bridged.here.stage.guest("safe")
    address = safe.wait_until("cat /run/eth0.addresses", timeout=DHCP_AGAIN).strip()
    assert between(address, "192.0.2.100", "192.0.2.150")
    assert sorted(states(bridged).values()) == ["blocking", "forwarding"]
    assert page(bridged.host, address, 80) == "safe"
    (used,) = (name for name, state in states(bridged).items() if state == "forwarding")
    bridged.host.ip("link", "set", used, "down")
    until(lambda: answers(bridged.host, address), "the other one carries it")


# ---------------------------------------------------------------- case A: a guest between two networks


@contextlib.contextmanager
def one_behind_the_other(folder: Path) -> Iterator[Lan]:
    """The address of vm1 on the LAN is in a route there, as if it was the gateway."""
    with lan(folder) as found, found.here.lab(example("behind-a-guest", "vm1", "vm2")):
        found.host.ip("route", "add", "192.168.21.0/24", "via", leased(found.here.stage.guest("vm1")))
        yield found


@pytest.fixture
def inner(turns: Turns) -> Lan:
    return turns.at(one_behind_the_other)


def test_a_guest_on_an_inner_network_is_reached_by_its_neighbour_only(inner: Lan) -> None:
    """Not by the LAN, and not by the host."""
    vm1, vm2 = (inner.here.stage.guest(name) for name in ("vm1", "vm2"))
    assert page_for(vm1, "192.168.21.2", 80) == "vm2"
    vm2.pings("192.168.21.1")
    assert not answers(inner.host, "192.168.21.2")
    assert not host_pings("192.168.21.2")
    vm2.cannot_ping(LAN)


def test_a_guest_can_be_the_gateway_of_its_neighbour(inner: Lan) -> None:
    """As soon as it passes packets on."""
    vm1, vm2 = (inner.here.stage.guest(name) for name in ("vm1", "vm2"))
    vm1.succeeds("echo 1 >/proc/sys/net/ipv4/ip_forward")
    assert seen(vm2, LAN, inner.host.serve(90))[0] == "192.168.21.2"
    assert page(inner.host, "192.168.21.2", 80) == "vm2"
    vm1.succeeds("echo 0 >/proc/sys/net/ipv4/ip_forward")


# ---------------------------------------------------------------- case B: an interface of the host's own


@contextlib.contextmanager
def each_its_own(folder: Path) -> Iterator[Site]:
    """``eth1`` is for guests, ``eth0`` the host's own; and a network of host and guests only."""
    runs = (example("own-interface", "inside"), example("host-only", "test"))
    with site(folder) as here:
        here.home.ip("address", "flush", "dev", "eth1")
        foreign_bridge(here.home, "br1", 1, "eth1")
        with dhcp_server(here.elsewhere, "eth0", "198.51.100.100", "198.51.100.150"), here.lab(*runs):
            yield here
        here.home.ip("link", "del", "br1")


@pytest.fixture
def apart(turns: Turns) -> Site:
    return turns.at(each_its_own)


def counted(interface: str) -> list[int]:
    """The packets that an interface of the host has seen, each way."""
    shown = subprocess.run(["ip", "-j", "-s", "link", "show", interface], check=True, capture_output=True, text=True)
    (link,) = json.loads(shown.stdout)
    return [link["stats64"][way]["packets"] for way in ("rx", "tx")]


def test_what_guests_say_is_never_on_the_interface_of_the_host(apart: Site) -> None:
    """Not a packet, whomever they talk to; and the host goes on to have its own."""
    inside = apart.stage.guest("inside")
    address = leased(inside)
    assert between(address, "198.51.100.100", "198.51.100.150")
    own, guests = counted("eth0"), counted("eth1")
    assert seen(inside, ELSEWHERE, apart.elsewhere.serve(90))[0] == address
    assert page(apart.elsewhere, address, 80) == "inside"
    inside.fails("ping -c 1 -W 1 198.51.100.77")  # asks everybody
    assert counted("eth0") == own
    assert all(now > before for now, before in zip(counted("eth1"), guests, strict=True))
    assert answers(apart.home, BEYOND)
    assert all(now > before for now, before in zip(counted("eth0"), own, strict=True))


def test_a_network_of_host_and_guests_is_that_and_nothing_else(apart: Site) -> None:
    """Its addresses are of the range."""
    test = apart.stage.guest("test")
    address = leased(test)
    assert between(address, "192.168.120.128", "192.168.120.254")
    assert [one["ip"] for one in apart.leases("host2")] == [address]
    test.pings("192.168.120.1")
    assert page(apart.home, address, 80) == "test"
    assert "unreachable" in refused(test, BEYOND, 80)
    test.succeeds("ip route add default via 192.168.120.1")
    apart.beyond.ip("route", "add", "192.168.120.0/24", "via", HOST)
    test.cannot_ping(BEYOND)
    assert not answers(apart.beyond, address)


# ---------------------------------------------------------------- a routed network, and one uplink of two


@contextlib.contextmanager
def by_one_of_two(folder: Path) -> Iterator[Site]:
    """Both sides know a way to the network, and the host would pass packets on by both."""
    with site(folder) as here:
        for other, way in ((here.beyond, HOST), (here.elsewhere, HOST_ELSEWHERE)):
            other.ip("route", "add", "192.168.30.0/24", "via", way)
        here.home.sysctl("net/ipv4/conf/eth1/forwarding", "1")
        with here.lab(example("routed", "server")):
            yield here


@pytest.fixture
def routed(turns: Turns) -> Site:
    return turns.at(by_one_of_two)


def test_a_routed_guest_is_seen_with_its_own_address(routed: Site) -> None:
    """Both ways, without any translation."""
    server = routed.stage.guest("server")
    assert leased(server) == "192.168.30.10"
    assert page(routed.beyond, "192.168.30.10", 80) == "server"
    assert seen(server, BEYOND, routed.beyond.serve(90))[0] == "192.168.30.10"


def test_other_uplinks_do_not_carry_it(routed: Site) -> None:
    """Neither in nor out; whoever tries is told so."""
    server, listener = routed.stage.guest("server"), routed.elsewhere.serve(90)
    assert knock(routed.elsewhere, "192.168.30.10", 80) in REFUSED
    assert not answers(routed.elsewhere, "192.168.30.10")
    assert "No route to host" in refused(server, ELSEWHERE, 90)
    assert hears_nothing(listener)


# ---------------------------------------------------------------- rules of others

DOCKER = """
table ip filter {
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        oifname "docker0" ct state related,established accept
        iifname "docker0" accept
    }
    chain DOCKER-USER {
        counter return
    }
}
"""
BRIDGED = "net/bridge/bridge-nf-call-iptables"


@contextlib.contextmanager
def docker_like(home: Machine) -> Iterator[None]:
    """Rules that pass nothing on but what they know, and that see what bridges pass on, too."""
    before = Path(f"/proc/sys/{BRIDGED}").read_text()
    home.sysctl(BRIDGED, "1")
    load(DOCKER)
    yield
    load("delete table ip filter")
    home.sysctl(BRIDGED, before)


def load(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


def test_rules_in_the_way_are_named_and_what_is_said_opens_them(tmp_path: Path) -> None:
    """To what is beyond the host, and between guests of one network."""
    nat = [*example("nat", "web", "desk"), "desk"]
    with site(tmp_path) as here, machine("neighbour") as neighbour, docker_like(here.home), here.lab(nat) as said:
        wire(here.home, "port", neighbour, "eth0", "qn-lab")
        neighbour.ip("address", "add", "192.168.122.2/24", "dev", "eth0")
        desk, server = here.stage.guest("desk"), here.beyond.serve(80)
        address = leased(desk)
        assert not answers(neighbour, address)
        desk.cannot_ping(BEYOND)
        for words in ("Docker", "table ip filter", "chain FORWARD", "policy drop"):
            assert words in said
        for command in re.findall(r"to let it pass: (.*)", said):
            subprocess.run(["sh", "-c", command], check=True)
        assert seen(desk, BEYOND, server)[0] == HOST
        assert answers(neighbour, address)
        here.home.ip("link", "del", "port")
        load(f"delete table ip filter; {DOCKER}")


# ---------------------------------------------------------------- again and again

NAT = """
[network.lab]
mode = "nat"
address = ["192.168.122.1/24", "fd77::1/64"]
forward = ["tcp::8080:one:80"]
"""


def test_nothing_piles_up(tmp_path: Path) -> None:
    """Ten times a guest on a network with rules, addresses and names; five times the network alone."""
    with site(tmp_path) as here, here.lab():
        file = str(here.stage.scene.write(NAT + firmware("one", card='network = "lab"\nip = ["192.168.122.80/24"]')))
        for _ in range(10):
            here.stage.succeeds("run", "-d", file)
            here.stage.succeeds("stop", "--force", "one")
        for _ in range(5):
            here.stage.succeeds("net", "up", file)
            here.stage.succeeds("net", "down", file)
