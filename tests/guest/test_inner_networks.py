"""Guests on networks whose switch is in a namespace of its own, with namespaces that play hosts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator

import pytest

from qemunet.host import spaces
from tests import namespace
from tests.guest.cards import Stage, empty_stage, end_everything, links, until
from tests.guest.managed import emulated, seen
from tests.guest.scene import TREE, Guest

pytestmark = [pytest.mark.root, pytest.mark.guest]

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


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A switch with two guests and two namespaces."""
    if why := namespace.lack():
        pytest.skip(why)
    with namespace.own_run(), empty_stage(tmp_path_factory.mktemp("inner")) as stage:
        before, shown = links(), os.listdir("/run")
        bridged = str(stage.scene.write(BRIDGED + FRONT))
        stage.succeeds("run", "-d", bridged, *emulated("kali1", "kali2"))
        yield stage
        assert not end_everything(stage)
        assert (links(), os.listdir("/run")) == (before, shown)


def listening(stage: Stage, netns: str) -> socket.socket:
    return spaces.place(str(stage.scene.runtime), netns).inside(lambda: socket.create_server(("", 0)))


def connected(stage: Stage, netns: str, address: str, port: int) -> socket.socket:
    """A connection from a namespace, when there is somebody who takes it."""
    place, deadline = spaces.place(str(stage.scene.runtime), netns), time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            return place.inside(lambda: socket.create_connection((address, port), 2))
        assert time.monotonic() < deadline, f"nobody is at {address}"


def pings(stage: Stage, netns: str, address: str) -> bool:
    words = ("exec", netns, "--", "busybox", "ping", "-c", "1", "-W", "2", address)
    return stage.does(*words).returncode == 0


def wait_for_ping(stage: Stage, netns: str, address: str) -> None:
    until(lambda: pings(stage, netns, address), f"{netns} reaches {address}")


def hostname(stage: Stage, netns: str) -> str:
    return stage.succeeds("exec", netns, "--", "hostname").stdout.strip()


def shown(stage: Stage, netns: str) -> set[str]:
    said = json.loads(stage.succeeds("exec", netns, "--", "ip", "-json", "link").stdout)
    return {link["ifname"] for link in said}


def serve(guest: Guest) -> None:
    guest.succeeds("(echo from-the-guest | nc -l -p 7777 >/run/got 2>&1 &)")


def test_guests_and_namespaces_meet_on_a_switch_that_the_host_does_not_see(stage: Stage) -> None:
    """Ping and TCP both ways between all of them; the host has neither the bridge nor a port of it."""
    one, two = stage.guest("kali1"), stage.guest("kali2")
    assert [hostname(stage, name) for name in ("netns1", "netns2", "sw1")] == ["netns1", "netns2", "sw1"]
    assert shown(stage, "netns1") == {"lo", "veth11"}
    assert {"br0", "qn-kali1-net0", "qn-kali2-net0"} <= shown(stage, "sw1")
    assert not links() & shown(stage, "sw1") - {"lo"}
    for address in ("192.168.5.1", "192.168.5.2", "192.168.5.12"):
        one.wait_until(f"ping -c 1 -W 2 {address}")
    for address in ("192.168.5.1", "192.168.5.2", "192.168.5.11", "192.168.5.12"):
        wait_for_ping(stage, "netns1", address)
    with listening(stage, "netns1") as server:
        assert seen(two, "192.168.5.1", server)[0] == "192.168.5.12"
    serve(two)
    with connected(stage, "netns2", "192.168.5.12", 7777) as client:
        client.settimeout(PATIENCE)
        assert client.recv(100) == b"from-the-guest\n"
    serve(two)
    assert "from-the-guest" in one.wait_until("nc -w 5 192.168.5.12 7777 </dev/null")


def test_a_card_goes_out_of_the_namespace_and_back(stage: Stage) -> None:
    """It is unplugged and plugged in again: a tap stays in the namespace that it was made in."""
    two = stage.guest("kali2")
    assert stage.set("kali2", "net0", "--network", "front")["netns"] is None
    assert "qn-kali2-net0" in links() - shown(stage, "sw1")
    two.wait_until("ping -c 1 -W 2 192.168.5.100")
    two.fails("ping -c 1 -W 1 192.168.5.1")
    assert stage.set("kali2", "net0", "--network", "inner")["netns"] == "sw1"
    assert "qn-kali2-net0" in shown(stage, "sw1") - links()
    two.wait_until("ping -c 1 -W 2 192.168.5.1")
    two.fails("ping -c 1 -W 1 192.168.5.100")


def test_a_card_that_comes_and_goes_is_in_the_namespace(stage: Stage) -> None:
    """Its cable too, and what a guard of it has dropped is counted there."""
    two = stage.guest("kali2")
    added = stage.add("kali2", "--network", "inner", "--guard", "mac")
    assert added["netns"] == "sw1"
    assert added["ifname"] in shown(stage, "sw1")
    name = stage.give("kali2", added["mac"], "192.168.77.2/24")
    two.succeeds(f"ip link set {name} down; ip link set {name} address 02:00:00:00:00:77; ip link set {name} up")
    two.run("ping -c 2 -W 1 192.168.77.1")
    until(lambda: any(stage.cards("kali2")[added["id"]]["dropped"].values()), "what it sends is dropped")
    assert stage.set("kali2", added["id"], "--link", "down")["link"] == "down"
    said = stage.succeeds("exec", "sw1", "--", "ip", "-json", "link", "show", added["ifname"]).stdout
    assert json.loads(said)[0]["operstate"] == "DOWN"
    stage.remove("kali2", added["id"])
    assert added["ifname"] not in shown(stage, "sw1")
