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
from tests.dump import dump, left_behind
from tests.guest.scene import QEMUNET, TREE, Guest, Peer, Scene, host_pings, ip, wait_for

pytestmark = pytest.mark.guest
EXAMPLES = TREE / "examples"


# ---------------------------------------------------------------- user mode


@pytest.mark.parametrize("model", ["virtio", "e1000", "rtl8139"])
def test_user_mode_gives_an_address_and_forwards_a_port(scene: Scene, unchanged: None, model: str) -> None:
    """A connection to a port of the host reaches a service of the guest, with every classic model."""
    lab = f"""
        [vm.one]
        memory = "128M"
        accel = "tcg"
        boot.guest = "tiny"
        [[vm.one.nic]]
        mode = "user"
        model = "{model}"
        forward = ["tcp:127.0.0.1:5555:22"]
    """
    with scene.lab(lab) as guests:
        one = guests["one"]
        one.wait_until("ip -4 address show dev eth0 | grep -q 10.0.2.15/24")
        one.succeeds("(echo hello from $(hostname) | nc -l -p 22 &)")
        heard: list[str] = []
        wait_for(lambda: bool(hear(5555, heard)))
        assert heard[-1] == "hello from one\n"


def hear(port: int, heard: list[str]) -> str:
    """Return the first line that comes from a port of the host; nothing while nobody in the guest listens."""
    line = ""
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        line = client.makefile().readline()
    heard.append(line)
    return line


def test_a_vm_without_a_card_in_the_file_gets_one_in_user_mode(scene: Scene, unchanged: None) -> None:
    with scene.lab('[vm.one]\nmemory = "128M"\naccel = "tcg"\nboot.guest = "tiny"\n') as guests:
        assert "10.0.2.15/24" in guests["one"].succeeds("ip -4 address show dev eth0")
        assert [(card["mode"], card["model"]) for card in scene.cards("one")] == [("user", "virtio-net-pci")]


def test_check_notes_that_ping_may_not_answer_in_user_mode(scene: Scene) -> None:
    file = scene.write('[vm.one]\n[[vm.one.nic]]\nmode = "user"\n')
    done = subprocess.run([QEMUNET, "check", str(file)], capture_output=True, text=True, env=scene.environment)
    assert "ping" in done.stderr


# ---------------------------------------------------------------- a private bridge


def test_guests_of_a_private_network_see_each_other_and_nobody_else_sees_them(scene: Scene) -> None:
    before = dump(scene.runtime)
    with scene.lab(
        EXAMPLES / "private-bridge.toml", "--set", "vm.alice.accel=tcg", "--set", "vm.bob.accel=tcg"
    ) as guests:
        guests["alice"].pings("10.77.0.2")
        guests["bob"].pings("10.77.0.1")
        links = json.loads(ip("-j", "address"))
        (bridge,) = (link for link in links if link["ifname"] == "qn-lab")
        assert bridge["addr_info"] == []
        assert not host_pings("10.77.0.1", source="qn-lab")
        macs = [link["address"] for link in links if link["ifname"] != "lo"]
        macs += [card["mac"] for name in guests for card in scene.cards(name)]
        assert len(set(macs)) == len(macs) == 5
        for name in guests:
            for card in scene.cards(name):
                assert card["host_mac"] == "fe" + card["mac"][2:]
        # even a host that tries is not heard: it has an address in that subnet only if it takes one
        guests["alice"].cannot_ping("10.77.0.254")
    found = left_behind(before, scene.runtime)
    assert not found, found


# ---------------------------------------------------------------- a routed tap


