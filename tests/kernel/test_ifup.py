"""`ifup` and `ifdown` under a real QEMU, in a network namespace that has nothing but a bridge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
QEMUNET = str(Path(sys.executable).parent / "qemunet")
IFUP = str(TREE / "ifup_scripts/qemu-ifup")
IFDOWN = str(TREE / "ifup_scripts/qemu-ifdown")
SYSCTL = "net.ipv6.conf.tap7.disable_ipv6"

# An ordinary user is root in a user namespace of his own, and may do there what this needs.
UNSHARE = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
ENTER = ["--net", *([] if os.geteuid() == 0 else ["--user", "--preserve-credentials"])]


def may_make_namespaces() -> bool:
    return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not may_make_namespaces(), reason="this user may make no network namespace"),
]


class Place:
    """A network namespace that lives as long as a process in it that does nothing."""

    def __init__(self, pid: int) -> None:
        self.enter = ["nsenter", "--target", str(pid), *ENTER, "--"]

    def run(self, *argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.enter, *argv], capture_output=True, text=True, env=env)

    def ip(self, *words: str) -> None:
        result = self.run("ip", *words)
        assert result.returncode == 0, result.stderr

    def link(self, name: str) -> dict[str, object] | None:
        result = self.run("ip", "-j", "link", "show", "dev", name)
        return dict(json.loads(result.stdout)[0]) if result.returncode == 0 else None

    def dump(self) -> list[str]:
        """All that this could change: links with their properties, addresses, routes, the bridge's table."""
        commands = (["ip", "-o", "link"], ["ip", "-o", "address"], ["ip", "route"], ["bridge", "fdb"])
        return [self.run(*argv).stdout for argv in commands]

    def qemunet(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(QEMUNET, *words, env={**os.environ, **env})


@pytest.fixture
def place() -> Iterator[Place]:
    with subprocess.Popen([*UNSHARE, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"there\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"there\n"
        yield Place(holder.pid)


@pytest.fixture
def bridged(place: Place) -> Place:
    """The namespace with a bridge whose MTU and address are its own."""
    place.ip("link", "add", "br7", "address", "52:54:00:00:00:77", "type", "bridge")
    place.run("sysctl", "-qw", "net.ipv6.conf.br7.disable_ipv6=1")  # its address would come late
    place.ip("link", "set", "br7", "mtu", "1400", "up")
    return place


@contextmanager
def qemu(place: Place, script: str = IFUP, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A machine that never runs, with a tap that it makes itself; here once its scripts are through."""
    argv = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "64", "-qmp", "stdio"]
    netdev = f"tap,id=host-net0,ifname=tap7,script={script},downscript={IFDOWN}"
    cards = ["-netdev", netdev, "-device", "virtio-net-pci,netdev=host-net0"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*place.enter, *argv, *cards], text=True, env=env, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def greeting(process: subprocess.Popen[str]) -> str:
    """QEMU's first line on its monitor; it comes after the script has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "QMP" in line, process.communicate()[1]
    return line


def quit_qemu(process: subprocess.Popen[str]) -> str:
    """End QEMU in the way in which it calls its downscript; return what was said on stderr."""
    _, said = process.communicate('{"execute": "qmp_capabilities"} {"execute": "quit"}\n', timeout=60)
    assert process.returncode == 0, said
    return said


def sysctl(place: Place, key: str) -> str:
    return place.run("sysctl", "-n", key).stdout.strip()


def test_a_tap_of_qemus_is_put_on_the_bridge_and_goes_without_a_trace(bridged: Place) -> None:
    """While QEMU lives its tap is a port, up, with the bridge's MTU; nothing of the bridge ever changes."""
    before = bridged.dump()
    bridge = bridged.link("br7")
    with qemu(bridged) as process:
        greeting(process)
        tap = bridged.link("tap7")
        assert tap is not None
        assert (tap["master"], tap["mtu"]) == ("br7", 1400)
        assert "UP" in tap["flags"]  # type: ignore[operator]
        assert str(tap["address"]).startswith("fe:")
        assert sysctl(bridged, SYSCTL) == "1"
        now = bridged.link("br7")
        assert now is not None
        assert bridge is not None
        assert (now["mtu"], now["address"]) == (bridge["mtu"], bridge["address"])
        assert quit_qemu(process) == ""
    bridged.ip("link", "set", "br7", "down")  # a port that was there has made the bridge run
    bridged.ip("link", "set", "br7", "up")
    assert bridged.dump() == before


def test_the_script_finds_qemunet_without_any_environment(bridged: Place) -> None:
    """QEMU started by a service manager has no PATH; the checkout is found all the same."""
    with qemu(bridged, env={}) as process:
        greeting(process)
        assert (bridged.link("tap7") or {})["master"] == "br7"


def test_the_script_is_found_through_a_link(bridged: Place, tmp_path: Path) -> None:
    """/etc/qemu-ifup may be a symbolic link to the script."""
    link = tmp_path / "qemu-ifup"
    link.symlink_to(IFUP)
    with qemu(bridged, script=str(link), env={"PATH": "/usr/bin:/bin"}) as process:
        greeting(process)
        assert (bridged.link("tap7") or {})["master"] == "br7"


def test_qemu_does_not_start_without_a_bridge_and_says_why(place: Place) -> None:
    """The error and its hint reach whoever started QEMU, and nothing is left."""
    before = place.dump()
    with qemu(place) as process:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1
    assert "error: this host lacks a bridge to put the tap on\n  hint: " in said
    assert place.dump() == before


def test_ifdown_after_a_killed_qemu_is_harmless(bridged: Place) -> None:
    """A tap that is gone is as good as taken off."""
    with qemu(bridged) as process:
        greeting(process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert bridged.link("tap7") is None
    result = bridged.qemunet("ifdown", "tap7")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_persistent_tap_is_put_on_and_taken_off_again_and_again(bridged: Place) -> None:
    """Twice the same is the same as once."""
    bridged.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    for _ in range(2):
        for _ in range(2):
            assert bridged.qemunet("ifup", "tap7").returncode == 0
            assert (bridged.link("tap7") or {})["master"] == "br7"
        for _ in range(2):
            assert bridged.qemunet("ifdown", "tap7").returncode == 0
            tap = bridged.link("tap7") or {}
            assert "master" not in tap
            assert "UP" not in tap["flags"]  # type: ignore[operator]


@pytest.mark.parametrize("mtu", ["1500", "9000"])
def test_a_bridge_without_ports_keeps_its_address_and_mtu(place: Place, mtu: str) -> None:
    """With the tap, and when it has gone with its QEMU or was taken off; it would take the tap's."""
    place.ip("link", "add", "br7", "mtu", mtu, "type", "bridge")
    place.ip("link", "set", "br7", "up")
    before = kept(place)
    with qemu(place) as process:
        greeting(process)
        assert (place.link("tap7") or {})["master"] == "br7"
        assert kept(place) == before
        quit_qemu(process)
    assert place.link("tap7") is None
    assert kept(place) == before
    place.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    for command in ("ifup", "ifup", "ifdown"):
        assert place.qemunet(command, "tap7").returncode == 0
        assert kept(place) == before


def kept(place: Place) -> tuple[object, object]:
    link = place.link("br7") or {}
    return link["address"], link["mtu"]


def test_of_several_bridges_the_one_with_the_default_route_is_taken(bridged: Place) -> None:
    """With two bridges and no default route both are named; the variable beats the route."""
    bridged.ip("link", "add", "br8", "type", "bridge")
    bridged.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    undecided = bridged.qemunet("ifup", "tap7")
    assert undecided.returncode == 3
    assert "br7, br8" in undecided.stderr
    assert "QEMUNET_BRIDGE" in undecided.stderr
    bridged.ip("address", "add", "10.7.0.1/24", "dev", "br7")
    bridged.ip("route", "add", "default", "via", "10.7.0.2")
    assert bridged.qemunet("ifup", "tap7").returncode == 0
    assert (bridged.link("tap7") or {})["master"] == "br7"
    assert bridged.qemunet("ifdown", "tap7").returncode == 0
    assert bridged.qemunet("ifup", "tap7", QEMUNET_BRIDGE="br8").returncode == 0
    assert (bridged.link("tap7") or {})["master"] == "br8"


def test_a_tap_on_another_bridge_stays_there(bridged: Place) -> None:
    """Somebody has put it there, and it is not ours to move."""
    bridged.ip("link", "add", "br8", "type", "bridge")
    bridged.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    bridged.ip("link", "set", "tap7", "master", "br8")
    before = bridged.dump()
    result = bridged.qemunet("ifup", "tap7", QEMUNET_BRIDGE="br7")
    assert (result.returncode, result.stderr.splitlines()[0]) == (6, "error: tap7 is on br8")
    assert bridged.dump() == before


def test_a_tap_of_a_lab_is_left_alone(bridged: Place) -> None:
    """What carries the mark belongs to a running guest."""
    bridged.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    bridged.ip("link", "property", "add", "dev", "tap7", "altname", "qemunet.vm-kali2.net0")
    before = bridged.dump()
    for command in ("ifup", "ifdown"):
        assert bridged.qemunet(command, "tap7").returncode == 6
    assert bridged.dump() == before


@pytest.mark.parametrize(
    ("interface", "bridge", "status", "message"),
    [
        ("tap9", "br7", 4, "there is no interface tap9"),
        ("br7", "br7", 2, "br7 is not a tap"),
        ("lo", "br7", 2, "lo is not a tap"),
        ("tap7", "br9", 3, 'lacks the bridge "br9"'),
        ("tap7", "lo", 3, 'lacks a bridge of the name "lo"'),
        ("tap-with-a-long-name", "br7", 2, "has 20 bytes; an interface name has at most 15"),
        ("../all", "br7", 2, "cannot be the name of an interface"),
        ("", "br7", 2, "cannot be the name of an interface"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_touched(
    bridged: Place, interface: str, bridge: str, status: int, message: str
) -> None:
    """Each with its own exit status and a message that says what is wrong."""
    bridged.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    before = bridged.dump()
    result = bridged.qemunet("ifup", interface, QEMUNET_BRIDGE=bridge)
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert bridged.dump() == before


def test_without_the_right_the_remedy_is_said_and_nothing_is_touched(bridged: Place) -> None:
    """Root of another user namespace is nobody here."""
    bridged.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    before = bridged.dump()
    result = bridged.run("unshare", "--user", "--map-root-user", QEMUNET, "ifup", "tap7")
    assert result.returncode == 3, result.stderr
    assert "CAP_NET_ADMIN" in result.stderr
    assert "hint: " in result.stderr
    assert bridged.dump() == before


# ---------------------------------------------------------------- the examples for a card's own hooks

CARD = {"QEMUNET_LAB": "lab", "QEMUNET_VM": "kali2", "QEMUNET_NIC": "net0", "QEMUNET_MAC": "52:54:00:00:00:01"}


def hook(place: Place, name: str, **more: str) -> subprocess.CompletedProcess[str]:
    return place.run(str(TREE / "ifup_scripts" / name), "tap7", env={**os.environ, **CARD, **more})


def test_route_guest_routes_to_every_address_of_the_card_and_leaves_nothing(place: Place) -> None:
    """IPv4 and IPv6, through the interface and with it; without an address it says so."""
    before = place.dump()
    place.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    place.ip("link", "set", "tap7", "up")
    result = hook(place, "route-guest", QEMUNET_IP="10.9.0.2/24 fd09::2/64")
    assert (result.returncode, result.stderr) == (0, "")
    assert "10.9.0.2 dev tap7" in place.run("ip", "route").stdout
    assert "fd09::2 dev tap7" in place.run("ip", "-6", "route").stdout
    silent = hook(place, "route-guest")
    assert silent.returncode == 0
    assert "has no `ip`" in silent.stderr
    place.ip("link", "del", "tap7")
    assert place.dump() == before


def test_tc_limit_limits_the_interface(place: Place) -> None:
    """A second call changes the limit instead of failing; a kernel without tbf says so itself."""
    place.ip("tuntap", "add", "dev", "tap7", "mode", "tap")
    for _ in range(2):
        result = hook(place, "tc-limit")
        if "unknown" not in result.stderr:
            assert result.returncode == 0, result.stderr
            assert "rate 10Mbit" in place.run("tc", "qdisc", "show", "dev", "tap7").stdout


def test_log_card_logs_what_it_is_told(place: Place, tmp_path: Path) -> None:
    """One line with the card, its lab and its interface."""
    logger = tmp_path / "logger"
    logger.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    logger.chmod(0o755)
    result = hook(place, "log-card", PATH=f"{tmp_path}:{os.environ['PATH']}", QEMUNET_BRIDGE="br0")
    assert result.stdout == "-t|qemunet|kali2.net0 (52:54:00:00:00:01) of lab lab: tap7 on br0|"
