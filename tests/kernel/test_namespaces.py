"""Namespaces that play hosts: packets, host names, programs in them, and that nothing of them stays."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.places import inode, inside, pings, users, world_of_spaces
from tests.world import QEMUNET, World, kill, machine, until

PAIR = """
[lab]
name = "pair"
[netns.netns1]
address = { veth11 = ["192.168.5.1/24", "fd05::1/64"], lo = "10.77.0.1/32" }
routes = ["10.9.0.0/16 via 192.168.5.2"]
sysctls = { "net.ipv4.ip_forward" = 1 }
[netns.netns2]
hostname = "two.lab.test"
named = false
[[cable]]
name = "between"
a = "netns:netns1"
b = "netns:netns2"
a-name = "veth11"
b-name = "veth12"
b-address = ["192.168.5.2/24", "fd05::2/64"]
b-routes = ["default via 192.168.5.1"]
"""
LAN = """
[network.lan]
mode = "private"
[[cable]]
name = "plug"
a = "network:lan"
b = "netns:netns2"
b-name = "eth0"
b-address = "192.168.50.2/24"
[[cable]]
name = "host-plug"
a = "network:lan"
b = "host"
b-address = "192.168.50.1/24"
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_of_spaces(tmp_path) as world:
        yield world


def test_two_hosts_joined_by_a_cable_reach_each_other_and_themselves(world: World) -> None:
    """With their own host names, addresses and routes; one is seen by ip netns, the other is not."""
    file = world.write(PAIR)
    world.succeeds("net", "up", file)
    for name, addresses in (
        ("netns1", ("192.168.5.2", "192.168.5.1", "fd05::2", "127.0.0.1")),
        ("netns2", ("10.77.0.1",)),
    ):
        assert all(pings(world, name, address) for address in addresses), name
    assert [inside(world, name, "hostname").strip() for name in ("netns1", "netns2")] == ["netns1", "two.lab.test"]
    assert os.uname().nodename not in ("netns1", "two.lab.test")
    assert "10.9.0.0/16 via 192.168.5.2" in inside(world, "netns1", "ip", "route")
    assert inside(world, "netns1", "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    shown = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["netns1"]
    there = subprocess.run(["ip", "-n", "netns1", "-br", "link"], capture_output=True, text=True, check=True).stdout
    assert "veth11" in there
    assert "veth1" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    world.succeeds("net", "down", file)


def test_a_pulled_cable_between_two_hosts_gives_back_all_that_they_lost(world: World) -> None:
    """The end that goes down loses its routes and IPv6 addresses; plugged in, both are as before."""
    file = world.write(PAIR)
    world.succeeds("net", "up", file)
    look = ("sh", "-c", "ip -o address show scope global; ip route; ip -6 route show proto static")
    before = [inside(world, name, *look) for name in ("netns1", "netns2")]
    world.succeeds("cable", "pull", "between")
    assert json.loads(world.succeeds("cable", "list", "--json"))[0]["state"] == "pulled"
    for name, end in (("netns1", "veth11"), ("netns2", "veth12")):
        assert "LOWER_UP" not in inside(world, name, "ip", "link", "show", end)
    world.succeeds("cable", "plug", "between")
    until(lambda: [inside(world, name, *look) for name in ("netns1", "netns2")] == before, "all is as before", 20)
    assert pings(world, "netns2", "fd05::1")
    world.succeeds("net", "down", file)


def test_what_is_in_namespaces_is_listed(world: World) -> None:
    """With what uses them."""
    assert json.loads(world.succeeds("netns", "list", "--json")) == []
    file = world.write(PAIR)
    world.succeeds("net", "up", file)
    one, two = json.loads(world.succeeds("netns", "list", "--json"))
    assert (one["name"], two["hostname"], one["state"], one["held"]) == ("netns1", "two.lab.test", "up", True)
    veth = next(each for each in one["interfaces"] if each["ifname"] == "veth11")
    assert (veth["up"], "192.168.5.1/24" in veth["addresses"], len(one["cables"])) == (True, True, 1)
    line = world.succeeds("netns", "list").splitlines()[1]
    assert "  lo 10.77.0.1/32; veth11 192.168.5.1/24" in line
    world.succeeds("net", "down", file)


def test_a_command_is_in_the_namespace_as_on_a_host_of_its_own(world: World) -> None:
    """Its status, its input and the signal that ends it are passed on; /sys is that of the namespace."""
    file = world.write(PAIR)
    world.succeeds("net", "up", file)
    assert inside(world, "netns1", "ls", "/sys/class/net").split() == ["lo", "veth11"]
    statuses = {("sh", "-c", "exit 7"): 7, ("/nosuch",): 127, ("/etc/passwd",): 126, ("sh", "-c", "kill -9 $$"): -9}
    assert {argv: world.qemunet("exec", "netns1", "--", *argv).returncode for argv in statuses} == statuses
    assert "up: netns1, netns2" in world.fails(125, "exec", "netns9", "--", "true")
    sleeper = world.start("exec", "netns1", "--", "sleep", "1000")
    until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n", "it has become the program")
    sleeper.send_signal(signal.SIGTERM)
    assert sleeper.wait(10) == -signal.SIGTERM
    sleeper.communicate()
    world.succeeds("net", "down", file)


def test_files_for_a_namespace_stand_for_those_in_etc(world: World) -> None:
    """As `ip netns exec` has it, and only there."""
    etc = world.folder / "etc"
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    (etc / "netns" / "netns1").mkdir(parents=True)
    (etc / "netns" / "netns1" / "hosts").write_text("192.0.2.7 only-here\n")
    (etc / "netns" / "netns1" / "not-in-etc").write_text("")
    file = world.write(PAIR)
    world.succeeds("net", "up", file)
    subprocess.run(["mount", "--bind", etc, "/etc"], check=True)
    try:
        assert inside(world, "netns1", "cat", "/etc/hosts") == "192.0.2.7 only-here\n"
        assert "only-here" not in inside(world, "netns2", "cat", "/etc/hosts") + Path("/etc/hosts").read_text()
    finally:
        subprocess.run(["umount", "/etc"], check=True)
    world.succeeds("net", "down", file)


def test_a_shell_has_the_terminal(world: World) -> None:
    """It is interactive, and its exit status is that of the command."""
    file = world.write(PAIR)
    world.succeeds("net", "up", file)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(QEMUNET, [QEMUNET, "exec", "netns2"], {**world.environment, "SHELL": "/bin/sh", "PS1": "there$ "})
    said = b""
    os.write(terminal, b"test -t 0 && echo $(hostname)-$((40 + 2)); exit 5\n")
    while b"two.lab.test-42" not in said:
        assert select.select([terminal], [], [], 30)[0], said
        said += os.read(terminal, 4096)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(terminal)
    world.succeeds("net", "down", file)


def test_nothing_keeps_a_namespace_after_down(world: World) -> None:
    """Neither a program that was started in it, nor a process of ours, nor a mount, though a keeper was killed."""
    file = world.write(PAIR + LAN + machine("one", card='network = "lan"'))
    world.succeeds("run", "-d", file)
    numbers = [inode(world, name) for name in ("netns1", "netns2")]
    sleeper = world.start("exec", "netns2", "--", "sleep", "1000")
    until(lambda: Path(f"/proc/{sleeper.pid}/comm").read_text() == "sleep\n", "it has become the program")
    assert [len(users(number)) for number in numbers] == [0, 1]
    assert pings(world, "netns2", "192.168.50.1")
    assert "one is on it" in world.fails(6, "net", "down", "netns1")
    kill(world.keeper("pair"))
    kill(world.pid("one"))
    world.succeeds("gc")
    assert sleeper.wait(10) == -signal.SIGTERM
    sleeper.communicate()
    assert [users(number) for number in numbers] == [[], []]
    assert not world.left()


def test_what_ip_netns_has_under_that_name_is_left_alone(world: World) -> None:
    """It is refused before anything is made; afterwards the directory of ip netns is as it was."""
    subprocess.run(["ip", "netns", "add", "netns1"], check=True)
    assert "ip netns has a namespace netns1" in world.fails(6, "net", "up", world.write(PAIR))
    other = world.write(PAIR.replace("netns1", "mine"))
    world.succeeds("net", "up", other)
    subprocess.run(["ip", "netns", "del", "mine"], check=True)
    assert pings(world, "mine", "192.168.5.2")
    world.succeeds("net", "down", other)
    subprocess.run(["ip", "netns", "del", "netns1"], check=True)
    assert os.listdir("/run/netns") == []
    subprocess.run(["umount", "/run/netns"], check=True)
    os.rmdir("/run/netns")
