"""What a lab of guests expects of them, tried inside of them; and what tests can ask of them by the pytest plugin."""

from __future__ import annotations

import pytest

from qemunet.testing.bench import Bench, Guest
from tests.guest.around import as_before

LAB = """
[lab]
name = "shop"
[network.lan]
mode = "isolated"
address = "192.168.50.1/24"
dhcp = { range = ["192.168.50.100", "192.168.50.200"] }
[network.back]
mode = "private"
[netns.peer]
[[cable]]
a = "network:back"
b = "netns:peer"
b-name = "eth0"
b-address = "192.168.60.9/24"

[vm.web]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 0
[[vm.web.nic]]
network = "lan"

[vm.db]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 0
[[vm.db.nic]]
network = "lan"
[[vm.db.nic]]
network = "back"
ip = ["192.168.60.2/24", "fd06::2/64"]

[[expect]]
timeout = "60s"
from = "web"
to = "db"
ping = true
[[expect]]
timeout = "60s"
from = "web"
to = "db"
tcp = 80
[[expect]]
timeout = "60s"
name = "the way to a service that is not there yet"
from = "web"
to = "db"
tcp = 5432
listen = true
[[expect]]
timeout = "60s"
from = "peer"
to = "db"
udp = 5001
[[expect]]
timeout = "60s"
from = "db"
to = "peer"
udp = 5002
[[expect]]
timeout = "60s"
from = "db"
to = "host"
ping = true
[[expect]]
timeout = "60s"
from = "web"
dhcp = true

[[expect]]
from = "db"
network = "back"
dhcp = true
allow = false
timeout = "2s"
[[expect]]
from = "web"
to = "db"
network = "back"
tcp = 5433
allow = false
timeout = "2s"
[[expect]]
from = "peer"
to = "web"
ping = true
allow = false
timeout = "2s"
"""

pytestmark = [pytest.mark.guest, pytest.mark.qemunet_lab(LAB, around=as_before)]


@pytest.fixture
def guests(lab: Bench) -> tuple[Guest, Guest]:
    web, db = lab
    return web, db


def test_all_that_the_lab_expects_holds(lab: Bench) -> None:
    """By pings, connections, datagrams and DHCP, between guests, namespaces and the host; what is lent stays lent."""
    before = lab.guest("web").addresses
    lab.verify()
    assert lab.guest("web").addresses == before


def test_a_command_in_a_guest_succeeds_or_fails_with_what_it_said(guests: tuple[Guest, Guest]) -> None:
    web, db = guests
    assert web.succeeds("echo one", ["echo", "$two"]) == "one\n$two\n"
    assert "nonsense" in web.fails("ls /nonsense")
    with pytest.raises(AssertionError, match=r"db: 'echo oh >&2; exit 3' fails: status 3\n +stderr: oh"):
        db.succeeds("echo oh >&2; exit 3")
    with pytest.raises(AssertionError, match="db: 'true' succeeds"):
        db.fails("true")
    with pytest.raises(AssertionError, match="web: 'false' never succeeds in 1 s: "):
        web.wait_until("false", timeout=1)


def test_ports_files_and_consoles_are_waited_for(lab: Bench, guests: tuple[Guest, Guest]) -> None:
    web, db = guests
    db.wait_for_port(80)
    web.wait_for_port(80, db.addresses[0])
    lab["peer"].wait_for_port(80, "192.168.60.2")
    with pytest.raises(AssertionError, match=r"web: port 81 of 127.0.0.1 after 1 s: 127.0.0.1 refuses it"):
        web.wait_for_port(81, timeout=1)
    web.send_console("touch /tmp/it; echo is''there\n")
    assert web.wait_for_console("(?m)^isthere").group() == "isthere"
    web.wait_for_file("/tmp/it")
    assert "isthere" in web.console_log


def test_a_cable_that_is_pulled_keeps_a_guest_out(lab: Bench, guests: tuple[Guest, Guest]) -> None:
    """Until it is plugged in again."""
    _, db = guests
    peer = lab["peer"]
    db.link_down("net1")
    peer.fails("busybox ping -c 2 -W 1 192.168.60.2")
    db.link_up("net1")
    peer.wait_until("busybox ping -c 1 -W 1 192.168.60.2")


def test_a_guest_whose_power_has_failed_is_started_again(lab: Bench, guests: tuple[Guest, Guest]) -> None:
    """It is the same one to the test, and has its address when that is waited for; the others went on."""
    web, db = guests
    pids = web.vm.pid, db.vm.pid
    with pytest.raises(AssertionError, match=r"web: no IPv6 address of net0 in 1 s; known are: 192.168.50.1"):
        web.wait_for_address(version=6, timeout=1)
    web.crash()
    lab["peer"].succeeds("busybox ping -c 1 -W 5 192.168.60.2")
    web.start()
    assert (web.vm.pid == pids[0], db.vm.pid == pids[1]) == (False, True)
    assert web.wait_for_address() in web.addresses
    assert db.wait_for_address("net1", version=6) == "fd06::2"
    assert web.nics["net0"].network == "lan"
    db.succeeds(f"ping -c 1 -W 5 {web.addresses[0]}")
