"""Cables between networks, bridges, the host and nobody: packets, carriers, loops, and that all of it goes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.kernel.conftest import ip
from tests.world import World, kill, machine, until

SWITCHES = """
[lab]
name = "wired"
[network.virbr4]
mode = "private"
bridge = "virbr4"
{four}
[network.virbr6]
mode = "private"
bridge = "virbr6"
{six}
"""
LINK = '[[cable]]\nname = "link"\na = "network:virbr4"\nb = "network:virbr6"\na-name = "vethb1"\nb-name = "vethb2"\n'
HOST = """
[[cable]]
name = "host-plug"
a = "network:virbr4"
b = "host"
a-name = "vmh1"
b-name = "vmh2"
b-address = ["192.168.50.1/24", "fd77::1/64"]
b-routes = ["192.168.60.0/24", "192.168.70.0/24 via 192.168.50.13"]
"""


def lab(*cables: str, four: str = "", six: str = "") -> str:
    return SWITCHES.format(four=four, six=six) + "".join(cables)


def link(name: str) -> dict[str, Any]:
    """What ip(8) says of an interface; nothing if it is not there."""
    done = subprocess.run(["ip", "-j", "-d", "address", "show", "dev", name], capture_output=True, text=True)
    return next(filter(None, json.loads(done.stdout or "[]")), {})


def carrier(*names: str) -> list[bool]:
    return ["LOWER_UP" in link(name)["flags"] for name in names]


def addresses(name: str) -> list[str]:
    return sorted(f"{one['local']}/{one['prefixlen']}" for one in link(name)["addr_info"] if one["scope"] != "link")


def routes() -> list[str]:
    shown = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    return sorted(line.replace(" linkdown", "").strip() for line in shown.splitlines())


def cable(world: World, name: str) -> dict[str, Any]:
    found = json.loads(world.succeeds("cable", "list", "--json"))
    return next(one for one in found if one["name"] == name)


@contextmanager
def guest(bridge: str, name: str, *own: str) -> Iterator[str]:
    """A namespace that stands for a guest on a bridge; gives what runs a command in it."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        pid = str(holder.pid)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("link", "set", name, "addrgenmode", "none", "master", bridge, "up")
        for words in ("link set lo up", *(f"address add {one} dev eth0 nodad" for one in own), "link set eth0 up"):
            inside(pid, "ip", *words.replace(" nodad", "" if ":" not in words else " nodad").split())
        yield pid
    finally:
        holder.communicate()
        subprocess.run(["ip", "link", "del", name], capture_output=True)


def inside(pid: str, *argv: str) -> bool:
    return subprocess.run(["nsenter", "-t", pid, "-n", *argv], capture_output=True).returncode == 0


def pings(pid: str, address: str) -> bool:
    return inside(pid, "busybox", "ping", "-c", "1", "-W", "1", address)


def reaches(pid: str, address: str) -> None:
    """It does, at the latest when a bridge has opened its port."""
    until(lambda: pings(pid, address), f"{address} answers", 20)


# ---------------------------------------------------------------- packets


def test_two_switches_are_one_and_the_host_is_on_the_first(world: World) -> None:
    """The guests on both, and the host at its cable, reach each other; the bridges have no address."""
    file = world.write(lab(LINK, HOST))
    world.succeeds("net", "up", file)
    with (
        guest("virbr4", "g2", "192.168.50.12/24", "fd77::12/64") as kali2,
        guest("virbr6", "g3", "192.168.50.13/24") as three,
    ):
        for pid, address in ((kali2, "192.168.50.13"), (three, "192.168.50.12"), (three, "192.168.50.1")):
            assert pings(pid, address)
        assert pings(kali2, "fd77::1")
        assert [addresses(name) for name in ("virbr4", "virbr6", "vmh1")] == [[], [], []]
        assert addresses("vmh2") == ["192.168.50.1/24", "fd77::1/64"]
        world.succeeds("cable", "pull", "link")
        assert not pings(three, "192.168.50.12")
        assert pings(kali2, "192.168.50.1")
        world.succeeds("cable", "plug", "link")
        reaches(three, "192.168.50.12")
    assert "what runs matches the file" in world.qemunet("apply", file).stderr
    world.succeeds("net", "down", file)