@pytest.fixture
def third_host(lan: Peer) -> Peer:
    """A host behind this one that knows the way back to the guest."""
    for subnet in ("10.0.0.0/30", "10.99.0.0/24", "10.5.5.0/24"):
        lan.run("ip", "route", "add", subnet, "via", "192.0.2.1")
    for name in ("eth1", "default"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("0\n")
    return lan


def test_a_routed_tap_joins_guest_and_third_host(scene: Scene, third_host: Peer, unchanged: None) -> None:
    """Both ways, and the subnet behind the guest too; afterwards forwarding is as before."""
    with scene.lab(EXAMPLES / "routed-tap.toml", "--set", "vm.router.accel=tcg") as guests:
        guests["router"].pings("10.0.0.1")
        guests["router"].pings("192.0.2.2")
        third_host.run("busybox", "ping", "-c", "2", "-W", "5", "10.0.0.2")
        third_host.run("busybox", "ping", "-c", "2", "-W", "5", "10.99.0.1")
        assert Path("/proc/sys/net/ipv4/conf/eth1/forwarding").read_text() == "1\n"
        assert Path("/proc/sys/net/ipv4/conf/default/forwarding").read_text() == "0\n"
    assert Path("/proc/sys/net/ipv4/conf/eth1/forwarding").read_text() == "0\n"


def test_the_hosts_end_may_lie_in_another_subnet_than_the_guests(
    scene: Scene, third_host: Peer, unchanged: None
) -> None:
    lab = """
        [vm.router]
        memory = "128M"
        accel = "tcg"
        boot.guest = "tiny"
        [[vm.router.nic]]
        mode = "tap"
        address = ["10.0.0.1/32"]
        routes = ["10.5.5.0/24"]
        ip = ["10.5.5.2/24"]
        gateway = "10.0.0.1"
    """
    with scene.lab(lab) as guests:
        guests["router"].pings("192.0.2.2")
        third_host.run("busybox", "ping", "-c", "2", "-W", "5", "10.5.5.2")


# ---------------------------------------------------------------- macvtap

MACVTAP = """
    [vm.one]
    memory = "128M"
    accel = "tcg"
    boot.guest = "tiny"
    [[vm.one.nic]]
    mode = "macvtap"
    parent = "eth1"
    macvtap = "{mode}"
    ip = ["192.0.2.11/24"]
"""


def two(mode: str) -> str:
    one = MACVTAP.format(mode=mode)
    return one + one.replace("one", "two").replace("192.0.2.11", "192.0.2.12")


def test_macvtap_bridge_joins_the_guests_and_the_lan(scene: Scene, lan: Peer, unchanged: None) -> None:
    with scene.lab(two("bridge")) as guests:
        guests["one"].pings("192.0.2.12")
        guests["one"].pings("192.0.2.2")
        guests["two"].pings("192.0.2.2")
        lan.run("busybox", "ping", "-c", "2", "-W", "5", "192.0.2.11")
        guests["one"].cannot_ping("192.0.2.1")  # the host itself, which is how macvtap works


def test_a_macvlan_of_the_host_joins_host_and_guests(scene: Scene, lan: Peer) -> None:
    """Both ways and in both families. The LAN finds the host where it always was, and nothing of it is left after."""
    ip("link", "set", "eth1", "addrgenmode", "none")
    Path("/proc/sys/net/ipv6/conf/eth1/disable_ipv6").write_text("0")
    ip("address", "add", "2001:db8::1/64", "dev", "eth1", "nodad")
    lan.run("ip", "address", "add", "2001:db8::2/64", "dev", "lan0", "nodad")
    wait_for(lambda: "ff00::/8" in ip("-6", "route", "show", "table", "local", "dev", "eth1"))  # after the carrier
    before = dump(scene.runtime)
    parent = ip("address", "show", "dev", "eth1")
    one = MACVTAP.format(mode="bridge").replace(
        'ip = ["192.0.2.11/24"]', 'ip = ["192.0.2.11/24", "2001:db8::11/64"]\nhost-macvlan = true'
    )
    two = MACVTAP.format(mode="bridge").replace("one", "two").replace('.11/24"]', '.12/24"]\nhost-macvlan = true')
    with scene.lab(one + two) as guests:
        for address in ("192.0.2.1", "2001:db8::1"):
            lan.run("busybox", "ping", "-c", "2", "-W", "5", address)
            guests["one"].pings(address)
        guests["two"].pings("192.0.2.1")
        for address in ("192.0.2.11", "192.0.2.12", "2001:db8::11", "192.0.2.2"):
            assert host_pings(address)
        guests["one"].pings("192.0.2.2")
        assert ip("address", "show", "dev", "eth1") == parent
        (host,) = json.loads(ip("-j", "link", "show", "dev", "eth1"))
        known = json.loads(lan.run("ip", "-j", "neighbour").stdout)
        seen = {one["lladdr"] for one in known if one["dst"] in ("192.0.2.1", "2001:db8::1")}
        assert seen == {host["address"]}
        other = scene.folder / "other.toml"
        other.write_text(two.replace("two", "three").replace(".12/24", ".13/24"))
        scene.qemunet("run", "-d", str(other))
        assert "192.0.2.13" in ip("route")
        scene.qemunet("stop", "--force", "three")
        assert "192.0.2.13" not in ip("route")
        guests["one"].pings("192.0.2.1")  # the macvlan is there as long as somebody needs it
    found = left_behind(before, scene.runtime)
    assert not found, found


def test_macvtap_private_keeps_the_guests_apart(scene: Scene, lan: Peer, unchanged: None) -> None:
    with scene.lab(two("private")) as guests:
        guests["one"].pings("192.0.2.2")
        guests["two"].pings("192.0.2.2")
        guests["one"].cannot_ping("192.0.2.12")


def test_macvtap_vepa_joins_the_guests_only_by_way_of_a_hairpin_switch(scene: Scene, unchanged: None) -> None:
    with Peer() as switch:
        ip("link", "add", "eth1", "type", "veth", "peer", "name", "port", "netns", str(switch.pid))
        ip("link", "set", "eth1", "up")
        switch.run("ip", "link", "add", "sw", "type", "bridge")
        switch.run("ip", "address", "add", "192.0.2.2/24", "dev", "sw")
        switch.run("ip", "link", "set", "sw", "up")
        switch.run("ip", "link", "set", "port", "master", "sw", "up")
        with scene.lab(two("vepa")) as guests:
            guests["one"].pings("192.0.2.2")
            guests["one"].cannot_ping("192.0.2.12")
            # its kernel may have asked for the address for the last time, and what is sent now would go down with that
            guests["one"].wait_until("! ip neigh show | grep -q '^192.0.2.12 .*INCOMPLETE'")
            switch.run("bridge", "link", "set", "dev", "port", "hairpin", "on")
            guests["one"].pings("192.0.2.12")
        ip("link", "del", "eth1")


def test_macvtap_passthru_has_the_parent_for_itself(scene: Scene, lan: Peer, unchanged: None) -> None:
    with scene.lab(MACVTAP.format(mode="passthru")) as guests:
        guests["one"].pings("192.0.2.2")
        (parent,) = json.loads(ip("-j", "link", "show", "dev", "eth1"))
        assert [card["mac"] for card in scene.cards("one")] == [parent["address"]]
        other = scene.folder / "other.toml"
        other.write_text(MACVTAP.format(mode="bridge").replace("one", "two"))
        assert "eth1" in scene.qemunet("run", "-d", str(other), status=6)
        guests["one"].pings("192.0.2.2")


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
def by_hand(scene: Scene, mac: str) -> Iterator[Guest]:
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
        wait_for(lambda: (scene.folder / "console.log").exists() and (scene.folder / "console.sock").exists())
        guest = Guest("hand", scene.folder)
        try:
            guest.await_ready()
            yield guest
        finally:
            guest.close()
            qemu.terminate()
            qemu.wait(timeout=30)
