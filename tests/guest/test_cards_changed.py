"""A card is changed while its guest uses it: cable, network, what is behind it, forwards, rate, port profile."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.guest.cards import Stage, carrier, foreign_bridge, link, links, machine, running, until
from tests.guest.scene import Guest, host_pings, ip

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = """
[network.first]
mode = "isolated"
address = ["10.77.1.1/24"]
[network.second]
mode = "isolated"
address = ["10.77.2.1/24"]
[network.wide]
mode = "private"
mtu = 9000
[network.narrow]
mode = "private"
mtu = 1400
[network.first.port-profile.students]
guard = "clean"
rate = { out = "50mbit" }
"""
MODELS = ("virtio", "rtl8139", "vmxnet3", "e1000", "e1000e")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running(tmp_path_factory.mktemp("changed"), LAB + machine("one", "nic = []")) as stage:
        stage.guest("one")
        foreign_bridge("br7", "10.7.0.1/24")
        yield stage
        ip("link", "del", "br7")


@pytest.fixture
def one(stage: Stage) -> Iterator[Guest]:
    """A guest without any card, which has none afterwards, and neither has the host."""
    before = stage.look()
    yield stage.guest("one")
    stage.remove("one", *stage.cards("one"))
    stage.is_as(before)


# ---------------------------------------------------------------- cables


@pytest.mark.slow
def test_a_cable_out_and_in_is_seen_by_guest_and_host(stage: Stage, one: Guest) -> None:
    """By the guest as soon as its driver can: an e1000's looks every two seconds, an e1000e's never.

    Whatever the model, no packet passes meanwhile, in neither direction.
    """
    names = {}
    for number, model in enumerate(MODELS):
        card = stage.add("one", "--mode", "tap", "--address", f"10.0.{number}.1/30", "--model", model)
        names[model] = stage.give("one", card["mac"], f"10.0.{number}.2/30")
    until(lambda: who_answers(one) == both(MODELS), "all work", 15)
    for up, word in ((False, "down"), (True, "up")):
        commands = [("nic", "set", "one", f"net{number}", "--link", word) for number in range(len(MODELS))]
        done = dict(zip(MODELS, stage.all_do(commands), strict=True))
        assert [each.returncode for each in done.values()] == [0] * len(MODELS)
        assert [model for model, each in done.items() if "do not see the cable" in each.stderr] == ["e1000e"]
        assert {card["link"] for card in stage.cards("one").values()} == {word}
        for number, model in enumerate(MODELS):
            assert carrier(f"qn-one-net{number}") is up
            if model != "e1000e":
                one.wait_until(f"grep -x {int(up)} /sys/class/net/{names[model]}/carrier", timeout=30)
        if not up:
            assert who_answers(one) == set()
    until(lambda: who_answers(one) == both(MODELS), "all work again", 15)


def both(models: Sequence[str]) -> set[str]:
    return {f"10.0.{number}.{end}" for number in range(len(models)) for end in (1, 2)}


def who_answers(one: Guest) -> set[str]:
    """Which ends of the cables to the host are reached from the other one."""
    argv = ["busybox", "ping", "-c", "2", "-W", "1"]
    theirs = [f"10.0.{number}.2" for number in range(len(MODELS))]
    begun = {address: subprocess.Popen([*argv, address], stdout=subprocess.DEVNULL) for address in theirs}
    hosts = " ".join(f"10.0.{number}.1" for number in range(len(MODELS)))
    script = f"for a in {hosts}; do ping -c 2 -W 1 $a >/dev/null && echo got $a & done; wait"
    heard = one.run(script, timeout=30)[1]
    answered = {address for address, process in begun.items() if process.wait(30) == 0}
    return answered | {line.split()[1] for line in heard.splitlines() if line.startswith("got ")}


@pytest.mark.slow
def test_a_cable_that_is_out_stays_out_over_a_reset(stage: Stage, one: Guest) -> None:
    """And can be plugged in afterwards; a card may also come without."""
    stage.add("one", "--network", "first", "--link", "down")
    tap = stage.add("one", "--mode", "tap", "--address", "10.0.0.1/30", "--link", "down")
    assert (tap["link"], carrier(tap["ifname"])) == ("down", False)
    reboot(stage, one)
    guest = stage.guest("one")
    for number in (0, 1):
        name = stage.ifname("one", stage.cards("one")[f"net{number}"]["mac"])
        guest.succeeds(f"ip link set {name} up")
        assert stage.read("one", f"/sys/class/net/{name}/carrier") == "0"
    stage.set("one", "net0", "--link", "up")
    stage.give("one", stage.cards("one")["net0"]["mac"], "10.77.1.10/24")
    stage.reaches("one", "10.77.1.1")


def reboot(stage: Stage, one: Guest) -> None:
    with stage.heard("one", event="qmp", name="RESET"):
        one.run("echo > /run/before-the-reset")
        stage.qmp("one", "system_reset")
    log = stage.scene.runtime / "vm" / "one" / "console.log"
    until(lambda: log.read_text(errors="replace").count("qemunet guest ready: ") == 2, "it has booted again", 60)
    one._quieten()
    one.fails("ls /run/before-the-reset")


# ---------------------------------------------------------------- networks


@pytest.mark.slow
@pytest.mark.parametrize("model", ["virtio", "e1000"])
def test_a_card_moves_to_another_network(stage: Stage, one: Guest, model: str) -> None:
    """It stays the same card; what it is on, is another network, and the old one is gone when nobody uses it."""
    was = stage.add("one", "--network", "first", "--model", model)
    name = stage.give("one", was["mac"], "10.77.1.10/24")
    stage.reaches("one", "10.77.1.1")
    one.wait_until(f"grep -x 1 /sys/class/net/{name}/carrier", timeout=30)
    ups = int(stage.read("one", f"/sys/class/net/{name}/carrier_up_count"))
    index = link(was["ifname"])["ifindex"]
    now = stage.set("one", "net0", "--network", "second")
    assert {**was, "network": "second", "bridge": "qn-second", "ip": [], "guest_ifname": None} == {
        **now,
        "ip": [],
        "guest_ifname": None,
    }
    one.wait_until(f"[ $(cat /sys/class/net/{name}/carrier_up_count) -gt {ups} ]", timeout=30)
    found = link(was["ifname"])
    assert (found["ifindex"], found["master"], found["mtu"]) == (index, "qn-second", 1500)
    assert "qn-first" not in links()
    assert stage.ifname("one", was["mac"]) == name
    one.succeeds(f"ip address flush dev {name} && ip address add 10.77.2.10/24 dev {name}")
    stage.reaches("one", "10.77.2.1")
    assert host_pings("10.77.2.10")
    stage.remove("one", "second")


def test_a_card_that_moved_is_not_on_its_old_network(stage: Stage, one: Guest) -> None:
    """Which another card keeps up: nothing of it is heard there, and its bridge has forgotten the address."""
    other = stage.add("one", "--network", "first", "--id", "other")
    moved = stage.add("one", "--network", "first", "--id", "moved")
    name = stage.give("one", moved["mac"], "10.77.1.10/24")
    stage.reaches("one", "10.77.1.1")
    stage.set("one", "moved", "--network", "second")
    assert moved["mac"] not in addresses_on("qn-first")
    assert not host_pings("10.77.1.10")
    one.cannot_ping("10.77.1.1")
    assert "qn-first" in links()
    assert link(other["ifname"])["master"] == "qn-first"
    stage.set("one", "moved", "--network", "first")
    stage.reaches("one", "10.77.1.1")
    assert stage.ifname("one", moved["mac"]) == name
    assert moved["mac"] in addresses_on("qn-first")
    assert "qn-second" not in links()


def test_a_network_with_larger_packets_needs_no_other_card_and_one_with_smaller_does(stage: Stage, one: Guest) -> None:
    """A virtio card was told how large they may be when it was plugged in; it may always use less."""
    was = stage.add("one", "--network", "first")
    name = stage.ifname("one", was["mac"])
    index = stage.read("one", f"/sys/class/net/{name}/ifindex")
    stage.set("one", "net0", "--network", "wide")
    assert link(was["ifname"])["mtu"] == 9000
    assert stage.read("one", f"/sys/class/net/{name}/ifindex") == index
    now = stage.set("one", "net0", "--network", "narrow")
    assert [now[key] for key in ("id", "mac", "slot")] == [was[key] for key in ("id", "mac", "slot")]
    assert stage.ifname("one", was["mac"]) == name
    assert stage.read("one", f"/sys/class/net/{name}/ifindex") != index
    assert stage.read("one", f"/sys/class/net/{name}/mtu") == "1400"
    assert {name for name in links() if name.startswith("qn-")} == {"qn-narrow", "qn-one-net0"}


def test_a_foreign_bridge_is_not_changed_by_a_card_that_comes_moves_and_goes(stage: Stage, one: Guest) -> None:
    before = link("br7")
    added = stage.add("one", "--network", "second")
    stage.give("one", added["mac"], "10.7.0.2/24")
    stage.set("one", "net0", "--bridge", "br7")
    assert steady(link("br7")) == steady(before)
    stage.reaches("one", "10.7.0.1")
    stage.set("one", "net0", "--network", "wide")
    stage.set("one", "net0", "--bridge", "br7")
    assert steady(link("br7")) == steady(before)
    stage.set("one", "net0", "--network", "narrow")
    assert steady(link("br7")) == steady(before)
    stage.set("one", "net0", "--bridge", "br7")
    stage.remove("one", "net0")
    assert steady(link("br7")) == steady(before)
    stage.add("one", "--bridge", "br7", "--model", "rtl8139")
    stage.remove("one", "br7")
    assert steady(link("br7")) == steady(before)


def steady(bridge: dict[str, object]) -> dict[str, object]:
    """What of a bridge nobody may change."""
    return {key: bridge[key] for key in ("ifindex", "address", "mtu", "group", "txqlen") if key in bridge}


def addresses_on(bridge: str) -> set[str]:
    """What a bridge knows of the guests."""
    done = subprocess.run(["bridge", "-j", "fdb", "show", "br", bridge], capture_output=True, text=True, check=True)
    return {entry["mac"] for entry in json.loads(done.stdout)}


@pytest.mark.slow
def test_what_was_not_leased_on_the_old_network_is_leased_on_the_new(stage: Stage, one: Guest, tmp_path: Path) -> None:
    """A guest that asks by DHCP asks again, since its cable was out for a moment."""
    added = stage.add("one", "--network", "first")
    stage.add("one", "--network", "second", "--id", "keeps-it-up")
    with dhcp_server(tmp_path, "qn-first", "10.77.1"), dhcp_server(tmp_path, "qn-second", "10.77.2"):
        name = stage.ifname("one", added["mac"])
        one.wait_until(f"ip -4 address show dev {name} | grep -q 10.77.1.1[01]", timeout=15)
        stage.set("one", "net0", "--network", "second")
        one.wait_until(f"ip -4 address show dev {name} | grep -q 10.77.2.1[01]", timeout=15)
        assert "10.77.1." not in one.succeeds(f"ip -4 address show dev {name}")
        stage.reaches("one", "10.77.2.1")


@contextlib.contextmanager
def dhcp_server(folder: Path, interface: str, prefix: str) -> Iterator[None]:
    file = folder / f"{interface}.conf"
    (folder / f"{interface}.leases").touch()
    lines = (f"interface {interface}", f"start {prefix}.100", f"end {prefix}.110", "option subnet 255.255.255.0")
    more = (f"lease_file {folder}/{interface}.leases", f"pidfile {folder}/{interface}.pid", "max_leases 10")
    file.write_text("\n".join((*lines, *more, "")))
    with subprocess.Popen(["busybox", "udhcpd", "-f", str(file)], stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.kill()


# ---------------------------------------------------------------- what is behind it


def test_a_card_changes_its_mode_in_its_place(stage: Stage, one: Guest) -> None:
    """It has to be unplugged for that, and comes back as the same card as far as the guest can tell."""
    was = stage.add("one", "--network", "first", "--acpi-index", "42")
    name = stage.ifname("one", was["mac"])
    for words, mode in ((("--mode", "user"), "user"), (("--network", "first"), "tap")):
        now = stage.set("one", "net0", *words)
        assert {key: now[key] for key in ("id", "mac", "slot", "mode")} == {
            **{key: was[key] for key in ("id", "mac", "slot")},
            "mode": mode,
        }
        until(lambda: stage.has("one", was["mac"]), "the guest has it again", 30)
        assert stage.ifname("one", was["mac"]) == name
        one.succeeds("grep -x 42 /sys/bus/pci/devices/*/acpi_index")
        assert ("qn-one-net0" in links()) is (mode == "tap")
        if mode == "user":
            one.wait_until(f"ip -4 address show dev {name} | grep -q 10.0.2.15/24")
    stage.give("one", was["mac"], "10.77.1.10/24")
    stage.reaches("one", "10.77.1.1")


def test_a_card_becomes_another_model_in_its_place(stage: Stage, one: Guest) -> None:
    was = stage.add("one", "--network", "first")
    now = stage.set("one", "net0", "--model", "rtl8139")
    assert now["model"] == "rtl8139"
    assert [now[key] for key in ("id", "mac", "slot")] == [was[key] for key in ("id", "mac", "slot")]
    name = stage.ifname("one", was["mac"])
    assert one.succeeds(f"readlink /sys/class/net/{name}/device/driver").strip().endswith("8139cp")


def test_a_card_that_cannot_become_another_one_comes_back(stage: Stage, one: Guest) -> None:
    """When what it shall be is refused after the old one was unplugged."""
    was = stage.add("one", "--network", "first")
    with socket.create_server(("127.0.0.1", 0)) as server:
        rule = f"tcp:127.0.0.1:{server.getsockname()[1]}:80"
        error = stage.fails(6, "nic", "set", "one", "net0", "--mode", "user", "--forward", rule)
    assert "is in use by python" in error
    until(lambda: stage.has("one", was["mac"]), "it is back", 30)
    assert [stage.cards("one")["net0"][key] for key in ("mode", "slot")] == ["tap", was["slot"]]


def test_a_card_that_a_paused_guest_keeps_becomes_another_one_later(stage: Stage, one: Guest) -> None:
    """When it has run on, unless the card is unplugged for good meanwhile."""
    for number, unplugged in enumerate((False, True)):
        was = stage.add("one", "--network", "first", "--id", f"x{number}")
        stage.qmp("one", "stop")
        error = stage.fails(5, "nic", "set", "one", was["id"], "--model", "rtl8139", "--timeout", "1s")
        assert "as soon as it lets go, it gets it again" in error
        if unplugged:
            stage.fails(5, "nic", "del", "one", was["id"], "--timeout", "1s")
        with stage.heard("one", event="card", nic=was["id"], what="unplugged" if unplugged else "changed"):
            stage.qmp("one", "cont")
        if unplugged:
            assert was["id"] not in stage.cards("one")
        else:
            assert stage.cards("one")[was["id"]]["model"] == "rtl8139"
            assert stage.cards("one")[was["id"]]["slot"] == was["slot"]
            stage.ifname("one", was["mac"])
            stage.remove("one", was["id"])


# ---------------------------------------------------------------- forwards


def test_forwards_come_and_go_at_once(stage: Stage, one: Guest) -> None:
    """The others stay, and so do their connections."""
    first, second = free_port(), free_port()
    added = stage.add("one", "--mode", "user", "--forward", f"tcp:127.0.0.1:{first}:80")
    one.wait_until(f"ip -4 address show dev {stage.ifname('one', added['mac'])} | grep -q 10.0.2.15/24")
    until(lambda: fetched(first) == "one\n", "the first one works", 15)
    with socket.create_connection(("127.0.0.1", first), timeout=10) as kept:
        rules = [f"tcp:127.0.0.1:{port}:80" for port in (first, second)]
        stage.set("one", "net0", "--forward", rules[0], "--forward", rules[1])
        assert fetched(second) == "one\n"
        assert fetched(first) == "one\n"
        stage.set("one", "net0", "--forward", rules[0])
        assert fetched(second) == ""
        kept.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert kept.recv(100).startswith(b"HTTP/1.")
    stage.set("one", "net0", "--no-forward")
    assert fetched(first) == ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def fetched(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


# ---------------------------------------------------------------- rates


@pytest.mark.slow
def test_a_rate_is_obeyed_from_now_on(stage: Stage, one: Guest) -> None:
    """To the guest and from it, set, changed and lifted; the card and its connection stay."""
    added = stage.add("one", "--network", "first")
    stage.give("one", added["mac"], "10.77.1.10/24")
    stage.reaches("one", "10.77.1.1")
    one.succeeds("dd if=/dev/zero of=/root/www/much bs=1k count=1000")
    free = min(seconds_for_a_megabyte() for _ in range(3))  # without what else the machine does
    stage.set("one", "net0", "--rate", "out=4mbit")
    limited = min(seconds_for_a_megabyte() for _ in range(2))
    assert 1.2 < limited < 8, "a megabyte at four megabits per second"
    assert limited > 2 * free
    stage.set("one", "net0", "--rate", "none")
    until(lambda: seconds_for_a_megabyte() < limited / 2, "it is as fast as before")
    assert "10.77.1.10" in one.succeeds("ip address")


def seconds_for_a_megabyte() -> float:
    begun = time.monotonic()
    with urllib.request.urlopen("http://10.77.1.10/much", timeout=60) as answer:
        assert len(answer.read()) == 1000 << 10
    return time.monotonic() - begun


# ---------------------------------------------------------------- port profiles


@pytest.mark.slow
def test_what_a_port_profile_says_is_true_of_its_cards_and_changes_with_the_file(stage: Stage, one: Guest) -> None:
    """By packets in another's name; the card's network has such a profile, and no other one does."""
    file = stage.scene.folder / "lab.toml"
    before = file.read_text()
    given = ("--port-profile", "students", "--ip", "10.77.1.10/24")
    added = stage.add("one", "--network", "first", *given, "--save")
    name = stage.give("one", added["mac"], "10.77.1.10/24")
    one.succeeds(f"ip address add 10.77.1.66/24 dev {name}")
    stage.reaches("one", "10.77.1.1")
    one.fails("ping -c 2 -W 1 -I 10.77.1.66 10.77.1.1")
    assert 'port-profile "students" of network "second"' in stage.fails(
        2, "nic", "set", "one", "net0", "--network", "second"
    )
    assert (added["guard"], stage.cards("one")["net0"]["network"]) == ("clean", "first")

    file.write_text(file.read_text().replace('guard = "clean"', 'guard = "mac"'))
    (told,) = [
        line for line in stage.succeeds("status", "one").stdout.splitlines() if "guard" in line and "net0" in line
    ]
    assert "restart" not in told
    changes = json.loads(stage.succeeds("apply", str(file), "--json").stdout)
    assert {(each["what"], each["done"]) for each in changes} == {
        ("port-profile students: other values", True),
        ("net0: guard", True),
    }
    one.wait_until("ping -c 1 -W 1 -I 10.77.1.66 10.77.1.1")
    assert json.loads(stage.succeeds("apply", str(file), "--json").stdout) == []

    stage.set("one", "net0", "--network", "second", "--port-profile", "none")
    assert stage.cards("one")["net0"]["guard"] == "off"
    file.write_text(before)
    stage.succeeds("apply", str(file))
