"""One dnsmasq for several networks with bare bridges: real leases of namespaces that play guests."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.lan import Guest, plugged
from tests.world import World, kill, machine, until

ALICE, BOB, CAROL = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
TWO = """
[lab]
name = "central"
[dhcp-server.one]
domain = "lab.test"
[network.lab]
address = ["192.168.50.1/24", "fd50::1/64"]
dhcp.server = "one"
dhcp.range = ["192.168.50.100", "192.168.50.109", "fd50::100", "fd50::1ff"]
dhcp.options = { ntp-server = "192.0.2.1" }
hosts = [{ mac = "52:54:00:00:00:0a", ip = "192.168.50.12", name = "alice" }]
[network.office]
address = ["192.168.60.1/24"]
mtu = 1400
dhcp = { server = "one", range = ["192.168.60.100", "192.168.60.109"], lease = "30m" }
hosts = [{ mac = "52:54:00:00:00:0a", ip = "192.168.60.13" }]
"""


@contextlib.contextmanager
def guests(world: World, **where: tuple[str, str]) -> Iterator[list[Guest]]:
    """Namespaces, each with a MAC, on a bridge each."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(plugged(world.folder, name, mac, on)) for name, (mac, on) in where.items()]


def leases(world: World, *names: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(world.succeeds("net", "leases", "--json", *names))
    return found


def server(world: World) -> int:
    return int((world.runtime / "host" / "dhcp-one" / "dnsmasq.pid").read_text())


def between(address: str, first: str, last: str) -> bool:
    low, it, high = map(ipaddress.IPv4Address, (first, address, last))
    return low <= it <= high


def test_each_network_has_leases_of_its_own_pool_from_one_server(world: World) -> None:
    """With its own options; who is known on both has a place in each; the bridges have no address."""
    world.succeeds("net", "up", world.write(TWO))
    assert len(list(world.runtime.rglob("dnsmasq.pid"))) == 1
    there = {"a": (ALICE, "qn-lab"), "b": (BOB, "qn-lab"), "c": (CAROL, "qn-office"), "d": (ALICE, "qn-office")}
    with guests(world, **there) as (a, b, c, d):
        said = b.lease("-O", "mtu", "-O", "ntpsrv")
        assert between(said["ip"], "192.168.50.100", "192.168.50.109")
        assert (said["mtu"], said["lease"], said["ntpsrv"]) == ("1500", "3600", "192.0.2.1")
        assert (said["dns"], said["domain"]) == ("192.168.50.1", "lab.test")
        assert "router" not in said
        other = c.lease("-O", "mtu", "-O", "ntpsrv")
        assert between(other["ip"], "192.168.60.100", "192.168.60.109")
        assert (other["mtu"], other["lease"], other["dns"]) == ("1400", "1800", "192.168.60.1")
        assert "ntpsrv" not in other
        assert (a.lease()["ip"], d.lease()["ip"]) == ("192.168.50.12", "192.168.60.13")
        assert c.address("alice.lab.test", "192.168.60.1").startswith("192.168.")
        assert b.address6().startswith("fd50::")
        assert {one["ip"] for one in leases(world, "office")} == {other["ip"], "192.168.60.13"}
        assert {one["network"] for one in leases(world)} == {"lab", "office"}
    for bridge in ("qn-lab", "qn-office"):
        assert "inet" not in a_bridge(bridge)
    world.succeeds("net", "down", "lab", "office")
    assert not world.left()


def a_bridge(name: str) -> str:
    from tests.dump import program

    return program("ip", "address", "show", "dev", name)


def test_a_network_comes_to_a_server_that_runs_already(world: World) -> None:
    """The server goes with the last of its networks; each is used alone as well as with others."""
    file = world.write(TWO)
    world.succeeds("net", "up", file, "office")
    first = server(world)
    with guests(world, c=(CAROL, "qn-office")) as (c,):
        assert c.lease()["ip"].startswith("192.168.60.")
    world.succeeds("net", "up", file, "lab")
    assert server(world) == first
    with guests(world, b=(BOB, "qn-lab")) as (b,):
        assert b.lease()["ip"].startswith("192.168.50.")
    world.succeeds("net", "down", "office")
    assert server(world) == first
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_the_card_of_a_vm_has_its_address_and_its_name_with_the_server(world: World) -> None:
    """Where there is no name for a network, nobody is told of a name server."""
    vm = machine("kali", card=f'network = "lab"\nmac = "{CAROL}"\nip = ["192.168.50.77/24"]')
    text = TWO.replace("[network.office]", "[network.office]\ndns = false")
    world.succeeds("run", "-d", world.write(text + vm))
    world.succeeds("net", "up", str(world.folder / "lab.toml"), "office")
    with guests(world, c=(CAROL, "qn-lab"), b=(BOB, "qn-office")) as (c, b):
        said = c.lease("-O", "hostname")
        assert (said["ip"], said["hostname"]) == ("192.168.50.77", "kali")
        assert "dns" not in b.lease()
        assert c.address("kali.lab.test", "192.168.50.1") == "192.168.50.77"
    (row,) = (one for one in leases(world, "lab") if one["ip"] == "192.168.50.77")
    assert (row["vm"], row["nic"], row["hostname"]) == ("kali", "net0", "kali")
    world.succeeds("stop", "--force", "kali")
    world.succeeds("net", "down", "office")
    assert not world.left()


def test_a_server_that_dies_is_started_again_by_the_keeper_of_a_guest(world: World) -> None:
    world.succeeds("run", "-d", world.write(TWO + machine("kali")))
    first = server(world)
    kill(first)
    until(lambda: server(world) != first, "another server")
    with guests(world, b=(BOB, "qn-lab")) as (b,):
        until(lambda: b.lease().get("ip", "").startswith("192.168.50."), "a lease of the new one")
    assert {one["dhcp"] for one in json.loads(world.succeeds("net", "list", "--json"))} == {"running"}
    world.succeeds("stop", "--force", "kali")
    assert not world.left()


@pytest.mark.parametrize("one", ["host/dhcp-one", "net/lab"])
def test_a_killed_program_that_made_it_leaves_nothing(world: World, one: str) -> None:
    """What was half made of the server, or of a network of it, goes by `gc`."""
    world.succeeds("net", "up", world.write(TWO), "lab")
    (world.runtime / one / "fingerprint").unlink()
    with contextlib.suppress(FileNotFoundError):
        (world.runtime / "net" / "lab" / "held").unlink()
    world.succeeds("gc")
    assert not world.left()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if _is_ours(world, pid)]


