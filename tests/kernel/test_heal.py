"""A bridge that somebody deletes or makes anew while guests run: their taps are back on it by themselves."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

from qemunet.live.heal import GRACE
from tests.kernel.conftest import ip, quiet
from tests.kernel.test_net_commands import EXTERNAL, link
from tests.world import NETWORK, World, kill, machine, until

HOSTED = '[lab]\nname = "home"\n[network.lab]\nmode = "isolated"\naddress = ["10.9.9.1/24", "fd09::1/64"]\nmtu = 1400\n'
NATTED = '[lab]\nname = "home"\n[network.lab]\nmode = "nat"\naddress = ["10.9.9.1/24"]\ndhcp = true\n'
TAP = "qn-one-net0"


def same(name: str) -> dict[str, Any]:
    """What must be the same of a bridge that was made again."""
    seen = link(name)
    kept = {key: seen.get(key) for key in ("address", "mtu", "group", "altnames", "flags")}
    addresses = sorted(one["local"] for one in seen["addr_info"] if one["scope"] == "global")
    disabled = Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").read_text()
    return {**kept, "flags": "UP" in kept["flags"], "addresses": addresses, "accept_ra": disabled}


def switches(name: str) -> dict[str, str]:
    folders = [Path(f"/proc/sys/net/{family}/conf/{name}") for family in ("ipv4", "ipv6")]
    return {
        str(file): file.read_text() for folder in folders for file in folder.iterdir() if file.name != "stable_secret"
    }


def netlink_sockets(pid: int) -> set[str]:
    """The inodes of a process's netlink sockets: the last column of net/netlink."""
    known = {line.split()[-1] for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]}
    found: set[str] = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(file))
    return {inode for inode in known if f"socket:[{inode}]" in found}


def is_on(bridge: str, tap: str = TAP) -> bool:
    return link(tap).get("master") == bridge


def log(world: World, lab: str = "home") -> str:
    return (world.runtime / "lab" / lab / "keeper.log").read_text()


def test_a_bridge_of_ours_is_made_again_as_it_was(world: World) -> None:
    """With its address, MTU, mark and settings, and the tap plugged in; and it goes with its last guest."""
    world.succeeds("run", "-d", world.write(HOSTED + machine("one")))
    before = same("qn-lab")
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab"), "the tap is back", 10)
    assert same("qn-lab") == before
    until(lambda: "bridge qn-lab healed: it was made again; plugged in: qn-one-net0" in log(world), "it is said")
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_the_hosts_cable_is_plugged_into_the_new_bridge(world: World) -> None:
    """The host's end of it has the addresses; it never went."""
    world.succeeds("run", "-d", world.write(HOSTED + 'host = "veth"\n' + machine("one")))
    before, ends = same("qn-lab"), [link(name)["ifindex"] for name in ("qn-lab-host", "qn-lab-port")]
    assert is_on("qn-lab", "qn-lab-port")
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab") and is_on("qn-lab", "qn-lab-port"), "both are back", 10)
    assert same("qn-lab") == before
    assert [link(name)["ifindex"] for name in ("qn-lab-host", "qn-lab-port")] == ends
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_a_bridge_with_all_that_a_network_can_have_is_made_again(world: World) -> None:
    """NAT, its switches, rules that go by its name, and DHCP: what served it goes on."""
    ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
    quiet("up0", "far0")
    ip("link", "set", "up0", "up")
    ip("address", "add", "192.0.2.1/24", "dev", "up0")
    world.mark()
    served = NATTED + machine("one")
    world.succeeds("run", "-d", world.write(served))
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    before, server = (same("qn-lab"), switches("qn-lab")), (world.runtime / "net/lab/dnsmasq.pid").read_text()
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab"), "the tap is back", 10)
    assert (same("qn-lab"), switches("qn-lab")) == before
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout == rules
    assert (world.runtime / "net/lab/dnsmasq.pid").read_text() == server
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_whoever_listens_hears_of_it(world: World) -> None:
    world.succeeds("run", "-d", world.write(HOSTED + machine("one")))
    listener = world.start("events", "one")
    assert listener.stdout is not None
    assert json.loads(listener.stdout.readline())["what"] == "running"
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab"), "the tap is back", 10)
    world.succeeds("stop", "--force", "one")
    events = [json.loads(line) for line in listener.communicate(timeout=30)[0].splitlines()]
    (healed,) = [event for event in events if event["event"] == "network"]
    assert (healed["what"], healed["network"], healed["bridge"], healed["vms"]) == ("healed", "lab", "qn-lab", ["one"])
    assert healed["vm"] is None


