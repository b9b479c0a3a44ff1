"""A host that is on its network by a cable: packets, addresses, what pulling it does, and that all of it goes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qemunet.frozen import replace
from qemunet.model.network import Dhcp6, HostSide, KnownHost, Network, OwnBridge
from qemunet.plan import links
from qemunet.steps import Claim
from tests import namespace
from tests.kernel.lan import BRIDGE, Guest, Lan, fresh_lan, ip, network
from tests.world import TREE, World, machine, until

ALICE, BOB = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
GATE, A, B = "192.168.50.1", "192.168.50.12", "192.168.50.13"
CABLED = replace(BRIDGE, host=HostSide.VETH, host_ifname="qn-lab-host", port_ifname="qn-lab-port")
KNOWN = (KnownHost(ALICE, A, "alice"), KnownHost(BOB, B, "bob"))
EXAMPLE = str(TREE / "examples" / "host-by-cable.toml")
ENDS = ("qn-lab-host", "qn-lab-port")
HOSTED = """
[lab]
name = "home"
[network.lab]
mode = "isolated"
host = "veth"
address = ["10.9.9.1/24"]
mtu = 1400
"""


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    if why := namespace.lack():
        pytest.skip(why)
    with namespace.fresh_namespace(), fresh_lan(tmp_path) as lan:
        yield lan


def up(lan: Lan, network: Network) -> None:
    """Make all of it, as a plan would."""
    assert isinstance(network.switch, OwnBridge)
    lan.scope(network.name).mkdir(parents=True)
    for step in links.bridge(network, network.switch, lan.facts).steps:
        if not isinstance(step, Claim):
            lan.host.perform(step)


def seen(name: str) -> dict[str, Any]:
    """What ip(8) says of an interface; nothing if it is not there."""
    done = subprocess.run(["ip", "-j", "-d", "address", "show", "dev", name], capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return next(filter(None, found), {})


def addresses(name: str) -> list[str]:
    return [f"{one['local']}/{one['prefixlen']}" for one in seen(name)["addr_info"]]


def pings(guest: Guest, address: str) -> bool:
    return guest.run("busybox", "ping", "-c", "1", "-W", "1", address).returncode == 0


def is_pinged(address: str) -> bool:
    return subprocess.run(["busybox", "ping", "-c", "1", "-W", "1", address], capture_output=True).returncode == 0


# ---------------------------------------------------------------- packets


def test_guest_and_host_reach_each_other_and_the_bridge_has_no_address(lan: Lan) -> None:
    """The guest has its address from the dnsmasq at the host's end; no other interface shows the host."""
    up(lan, network(switch=replace(CABLED, mtu=1400), hosts=KNOWN, mtu=1400))
    guest = lan.guest("a", ALICE)
    assert guest.lease()["ip"] == A
    assert pings(guest, GATE)
    assert is_pinged(A)
    assert [addresses(name) for name in ("qn-lab", *ENDS)] == [[], [f"{GATE}/24"], []]
    assert [seen(name)["mtu"] for name in ("qn-lab", *ENDS)] == [1400] * 3
    assert seen("qn-lab-port")["master"] == "qn-lab"
    assert seen("qn-lab")["address"] == BRIDGE.mac
    assert guest.run("ip", "neighbour", "show", GATE).stdout.split()[4] == seen("qn-lab-host")["address"]


def test_pulling_the_cable_cuts_off_the_host_and_nothing_else(lan: Lan) -> None:
    """And plugging it in heals that, without anything else having to be done."""
    up(lan, network(switch=CABLED, hosts=KNOWN))
    alice, bob = lan.guest("a", ALICE), lan.guest("b", BOB)
    assert (alice.lease()["ip"], bob.lease()["ip"]) == (A, B)
    assert pings(alice, GATE)
    ip("link", "set", "qn-lab-port", "nomaster")
    assert not pings(alice, GATE)
    assert not is_pinged(A)
    assert pings(alice, B)
    ip("link", "set", "qn-lab-port", "master", "qn-lab")
    assert pings(alice, GATE)
    assert is_pinged(B)
    assert bob.lease()["ip"] == B


def test_guests_have_ipv6_by_the_hosts_end(lan: Lan) -> None:
    """By its router advertisements; the bridge and the port have no IPv6 at all."""
    up(lan, network(switch=CABLED, addresses=(f"{GATE}/24", "fd77::1/64"), dhcp6=Dhcp6(slaac=True)))
    guest = lan.guest("a", ALICE)
    until(lambda: "fd77::5054:ff:fe00:a" in guest.run("ip", "-6", "address").stdout, "an address", 30)
    until(lambda: pings(guest, "fd77::1"), "the host answers", 30)
    assert [addresses(name) for name in ("qn-lab", "qn-lab-port")] == [[], []]


def test_a_bridge_whose_host_is_at_a_cable_answers_for_none_of_its_addresses(lan: Lan) -> None:
    """Only the host does, at its end: with that pulled, nobody knows its address."""
    up(lan, network(switch=CABLED, hosts=KNOWN))
    guest = lan.guest("a", ALICE)
    guest.lease()
    ip("link", "set", "qn-lab-port", "nomaster")
    assert guest.run("busybox", "arping", "-f", "-w", "1", "-I", "eth0", GATE).returncode != 0
    ip("link", "set", "qn-lab-port", "master", "qn-lab")
    assert guest.run("busybox", "arping", "-f", "-w", "2", "-I", "eth0", GATE).returncode == 0


# ---------------------------------------------------------------- all of it goes


def test_a_network_with_a_cable_leaves_nothing(world: World) -> None:
    """Whatever somebody did to the cable meanwhile."""
    for words in ((), ("link", "del", ENDS[0]), ("link", "del", ENDS[1]), ("link", "set", ENDS[0], "name", "mine")):
        world.succeeds("net", "up", EXAMPLE)
        assert [addresses(name) for name in ("virbr4", *ENDS)] == [[], [f"{GATE}/24"], []]
        assert [("UP" in seen(name)["flags"]) for name in ("virbr4", *ENDS)] == [True] * 3
        if words:
            ip(*words)
        world.succeeds("net", "down", "lab")
        assert not world.left()


@pytest.mark.parametrize("name", ENDS)
def test_somebody_who_has_a_name_of_the_cable_is_told_of_and_keeps_it(world: World, name: str) -> None:
    """Nothing is made."""
    ip("link", "add", name, "type", "bridge")
    world.mark()
    assert f"{name} is a bridge already" in world.fails(6, "net", "up", EXAMPLE)
    assert not world.left()


@pytest.mark.parametrize("also", [False, True], ids=["the bridge", "the cable as well"])
def test_a_bridge_that_is_made_again_has_the_hosts_cable_in_it(world: World, also: bool) -> None:
    """With its addresses, if somebody has taken the cable as well."""
    world.succeeds("run", "-d", world.write(HOSTED + machine("one")))
    before = [seen(name)["address"] for name in ENDS]
    if also:
        ip("link", "del", ENDS[0])
    ip("link", "del", "qn-lab")
    until(lambda: seen("qn-one-net0").get("master") == "qn-lab", "the tap is back", 10)
    assert seen("qn-lab-port")["master"] == "qn-lab"
    assert [seen(name)["address"] for name in ENDS] == before
    assert (addresses("qn-lab-host"), seen("qn-lab-host")["mtu"]) == (["10.9.9.1/24"], 1400)
    assert all("UP" in seen(name)["flags"] for name in ("qn-lab", *ENDS))
    world.succeeds("stop", "--force", "one")
    assert not world.left()
