"""Cards that are neither on a network of ours nor in user mode: two guests, and whoever is at the other end of each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.cards import Stage, links, machine, running, until
from tests.guest.scene import Peer, ip, join

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = """
[network.lab]
mode = "isolated"
address = "10.77.1.1/24"
mtu = 1400
"""
ONE, TWO = "10.77.9.1", "10.77.9.2"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Both guests run, without any card."""
    text = LAB + "".join(
        machine(name, "hotplug-slots = 4", "shared-memory = true", "nic = []") for name in ("one", "two")
    )
    with running(tmp_path_factory.mktemp("modes"), text) as stage:
        ip("link", "set", "lo", "up")
        stage.guest("one")
        stage.guest("two")
        yield stage


@pytest.fixture(autouse=True)
def as_before(stage: Stage) -> Iterator[None]:
    """What a test has plugged in it plugs out, and then nothing is left."""
    before = stage.look()
    yield
    stage.is_as(before)


# ---------------------------------------------------------------- a tap of somebody else


@pytest.fixture
def tap() -> Iterator[str]:
    ip("tuntap", "add", "dev", "tap7", "mode", "tap", "vnet_hdr")
    ip("address", "add", f"{TWO}/24", "dev", "tap7")
    ip("link", "set", "dev", "tap7", "addrgenmode", "none", "up")
    yield "tap7"
    ip("link", "del", "tap7")


def settings(ifname: str) -> dict[str, Any]:
    """All that somebody may have set of an interface; not whether anybody has it open."""
    (found,) = json.loads(ip("-j", "-d", "address", "show", "dev", ifname))
    open_or_not = ("flags", "operstate", "linkmode")
    return {key: value for key, value in found.items() if key not in open_or_not}


def test_a_tap_of_somebody_else_leads_to_a_guest_and_stays(stage: Stage, tap: str) -> None:
    """By its own address, under which the host is at its end; nobody else gets it meanwhile."""
    before = settings(tap)
    card = stage.add("one", "--ifname", tap, "--adopt")
    assert (card["mode"], card["ifname"], card["network"], card["bridge"]) == ("tap", tap, None, None)
    stage.give("one", card["mac"], f"{ONE}/24")
    stage.reaches("one", TWO)
    assert settings(tap) == before
    said = stage.fails(6, "nic", "add", "two", "--ifname", tap, "--adopt")
    assert f"the tap {tap} is in use by vm one" in said
    stage.remove("one", card["id"])
    assert settings(tap) == before


def test_a_tap_of_somebody_else_is_plugged_into_a_network_and_out_again(stage: Stage, tap: str) -> None:
    before = settings(tap)
    card = stage.add("one", "--network", "lab", "--ifname", tap, "--adopt")
    assert (card["network"], card["bridge"]) == ("lab", "qn-lab")
    stage.give("one", card["mac"], "10.77.1.7/24")
    stage.reaches("one", "10.77.1.1")
    assert (settings(tap)["master"], settings(tap)["mtu"]) == ("qn-lab", 1400)
    stage.remove("one", card["id"])
    assert settings(tap) == before


def test_there_is_no_card_without_the_tap(stage: Stage) -> None:
    said = stage.fails(3, "nic", "add", "one", "--ifname", "tap9", "--adopt")
    assert "the tap tap9" in said
    assert "ip tuntap add dev tap9 mode tap" in said
    assert "tap9" not in links()


# ---------------------------------------------------------------- guest to guest, by sockets and switches


def joined(stage: Stage, first: tuple[str, ...], second: tuple[str, ...]) -> None:
    """Plug a card into each guest, have them talk both ways, and plug them out again."""
    one, two = stage.add("one", *first), stage.add("two", *second)
    assert (one["ifname"], one["state"]) == (None, "plugged")
    assert one["mode"] == two["mode"] == first[1]
    stage.give("one", one["mac"], f"{ONE}/24")
    stage.give("two", two["mac"], f"{TWO}/24")
    stage.reaches("one", TWO, timeout=30)
    stage.reaches("two", ONE, timeout=30)
    stage.set("two", two["id"], "--link", "down")
    stage.is_cut_off("one", TWO)
    stage.set("two", two["id"], "--link", "up")
    stage.reaches("one", TWO, timeout=30)
    stage.remove("one", one["id"])
    stage.remove("two", two["id"])


