"""Guests on switches joined by cables: the host, another switch, and whoever takes an end that was left free."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.cards import Stage, empty_stage, link, until
from tests.guest.managed import EXAMPLES, Turns, emulated
from tests.guest.scene import host_pings, ip

pytestmark = [pytest.mark.root, pytest.mark.guest]

ARP = 0x0806
HOST, FOUR, SIX = "192.168.50.1", "192.168.50.12", "192.168.50.13"
STRANGER, ITS_MAC = "192.168.50.77", "02:00:00:00:00:77"
FREE = """
[[cable]]
name = "to-vmware"
a = "network:six"
a-name = "vmw1"
b = "free"
b-name = "vmw2"
"""
SECOND = '\n[[cable]]\nname = "second"\na = "network:four"\nb = "network:six"\na-name = "wireb1"\nb-name = "wireb2"\n'


@contextlib.contextmanager
def two_switches(folder: Path, *options: str, more: str = FREE) -> Iterator[Stage]:
    with empty_stage(folder) as stage:
        file = stage.scene.write((EXAMPLES / "two-switches.toml").read_text() + more)
        stage.succeeds("run", "-d", str(file), *emulated("kali4", "kali6"), *options)
        yield stage


@contextlib.contextmanager
def two_switches_twice_joined(folder: Path) -> Iterator[Stage]:
    options = [word for name in ("four", "six") for word in ("--set", f"network.{name}.stp=true")]
    with two_switches(folder, *options, more=SECOND) as stage:
        yield stage


@pytest.fixture
def wired(turns: Turns) -> Stage:
    return turns.at(two_switches)


def test_guests_and_the_host_are_on_one_switch_made_of_two(wired: Stage) -> None:
    """The bridges have no address; the host sits at the end of a cable."""
    for name in ("kali4", "kali6"):
        wired.reaches(name, HOST)
    wired.reaches("kali4", SIX)
    wired.reaches("kali6", FOUR)
    assert all(host_pings(address) for address in (FOUR, SIX))
    for bridge in ("virbr4", "virbr6"):
        assert not [one for one in json.loads(ip("-j", "-4", "address", "show", "dev", bridge)) if one.get("addr_info")]


def test_the_hosts_cable_cuts_off_the_host_and_nobody_else(wired: Stage) -> None:
    wired.reaches("kali4", HOST)
    wired.succeeds("cable", "pull", "host-end")
    assert not host_pings(FOUR)
    wired.is_cut_off("kali6", HOST)
    wired.reaches("kali6", FOUR)
    wired.succeeds("cable", "plug", "host-end")
    wired.reaches("kali6", HOST)
    until(lambda: host_pings(FOUR), "the host has the guest again")


def test_the_cable_between_the_switches_parts_the_guests(wired: Stage) -> None:
    wired.reaches("kali6", FOUR)
    wired.succeeds("cable", "pull", "link")
    wired.is_cut_off("kali6", FOUR)
    wired.is_cut_off("kali6", HOST)
    wired.reaches("kali4", HOST)
    wired.succeeds("cable", "plug", "link")
    wired.reaches("kali6", FOUR)


def test_a_second_cable_and_one_back_to_the_same_switch_are_refused_as_loops(wired: Stage) -> None:
    for ends in (("network:six", "network:four"), ("network:four", "network:four")):
        assert "loop" in wired.fails(6, "cable", "add", *ends)
    there = json.loads(wired.succeeds("cable", "list", "--json").stdout)
    assert {one["name"] for one in there} == {"link", "host-end", "to-vmware"}


def test_whoever_has_the_free_end_reaches_the_guests_by_frames_of_his_own(wired: Stage) -> None:
    """Another hypervisor, say: no address and no bridge of this host is needed for that."""
    guest = wired.cards("kali4")["net0"]["mac"]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP)) as wire:
        wire.bind(("vmw2", ARP))
        wire.settimeout(1)
        until(lambda: who_has(wire, FOUR) == guest, f"{FOUR} tells its address at the free end")


def test_switches_with_a_spanning_tree_may_be_joined_twice(turns: Turns) -> None:
    """One way is blocked as long as the other is there, and takes over when it is not."""
    stage = turns.at(two_switches_twice_joined)
    stage.reaches("kali6", FOUR, timeout=60)
    stage.reaches("kali6", HOST)
    until(lambda: blocked() == 1, "one port is blocked")
    used = "link" if "blocking" in port_states("wireb1", "wireb2") else "second"
    stage.succeeds("cable", "pull", used)
    stage.reaches("kali6", FOUR, timeout=60)
    stage.succeeds("cable", "plug", used)
    until(lambda: blocked() == 1, "one port is blocked again")
    stage.reaches("kali6", FOUR, timeout=60)


def blocked() -> int:
    return port_states("vethb1", "vethb2", "wireb1", "wireb2").count("blocking")


def port_states(*ports: str) -> list[str]:
    return [link(name)["linkinfo"]["info_slave_data"]["state"] for name in ports]


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