def test_a_bridge_that_somebody_made_under_our_name_is_used_as_it_is(world: World) -> None:
    """Nothing of it changes, and it is his when the guest has stopped."""
    world.succeeds("run", "-d", world.write(HOSTED + machine("one")))
    ip("link", "del", "qn-lab")
    ip("link", "add", "qn-lab", "mtu", "1300", "address", "02:02:02:00:00:01", "type", "bridge")
    quiet("qn-lab")
    theirs = same("qn-lab")
    until(lambda: is_on("qn-lab"), "the tap is back", 10)
    assert same("qn-lab") == theirs
    until(lambda: "somebody has made another one, which is used as it is" in log(world), "it is said")
    world.succeeds("stop", "--force", "one")
    assert same("qn-lab") == theirs
    ip("link", "del", "qn-lab")
    assert not world.left()


def test_what_is_no_bridge_is_left_alone_and_said(world: World) -> None:
    world.succeeds("run", "-d", world.write(HOSTED + machine("one")))
    ip("link", "del", "qn-lab")
    ip("link", "add", "qn-lab", "type", "veth", "peer", "name", "far")
    until(lambda: "qn-lab is no bridge any more, but veth" in log(world), "it is said")
    assert "master" not in link(TAP)
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab"), "now there is room for ours", 10)
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_a_bridge_of_somebody_else_is_waited_for(world: World) -> None:
    """Nobody makes it but him. What he makes keeps its own address and MTU."""
    ip("link", "add", "br9", "address", "02:00:00:00:00:01", "type", "bridge")
    quiet("br9")
    world.succeeds("run", "-d", world.write(machine("one", card='bridge = "br9"'), "home.toml"))
    ip("link", "del", "br9")
    until(lambda: "bridge br9 lost: it is gone" in log(world), "it is said", 10)
    assert not link("br9")
    ip("link", "add", "br9", "address", "fe:ff:00:00:00:02", "mtu", "9000", "type", "bridge")
    quiet("br9")
    theirs = same("br9")
    until(lambda: is_on("br9"), "the tap is back", 10)
    assert same("br9") == theirs
    assert link(TAP)["mtu"] == 9000
    world.succeeds("stop", "--force", "one")
    assert same("br9") == theirs
    ip("link", "del", "br9")
    assert not world.left()


def test_a_tap_that_somebody_plugs_out_stays_out(world: World) -> None:
    """That is his wish; and so is another bridge."""
    ip("link", "add", "br9", "type", "bridge")
    quiet("br9")
    world.succeeds("run", "-d", world.write(HOSTED + machine("one") + machine("two")))
    ip("link", "set", "qn-two-net0", "master", "br9")
    for _ in range(3):  # the keeper may take its first look only now
        ip("link", "set", TAP, "nomaster")
        select.select([], [], [], 2 * GRACE)
        if "master" not in link(TAP):
            break
    assert "master" not in link(TAP)
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab"), "now it is plugged in again", 10)
    assert is_on("br9", "qn-two-net0")
    world.succeeds("stop", "--force", "one", "two")
    ip("link", "del", "br9")
    assert not world.left()


def test_a_network_of_two_labs_is_made_once_and_both_are_on_it(world: World) -> None:
    world.succeeds("run", "-d", world.write(NETWORK + machine("one"), "first.toml"))
    world.succeeds("run", "-d", world.write(EXTERNAL + machine("two"), "second.toml"))
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab") and is_on("qn-lab", "qn-two-net0"), "both are back", 15)
    said = [log(world, lab).count("it was made again") for lab in ("first", "second")]
    assert sorted(said) == [0, 1]
    world.succeeds("stop", "--force", "one", "two")
    assert not world.left()


def test_a_network_that_is_taken_down_is_not_made_again(world: World) -> None:
    """The bridge goes before its guest is forgotten; that is nobody's attack."""
    file = world.write(HOSTED + machine("one") + '[vm.two]\nmemory = "64M"\naccel = "tcg"\n')
    world.succeeds("run", "-d", file)
    world.succeeds("stop", "--force", "one")
    select.select([], [], [], 1.5 * GRACE)
    assert not link("qn-lab")
    assert "healed" not in log(world)
    assert "lost" not in log(world)
    world.succeeds("stop", "--force", "two")
    assert not world.left()


def test_what_happened_while_there_was_no_keeper_is_put_right_by_the_next(world: World) -> None:
    world.succeeds("run", "-d", world.write(HOSTED + machine("one")))
    before = same("qn-lab")
    kill(world.keeper())
    ip("link", "del", "qn-lab")
    world.succeeds("status", "one")
    until(lambda: is_on("qn-lab"), "the tap is back", 10)
    assert same("qn-lab") == before
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_a_keeper_that_is_killed_while_it_heals_leaves_nothing_behind(world: World) -> None:
    """At any moment of it: the next one makes it whole, and the last guest takes it down."""
    world.succeeds("run", "-d", world.write(HOSTED + machine("one")))
    before = same("qn-lab")
    for _ in range(4):
        ip("link", "del", "qn-lab")
        until(lambda: link("qn-lab"), "it is being made again", 10)
        os.kill(world.keeper(), signal.SIGKILL)
        world.succeeds("status", "one")
        until(lambda: is_on("qn-lab"), "the tap is back", 10)
        assert same("qn-lab") == before
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_a_bridge_that_is_gone_is_made_again_by_net_up(world: World) -> None:
    """Without guests there is no keeper who would."""
    world.succeeds("net", "up", world.write(HOSTED))
    before = same("qn-lab")
    ip("link", "del", "qn-lab")
    world.succeeds("net", "up", "lab")
    assert same("qn-lab") == before
    world.succeeds("net", "down", "lab")
    assert not world.left()