@pytest.mark.parametrize("address", ["127.0.0.1:5001", "[::1]:5001", "unix"])
def test_two_guests_talk_by_a_stream(stage: Stage, address: str) -> None:
    """TCP, and a socket in the file system that is gone afterwards, though QEMU is none of those who may go there."""
    if address == "unix":
        address = f"unix:{stage.scene.folder}/wire.sock"
    joined(stage, ("--mode", "stream", "--listen", address), ("--mode", "stream", "--connect", address))
    assert not list(stage.scene.folder.glob("*.sock"))


def test_two_guests_talk_by_datagrams(stage: Stage) -> None:
    here, there = "127.0.0.1:5002", "127.0.0.1:5003"
    first = ("--mode", "dgram", "--listen", here, "--connect", there)
    joined(stage, first, ("--mode", "dgram", "--listen", there, "--connect", here))


def test_two_guests_talk_by_a_multicast_group(stage: Stage) -> None:
    card = ("--mode", "mcast", "--group", "230.0.0.1:5004", "--local", "127.0.0.1")
    joined(stage, card, card)


def test_who_has_an_address_is_said(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 5005)):
        said = stage.fails(6, "nic", "add", "one", "--mode", "stream", "--listen", "127.0.0.1:5005")
    assert f"127.0.0.1:5005 is in use by {Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})" in said


def test_nobody_at_the_other_end_is_said(stage: Stage) -> None:
    for address in ("127.0.0.1:5006", f"unix:{stage.scene.folder}/nobody.sock"):
        said = stage.fails(3, "nic", "add", "one", "--mode", "stream", "--connect", address)
        assert f"somebody who listens at {address}" in said


def test_a_socket_that_others_have_left_is_not_removed(stage: Stage) -> None:
    path = stage.scene.folder / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    said = stage.fails(6, "nic", "add", "one", "--mode", "stream", "--listen", f"unix:{path}")
    assert f"rm {path}" in said
    assert path.is_socket()
    path.unlink()


# ---------------------------------------------------------------- a vde_switch


@pytest.fixture
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A switch that lets everybody in, where everybody may go."""
    if shutil.which("vde_switch") is None:
        pytest.skip("there is no vde_switch")
    folder = Path(tempfile.mkdtemp(prefix="qemunet-vde-", dir="/tmp"))
    folder.chmod(0o755)
    path = folder / "ctl.d"
    words = ["vde_switch", "-s", str(path), "-m", "666"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until((path / "ctl").is_socket, "the switch is there")
    yield str(path)
    process.kill()
    process.communicate()
    shutil.rmtree(folder)


def test_two_guests_talk_through_a_vde_switch(stage: Stage, switch: str) -> None:
    joined(stage, ("--mode", "vde", "--path", switch), ("--mode", "vde", "--path", switch))


def test_a_switch_that_does_not_let_qemu_in_is_said(stage: Stage, switch: str) -> None:
    Path(switch, "ctl").chmod(0o600)
    said = stage.fails(3, "nic", "add", "one", "--mode", "vde", "--path", switch)
    assert f"to use the vde_switch at {switch}" in said
    said = stage.fails(3, "nic", "add", "one", "--mode", "vde", "--path", f"{switch}.not")
    assert f"a vde_switch at {switch}.not" in said
    assert "vde2" in said


# ---------------------------------------------------------------- vhost-user


@pytest.fixture
def backend() -> Iterator[tuple[str, str]]:
    """Two sockets of a program that serves cards in their guests' memory, where everybody may go."""
    folder = Path(tempfile.mkdtemp(prefix="qemunet-vhost-", dir="/tmp"))
    folder.chmod(0o755)
    one, two = str(folder / "one.sock"), str(folder / "two.sock")
    words = [sys.executable, str(Path(__file__).parents[1] / "vhost_user.py"), one, two]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield one, two
        process.kill()
    shutil.rmtree(folder)


def test_two_guests_talk_by_vhost_user(stage: Stage, backend: tuple[str, str]) -> None:
    one, two = backend
    joined(stage, ("--mode", "vhost-user", "--path", one), ("--mode", "vhost-user", "--path", two))


