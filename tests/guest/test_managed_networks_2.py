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

from qemunet.testing.bench import Bench, Room, Seat
from tests.guest.around import emulated, ping
from tests.guest.cards import Stage, empty_stage, end_everything, until
from tests.guest.managed import (
    BEYOND,
    ELSEWHERE,
    EXAMPLES,
    HOST,
    HOST_ELSEWHERE,
    REFUSED,
    Site,
    answers,
    between,
    dhcp_server,
    empty_site,
    example,
    hears_nothing,
    kept,
    knock,
    leased,
    leases,
    page,
    page_for,
    refused,
    seen,
)
from tests.wires import Machine, machine, wire
from tests.world import machine as firmware

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAN = "192.0.2.2"
STP = ("stp_state", "1", "forward_delay", "200", "max_age", "600", "ageing_time", "400")  # the last: as after a change


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
def lan(host: Room) -> Iterator[Lan]:
    """The host is on it by the port ``p0`` of its bridge br0, and by ``p2`` and ``p3`` of br2, which mind loops."""
    with empty_site() as here, machine("lan") as other:
        home = here.home
        other.ip("link", "add", "sw", "type", "bridge")
        other.ip("address", "add", f"{LAN}/24", "dev", "sw")
        other.ip("link", "set", "sw", "up")
        for name in ("p0", "p2", "p3"):
            wire(home, name, other, name)
            home.ip("link", "set", name, "down")
            other.ip("link", "set", name, "master", "sw")
        foreign_bridge(home, "br0", 1, "p0")
        foreign_bridge(home, "br2", 2, "p2", "p3", more=STP)
        with dhcp_server(other, "sw", "192.0.2.100", "192.0.2.150"), kept(host, other):
            yield Lan(here, other)
        for name in ("br0", "br2", "p0", "p2", "p3"):
            home.ip("link", "del", name)


def examples(*names: str) -> str:
    """Several examples in one lab."""
    return "".join((EXAMPLES / f"{name}.toml").read_text() for name in names)


on_two_bridges = pytest.mark.qemunet_lab(
    examples("two-uplinks", "existing-bridge"), set=emulated("safe", "server"), around=lan
)


@on_two_bridges
def test_a_guest_on_a_bridge_of_the_lan_is_one_of_the_lan(lab: Bench) -> None:
    """It has its address from the server there, and who is there reaches it."""
    server, there = lab["server"], lab.around.host
    address = leased(server)
    assert between(address, "192.0.2.100", "192.0.2.150")
    assert leases(lab) == []
    server.succeeds(ping(LAN))
    assert page(there, address, 80) == "server"
    assert seen(server, LAN, there.serve(90))[0] == address


def states(host: Seat) -> dict[str, str]:
    """What the spanning tree has made of the ports of br2."""
    ports = json.loads(host.succeeds("bridge -j link"))
    return {port["ifname"]: port["state"] for port in ports if port["ifname"] in ("p2", "p3")}


@on_two_bridges
def test_of_two_uplinks_one_takes_over_from_the_other(lab: Bench) -> None:
    """And both together are no loop."""
    there = lab.around.host
    address = lab["safe"].wait_until("cat /run/eth0.addresses").strip()
    assert between(address, "192.0.2.100", "192.0.2.150")
    assert sorted(states(lab.host).values()) == ["blocking", "forwarding"]
    assert page(there, address, 80) == "safe"
    (used,) = (name for name, state in states(lab.host).items() if state == "forwarding")
    there.ip("link", "set", used, "down")
    until(lambda: answers(there, address), "the other one carries it")
    there.ip("link", "set", used, "up")


# ---------------------------------------------------------------- case A: a guest between two networks


one_behind_the_other = pytest.mark.qemunet_lab(EXAMPLES / "behind-a-guest.toml", set=emulated("vm1", "vm2"), around=lan)


@one_behind_the_other
def test_a_guest_on_an_inner_network_is_reached_by_its_neighbour_only(lab: Bench) -> None:
    """Not by the LAN, even if that has its neighbour for the gateway, and not by the host."""
    vm1, vm2 = lab
    lab.around.host.ip("route", "replace", "192.168.21.0/24", "via", leased(vm1))
    assert page_for(vm1, "192.168.21.2", 80) == "vm2"
    vm2.succeeds(ping("192.168.21.1"))
    assert not answers(lab.around.host, "192.168.21.2")
    lab.host.fails(ping("192.168.21.2", 2))
    vm2.fails(ping(LAN, 2))


@one_behind_the_other
def test_a_guest_can_be_the_gateway_of_its_neighbour(lab: Bench) -> None:
    """As soon as it passes packets on."""
    vm1, vm2 = lab
    lab.around.host.ip("route", "replace", "192.168.21.0/24", "via", leased(vm1))
    vm1.succeeds("echo 1 >/proc/sys/net/ipv4/ip_forward")
    assert seen(vm2, LAN, lab.around.host.serve(90))[0] == "192.168.21.2"
    assert page(lab.around.host, "192.168.21.2", 80) == "vm2"
    vm1.succeeds("echo 0 >/proc/sys/net/ipv4/ip_forward")


# ---------------------------------------------------------------- case B: an interface of the host's own


@contextlib.contextmanager
def each_its_own(host: Room) -> Iterator[Site]:
    """``eth1`` is for guests, ``eth0`` the host's own."""
    with empty_site() as here:
        here.home.ip("address", "flush", "dev", "eth1")
        foreign_bridge(here.home, "br1", 1, "eth1")
        with dhcp_server(here.elsewhere, "eth0", "198.51.100.100", "198.51.100.150"), kept(host, here.elsewhere):
            yield here
        here.home.ip("link", "del", "br1")


