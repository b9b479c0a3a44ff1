"""Guests on switches joined by cables: the host, another switch, and whoever takes an end that was left free."""

from __future__ import annotations

import json
import socket

import pytest

from qemunet.testing.bench import Bench
from tests.guest.around import as_before, emulated, ping, refused, shown
from tests.guest.cards import until
from tests.guest.scene import TREE

ARP = 0x0806
HOST, FOUR, SIX = "192.168.50.1", "192.168.50.12", "192.168.50.13"
STRANGER, ITS_MAC = "192.168.50.77", "02:00:00:00:00:77"
EXAMPLE = (TREE / "examples" / "two-switches.toml").read_text()
FREE = """
[[cable]]
name = "to-vmware"
a = "network:six"
a-name = "vmw1"
b = "free"
b-name = "vmw2"
"""
SECOND = '\n[[cable]]\nname = "second"\na = "network:four"\nb = "network:six"\na-name = "wireb1"\nb-name = "wireb2"\n'
STP = ["network.four.stp=true", "network.six.stp=true"]
BOTH = emulated("kali4", "kali6")

pytestmark = [pytest.mark.root, pytest.mark.guest, pytest.mark.qemunet_lab(EXAMPLE + FREE, set=BOTH, around=as_before)]


def test_guests_and_the_host_are_on_one_switch_made_of_two(lab: Bench) -> None:
    """The bridges have no address; the host sits at the end of a cable."""
    lab["kali4"].wait_until(ping(HOST))
    lab["kali6"].wait_until(ping(HOST))
    lab["kali4"].succeeds(ping(SIX))
    lab["kali6"].succeeds(ping(FOUR))
    lab.host.succeeds(ping(FOUR), ping(SIX))
    for bridge in ("virbr4", "virbr6"):
        assert not [one for one in shown(lab.host, "-4", "address", "show", "dev", bridge) if one.get("addr_info")]


def test_the_hosts_cable_cuts_off_the_host_and_nobody_else(lab: Bench) -> None:
    lab["kali4"].wait_until(ping(HOST))
    lab.qemunet("cable", "pull", "host-end")
    lab.host.fails(ping(FOUR, 2))
    lab["kali6"].fails(ping(HOST, 2))
    lab["kali6"].wait_until(ping(FOUR))
    lab.qemunet("cable", "plug", "host-end")
    lab["kali6"].wait_until(ping(HOST, 1))
    lab.host.wait_until(ping(FOUR, 1))


def test_the_cable_between_the_switches_parts_the_guests(lab: Bench) -> None:
    lab["kali6"].wait_until(ping(FOUR))
    lab.qemunet("cable", "pull", "link")
    lab["kali6"].fails(ping(FOUR, 2))
    lab["kali6"].fails(ping(HOST, 2))
    lab["kali4"].wait_until(ping(HOST))
    lab.qemunet("cable", "plug", "link")
    lab["kali6"].wait_until(ping(FOUR, 1))


def test_a_second_cable_and_one_back_to_the_same_switch_are_refused_as_loops(lab: Bench) -> None:
    for ends in (("network:six", "network:four"), ("network:four", "network:four")):
        assert "loop" in refused(lab, 6, "cable", "add", *ends)
    there = json.loads(lab.qemunet("cable", "list", "--json"))
    assert {one["name"] for one in there} == {"link", "host-end", "to-vmware"}


def test_whoever_has_the_free_end_reaches_the_guests_by_frames_of_his_own(lab: Bench) -> None:
    """Another hypervisor, say: no address and no bridge of this host is needed for that."""
    guest = lab.guest("kali4").nics["net0"].mac
    packets = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP))
    with lab.host.inside(lambda: socket.socket(*packets)) as wire:
        wire.bind(("vmw2", ARP))
        wire.settimeout(1)
        until(lambda: who_has(wire, FOUR) == guest, f"{FOUR} tells its address at the free end")


@pytest.mark.qemunet_lab(EXAMPLE + SECOND, set=BOTH + STP, around=as_before)
def test_switches_with_a_spanning_tree_may_be_joined_twice(lab: Bench) -> None:
    """One way is blocked as long as the other is there, and takes over when it is not."""
    six = lab["kali6"]
    six.wait_until(ping(FOUR, 1))
    six.wait_until(ping(HOST, 1))
    until(lambda: blocked(lab) == 1, "one port is blocked")
    used = "link" if "blocking" in port_states(lab, "wireb1", "wireb2") else "second"
    lab.qemunet("cable", "pull", used)
    six.wait_until(ping(FOUR, 1))
    lab.qemunet("cable", "plug", used)
    until(lambda: blocked(lab) == 1, "one port is blocked again")
    six.wait_until(ping(FOUR, 1))


def blocked(lab: Bench) -> int:
    return port_states(lab, "vethb1", "vethb2", "wireb1", "wireb2").count("blocking")


def port_states(lab: Bench, *ports: str) -> list[str]:
    every = {one["ifname"]: one for one in shown(lab.host, "link")}
    return [every[name]["linkinfo"]["info_slave_data"]["state"] for name in ports]


def who_has(wire: socket.socket, address: str) -> str:
    """Ask for the owner of an IPv4 address (RFC 826); return the MAC that is told, if any is within a second."""
    mine, wanted = bytes.fromhex(ITS_MAC.replace(":", "")), socket.inet_aton(address)
    asks = bytes.fromhex("0001080006040001") + mine + socket.inet_aton(STRANGER) + bytes(6) + wanted
    wire.send(b"\xff" * 6 + mine + ARP.to_bytes(2) + asks)
    try:
        while True:
            frame = wire.recv(1500)
            if frame[:6] == mine and frame[28:32] == wanted:
                return frame[22:28].hex(":")
    except TimeoutError:
        return ""
