"""The scenarios of plain QEMU networking, each seen by its traffic."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.guest.image import build
from qemunet.testing.bench import Bench, Room
from tests.dump import dump, left_behind
from tests.guest import scene as consoles
from tests.guest.around import as_before, emulated, ping
from tests.guest.cards import machine
from tests.guest.scene import QEMUNET, TREE, Peer, Scene, attach, host_pings, ip, join, wait_for

pytestmark = pytest.mark.guest
EXAMPLES = TREE / "examples"


# ---------------------------------------------------------------- user mode

MODELS = {"virtio": 2, "e1000": 3, "rtl8139": 4}
CARD = '{{ mode = "user", model = "{0}", subnet = "10.0.{1}.0/24", forward = ["tcp:127.0.0.1:555{1}:22"] }}'
CARDS = ", ".join(CARD.format(model, number) for model, number in MODELS.items())
USER = machine("bare") + machine("one", "hotplug-slots = 0", f"nic = [{CARDS}]")
in_user_mode = pytest.mark.qemunet_lab(USER, "one", around=as_before)


@in_user_mode
@pytest.mark.parametrize("model", MODELS)
def test_user_mode_gives_an_address_and_forwards_a_port(lab: Bench, model: str) -> None:
    """A connection to a port of the host reaches a service of the guest, with every classic model."""
    one, number = lab["one"], MODELS[model]
    one.wait_until(f"ip -4 address | grep -q 10.0.{number}.15/24")
    one.succeeds("(echo hello from $(hostname) | nc -l -p 22 >/dev/null 2>&1 &)")
    heard: list[str] = []
    wait_for(lambda: bool(lab.host.inside(lambda: hear(5550 + number, heard))))
    assert heard[-1] == "hello from one\n"


def hear(port: int, heard: list[str]) -> str:
    """Return the first line that comes from a port of the host; nothing while nobody in the guest listens."""
    line = ""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        line = client.makefile().readline()
    heard.append(line)
    return line


@in_user_mode
def test_a_vm_without_a_card_in_the_file_gets_one_in_user_mode(lab: Bench) -> None:
    lab.start("bare")
    bare, one = lab
    assert (bare.name, one.name) == ("bare", "one")
    assert bare.wait_for_address() == "10.0.2.15"
    assert [(card.mode, card.model) for card in bare.nics.values()] == [("user", "virtio-net-pci")]


def test_check_notes_that_ping_may_not_answer_in_user_mode(scene: Scene) -> None:
    file = scene.write('[vm.one]\n[[vm.one.nic]]\nmode = "user"\n')
    done = subprocess.run([QEMUNET, "check", str(file)], capture_output=True, text=True, env=scene.environment)
    assert "ping" in done.stderr


# ---------------------------------------------------------------- a private bridge


@pytest.mark.qemunet_lab(EXAMPLES / "private-bridge.toml", set=emulated("alice", "bob"), around=as_before)
def test_guests_of_a_private_network_see_each_other_and_nobody_else_sees_them(lab: Bench) -> None:
    alice, bob = lab
    alice.succeeds(ping("10.77.0.2"))
    bob.succeeds(ping("10.77.0.1"))
    links = json.loads(lab.host.succeeds("ip -j address"))
    (bridge,) = (link for link in links if link["ifname"] == "qn-lab")
    assert bridge["addr_info"] == []
    lab.host.fails(f"{ping('10.77.0.1', 2)} -I qn-lab")
    cards = [card for guest in lab for card in guest.nics.values()]
    macs = [link["address"] for link in links if link["ifname"] != "lo"] + [card.mac for card in cards]
    assert len(set(macs)) == len(macs) == 5
    assert all(card.host_mac == "fe" + card.mac[2:] for card in cards)
    # even a host that tries is not heard: it has an address in that subnet only if it takes one
    alice.fails(ping("10.77.0.254", 2))


# ---------------------------------------------------------------- a routed tap

OTHER = """
mode = "tap"
address = ["10.0.1.1/32"]
routes = ["10.5.5.0/24"]
ip = ["10.5.5.2/24"]
gateway = "10.0.1.1"
"""
ROUTED = (EXAMPLES / "routed-tap.toml").read_text() + machine("other", "[[vm.other.nic]]", OTHER)


@contextlib.contextmanager
def before_a_third_host(host: Room) -> Iterator[Peer]:
    """A host behind this one that knows the way back to the guests."""
    with lans(host, 1) as third:
        for subnet in ("10.0.0.0/30", "10.99.0.0/24", "10.5.5.0/24"):
            third.run("ip", "route", "add", subnet, "via", "192.0.1.1")
        for name in ("eth1", "default"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("0\n")
        with as_before(host):
            yield third


@contextlib.contextmanager
def lans(host: Room, *numbers: int) -> Iterator[Peer]:
    """A LAN for each number N: this host is 192.0.N.1 there, by its ``ethN``, and another one 192.0.N.2."""
    with Peer() as peer:
        for number in numbers:
            join(peer, f"eth{number}", f"lan{number}")
            # its IPv6 addresses come and go with the carrier, at any time
            Path(f"/proc/sys/net/ipv6/conf/eth{number}/disable_ipv6").write_text("1")
            ip("address", "add", f"192.0.{number}.1/24", "dev", f"eth{number}")
            peer.run("ip", "address", "add", f"192.0.{number}.2/24", "dev", f"lan{number}")
        yield peer


routed = pytest.mark.qemunet_lab(ROUTED, set=emulated("router"), around=before_a_third_host)


@routed
def test_a_routed_tap_joins_guest_and_third_host(lab: Bench) -> None:
    """Both ways, and the subnet behind the guest too; afterwards forwarding is as before."""
    lab["router"].succeeds(ping("10.0.0.1"), ping("192.0.1.2"))
    for address in ("10.0.0.2", "10.99.0.1"):
        lab.around.run(*ping(address).split())
    forwarding = "cat /proc/sys/net/ipv4/conf/{}/forwarding"
    assert lab.host.succeeds(forwarding.format("eth1"), forwarding.format("default")) == "1\n0\n"


@routed
def test_the_hosts_end_may_lie_in_another_subnet_than_the_guests(lab: Bench) -> None:
    lab["other"].succeeds(ping("192.0.1.2"))
    lab.around.run(*ping("10.5.5.2").split())


# ---------------------------------------------------------------- macvtap


def on_lans(name: str, own: int, **modes: str) -> str:
    """A vm with cards on some LANs: its own number there, and the modes of its macvtaps by their parents."""
    card = '{{ mode = "macvtap", parent = "{0}", macvtap = "{1}", ip = ["192.0.{2}.{3}/24"] }}'
    shared = (
        '{{ mode = "macvtap", parent = "{0}", host-macvlan = true, ip = ["192.0.{2}.{3}/24", "2001:db8::{3}/64"] }}'
    )
    cards = (
        (shared if mode == "shared" else card).format(parent, mode, parent[-1], own) for parent, mode in modes.items()
    )
    return machine(name, "hotplug-slots = 0", f"nic = [{', '.join(cards)}]")


EACH = {"eth1": "bridge", "eth2": "private", "eth3": "vepa", "eth4": "shared"}
FIVE = on_lans("one", 11, **EACH) + on_lans("two", 12, **EACH) + on_lans("alone", 11, eth5="passthru")


@contextlib.contextmanager
def five_lans(host: Room) -> Iterator[Peer]:
    """The third one has a switch, and the fourth one IPv6."""
    with lans(host, 1, 2, 3, 4, 5) as peer:
        peer.run("ip", "link", "add", "sw", "type", "bridge")
        peer.run("ip", "address", "del", "192.0.3.2/24", "dev", "lan3")
        peer.run("ip", "address", "add", "192.0.3.2/24", "dev", "sw")
        peer.run("ip", "link", "set", "sw", "up")
        peer.run("ip", "link", "set", "lan3", "master", "sw")
        ip("link", "set", "eth4", "addrgenmode", "none")
        Path("/proc/sys/net/ipv6/conf/eth4/disable_ipv6").write_text("0")
        ip("address", "add", "2001:db8::1/64", "dev", "eth4", "nodad")
        peer.run("ip", "address", "add", "2001:db8::2/64", "dev", "lan4", "nodad")
        wait_for(lambda: "ff00::/8" in ip("-6", "route", "show", "table", "local", "dev", "eth4"))  # after the carrier
        with as_before(host):
            yield peer


on_five_lans = pytest.mark.qemunet_lab(FIVE, around=five_lans)


@on_five_lans
def test_macvtap_bridge_joins_the_guests_and_the_lan(lab: Bench) -> None:
    one, two = lab["one"], lab["two"]
    one.succeeds(ping("192.0.1.12"), ping("192.0.1.2"))
    two.succeeds(ping("192.0.1.2"))
    lab.around.run(*ping("192.0.1.11").split())
    one.fails(ping("192.0.1.1", 2))  # the host itself, which is how macvtap works


@on_five_lans
def test_macvtap_private_keeps_the_guests_apart(lab: Bench) -> None:
    lab["one"].succeeds(ping("192.0.2.2"))
    lab["two"].succeeds(ping("192.0.2.2"))
    lab["one"].fails(ping("192.0.2.12", 2))


@on_five_lans
def test_macvtap_vepa_joins_the_guests_only_by_way_of_a_hairpin_switch(lab: Bench) -> None:
    one = lab["one"]
    one.succeeds(ping("192.0.3.2"))
    one.fails(ping("192.0.3.12", 2))
    lab.around.run("bridge", "link", "set", "dev", "lan3", "hairpin", "on")
    one.wait_until(ping("192.0.3.12", 1))
    lab.around.run("bridge", "link", "set", "dev", "lan3", "hairpin", "off")


@on_five_lans
def test_macvtap_passthru_has_the_parent_for_itself(lab: Bench, tmp_path: Path) -> None:
    alone = lab.guest("alone")
    alone.succeeds(ping("192.0.5.2"))
    (parent,) = json.loads(lab.host.succeeds("ip -j link show dev eth5"))
    assert alone.nics["net0"].mac == parent["address"]
    other = tmp_path / "other.toml"
    other.write_text(on_lans("late", 12, eth5="bridge"))
    done = lab.host.execute([QEMUNET, "run", "-d", str(other)])
    assert (done.status, "eth5" in done.stderr) == (6, True), done
    alone.succeeds(ping("192.0.5.2"))


@on_five_lans
def test_a_macvlan_of_the_host_joins_host_and_guests(lab: Bench, tmp_path: Path) -> None:
    """Both ways and in both families. The LAN finds the host where it always was, and nothing of it is left after."""
    one, host = lab.guest("one"), ("192.0.4.1", "2001:db8::1")
    for address in host:
        lab.around.run(*ping(address).split())
        one.succeeds(ping(address))
    lab["two"].succeeds(ping("192.0.4.1"))
    for address in ("192.0.4.11", "192.0.4.12", "2001:db8::11", "192.0.4.2"):
        lab.host.succeeds(ping(address))
    one.succeeds(ping("192.0.4.2"))
    (parent,) = json.loads(lab.host.succeeds("ip -j address show dev eth4"))
    assert {one["local"] for one in parent["addr_info"]} == {*host}
    known = json.loads(lab.around.run("ip", "-j", "neighbour").stdout)
    assert {one["lladdr"] for one in known if one["dst"] in host} == {parent["address"]}
    (tmp_path / "other.toml").write_text(on_lans("three", 13, eth4="shared"))
    lab.qemunet("run", "-d", str(tmp_path / "other.toml"))
    assert "192.0.4.13" in lab.host.succeeds("ip route")
    lab.qemunet("stop", "--force", "three")
    assert "192.0.4.13" not in lab.host.succeeds("ip route")
    one.succeeds(ping("192.0.4.1"))  # the macvlan is there as long as somebody needs it


# ---------------------------------------------------------------- QEMU started by hand


def test_a_qemu_started_by_hand_has_its_tap_plugged_in_by_the_script(scene: Scene, unchanged: None) -> None:
    """The tap is on the bridge, its guest talks, the MAC is of `qemunet mac`, and the bridge is as before."""
    ip("link", "add", "br7", "address", "02:00:00:00:00:07", "type", "bridge")
    Path("/proc/sys/net/ipv6/conf/br7/disable_ipv6").write_text("1")
    ip("address", "add", "10.7.0.1/24", "dev", "br7")
    ip("link", "set", "br7", "up")
    before = dump(scene.runtime)
    mac = scene.qemunet("mac").strip()
    with by_hand(scene, mac) as guest:
        (tap,) = (link for link in json.loads(ip("-j", "link")) if link.get("master") == "br7")
        assert tap["address"].startswith("fe:")
        assert mac in guest.succeeds("ip link show dev eth0")
        guest.pings("10.7.0.1")
        assert host_pings("10.7.0.2")
    found = left_behind(before, scene.runtime)
    assert not found, found
    ip("link", "del", "br7")


@contextlib.contextmanager
def by_hand(scene: Scene, mac: str) -> Iterator[consoles.Guest]:
    """Start the built-in guest as a user of qemu-ifup scripts does; power it off."""
    image = build(print)
    scripts = TREE / "ifup_scripts"
    serial = f"path={scene.folder}/console.sock,server=on,wait=off,logfile={scene.folder}/console.log"
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "128M"]
    argv += ["-kernel", image.kernel, "-initrd", image.initrd]
    argv += ["-append", f"{image.append} qemunet.name=hand qemunet.nic={mac},10.7.0.2/24"]
    argv += ["-chardev", f"socket,id=serial,{serial}", "-serial", "chardev:serial"]
    argv += ["-netdev", f"tap,id=n0,script={scripts}/qemu-ifup,downscript={scripts}/qemu-ifdown"]
    argv += ["-device", f"virtio-net-pci,netdev=n0,mac={mac}"]
    with subprocess.Popen(argv, env={**scene.environment, "QEMUNET_BRIDGE": "br7"}) as qemu:
        try:
            with contextlib.closing(attach("hand", scene.folder)) as guest:
                guest.await_ready()
                yield guest
        finally:
            qemu.terminate()
            qemu.wait(timeout=30)