def _is_ours(world: World, pid: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.fsencode(str(world.runtime)) in (pid / "cmdline").read_bytes()
    return False


def test_what_cannot_be_is_said(world: World) -> None:
    """A server that is not there, an address on the bridge, names that the network would have of its own."""
    for old, new, said in (
        ("[dhcp-server.one]\ndomain", "[dhcp-server.onne]\ndomain", 'did you mean "onne"'),
        ('name = "central"', 'name = "central"\n[dhcp-server.on]\nnix = 1', 'unknown key "nix"'),
        ("mtu = 1400", 'host = "bridge"', 'take host = "veth"'),
        ("mtu = 1400", 'dns = { domain = "mine.test" }', "[dhcp-server.one] has domain"),
    ):
        assert said in world.fails(2, "check", world.write(TWO.replace(old, new)))


def test_other_settings_while_it_is_up_are_refused(world: World) -> None:
    file = world.write(TWO)
    world.succeeds("net", "up", file, "lab")
    world.write(TWO.replace("192.168.60.109", "192.168.60.120"))
    assert "dhcp-server one" in world.fails(6, "net", "up", file, "office")
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_a_card_that_moves_between_its_networks_is_known_on_the_new_one(world: World) -> None:
    """Also on one that is not up before, of the file; and its place is free when it is gone."""
    vm = machine("kali", card=f'network = "lab"\nmac = "{CAROL}"\nip = ["192.168.50.77/24"]')
    world.succeeds("run", "-d", world.write(TWO.replace("mtu = 1400", "") + vm))
    first = server(world)
    world.succeeds("nic", "set", "kali", "net0", "--network", "office", "--ip", "192.168.60.77/24")
    assert server(world) == first
    with guests(world, c=(CAROL, "qn-office")) as (c,):
        assert c.lease()["ip"] == "192.168.60.77"
    world.succeeds("stop", "--force", "kali")
    assert not world.left()
