"""Two of anything at the same time: numbers are given away once, and the loser of a race harms nothing."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.kernel.conftest import ip
from tests.world import NETWORK, World, finish, machine, status

MANY = 8
ONE = NETWORK + machine("one")


def test_many_labs_start_and_stop_at_the_same_time(world: World) -> None:
    """All succeed; names, MACs and users differ; nothing is left."""
    labs = [f"lab{number}" for number in range(MANY)]
    files = [
        world.write(f"[network.net{n}]\n" + machine(f"vm{n}", card=f'network = "net{n}"'), f"lab{n}.toml")
        for n in range(MANY)
    ]
    for done in [finish(run) for run in [world.start("run", "-d", file) for file in files]]:
        assert done.returncode == 0, done.stderr
    vms = world.vms()
    assert sorted(vm["lab"] for vm in vms) == labs
    assert {vm["state"] for vm in vms} == {"running"}
    macs = {vm["nics"][0]["mac"] for vm in vms}
    users = {status(vm["pid"])["Uid"][0] for vm in vms}
    assert (len(macs), len(users)) == (MANY, MANY)
    for done in [finish(stop) for stop in [world.start("stop", "--force", vm["name"]) for vm in vms]]:
        assert done.returncode == 0, done.stderr
    assert not world.left()


def test_many_labs_come_and_go_past_each_other(world: World) -> None:
    """One network for all, so that it is taken down by one while others come."""
    files = [
        world.write('[network.net]\nmode = "private"\n' + machine(f"vm{n}", card='network = "net"'), f"lab{n}.toml")
        for n in range(4)
    ]
    for _ in range(3):
        running = [world.start("run", "-d", file) for file in files]
        for number, run in enumerate(running):
            assert finish(run).returncode == 0
            running[number] = world.start("stop", "--force", f"vm{number}")
        for stop in running:
            done = finish(stop)
            assert done.returncode == 0, done.stderr
        assert not world.left()


@pytest.mark.parametrize("many", [2, 5])
def test_of_the_same_lab_started_twice_one_wins(world: World, many: int) -> None:
    """The others end with 6, and the winner's guest does not notice."""
    file = world.write(ONE)
    done = [finish(run) for run in [world.start("run", "-d", file) for _ in range(many)]]
    assert sorted(one.returncode for one in done) == [0, *[6] * (many - 1)], [one.stderr for one in done]
    assert all("a vm of the name one is there already" in one.stderr for one in done if one.returncode)
    assert [vm["state"] for vm in world.vms()] == ["running"]
    world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_the_same_lab_that_fails_twice_at_once_fails_twice_alike(world: World) -> None:
    """Whoever waited for the first finds out by himself."""
    file = world.write(NETWORK + machine("one", 'qemu-args = ["-device", "nope"]'))
    done = [finish(run) for run in [world.start("run", "-d", file) for _ in range(4)]]
    assert {one.returncode for one in done} <= {1, 6}, [one.stderr for one in done]
    assert not world.left()


@pytest.mark.parametrize("attempt", range(6))
def test_a_lab_that_is_just_being_stopped_can_be_started(world: World, attempt: int) -> None:
    """It runs, or exit status 6 says that it is still there; afterwards the state is what was said."""
    file = world.write(ONE)
    world.succeeds("run", "-d", file)
    stop = world.start("stop", "--force", "one")
    done = world.qemunet("run", "-d", file)
    assert finish(stop).returncode == 0
    assert done.returncode in (0, 6), done.stderr
    assert [vm["state"] for vm in world.vms()] == ["running"] * (done.returncode == 0)
    if done.returncode == 0:
        world.succeeds("stop", "--force", "one")
    assert not world.left()


def test_two_who_stop_the_same_guest_both_succeed_or_find_nothing(world: World) -> None:
    world.succeeds("run", "-d", world.write(ONE))
    done = [finish(stop) for stop in [world.start("stop", "--force", "one") for _ in range(4)]]
    assert {one.returncode for one in done} <= {0, 4}, [one.stderr for one in done]
    assert any(one.returncode == 0 for one in done)
    assert not world.left()


# ---------------------------------------------------------------- what only one may have


def test_two_labs_with_a_vm_of_the_same_name(world: World) -> None:
    """The second is refused, by whom it says, and the first goes on."""
    world.succeeds("run", "-d", world.write(ONE, "first.toml"))
    said = world.fails(6, "run", "-d", world.write(ONE, "second.toml"))
    assert "one" in said
    assert "lab first" in said
    assert world.succeeds("ps", "-q").split() == ["one"]
    world.succeeds("stop", "--force", "one")


def test_two_labs_share_a_network_with_equal_settings_only(world: World) -> None:
    """It stays until the last of them is gone."""
    world.succeeds("run", "-d", world.write(NETWORK + machine("one"), "first.toml"))
    world.succeeds("run", "-d", world.write(NETWORK + machine("two"), "second.toml"))
    other = '[network.lab]\nmode = "isolated"\naddress = ["10.9.9.1/24"]\n'
    assert "other settings" in world.fails(6, "run", "-d", world.write(other + machine("three"), "third.toml"))
    (bridge,) = json.loads(subprocess.run(["ip", "-j", "link", "show", "dev", "qn-lab"], capture_output=True).stdout)
    world.succeeds("stop", "--force", "one")
    (again,) = json.loads(subprocess.run(["ip", "-j", "link", "show", "dev", "qn-lab"], capture_output=True).stdout)
    assert bridge["ifindex"] == again["ifindex"]
    world.succeeds("stop", "--force", "two")
    assert not world.left()


MAC = "52:54:00:11:22:33"
CARD = f'network = "lab"\nmac = "{MAC}"'


def test_the_same_mac_in_two_labs_is_refused(world: World) -> None:
    world.succeeds("run", "-d", world.write(NETWORK + machine("one", card=CARD), "first.toml"))
    said = world.fails(6, "run", "-d", world.write(NETWORK + machine("two", card=CARD), "second.toml"))
    assert MAC in said
    assert "vm one" in said
    world.succeeds("stop", "--force", "one")


def test_a_mac_that_an_existing_bridge_knows_is_refused(world: World) -> None:
    """Somebody else's guest or machine has it: both would be unreachable by turns."""
    ip("link", "add", "br9", "type", "bridge")
    ip("link", "add", "port0", "type", "veth", "peer", "name", "port1")
    ip("link", "set", "port0", "master", "br9")
    subprocess.run(["bridge", "fdb", "add", MAC, "dev", "port0", "master", "static"], check=True)
    world.mark()
    said = world.fails(6, "run", "-d", world.write(machine("one", card=f'bridge = "br9"\nmac = "{MAC}"')))
    assert MAC in said
    assert "br9" in said
    assert not world.left()


def test_a_port_that_is_listened_on_is_refused_with_the_story(world: World) -> None:
    """Two guests that forward the same port: the second takes nothing with it."""
    card = 'mode = "user"\nforward = ["tcp:127.0.0.1:5555:22"]'
    world.succeeds("run", "-d", world.write(machine("one", card=card), "first.toml"))
    done = world.qemunet("run", "-d", world.write(machine("two", card=card), "second.toml"))
    assert done.returncode in (1, 6)
    assert "5555" in done.stderr
    world.succeeds("stop", "--force", "one")