def test_a_backend_that_is_not_there_or_does_not_listen_is_said(stage: Stage) -> None:
    """No trace of the card is left in QEMU."""
    path = Path("/tmp") / f"qemunet-nobody-{os.getpid()}.sock"
    said = stage.fails(3, "nic", "add", "one", "--mode", "vhost-user", "--path", str(path))
    assert f"a vhost-user backend with the socket {path}" in said
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    path.chmod(0o666)
    said = stage.fails(3, "nic", "add", "one", "--mode", "vhost-user", "--path", str(path))
    path.unlink()
    assert f"somebody who listens at {path}" in said
    assert "Connection refused" in said
    assert not [one for one in stage.qmp("one", "query-chardev") if one["label"].startswith("host-")]


# ---------------------------------------------------------------- passt


SERVER = """
import socket
server = socket.create_server(("", 7000))
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello from outside\\n")
    connection.close()
"""


@pytest.fixture
def outside() -> Iterator[Peer]:
    """A host 192.0.2.1, which is the way out of this one."""
    if shutil.which("passt") is None:
        pytest.skip("there is no passt")
    with Peer() as peer:
        join(peer, "ext0", "out0")
        Path("/proc/sys/net/ipv6/conf/ext0/disable_ipv6").write_text("1")
        ip("address", "add", "192.0.2.10/24", "dev", "ext0")
        ip("route", "add", "default", "via", "192.0.2.1")
        for address in ("192.0.2.1/24", "192.0.2.2/24"):  # a guest finds this host at the first one
            peer.run("ip", "address", "add", address, "dev", "out0")
        yield peer
        ip("link", "del", "ext0")


def fetched(url: str) -> str:
    """What a web server gives, as soon as it does."""
    pages: list[str] = []

    def heard() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as page:
            pages.append(page.read().decode())
        return bool(pages)

    until(heard, f"{url} can be read")
    return pages[-1]


def helpers(stage: Stage) -> list[Path]:
    return sorted((stage.scene.runtime / "vm" / "one").glob("passt-*"))


def test_a_guest_is_on_the_hosts_network_by_passt(stage: Stage, outside: Peer) -> None:
    """With the host's address, by its own DHCP; outside it is the host, and a forwarded port of the host is its own."""
    forward = "tcp:127.0.0.1:5022:7022"
    card = stage.add("one", "--mode", "passt", "--forward", forward)
    name = stage.ifname("one", card["mac"])
    stage.guest("one").wait_until(f"ip address show dev {name} | grep -q 192.0.2.10/24", timeout=60)
    server = [sys.executable, "-c", SERVER]
    with subprocess.Popen(["nsenter", f"--net=/proc/{outside.pid}/ns/net", *server]) as listener:
        asked = "{ sleep 30 & } | nc -w 5 192.0.2.2 7000 | grep hello"  # a passt of 2023 forgets who has said it all
        said = stage.guest("one").wait_until(asked, timeout=60)
        listener.kill()
    assert "hello from outside" in said
    stage.guest("one").succeeds("echo hello from inside >/tmp/page; httpd -p 7022 -h /tmp")
    assert fetched("http://127.0.0.1:5022/page") == "hello from inside\n"
    said = stage.fails(6, "nic", "add", "two", "--mode", "passt", "--forward", forward)
    assert "tcp:127.0.0.1:5022 is in use by passt" in said
    stage.remove("one", card["id"])
    assert not helpers(stage)


def test_that_a_passt_has_ended_is_told(stage: Stage, outside: Peer) -> None:
    """As an event, in the table, and with what to do; then the card goes as any other."""
    card = stage.add("one", "--mode", "passt")
    (pid,) = (int(file.read_text()) for file in helpers(stage) if file.suffix == ".pid")
    with stage.heard("one", event="card", nic=card["id"], what="disconnected"):
        os.kill(pid, signal.SIGKILL)
    until(lambda: stage.cards("one")[card["id"]]["state"] == "disconnected", "the table says so")
    (log,) = (stage.scene.runtime / "lab").glob("*/keeper.log")
    until(lambda: f"its passt has ended; `qemunet nic del one {card['id']}`" in log.read_text(), "the log says so")
    stage.remove("one", card["id"])
    assert not helpers(stage)


def test_passt_without_a_way_out_is_said_in_its_own_words(stage: Stage) -> None:
    if shutil.which("passt") is None:
        pytest.skip("there is no passt")
    said = stage.fails(1, "nic", "add", "one", "--mode", "passt")
    assert "External interface not usable" in said
    assert not helpers(stage)
