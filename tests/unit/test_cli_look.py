"""What `ps`, `status`, `nic list` and `net` show of records in a runtime directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.cli import look
from qemunet.cli.main import main
from qemunet.frozen import as_dict, replace
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Lock, Runtime

Output = pytest.CaptureFixture[str]

USER = NicRecord("net0", "user", "virtio-net-pci", "52:54:00:00:00:01", "up")
TAP = NicRecord(
    id="net1",
    mode="tap",
    model="e1000",
    mac="52:54:00:00:00:02",
    link="down",
    ifname="qn-kali2-net1",
    host_mac="fe:54:00:00:00:02",
    network="lab",
    bridge="qn-lab",
    ips=("192.168.50.12/24",),
)
KALI = VmRecord("kali2", "pentest", "/labs/pentest.toml", "q35", "tcg", (USER, TAP), 4242, 1, started=True)
NIC_KEYS = {
    *("id", "mode", "model", "mac", "ifname", "host_mac", "network", "bridge", "link", "ip"),
    *("port_isolation", "vlan", "guard", "dropped", "guest_ifname", "slot", "state", "netns", "device"),
}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    path = str(tmp_path / "run")
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", path)
    return Runtime(path)


def put(runtime: Runtime, record: VmRecord, model: str = "") -> None:
    scope = runtime.scope(f"vm/{record.name}")
    with runtime.exclusive():
        scope.create()
    scope.save(record)
    Path(scope.path("vm.toml")).write_text(model)
    Path(scope.path("lock")).touch()


@pytest.fixture
def running(runtime: Runtime) -> Iterator[Runtime]:
    """A vm that runs: its lock is held."""
    put(runtime, KALI, '[lab]\nname = "pentest"\n[network.lab]\nmode = "private"\n[vm.kali2]\n')
    lock = Lock.take(runtime.scope("vm/kali2").path("lock"))
    assert lock is not None
    yield runtime
    lock.release()


def printed(capsys: Output, *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def parsed(capsys: Output, *argv: str) -> object:
    return json.loads(printed(capsys, *argv, "--json"))


def test_nothing_runs_where_there_is_no_runtime_directory(runtime: Runtime, capsys: Output) -> None:
    """Looking makes nothing, not even a directory."""
    assert printed(capsys, "ps") == "NAME  LAB  STATE  PID  ACCEL  MACHINE  NICS\n"
    assert parsed(capsys, "ps") == []
    assert parsed(capsys, "net", "list") == []
    assert not os.path.exists(runtime.path)


def test_ps_has_a_row_for_each_vm(running: Runtime, capsys: Output) -> None:
    """Its lock tells whether it runs, whatever the record says."""
    put(running, replace(KALI, name="router", pid=None))
    header, *rows = printed(capsys, "ps").splitlines()
    assert header.split() == ["NAME", "LAB", "STATE", "PID", "ACCEL", "MACHINE", "NICS"]
    assert rows[0].split() == ["kali2", "pentest", "running", "4242", "tcg", "q35", "2"]
    assert rows[1].split() == ["router", "pentest", "dead", "-", "tcg", "q35", "2"]
    assert printed(capsys, "ps", "-q") == "kali2\n", "what the dead one had left was taken back"


def test_the_json_of_ps_has_the_promised_keys(running: Runtime, capsys: Output) -> None:
    """Scripts rely on them."""
    (vm,) = parsed(capsys, "ps")  # type: ignore[misc]
    assert set(vm) >= {"name", "lab", "state", "pid", "accel", "machine", "nics"}
    assert (vm["name"], vm["state"], vm["pid"]) == ("kali2", "running", 4242)
    assert parsed(capsys, "status", "kali2") == {**vm, "differs": None}  # and how it differs from its file
    assert parsed(capsys, "status", "pentest") == [{**vm, "differs": None}]
    assert parsed(capsys, "nic", "list", "kali2") == vm["nics"]


def test_a_card_has_the_promised_keys_and_null_for_what_is_not_known(running: Runtime, capsys: Output) -> None:
    """What the guest calls its card is not known as long as nobody asks it."""
    user, tap = parsed(capsys, "nic", "list", "kali2")  # type: ignore[misc]
    assert set(user) == set(tap) == NIC_KEYS
    assert tap["ip"] == [{"address": "192.168.50.12/24", "source": "file"}]
    assert (tap["ifname"], tap["host_mac"], tap["bridge"]) == ("qn-kali2-net1", "fe:54:00:00:00:02", "qn-lab")
    assert (user["ip"], user["ifname"], user["guest_ifname"]) == ([], None, None)


def test_what_the_keeper_knows_of_a_card_is_better_than_its_record(
    running: Runtime, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest's name for it, and addresses with whoever says so; of a card of somebody else's, too."""
    ips = [{"address": "10.0.0.9", "source": "neighbour"}]
    foreign = {"id": "", "model": "e1000", "mac": "52:54:00:00:00:99", "slot": "rp.3"}
    known = {TAP.mac: {"guest_ifname": "eth1", "ip": ips}, foreign["mac"]: {"guest_ifname": "eth2", "ip": []}}
    rows = [as_dict(USER), as_dict(TAP)]
    seen = {"nics": rows, "foreign": [foreign], "known": known}
    monkeypatch.setattr(look, "_seen", lambda vm, compare=False: seen)
    user, tap, other = parsed(capsys, "nic", "list", "kali2")  # type: ignore[misc]
    assert (user["guest_ifname"], tap["guest_ifname"], other["guest_ifname"]) == (None, "eth1", "eth2")
    assert (user["ip"], tap["ip"], other["ip"]) == ([], ips, [])
    assert set(user) == set(tap) == set(other) == NIC_KEYS
    assert printed(capsys, "nic", "list", "kali2").splitlines()[2].split()[:3] == ["net1", "eth1", TAP.mac]


