"""Networks whose switch is in a namespace of the lab: what the host shows of them, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.host import spaces
from tests.kernel.places import inode, inside, pings, users, world_of_spaces
from tests.world import World, kill, machine, until

LAB = """
[lab]
name = "inner"
[netns.sw1]
[netns.netns1]
address = { eth0 = "10.5.0.1/24" }
[netns.netns2]
address = { eth0 = "10.5.0.2/24" }
[network.lan]
netns = "sw1"
bridge = "br0"
address = ["10.5.0.254/24"]
[network.outside]
mode = "private"
bridge = "br0"
[[cable]]
name = "one"
a = "network:lan"
b = "netns:netns1"
b-name = "eth0"
[[cable]]
name = "two"
a = "network:lan"
b = "netns:netns2"
b-name = "eth0"
"""
HOST_PLUG = """
[[cable]]
name = "plug"
a = "network:lan"
b = "host"
b-address = "10.5.0.100/24"
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_of_spaces(tmp_path) as world:
        yield world


def names(*where: str) -> set[str]:
    links = json.loads(
        subprocess.run(["ip", *where, "-json", "link"], capture_output=True, text=True, check=True).stdout
    )
    return {link["ifname"] for link in links}


def card(ifname: str) -> dict[str, object]:
    shown = ["ip", "-n", "sw1", "-json", "link", "show", ifname]
    (link,) = json.loads(subprocess.run(shown, capture_output=True, text=True, check=True).stdout)
    assert isinstance(link, dict)
    return link


def space_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_a_switch_in_a_namespace_joins_others_and_the_host_shows_nothing_of_it(world: World) -> None:
    """Packets pass between namespaces by it, and it has the network's address; a cable lets the host in."""
    before = names()
    file = world.write(LAB)
    world.succeeds("net", "up", file, "lan", "one", "two")
    assert names() == before
    assert names("-n", "sw1") == {"lo", "br0", "qn-one-a", "qn-two-a"}
    assert pings(world, "netns1", "10.5.0.2")
    assert pings(world, "netns2", "10.5.0.254")
    (network,) = json.loads(world.succeeds("net", "list", "--json"))
    assert (network["netns"], network["bridge"], network["mode"]) == ("sw1", "br0", "isolated")
    assert "sw1/br0" in world.succeeds("net", "list")
    assert "the switch of lan is in it" in world.fails(6, "net", "down", "sw1")
    world.succeeds("net", "down", file)
    world.succeeds("net", "up", world.write(LAB + HOST_PLUG))
    assert "br0" in names(), "there is one of that name on the host too, for the other network"
    assert pings(world, "netns1", "10.5.0.100")
    world.succeeds("net", "down", file)


def test_a_deleted_bridge_in_a_namespace_is_made_again_by_net_up(world: World) -> None:
    """Nobody watches it; with it come its cables and cards."""
    file = world.write(LAB)
    world.succeeds("net", "up", file)
    subprocess.run(["ip", "-n", "sw1", "link", "del", "br0"], check=True)
    assert not pings(world, "netns1", "10.5.0.2")
    world.succeeds("net", "up", file)
    until(lambda: pings(world, "netns1", "10.5.0.2"), "its cables are plugged in again", 30)
    assert pings(world, "netns1", "10.5.0.254")
    world.succeeds("net", "down", file)


