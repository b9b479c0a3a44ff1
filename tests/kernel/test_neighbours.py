"""The kernel's neighbour tables are read by MAC: what was seen at one interface, and nothing that was only wished."""

from __future__ import annotations

import subprocess
from pathlib import Path

from qemunet.host import neighbours, netlink
from qemunet.live import sight
from qemunet.records import NicRecord
from tests.guest.scene import Peer

from .conftest import ip

MAC = "52:54:00:00:00:01"


def seen(name: str) -> dict[str, tuple[str, ...]]:
    net = netlink.Netlink(netlink.open_socket())
    try:
        return neighbours.addresses(net, name)
    finally:
        net.close()


def learn(address: str, device: str, state: str, mac: str = MAC) -> None:
    ip("neigh", "add", address, "lladdr", mac, "dev", device, "nud", state)


def test_addresses_of_both_families_are_found_by_mac(fresh: Path) -> None:
    """Other interfaces have their own, and an address that follows from the MAC tells nothing."""
    Path("/proc/sys/net/ipv6/conf/br0/disable_ipv6").write_text("0")
    learn("10.0.0.2", "br0", "stale")
    learn("10.0.0.3", "br0", "reachable", "52:54:00:00:00:03")
    learn("fd00::2", "br0", "stale")
    learn("fe80::2", "br0", "stale")
    learn("10.0.0.9", "eth1", "stale")
    found = seen("br0")
    assert {mac: set(addresses) for mac, addresses in found.items()} == {
        MAC: {"10.0.0.2", "fd00::2"},
        "52:54:00:00:00:03": {"10.0.0.3"},
    }


def test_who_was_only_asked_for_or_written_down_was_not_seen(fresh: Path) -> None:
    """A permanent entry is what somebody wishes; one without an answer has no MAC."""
    learn("10.0.0.2", "br0", "permanent")
    learn("10.0.0.3", "br0", "noarp")
    ip("address", "add", "10.0.0.1/24", "dev", "br0")
    subprocess.run(["busybox", "ping", "-c", "1", "-W", "1", "10.0.0.4"], capture_output=True)
    assert seen("br0") == {}


def test_an_interface_that_is_gone_has_no_neighbours(fresh: Path) -> None:
    """It may go at any time."""
    assert seen("nothing") == {}


def test_a_card_in_a_namespace_is_known_by_whom_that_one_has_talked_to(fresh: Path) -> None:
    """Each card by the neighbours of where its bridge is; of a namespace that is gone nothing is known."""
    learn("10.0.0.9", "br0", "stale")
    with Peer() as there:
        there.run("ip", "link", "add", "br0", "type", "bridge")
        there.run("ip", "link", "set", "br0", "up")
        there.run("ip", "neigh", "add", "10.0.0.2", "lladdr", MAC, "dev", "br0", "nud", "stale")
        (fresh / "netns" / "sw1").mkdir(parents=True)
        (fresh / "netns" / "sw1" / "net").symlink_to(f"/proc/{there.pid}/ns/net")
        for netns, found in (("sw1", ("10.0.0.2",)), (None, ("10.0.0.9",)), ("gone", None)):
            row = NicRecord("net0", "tap", "virtio", MAC, "up", bridge="br0", netns=netns)
            assert sight.neighbours([row], str(fresh / "vm" / "a")).get(MAC) == found
    (fresh / "netns" / "sw1" / "net").unlink()
