"""Whatever state a guest is in, and whoever else changes its cards: each command says what came of it, and is right."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from qemunet.guest import image
from tests.guest.cards import Stage, card, carrier, links, machine, running, until
from tests.guest.scene import Guest, host_pings

pytestmark = [pytest.mark.root, pytest.mark.guest]

NETWORKS = """
[network.lab]
mode = "isolated"
address = ["10.77.1.1/24"]
[network.spare]
mode = "private"
"""
DEAF = """
[vm.deaf]
memory = "128M"
accel = "tcg"
hotplug-slots = 4
boot.kernel = "{kernel}"
boot.initrd = "{initrd}"
boot.append = "{append} acpiphp.disable=1 qemunet.name=deaf qemunet.nic=52:54:00:00:00:d1,10.77.1.9/24"
[[vm.deaf.nic]]
network = "lab"
mac = "52:54:00:00:00:d1"
"""
LATE = machine("late", "hotplug-slots = 4") + '[[vm.late.nic]]\nnetwork = "lab"\nip = ["10.77.1.8/24"]\n'


def lab() -> str:
    """A guest, one whose kernel never hears of cards that come and go, and one that boots late."""
    found = image.build(print)
    deaf = DEAF.format(kernel=found.kernel, initrd=found.initrd, append=found.append)
    return NETWORKS + machine("one", "hotplug-slots = 12", "nic = []") + deaf + LATE


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running(tmp_path_factory.mktemp("states"), lab(), "one", "deaf") as stage:
        for vm in ("one", "deaf"):
            stage.guest(vm)
        yield stage


@pytest.fixture
def one(stage: Stage) -> Iterator[Guest]:
    """A guest without any card, which has none afterwards, and neither has the host."""
    before = stage.look()
    yield stage.guest("one")
    stage.is_as(before)
    assert not stage.macs("one")


# ---------------------------------------------------------------- paused


def test_a_paused_guest_gets_its_card_when_it_runs_on(stage: Stage, one: Guest) -> None:
    stage.qmp("one", "stop")
    done = stage.succeeds("nic", "add", "one", "--network", "lab", "--json")
    assert done.stderr == "note: one is paused; it finds net0 when it runs on\n"
    assert stage.cards("one")["net0"]["state"] == "plugged"
    assert stage.succeeds("status", "one").stdout.startswith("one: paused, ")
    stage.qmp("one", "cont")
    stage.ifname("one", card(done)["mac"])
    stage.remove("one", "net0")


def test_a_paused_guest_lets_go_of_its_card_when_it_runs_on(stage: Stage, one: Guest) -> None:
    """The command says that it did not; the card then goes by itself, which an event tells."""
    tap = stage.add("one", "--network", "lab")["ifname"]
    stage.qmp("one", "stop")
    error = stage.fails(5, "nic", "del", "one", "net0", "--timeout", "1s")
    assert "the guest has not let go of net0 within 1 s; the guest is paused, the card unplugging" in error
    assert stage.cards("one")["net0"]["state"] == "unplugging"
    assert tap in links()
    with stage.heard("one", event="card", nic="net0", what="unplugged"):
        stage.qmp("one", "cont")
    assert tap not in links()
    assert not stage.cards("one")


def test_a_card_that_was_never_seen_goes_as_well(stage: Stage, one: Guest) -> None:
    """Plugged in and unplugged while the guest is paused."""
    stage.qmp("one", "stop")
    stage.succeeds("nic", "add", "one", "--network", "lab")
    stage.fails(5, "nic", "del", "one", "net0", "--timeout", "1s")
    stage.qmp("one", "cont")
    until(lambda: not stage.cards("one"), "it is gone", 30)


# ---------------------------------------------------------------- booting


@pytest.mark.slow
def test_cards_change_while_the_guest_boots(stage: Stage) -> None:
    """From the first moment on: what is added is there when it has booted, what is unplugged is not."""
    before = stage.look()
    stage.scene.qemunet("run", "-d", str(stage.scene.folder / "lab.toml"), "late")
    added, gone = stage.all_do(
        [
            ("nic", "add", "late", "--id", "new", "--network", "spare", "--timeout", "1s", "--json"),
            ("nic", "del", "late", "net0", "--timeout", "30s"),
        ]
    )
    assert (added.returncode, gone.returncode) == (0, 0), f"{added.stderr}{gone.stderr}"
    assert added.stderr in ("", "note: late has not booted yet, as far as one can see; its kernel finds new\n")
    until(lambda: stage.macs("late") == {card(added)["mac"]}, "the guest has the new card alone", 30)
    late = stage.guest("late")
    with stage.heard("late", event="qmp", name="RESET"):
        late.run("(sleep 0.2; reboot) >/dev/null 2>&1 &")  # when its shell has answered
    stage.remove("late", "new")
    until(lambda: len(ready_lines(stage)) == 2, "it has booted again", 60)
    assert [line.split()[3:] for line in ready_lines(stage)][-1] == ["late"]
    stage.lose("late")
    stage.scene.qemunet("stop", "--force", "late")
    stage.is_as(before)


def ready_lines(stage: Stage) -> list[str]:
    """What the guest says when it is up: its name, its cards."""
    log = stage.scene.runtime / "vm" / "late" / "console.log"
    return [line for line in log.read_text(errors="replace").splitlines() if line.startswith("qemunet guest ready: ")]


# ---------------------------------------------------------------- deaf


@pytest.mark.slow
def test_a_guest_without_hot_plug_is_told_of(stage: Stage) -> None:
    """What it was given it never takes, and it lets go of nothing until it is reset: then it does by itself."""
    before = stage.look()
    deaf = stage.guest("deaf")
    error = stage.fails(5, "nic", "add", "deaf", "--network", "spare", "--timeout", "1s")
    assert "net1 is plugged in, and no driver of the guest has taken it within 1 s" in error
    assert "`qemunet nic del deaf net1` takes it out again" in error
    for _ in range(2):
        error = stage.fails(5, "nic", "del", "deaf", "net1", "--timeout", "1s")
        assert "the guest is running, the card unplugging" in error
    assert stage.cards("deaf")["net1"]["state"] == "unplugging"
    assert "being unplugged" in stage.fails(6, "nic", "add", "deaf", "--id", "net1", "--network", "spare")
    assert "being unplugged" in stage.fails(2, "nic", "set", "deaf", "net1", "--link", "down")
    cut_off(stage, deaf)
    with stage.heard("deaf", event="card", nic="net0", what="unplugged"):
        stage.qmp("deaf", "system_reset")
    until(lambda: not stage.cards("deaf"), "both are gone", 30)
    assert before["links"] != stage.look()["links"]
    assert not stage.owed_for("deaf", "net0", "net1")


def cut_off(stage: Stage, deaf: Guest) -> None:
    """Its traffic stops at once, though the guest still has the card."""
    until(lambda: host_pings("10.77.1.9"), "the host reaches it")
    begun = time.monotonic()
    assert "--cut" not in stage.fails(5, "nic", "del", "deaf", "net0", "--cut", "--timeout", "500ms")
    assert time.monotonic() - begun < 9  # of the 10 s that it has otherwise
    assert stage.has("deaf", "52:54:00:00:00:d1")
    assert not carrier("qn-deaf-net0")
    assert not host_pings("10.77.1.9")
    deaf.cannot_ping("10.77.1.1")


# ---------------------------------------------------------------- which card


def test_a_card_is_named_by_id_address_or_network(stage: Stage, one: Guest) -> None:
    first, second, third = (stage.add("one", "--network", name) for name in ("lab", "lab", "spare"))
    error = stage.fails(2, "nic", "del", "one", "lab")
    assert f"net0 ({first['mac']}), net1 ({second['mac']})" in error
    assert f"it has net0 ({first['mac']})" in stage.fails(4, "nic", "del", "one", "net9")
    assert set(stage.cards("one")) == {"net0", "net1", "net2"}
    stage.remove("one", "spare")
    assert not stage.has("one", third["mac"])
    stage.remove("one", first["mac"].upper())
    assert set(stage.cards("one")) == {"net1"}
    stage.remove("one", "lab")


# ---------------------------------------------------------------- at once


def test_two_who_unplug_the_same_card_are_both_done(stage: Stage, one: Guest) -> None:
    stage.add("one", "--network", "lab")
    done = stage.all_do([("nic", "del", "one", "net0")] * 2)
    assert sorted(each.returncode for each in done) in ([0, 0], [0, 4])  # it may be gone before the other one asks
    assert all("net0" in each.stderr for each in done if each.returncode)
    assert not stage.cards("one")


@pytest.mark.slow
def test_adding_and_removing_the_same_card_at_once_is_consistent(stage: Stage, one: Guest) -> None:
    """Who comes first is chance, and either way the tables say what the guest has."""
    for _ in range(5):
        added, gone = stage.all_do([("nic", "add", "one", "--network", "lab", "--id", "x"), ("nic", "del", "one", "x")])
        assert gone.returncode in (0, 4), gone.stderr
        assert added.returncode in ((0,) if gone.returncode else (0, 4)), added.stderr
        if gone.returncode == 0:
            assert not stage.cards("one")
        else:
            stage.remove("one", "x")
        assert not stage.macs("one")


@pytest.mark.slow
def test_ten_cards_at_once_are_ten_cards(stage: Stage, one: Guest) -> None:
    """Each has an id, an address, a slot and an interface of its own, and works; then all go at once."""
    done = stage.all_do([("nic", "add", "one", "--network", name, "--json") for name in ("lab", "spare") * 5])
    assert [each.returncode for each in done] == [0] * 10, [each.stderr for each in done]
    cards = [card(each) for each in done]
    for key in ("id", "mac", "slot", "ifname"):
        assert len({each[key] for each in cards}) == 10, key
    assert {each["mac"] for each in cards} == stage.macs("one")
    assert [each["id"] for each in stage.scene.cards("one")] == [f"net{number}" for number in range(10)]
    last = next(each for each in reversed(cards) if each["network"] == "lab")
    stage.give("one", last["mac"], "10.77.1.10/24")
    stage.reaches("one", "10.77.1.1")
    stage.remove("one", *(each["id"] for each in cards))
    assert not stage.cards("one")


def test_cards_come_and_go_beside_each_other(stage: Stage, one: Guest) -> None:
    """Adds of some and removals of others at once do not see each other."""
    for name in ("a", "b"):
        stage.add("one", "--network", "lab", "--id", name)
    commands = [("nic", "del", "one", "a"), ("nic", "add", "one", "--network", "spare", "--id", "c")]
    commands += [("nic", "del", "one", "b"), ("nic", "add", "one", "--network", "spare", "--id", "d")]
    for done in stage.all_do(commands):
        assert done.returncode == 0, done.stderr
    assert set(stage.cards("one")) == {"c", "d"}
    assert len(stage.macs("one")) == 2
    stage.remove("one", "c", "d")