def test_a_card_is_in_the_namespace_of_its_network_and_qemu_is_not(world: World) -> None:
    """What is seen, counted, captured and set of it is what is there."""
    before = names()
    file = world.write(LAB + machine("vm1", card='network = "lan"\nrate = { in = "10mbit", out = "10mbit" }'))
    world.succeeds("run", "-d", file)
    assert names() == before
    assert "qn-vm1-net0" in names("-n", "sw1")
    assert card("qn-vm1-net0")["master"] == "br0"
    assert space_of(world.pid("vm1")) == space_of(os.getpid())
    (nic,) = json.loads(world.succeeds("nic", "list", "vm1", "--json"))
    assert (nic["netns"], nic["ifname"], nic["bridge"]) == ("sw1", "qn-vm1-net0", "br0")
    assert "sw1/qn-vm1-net0" in world.succeeds("nic", "list", "vm1")
    pings(world, "netns1", "10.5.0.77")
    (counted,) = json.loads(world.succeeds("nic", "stats", "vm1", "--json"))
    assert counted["rx_packets"] > 0
    capture = world.start("nic", "capture", "vm1", "net0", "-w", str(world.folder / "one.pcap"), "-c", "1")
    until((world.folder / "one.pcap").exists, "it listens")
    until(lambda: pings(world, "netns1", "10.5.0.77") or capture.poll() is not None, "a packet was seen")
    assert capture.wait(20) == 0
    capture.communicate()
    world.succeeds("nic", "set", "vm1", "net0", "--link", "down")
    assert card("qn-vm1-net0")["operstate"] == "DOWN"
    world.succeeds("nic", "set", "vm1", "net0", "--link", "up")
    until(lambda: card("qn-vm1-net0")["operstate"] != "DOWN", "there is a carrier again", 20)
    world.succeeds("nic", "set", "vm1", "net0", "--rate", "in=1mbit", "--guard", "clean")
    assert "1Mbit" in inside(world, "sw1", "tc", "qdisc", "show", "dev", "qn-vm1-net0")
    assert "qemunet-vm1" in inside(world, "sw1", "nft", "list", "tables")
    assert "qemunet-vm1" not in subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    world.succeeds("stop", "--force", "vm1")


def test_nothing_keeps_a_namespace_with_a_switch(world: World) -> None:
    """Nor what was in it, though the keeper and QEMU were killed; a new keeper takes care of the guest."""
    file = world.write(LAB + machine("vm1", card='network = "lan"'))
    world.succeeds("run", "-d", file)
    number = inode(world, "sw1")
    kill(world.keeper("inner"))
    world.succeeds("nic", "set", "vm1", "net0", "--link", "down")
    assert card("qn-vm1-net0")["operstate"] == "DOWN"
    assert "vm1 is on it" in world.fails(6, "net", "down", "sw1")
    kill(world.keeper("inner"))
    kill(world.pid("vm1"))
    world.succeeds("gc")
    assert users(number) == []
    assert not world.left()


def test_qemu_itself_may_be_in_a_namespace(world: World) -> None:
    """What it opens is there; its cards are where their networks are."""
    text = LAB + machine("vm1", 'netns = "netns1"', 'display = "vnc=127.0.0.1:5"', card='network = "lan"')
    file = world.write(text)
    world.succeeds("run", "-d", file)
    number = inode(world, "netns1")
    assert space_of(world.pid("vm1")) == number
    assert card("qn-vm1-net0")["master"] == "br0"
    assert "127.0.0.1:5905" in inside(world, "netns1", "ss", "-Htln")
    assert "5905" not in subprocess.run(["ss", "-Htln"], capture_output=True, text=True, check=True).stdout
    kill(world.keeper("inner"))
    assert json.loads(world.succeeds("status", "vm1", "--json"))["state"] == "running"
    os.kill(world.pid("vm1"), signal.SIGTERM)
    until(lambda: world.vms() == [], "its end was noticed", 20)
    assert users(number) == []


SCRIPTED = (
    LAB
    + machine("vm1", card='network = "lan"\nrate = { in = "10mbit", out = "10mbit" }\nguard = "mac"')
    + '[[vm.vm1.nic]]\nnetwork = "outside"\n'
    + machine("vm2", 'netns = "sw1"', card='network = "lan"')
    + '[[vm.vm2.nic]]\naddress = ["10.6.0.1/24"]\nroutes = ["10.7.0.0/24"]\n'
)


def picture() -> dict[str, object]:
    """What the namespaces and the host show of interfaces, addresses, routes, rules and limits."""
    spots = {"host": [], "sw1": ["ip", "netns", "exec", "sw1"], "netns1": ["ip", "netns", "exec", "netns1"]}
    return {name: _picture(words) for name, words in spots.items()}