def test_what_a_guard_has_dropped_is_told_with_its_level(
    running: Runtime, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kinds of which there was something; to programs, all that are counted."""
    rows = [as_dict(USER), as_dict(TAP) | {"guard": "clean"}]
    counted = {"mac": 0, "ip": 14, "arp": 2}
    monkeypatch.setattr(look, "_seen", lambda vm, compare=False: {"nics": rows, "dropped": {TAP.id: counted}})
    user, tap = parsed(capsys, "nic", "list", "kali2")  # type: ignore[misc]
    assert [(nic["guard"], nic["dropped"]) for nic in (user, tap)] == [("off", {}), ("clean", counted)]
    assert "clean (ip 14, arp 2)" in printed(capsys, "nic", "list", "kali2")


def test_a_vm_that_stands_still_is_called_paused(
    running: Runtime, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keeper asks QEMU; the record only knows that it runs."""
    rows = [as_dict(row) for row in running.vm("kali2").nics]
    monkeypatch.setattr(look, "_seen", lambda *_, **__: {"nics": rows, "state": "paused"})
    assert printed(capsys, "status", "kali2").startswith("kali2: paused, pid 4242")
    assert parsed(capsys, "status", "kali2")["state"] == "paused"  # type: ignore[call-overload]


def test_status_tells_which_card_is_which_tap(running: Runtime, capsys: Output) -> None:
    """Guest name, MAC, host interface, network, bridge, address and cable in one table."""
    title, header, user, tap = printed(capsys, "status", "kali2").splitlines()
    assert title == "kali2: running, pid 4242, q35 (tcg), lab pentest"
    assert header.split() == list(look._NIC_HEADER)
    assert tap.split() == [
        *("net1", "-", "52:54:00:00:00:02", "qn-kali2-net1", "tap", "lab", "qn-lab"),
        *("192.168.50.12/24", "-", "down", "plugged"),
    ]
    assert user.split()[:5] == ["net0", "-", "52:54:00:00:00:01", "-", "user"]


def test_a_vm_without_cards_is_no_empty_table(runtime: Runtime, capsys: Output) -> None:
    """A header without rows looks like a mistake."""
    put(runtime, replace(KALI, nics=()))
    assert printed(capsys, "nic", "list", "kali2") == "no card\n"


@pytest.mark.parametrize("argv", [["status", "no"], ["nic", "list", "no"], ["logs", "no"], ["console", "no"]])
def test_an_unknown_vm_ends_with_4_and_what_there_is(argv: list[str], running: Runtime, capsys: Output) -> None:
    """Whoever mistyped a name wants to see the right one."""
    assert main(argv) == 4
    assert "kali2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", ".", "../vm/kali2", "kali2/", "x" * 5000, "é", "a b", "\n", "-"])