def test_a_pulled_cable_has_no_carrier_at_either_end_and_loses_nothing(world: World) -> None:
    """Addresses and routes are there when it is plugged in again, and the bridge never had another port."""
    file = world.write(lab(HOST))
    world.succeeds("net", "up", file)
    before = (addresses("vmh2"), routes())
    assert carrier("vmh1", "vmh2") == [True, True]
    for _ in range(3):
        world.succeeds("cable", "pull", "host-plug")
        assert (carrier("vmh1", "vmh2"), cable(world, "host-plug")["state"]) == ([False, False], "pulled")
        assert link("vmh1")["master"] == "virbr4"
        world.succeeds("cable", "plug", "host-plug")
        until(lambda: all(carrier("vmh1", "vmh2")), "both have a carrier", 10)
        assert (cable(world, "host-plug")["state"], addresses("vmh2"), routes()) == ("plugged", *before)
    world.succeeds("net", "down", file)


def test_a_cable_that_was_set_down_at_the_wrong_end_gets_all_of_it_back(world: World) -> None:
    """Who set the host's end down by hand took its routes and IPv6 address with it."""
    file = world.write(lab(HOST))
    world.succeeds("net", "up", file)
    before = (addresses("vmh2"), routes())
    ip("link", "set", "vmh2", "down")
    assert cable(world, "host-plug")["state"] == "pulled"
    assert routes() == []
    world.succeeds("cable", "plug", "host-plug")
    assert (addresses("vmh2"), routes()) == before
    world.succeeds("net", "down", file)


def test_a_loose_end_is_for_anybody(world: World) -> None:
    """Somebody puts it into a namespace of his own, and is on the network; pulling cuts him off as well."""
    file = world.write(
        lab('[[cable]]\nname = "vmw"\na = "network:virbr4"\nb = "free"\na-name = "vmw1"\nb-name = "vmw2"\n')
    )
    world.succeeds("net", "up", file)
    with guest("virbr4", "g2", "192.168.50.12/24") as kali2, guest("virbr6", "g3") as stranger:
        assert carrier("vmw1", "vmw2") == [True, True]
        ip("link", "set", "vmw2", "netns", stranger)
        assert inside(stranger, "ip", "address", "add", "192.168.50.77/24", "dev", "vmw2")
        assert inside(stranger, "ip", "link", "set", "vmw2", "up")
        assert pings(kali2, "192.168.50.77")
        world.succeeds("cable", "pull", "vmw")
        assert cable(world, "vmw")["state"] == "pulled"
        assert not pings(kali2, "192.168.50.77")
        world.succeeds("cable", "plug", "vmw")
        reaches(kali2, "192.168.50.77")
        world.succeeds("net", "down", file)
        assert not inside(stranger, "ip", "link", "show", "vmw2")


# ---------------------------------------------------------------- loops


def test_a_second_way_is_refused_by_name_or_blocked_by_one_spanning_tree(world: World) -> None:
    """And a frame to all that comes into such a loop is not there for ever."""
    world.succeeds("net", "up", world.write(lab(LINK)))
    said = world.fails(6, "cable", "add", "network:virbr6", "network:virbr4")
    assert "closes a loop" in said
    assert "vethb1" in said
    assert "qemunet.cable-link" in said
    assert [one["name"] for one in json.loads(world.succeeds("cable", "list", "--json"))] == ["link"]
    world.succeeds("net", "down", str(world.folder / "lab.toml"))
    file = world.write(lab(LINK, LINK.replace("link", "other").replace("veth", "wire"), four="stp = true"))
    world.succeeds("net", "up", file)
    until(lambda: "blocking" in [state("wireb1"), state("vethb1")], "a port is blocked", 40)
    with guest("virbr4", "g2", "192.168.50.12/24") as kali2, guest("virbr6", "g3", "192.168.50.13/24") as three:
        until(lambda: pings(kali2, "192.168.50.13"), "it learns, then forwards", 40)
        before = received("g3")
        inside(three, "busybox", "arping", "-c", "3", "-I", "eth0", "192.168.50.99")
        assert received("g3") - before < 1000
    world.succeeds("net", "down", file)