def _picture(where: list[str]) -> dict[str, object]:
    def shown(*words: str) -> str:
        return subprocess.run([*where, *words], capture_output=True, text=True, check=True).stdout

    known = ("ifname", "address", "mtu", "master", "altnames", "group")
    links = [{key: link.get(key) for key in known} for link in json.loads(shown("ip", "-json", "link"))]
    qdiscs = sorted(" ".join(line.split()[:5]) for line in shown("tc", "qdisc").splitlines() if "tbf" in line)
    return {
        "links": sorted(links, key=str),
        "addresses": sorted(line.split(maxsplit=1)[1] for line in shown("ip", "-4", "-o", "address").splitlines()),
        "routes": sorted(shown("ip", "route").replace(" linkdown", "").splitlines()),
        "tables": sorted(shown("nft", "list", "tables").splitlines()),
        "limits": qdiscs,
    }


def test_a_script_makes_the_same(world: World) -> None:
    """Its taps are where their networks are, though its QEMUs have opened them where they are; and all goes again."""
    file = world.write(SCRIPTED)
    script = world.folder / "lab.sh"
    script.write_text(world.succeeds("plan", "--shell", file))
    world.succeeds("run", "-d", file)
    made = picture()
    assert space_of(world.pid("vm2")) == inode(world, "sw1")
    world.succeeds("stop", "--force", "vm1", "vm2")
    until(lambda: not world.left(0), "all is gone", 20)
    environment = {**world.environment, "run": str(world.folder / "sh")}
    done = subprocess.run(["sh", script, "up"], env=environment, capture_output=True, text=True, timeout=60)
    try:
        assert done.returncode == 0, done.stderr
        assert picture() == made
        pids = {name: int((world.folder / "sh" / name / "pid").read_text()) for name in ("vm1", "vm2")}
        assert space_of(pids["vm1"]) == space_of(os.getpid()) != space_of(pids["vm2"])
    finally:
        down = subprocess.run(["sh", script, "down"], env=environment, capture_output=True, text=True, timeout=60)
    assert down.returncode == 0, down.stderr
    assert "failed" not in down.stderr
    assert os.listdir("/run/netns") == []
    subprocess.run(["umount", "/run/netns"], check=True)
    os.rmdir("/run/netns")


def test_whether_a_port_of_a_guest_answers_is_tried_from_the_namespace(world: World) -> None:
    """The host is not on the network; here somebody else answers for the guest, which has no system."""
    file = world.write(LAB + machine("vm1", 'ready = "tcp=7777"', card='network = "lan"\nip = ["10.5.0.1/24"]'))
    world.succeeds("net", "up", file)
    with spaces.place(str(world.runtime), "netns1").inside(lambda: socket.create_server(("", 7777))):
        world.succeeds("up", file)
    world.succeeds("stop", "--force", "vm1")
    world.succeeds("net", "down", file)


SERVED = """
[lab]
name = "served"
[netns.sw1]
[netns.client]
[network.lan]
netns = "sw1"
address = ["10.5.0.254/24"]
dhcp = { range = ["10.5.0.100", "10.5.0.110"] }
dns = { domain = "lab.test", hosts = { db = "10.5.0.7" } }
[[cable]]
a = "network:lan"
b = "netns:client"
b-name = "eth0"
"""


def test_addresses_and_names_are_served_in_the_namespace(world: World) -> None:
    """By a dnsmasq there, which is started there again when it dies, and does not keep the namespace."""
    file = world.write(SERVED + machine("vm1", card='network = "lan"\nip = ["10.5.0.50/24"]'))
    world.succeeds("run", "-d", file)
    number = inode(world, "sw1")
    pid = world.runtime / "net" / "lan" / "dnsmasq.pid"
    first = int(pid.read_text())
    assert space_of(first) == number
    ask = ("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-T", "1", "-s", "/bin/true")
    assert "10.5.0.1" in world.qemunet("exec", "client", "--", *ask).stderr
    (lease,) = json.loads(world.succeeds("net", "leases", "lan", "--json"))
    assert lease["ip"].startswith("10.5.0.1")
    inside(world, "client", "ip", "address", "add", "10.5.0.99/24", "dev", "eth0")
    assert "10.5.0.7" in inside(world, "client", "busybox", "nslookup", "db.lab.test", "10.5.0.254")
    kill(first)
    until(lambda: pid.read_text().strip() not in ("", str(first)), "it is there again", 30)
    assert space_of(int(pid.read_text())) == number
    world.succeeds("stop", "--force", "vm1")
    assert users(number) == []