apart = pytest.mark.qemunet_lab(
    examples("own-interface", "host-only"), set=emulated("inside", "test"), around=each_its_own
)


def counted(host: Seat, interface: str) -> list[int]:
    """The packets that an interface of the host has seen, each way."""
    (link,) = json.loads(host.succeeds(f"ip -j -s link show {interface}"))
    return [link["stats64"][way]["packets"] for way in ("rx", "tx")]


@apart
def test_what_guests_say_is_never_on_the_interface_of_the_host(lab: Bench) -> None:
    """Not a packet, whomever they talk to; and the host goes on to have its own."""
    inside, elsewhere = lab["inside"], lab.around.elsewhere
    address = leased(inside)
    assert between(address, "198.51.100.100", "198.51.100.150")
    own, guests = counted(lab.host, "eth0"), counted(lab.host, "eth1")
    assert seen(inside, ELSEWHERE, elsewhere.serve(90))[0] == address
    assert page(elsewhere, address, 80) == "inside"
    inside.fails(ping("198.51.100.77", 1))  # asks everybody
    assert counted(lab.host, "eth0") == own
    assert all(now > before for now, before in zip(counted(lab.host, "eth1"), guests, strict=True))
    lab.host.wait_until(ping(BEYOND))
    assert all(now > before for now, before in zip(counted(lab.host, "eth0"), own, strict=True))


@apart
def test_a_network_of_host_and_guests_is_that_and_nothing_else(lab: Bench) -> None:
    """Its addresses are of the range."""
    test, beyond = lab["test"], lab.around.beyond
    address = leased(test)
    assert between(address, "192.168.120.128", "192.168.120.254")
    assert [one["ip"] for one in leases(lab, "host2")] == [address]
    test.succeeds(ping("192.168.120.1"))
    assert page(lab.around.home, address, 80) == "test"
    assert "unreachable" in refused(test, BEYOND, 80)
    test.succeeds("ip route add default via 192.168.120.1")
    beyond.ip("route", "add", "192.168.120.0/24", "via", HOST)
    test.fails(ping(BEYOND, 2))
    assert not answers(beyond, address)


# ---------------------------------------------------------------- a routed network, and one uplink of two


@contextlib.contextmanager
def by_one_of_two(host: Room) -> Iterator[Site]:
    """Both sides know a way to the network, and the host would pass packets on by both."""
    with empty_site() as here:
        for other, way in ((here.beyond, HOST), (here.elsewhere, HOST_ELSEWHERE)):
            other.ip("route", "add", "192.168.30.0/24", "via", way)
        here.home.sysctl("net/ipv4/conf/eth1/forwarding", "1")
        with kept(host, here.beyond, here.elsewhere):
            yield here


routed = pytest.mark.qemunet_lab(EXAMPLES / "routed.toml", set=emulated("server"), around=by_one_of_two)


@routed
def test_a_routed_guest_is_seen_with_its_own_address(lab: Bench) -> None:
    """Both ways, without any translation."""
    server, beyond = lab["server"], lab.around.beyond
    assert leased(server) == "192.168.30.10"
    assert page(beyond, "192.168.30.10", 80) == "server"
    assert seen(server, BEYOND, beyond.serve(90))[0] == "192.168.30.10"


@routed
def test_other_uplinks_do_not_carry_it(lab: Bench) -> None:
    """Neither in nor out; whoever tries is told so."""
    elsewhere = lab.around.elsewhere
    listener = elsewhere.serve(90)
    assert knock(elsewhere, "192.168.30.10", 80) in REFUSED
    assert not answers(elsewhere, "192.168.30.10")
    assert "No route to host" in refused(lab["server"], ELSEWHERE, 90)
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


@contextlib.contextmanager
def ended(stage: Stage) -> Iterator[None]:
    """Whatever runs is ended, and the host is as before."""
    before = stage.look()
    try:
        yield
    finally:
        failed = end_everything(stage)
    assert not failed, failed
    stage.is_as(before)


@contextlib.contextmanager
def behind_docker(folder: Path) -> Iterator[tuple[Stage, Site]]:
    """A host with such rules, on which nothing runs yet, and nothing runs any more in the end."""
    with empty_stage(folder) as stage, empty_site() as here, docker_like(here.home), ended(stage):
        yield stage, here


def test_rules_in_the_way_are_named_and_what_is_said_opens_them(tmp_path: Path) -> None:
    """To what is beyond the host, and between guests of one network."""
    nat = [*example("nat", "web", "desk"), "desk"]
    with behind_docker(tmp_path) as (stage, here), machine("neighbour") as neighbour, here.beyond.serve(80) as server:
        said = stage.succeeds("run", "-d", *nat).stderr
        wire(here.home, "port", neighbour, "eth0", "qn-lab")
        neighbour.ip("address", "add", "192.168.122.2/24", "dev", "eth0")
        desk = stage.guest("desk")
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
    with empty_stage(tmp_path) as stage, empty_site(), ended(stage):
        file = str(stage.scene.write(NAT + firmware("one", card='network = "lab"\nip = ["192.168.122.80/24"]')))
        for _ in range(10):
            stage.succeeds("run", "-d", file)
            stage.succeeds("stop", "--force", "one")
        for _ in range(5):
            stage.succeeds("net", "up", file)
            stage.succeeds("net", "down", file)