@pytest.mark.parametrize("command", [["status"], ["nic", "list"], ["logs"], ["stop"], ["net", "show"], ["down"]])
def test_what_cannot_be_a_name_names_nothing(command: list[str], name: str, running: Runtime, capsys: Output) -> None:
    """Neither a path into somewhere else nor an error of the system."""
    assert main([*command, "--", name]) == 4
    assert "mistake" not in capsys.readouterr().err


def test_networks_are_those_that_guests_are_on(running: Runtime, capsys: Output) -> None:
    """Mode and addresses are in the saved model of a guest that is on it."""
    (network,) = parsed(capsys, "net", "list")  # type: ignore[misc]
    assert network == {
        "name": "lab",
        "mode": "private",
        "bridge": "qn-lab",
        "addresses": [],
        "old_addresses": [],
        "netns": None,
        "guests": ["kali2"],
        "state": "up",
        "held": False,
        "keep": False,
        "external": False,
        "dhcp": None,
    }
    shown = parsed(capsys, "net", "show", "lab")
    assert isinstance(shown, dict)
    assert {key: shown[key] for key in network} == network
    tap = {"vm": "kali2", "nic": "net1", "mac": TAP.mac, "ifname": TAP.ifname, "netns": None, "ips": list(TAP.ips)}
    assert shown["cards"] == [tap]
    assert main(["net", "show", "no"]) == 4
    assert "(up: lab)" in capsys.readouterr().err


def test_a_network_that_is_kept_is_listed_without_guests(runtime: Runtime, capsys: Output) -> None:
    """It outlived its guests; what it is lies in its own directory."""
    scope = runtime.scope("net/lab")
    with runtime.exclusive():
        scope.create()
    (network,) = parsed(capsys, "net", "list")  # type: ignore[misc]
    assert (network["name"], network["mode"], network["state"]) == ("lab", None, "starting")
    Path(scope.path("net.toml")).write_text(
        '[network.lab]\nmode = "isolated"\nbridge = "br4"\naddress = ["10.0.0.1/8"]\n'
    )
    Path(scope.path("keep")).touch()
    Path(scope.path("held")).touch()
    scope.complete("")
    (network,) = parsed(capsys, "net", "list")  # type: ignore[misc]
    assert (network["mode"], network["bridge"], network["addresses"]) == ("isolated", "br4", ["10.0.0.1/8"])
    assert (network["guests"], network["state"], network["keep"]) == ([], "up", True)
    assert network["held"] is False, "an empty mark is that of one that was killed"
    Path(scope.path("held")).write_text("/lab.toml\n")
    (network,) = parsed(capsys, "net", "list")  # type: ignore[misc]
    assert network["held"] is True


def test_show_prints_the_model_of_what_runs(running: Runtime, capsys: Output) -> None:
    """By the vm's name or the lab's; of several vms one file that is a lab again."""
    model = Path(running.scope("vm/kali2").path("vm.toml")).read_text()
    assert printed(capsys, "show", "kali2") == model
    assert printed(capsys, "show", "pentest") == model
    put(running, replace(KALI, name="router"), '[lab]\nname = "pentest"\n[vm.router]\n')
    both = printed(capsys, "show", "pentest")
    assert [line for line in both.splitlines() if line] == [
        *("[lab]", 'name = "pentest"', "[network.lab]", 'mode = "private"', "[vm.kali2]", "[vm.router]"),
    ]