def state(port: str) -> str:
    found: str = link(port)["linkinfo"]["info_slave_data"]["state"]
    return found


def received(name: str) -> int:
    shown = subprocess.run(["ip", "-j", "-s", "link", "show", "dev", name], capture_output=True, text=True, check=True)
    found: int = json.loads(shown.stdout)[0]["stats64"]["tx"]["packets"]
    return found


def test_what_others_have_joined_counts(world: World) -> None:
    """A veth pair of somebody else's between two bridges, also by a third one."""
    ip("link", "add", "far", "type", "bridge")
    world.succeeds("net", "up", world.write(lab()))
    for number, bridge in enumerate(("virbr4", "virbr6")):
        ip("link", "add", f"f{number}a", "type", "veth", "peer", "name", f"f{number}b")
        ip("link", "set", f"f{number}a", "master", bridge)
        ip("link", "set", f"f{number}b", "master", "far")
    said = world.fails(6, "cable", "add", "network:virbr4", "network:virbr6")
    assert all(name in said for name in ("f0a", "f1a", "virbr4", "virbr6", "far"))
    assert "far" in world.fails(6, "net", "up", world.write(lab(LINK)), "link")
    ip("link", "del", "f1a")
    world.succeeds("cable", "add", "network:virbr4", "network:virbr6")
    world.succeeds("cable", "del", "virbr4-virbr6")
    world.succeeds("net", "down", "virbr4", "virbr6")
    ip("link", "del", "f0a")
    ip("link", "del", "far")


# ---------------------------------------------------------------- how long they are there


def test_a_cable_is_there_from_the_first_vm_of_its_lab_to_the_last(world: World) -> None:
    """With networks that no vm is on, and whatever is killed meanwhile."""
    one, two = (machine(name, card='network = "virbr4"') for name in ("one", "two"))
    file = world.write(lab(LINK, one, two))
    world.succeeds("run", "-d", file, "one")
    assert carrier("vethb1", "vethb2") == [True, True]
    world.succeeds("run", "-d", file, "two")
    world.succeeds("cable", "pull", "link")
    kill(world.keeper("wired"))
    assert (cable(world, "link")["state"], carrier("vethb1", "vethb2")) == ("pulled", [False, False])
    world.succeeds("stop", "--force", "one")
    assert cable(world, "link")["guests"] == ["two"]
    kill(world.pid("two"))
    world.succeeds("gc")
    assert not world.left()


def test_a_network_with_a_cable_in_it_does_not_go(world: World) -> None:
    """It is said what is plugged into it; with the cable it goes."""
    file = world.write(lab())
    world.succeeds("net", "up", file)
    world.succeeds("cable", "add", "network:virbr4", "host", "--name", "mine", "--b-address", "10.1.0.1/24")
    assert addresses("qn-mine-b") == ["10.1.0.1/24"]
    assert "the cable mine is plugged into it" in world.fails(6, "net", "down", "virbr4")
    assert "already" in world.fails(6, "cable", "add", "network:virbr4", "host", "--name", "mine")
    assert "is not up" in world.fails(4, "cable", "add", "network:lost", "host")
    assert "there is no cable" in world.fails(4, "cable", "pull", "yours")
    world.succeeds("net", "down", "virbr6")
    world.succeeds("cable", "del", "mine")
    world.succeeds("net", "down", "virbr4")
    assert not world.left()


def test_a_bridge_of_somebody_elses_is_as_it_was(world: World) -> None:
    """With its address and MTU, while a cable of a smaller MTU and a lower address is in it, and afterwards."""
    ip("link", "add", "br9", "type", "bridge")
    ip("link", "set", "br9", "up")
    before = [link("br9")[key] for key in ("address", "mtu")]
    file = world.write('[[cable]]\na = "bridge:br9"\nb = "free"\nmtu = 1300\na-mac = "02:00:00:00:00:01"\n')
    world.succeeds("net", "up", file)
    assert link("qn-br9-free-a")["master"] == "br9"
    assert [link("br9")[key] for key in ("address", "mtu")] == before
    world.succeeds("net", "down", file)
    assert [link("br9")[key] for key in ("address", "mtu")] == before
    ip("link", "del", "br9")
