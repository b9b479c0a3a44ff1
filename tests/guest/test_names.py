"""Which card of the guest is which interface of the host: one table tells, and it is true while cards come and go."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from qemunet.guest import image
from qemunet.testing.bench import Bench, Seat
from tests.guest.around import as_before, emulated_with_room, shown
from tests.guest.scene import TREE, Scene, host_pings, ip, wait_for

pytestmark = [pytest.mark.guest, pytest.mark.root]

THREE = TREE / "examples/three-networks.toml"
MUTE = """
network.lab.address = ["10.82.0.1/24"]
[vm.small]
memory = "128M"
boot = {{ kernel = "{0.kernel}", initrd = "{0.initrd}", append = "{0.append} {1}" }}
[[vm.small.nic]]
network = "lab"
mac = "52:54:00:00:82:02"
ip = ["10.82.0.2/24"]
"""
ITS_NETWORK = "qemunet.name=small qemunet.nic=52:54:00:00:82:02,10.82.0.2/24"
# Whoever has the port has it alone.
END_AGENT = """for one in /proc/[0-9]*; do
    [ "$(readlink $one/fd/4)" != /dev/vport0p1 ] || kill -9 ${one#/proc/}
done"""
Card = dict[str, Any]
three_networks = pytest.mark.qemunet_lab(THREE, set=emulated_with_room("router"), around=as_before)


def named(where: Scene | Bench, vm: str) -> dict[str, Card]:
    """The cards by the guest's names for them."""
    return {card["guest_ifname"]: card for card in json.loads(where.qemunet("nic", "list", vm, "--json"))}


def inside(guest: Seat) -> dict[str, tuple[str, set[str]]]:
    """MAC and addresses of the guest's cards by their names, as its `ip` tells."""
    found: dict[str, tuple[str, set[str]]] = {}
    for name, mac in re.findall(
        r"(?m)^\d+: (eth\d+):.*?link/ether (\S+)", guest.succeeds("ip -o link").replace("\\", "")
    ):
        lines = guest.succeeds(f"ip -o addr show dev {name} scope global")
        found[name] = mac, set(re.findall(r"inet6? (\S+)", lines))
    return found


def addresses(card: Card, source: str = "guest") -> set[str]:
    assert {one["source"] for one in card["ip"]} <= {source}, card
    return {one["address"] for one in card["ip"]}


@three_networks
def test_the_table_of_three_cards_on_three_networks_is_complete_and_right(lab: Bench) -> None:
    """Right after boot: guest name, MAC, host interface and its MAC, bridge, network, addresses, as `ip` has them."""
    table = lab.qemunet("status", "router").splitlines()
    cards = named(lab, "router")
    assert {name: (card["mac"], addresses(card)) for name, card in cards.items()} == inside(lab["router"])
    for name, network in (("eth0", "office"), ("eth1", "lab"), ("eth2", "storage")):
        card = cards[name]
        (tap,) = shown(lab.host, "link", "show", "dev", card["ifname"])
        assert (tap["address"], tap["master"]) == (card["host_mac"], card["bridge"])
        assert card["host_mac"] == "fe" + card["mac"][2:]
        assert (card["network"], card["bridge"]) == (network, f"qn-{network}")
        (row,) = (line for line in table if f" {name} " in line)
        found = {card["mac"], card["ifname"], card["network"], card["bridge"], *addresses(card)}
        assert found <= set(row.replace(",", "").split())


@three_networks
def test_an_address_that_is_set_by_hand_in_the_guest_is_there_when_one_looks(lab: Bench) -> None:
    """The guest is asked at that moment; and one that it has given up is not there any more."""
    router = lab["router"]
    router.succeeds("ip addr add 10.99.0.7/16 dev eth2; ip addr del 10.81.3.2/24 dev eth2")
    assert addresses(named(lab, "router")["eth2"]) == {"10.99.0.7/16"}
    router.succeeds("ip link set eth2 down; ip link set eth2 name disk0")
    assert set(named(lab, "router")) == {"eth0", "eth1", "disk0"}
    router.wait_until("ip link set disk0 down; ip link set disk0 name eth2")  # a new name is brought up at once
    wait_for(lambda: set(named(lab, "router")) == {"eth0", "eth1", "eth2"})


@three_networks
def test_a_plugged_card_has_its_name_at_once_and_goes_when_it_is_unplugged(lab: Bench) -> None:
    """`nic add` itself tells what the guest calls it."""
    added = json.loads(lab.qemunet("nic", "add", "router", "--network", "lab", "--json"))
    assert added["guest_ifname"] == "eth3"
    assert inside(lab["router"])["eth3"][0] == added["mac"]
    assert named(lab, "router")["eth3"]["id"] == added["id"]
    table = lab.qemunet("nic", "add", "router", "--network", "office", "--model", "e1000")
    assert re.search(r"\beth4\b", table)
    lab.qemunet("nic", "del", "router", added["id"])
    assert set(named(lab, "router")) == {"eth0", "eth1", "eth2", "eth4"}
    lab.qemunet("nic", "del", "router", named(lab, "router")["eth4"]["id"])


def test_when_the_keeper_was_killed_the_next_one_knows_the_names(scene: Scene, unchanged: None) -> None:
    """Meanwhile the guest went on, whether anybody listened or not."""
    with scene.lab(THREE) as guests:
        before = named(scene, "router")
        (lab,) = (scene.runtime / "lab").iterdir()
        keeper = int((lab / "pid").read_text())
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{keeper}").exists() or "Z" in Path(f"/proc/{keeper}/stat").read_text())
        assert named(scene, "router") == before
        guests["router"].close()
        guests["router"] = scene.guest("router")
        assert host_pings("10.81.1.2")


def test_a_guest_that_cannot_tell_has_no_name_and_the_addresses_that_the_host_has_seen(
    scene: Scene, unchanged: None
) -> None:
    """To QEMU it is any kernel: first there is what the file says, then what the host has talked to."""
    with scene.lab(MUTE.format(image.build(print), ITS_NETWORK)) as guests:
        assert not (scene.runtime / "vm/small/agent.sock").exists()
        (card,) = scene.cards("small")
        assert card["guest_ifname"] is None
        assert addresses(card, card["ip"][0]["source"]) in ({"10.82.0.2/24"}, {"10.82.0.2"})
        guests["small"].succeeds("ip addr add 10.82.0.9/24 dev eth0; ip addr del 10.82.0.2/24 dev eth0")
        ip("neigh", "flush", "dev", "qn-lab")
        (card,) = scene.cards("small")
        assert card["ip"] == [{"address": "10.82.0.2/24", "source": "file"}]
        guests["small"].succeeds("ip addr add 10.82.0.9/24 dev eth0 2>/dev/null; ping -c 1 -W 5 10.82.0.1")
        assert host_pings("10.82.0.9")
        (card,) = scene.cards("small")
        assert card["ip"] == [{"address": "10.82.0.9", "source": "neighbour"}]
        _, _, row = scene.qemunet("status", "small").splitlines()
        assert row.split()[:2] == ["net0", "-"]


def test_what_a_guest_writes_there_harms_nobody(scene: Scene, unchanged: None) -> None:
    """Noise, megabytes without an end, and names that a terminal would obey; its console and its cards go on."""
    with scene.lab(THREE) as guests:
        router = guests["router"]
        mac = scene.cards("router")[0]["mac"]
        router.succeeds("ip link set eth0 down; ip link set eth0 name \"$(printf 'e\\033[31m')\"")
        shown = scene.qemunet("status", "router")
        assert "\x1b" not in shown
        assert re.search(rf"net0 +e\\x1b\[31m +{mac}", shown)
        router.succeeds(END_AGENT)
        router.wait_until("dd if=/dev/urandom of=/dev/vport0p1 bs=4096 count=16 2>/dev/null")
        router.succeeds("dd if=/dev/zero bs=4096 count=256 2>/dev/null | tr '\\0' x >/dev/vport0p1", timeout=120)
        assert {"eth1", "eth2"} < set(named(scene, "router"))


def test_a_keeper_that_does_not_listen_does_not_hold_up_the_guest(scene: Scene, unchanged: None) -> None:
    """It is stopped while the guest has much to tell, as one is that is debugged."""
    with scene.lab(THREE):
        (lab,) = (scene.runtime / "lab").iterdir()
        os.kill(int((lab / "pid").read_text()), signal.SIGKILL)
        with socket.socket(socket.AF_UNIX) as deaf:  # in its place, and never reads
            deaf.connect(str(scene.runtime / "vm/router/agent.sock"))
            with socket.socket(socket.AF_UNIX) as console:
                console.connect(str(scene.runtime / "vm/router/serial.sock"))
                console.settimeout(120)
                floods = (b"run %d mark 49152 - '' 'cat' '/dev/zero'\n" % number for number in range(8))
                deaf.sendall(b"\n" + b"".join(floods) + b"cards 1\n" * 200)
                console.sendall(b"echo a''live\n")
                said = b""
                while b"alive" not in said:
                    said += console.recv(4096)
            assert host_pings("10.81.1.2")
        wait_for(lambda: set(named(scene, "router")) == {"eth0", "eth1", "eth2"}, timeout=90)