def test_a_card_that_comes_later_is_watched_from_then_on(world: World) -> None:
    """A guest in user mode has no socket open for that; with its first tap it has."""
    file = world.write(HOSTED + machine("one", 'qemu-args = ["-S"]', card='mode = "user"'))
    world.succeeds("run", "-d", file)
    until(lambda: not netlink_sockets(world.keeper()), "the keeper listens to no news of links", 20)
    world.succeeds("nic", "add", "one", "--id", "net1", "--network", "lab")
    until(lambda: netlink_sockets(world.keeper()), "it does", 20)
    assert "one: paused" in world.succeeds("status", "one")
    ip("link", "del", "qn-lab")
    until(lambda: is_on("qn-lab", "qn-one-net1"), "the tap is back", 10)
    world.succeeds("stop", "--force", "one")
    assert not world.left()


CABLE = '[[cable]]\nname = "plug"\na = "network:lab"\nb = "host"\na-name = "in"\nb-name = "out"\n'
CABLED = f'{CABLE}b-address = "10.9.9.9/24"\n'


def test_the_cables_of_a_bridge_are_plugged_into_the_new_one(world: World) -> None:
    """One that was pulled is in its place, and stays pulled."""
    other = '[[cable]]\nname = "pulled"\na = "network:lab"\nb = "free"\na-name = "in2"\nb-name = "out2"\n'
    world.succeeds("run", "-d", world.write(HOSTED + CABLED + other + machine("one")))
    world.succeeds("cable", "pull", "pulled")
    world.keeper()
    for _ in range(2):
        ip("link", "del", "qn-lab")
        until(lambda: is_on("qn-lab") and is_on("qn-lab", "in") and is_on("qn-lab", "in2"), "all are on it again")
        until(lambda: link("out")["operstate"] == "UP", "the cable has its carrier")
        assert addresses("out") == ["10.9.9.9"]
        assert [one["state"] for one in json.loads(world.succeeds("cable", "list", "--json"))] == ["plugged", "pulled"]
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_the_cables_of_a_bridge_that_net_up_makes_again_are_plugged_in(world: World) -> None:
    world.succeeds("net", "up", world.write(HOSTED + CABLED))
    ip("link", "del", "qn-lab")
    world.succeeds("net", "up", "lab")
    assert is_on("qn-lab", "in")
    world.succeeds("net", "down", str(world.folder / "lab.toml"))
    assert not world.left()


def test_cable_plug_plugs_an_end_in_that_is_on_no_bridge(world: World) -> None:
    """One that somebody has plugged in elsewhere stays there; where the bridge is gone, the rest is done."""
    file = world.write(HOSTED + CABLED)
    world.succeeds("net", "up", file)
    ip("link", "set", "in", "nomaster")
    world.succeeds("cable", "plug", "plug")
    assert is_on("qn-lab", "in")
    ip("link", "add", "br-else", "type", "bridge")
    ip("link", "set", "in", "master", "br-else")
    world.succeeds("cable", "plug", "plug")
    assert is_on("br-else", "in")
    ip("link", "del", "br-else")
    ip("link", "del", "qn-lab")
    world.succeeds("cable", "plug", "plug")
    assert link("in").get("master") is None
    world.succeeds("net", "down", file)
    assert not world.left()


def addresses(name: str) -> list[str]:
    return [one["local"] for one in link(name)["addr_info"] if one["scope"] == "global"]


def test_a_cable_into_somebody_elses_bridge_is_in_it_again_when_that_is_there_again(world: World) -> None:
    def made() -> None:
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "br0", "up")

    made()
    cable = CABLE.replace("network:lab", "bridge:br0").replace('b = "host"', 'b = "free"')
    world.succeeds("run", "-d", world.write(f'[lab]\nname = "home"\n{cable}' + machine("one", card='bridge = "br0"')))
    world.keeper()
    ip("link", "del", "br0")
    made()
    until(lambda: is_on("br0") and is_on("br0", "in"), "both are on it again")
    world.succeeds("stop", "--force", "one")
    ip("link", "del", "br0")
    assert not world.left()
