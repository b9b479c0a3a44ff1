"""Guests on networks whose switch is in a namespace of its own, with namespaces that play hosts."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from qemunet.testing.bench import Bench, Room, Seat
from tests.guest.around import as_before, emulated_with_room, links, ping, shown
from tests.guest.cards import until
from tests.guest.managed import seen
from tests.guest.scene import TREE

BRIDGED = (TREE / "examples" / "switch-in-a-namespace.toml").read_text()
FRONT = """
[network.front]
mode = "private"
[[cable]]
a = "network:front"
b = "host"
b-address = "192.168.5.100/24"
"""
PATIENCE = 30.0

pytestmark = [
    pytest.mark.root,
    pytest.mark.guest,
    pytest.mark.qemunet_lab(BRIDGED + FRONT, set=emulated_with_room("kali1", "kali2"), around=as_before),
]


@contextlib.contextmanager
def listening(room: Room) -> Iterator[socket.socket]:
    with room.inside(lambda: socket.create_server(("", 0))) as server:
        yield server


def serve(guest: Seat) -> None:
    guest.succeeds("(echo from-the-guest | nc -l -p 7777 >/run/got 2>&1 &)")


def hears(room: Room, address: str) -> bytes:
    """What comes from a port of a guest, when there is somebody who takes the connection."""
    said: list[bytes] = []

    def heard() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((address, 7777), PATIENCE) as client:
            said.append(client.recv(100))
        return bool(said)

    until(lambda: room.inside(heard), f"somebody is at {address}")
    return said[0]


def test_guests_and_namespaces_meet_on_a_switch_that_the_host_does_not_see(lab: Bench) -> None:
    """Ping and TCP both ways between all of them; the host has neither the bridge nor a port of it."""
    one, two = lab
    netns1, netns2, switch = (lab.rooms[name] for name in ("netns1", "netns2", "sw1"))
    assert [room.succeeds("hostname") for room in (netns1, netns2, switch)] == ["netns1\n", "netns2\n", "sw1\n"]
    assert links(netns1) == {"lo", "veth11"}
    assert {"br0", "qn-kali1-net0", "qn-kali2-net0"} <= links(switch)
    assert not links(lab.host) & links(switch) - {"lo"}
    for address in ("192.168.5.1", "192.168.5.2", "192.168.5.12"):
        one.wait_until(ping(address))
    for address in ("192.168.5.1", "192.168.5.2", "192.168.5.11", "192.168.5.12"):
        netns1.wait_until(ping(address))
    with listening(netns1) as server:
        assert seen(two, "192.168.5.1", server)[0] == "192.168.5.12"
    serve(two)
    assert hears(netns2, "192.168.5.12") == b"from-the-guest\n"
    serve(two)
    assert "from-the-guest" in one.wait_until("nc -w 5 192.168.5.12 7777 </dev/null")


def test_a_card_goes_out_of_the_namespace_and_back(lab: Bench) -> None:
    """It is unplugged and plugged in again: a tap stays in the namespace that it was made in."""
    two, switch = lab.guest("kali2"), lab["sw1"]
    assert two.vm.move_nic("net0", "front").netns is None
    assert "qn-kali2-net0" in links(lab.host) - links(switch)
    two.wait_until(ping("192.168.5.100", 2))
    two.fails(ping("192.168.5.1", 1))
    assert two.vm.move_nic("net0", "inner").netns == "sw1"
    assert "qn-kali2-net0" in links(switch) - links(lab.host)
    two.wait_until(ping("192.168.5.1", 2))
    two.fails(ping("192.168.5.100", 1))


def test_a_card_that_comes_and_goes_is_in_the_namespace(lab: Bench) -> None:
    """Its cable too, and what a guard of it has dropped is counted there."""
    two, switch = lab.guest("kali2"), lab["sw1"]
    added = two.vm.add_nic(network="inner", guard="mac")
    assert (added.netns, added.ifname in links(switch)) == ("sw1", True)
    name = added.guest_ifname
    two.succeeds(f"ip link set {name} address 02:00:00:00:00:77 && ip addr add 192.168.77.2/24 dev {name}")
    two.succeeds(f"ip link set {name} up")
    two.fails(ping("192.168.77.1", 2))
    until(lambda: any(dropped(lab, added.id).values()), "what it sends is dropped")
    assert two.vm.set_link(added, up=False).link == "down"
    assert shown(switch, "link", "show", str(added.ifname))[0]["operstate"] == "DOWN"
    two.vm.remove_nic(added)
    assert added.ifname not in links(switch)


def dropped(lab: Bench, card: str) -> dict[str, int]:
    every = json.loads(lab.qemunet("nic", "list", "kali2", "--json"))
    (found,) = (one["dropped"] for one in every if one["id"] == card)
    return dict(found)
