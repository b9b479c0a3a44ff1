"""What is changed live is written into the lab file if that is wanted, and a changed file is made true live."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.cards import Stage, carrier, empty_stage, links, until
from tests.guest.scene import host_pings

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = """\
# The lab of the second floor.
[network.lab]   # where it all began
mode    = "isolated"
address = ["10.77.1.1/24"]

[network.spare]
mode = "isolated"
address = [ "10.77.2.1/24", ]

[vm.one]        # a guest
memory = "128M"
accel  = "tcg"
boot.guest = "tiny"

# its way in
[[vm.one.nic]]
network = "lab"     # for now
ip      = ["10.77.1.10/24"]

# the end
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with empty_stage(tmp_path) as stage:
        start(stage, LAB)
        yield stage


def start(stage: Stage, text: str) -> None:
    stage.lose("one")
    stage.scene.qemunet("run", "-d", str(stage.scene.write(text)))
    stage.guest("one")


def text(stage: Stage) -> str:
    return (stage.scene.folder / "lab.toml").read_text()


def changes(before: str, after: str) -> list[str]:
    """The lines that came and went."""
    found = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in found if line[0] in "+-"]


def restart(stage: Stage) -> None:
    """Start the guest again from its file as that is now."""
    now = text(stage)
    stage.scene.qemunet("stop", "--force", "one")
    start(stage, now)


@pytest.mark.slow
def test_a_guest_moves_for_good_to_another_network(stage: Stage) -> None:
    """A card on another network is added and set up, the first one removed by its address; the file follows.

    After a restart from the file the guest has the new card alone, with the address that it had.
    """
    first = stage.cards("one")["net0"]["mac"]
    words = ("--network", "spare", "--ip", "10.77.2.10/24", "--save")
    second = stage.add("one", *words)
    stage.give("one", second["mac"], "10.77.2.10/24")
    stage.reaches("one", "10.77.2.1")
    between = text(stage)
    more = ('id = "net1"', 'network = "spare"', 'ip = ["10.77.2.10/24"]')
    assert set(changes(LAB, between)) == {"+ ", "+ [[vm.one.nic]]", *(f"+ {line}" for line in more)}
    stage.succeeds("nic", "del", "one", first, "--save")
    assert stage.macs("one") == {second["mac"]}
    assert all(line.startswith("-") for line in changes(between, text(stage)))
    for comment in ("# The lab of the second floor.", "# where it all began", "# a guest", "# the end"):
        assert comment in text(stage)
    for line in LAB.splitlines()[:13]:
        assert line in text(stage).splitlines()
    restart(stage)
    assert stage.macs("one") == {second["mac"]}
    stage.reaches("one", "10.77.2.1")
    assert [(card["id"], card["network"]) for card in stage.scene.cards("one")] == [("net1", "spare")]


@pytest.mark.slow
def test_a_change_that_is_saved_is_one_line_of_the_file(stage: Stage) -> None:
    stage.set("one", "net0", "--link", "down", "--save")
    assert changes(LAB, text(stage)) == ['+ link = "down"']
    stage.set("one", "net0", "--network", "spare", "--link", "up", "--save")
    now = text(stage)
    assert '- network = "lab"     # for now' in changes(LAB, now)
    assert '+ network = "spare"     # for now' in changes(LAB, now)
    restart(stage)
    assert stage.cards("one")["net0"]["network"] == "spare"


@pytest.mark.slow
def test_a_file_that_somebody_edits_meanwhile_keeps_his_lines(stage: Stage) -> None:
    """And one that is no lab any more is left alone; then the card is not plugged in, either."""
    file = stage.scene.folder / "lab.toml"
    edited = LAB.replace('memory = "128M"', 'memory = "128M"  # enough').replace("# the end", "# not yet the end")
    file.write_text(edited)
    stage.add("one", "--network", "spare", "--save")
    assert not [line for line in changes(edited, text(stage)) if line.startswith("-")]
    broken = text(stage).replace("[vm.one]", "[vm.one")
    file.write_text(broken)
    before = stage.look()
    stage.fails(2, "nic", "add", "one", "--network", "lab", "--save")
    assert text(stage) == broken
    stage.is_as(before)
    file.unlink()
    stage.fails(2, "nic", "add", "one", "--network", "lab", "--save")
    stage.is_as(before | {"files": stage.look()["files"]})
    assert not file.exists()


@pytest.mark.slow
def test_the_file_is_made_true(stage: Stage) -> None:
    """Cards come, go, move and lose their cable as it says; twice does nothing; without it nothing is written."""
    unsaved(stage)
    file = stage.scene.folder / "lab.toml"
    moved = LAB.replace('network = "lab"     # for now', 'network = "spare"\nlink = "down"').replace("128M", "160M")
    file.write_text(moved + '[[vm.one.nic]]\nmode = "user"\nmodel = "e1000"\n')
    before = stage.look()
    rows = apply(stage, "--dry-run")
    assert [row["what"] for row in rows] == [
        "net0: from network lab to network spare; cable out",
        f"plug in net1 (e1000, user, {str(rows[1]['what']).rpartition(' ')[2]}",
        "memory: 134217728 to 167772160",
    ]
    assert [row["disruption"] for row in rows] == ["live", "live", "restart"]
    assert not any(row["done"] for row in rows)
    stage.is_as(before)
    done = apply(stage)
    assert [row["done"] for row in done] == [True, True, False]
    assert [{**row, "done": False} for row in done] == rows
    assert {(card["id"], card["network"], card["link"]) for card in stage.scene.cards("one")} == {
        ("net0", "spare", "down"),
        ("net1", None, "up"),
    }
    assert not carrier("qn-one-net0")
    assert "qn-lab" not in links()
    (left,) = apply(stage)
    assert (left["disruption"], left["done"], left["vm"]) == ("restart", False, "one")
    file.write_text(LAB.replace('network = "lab"     # for now', 'network = "spare"'))
    assert [row["done"] for row in apply(stage)] == [True, True]
    assert apply(stage) == []
    assert stage.succeeds("apply", str(file)).stderr == "what runs matches the file\n"
    until(lambda: len(stage.macs("one")) == 1, "one card is gone")
    name = stage.ifname("one", stage.cards("one")["net0"]["mac"])
    stage.guest("one").succeeds(f"ip address flush dev {name}; ip address add 10.77.2.10/24 dev {name}")
    stage.reaches("one", "10.77.2.1")
    assert host_pings("10.77.2.10")


def unsaved(stage: Stage) -> None:
    """Without --save the file is as it was, and `apply` and `status` show the difference."""
    card = stage.add("one", "--network", "spare")
    assert text(stage) == LAB
    (row,) = apply(stage, "--dry-run")
    assert (row["what"], row["disruption"]) == (f"unplug net1 (network spare, {card['mac']})", "live")
    assert "`qemunet apply` would:" in stage.succeeds("status", "one").stdout
    assert stage.succeeds("apply", str(stage.scene.folder / "lab.toml")).stdout.split()[4:6] == ["one", "unplug"]
    assert set(stage.cards("one")) == {"net0"}


def apply(stage: Stage, *words: str) -> list[dict[str, object]]:
    done = stage.succeeds("apply", str(stage.scene.folder / "lab.toml"), "--json", *words)
    rows: list[dict[str, object]] = json.loads(done.stdout)
    assert all(set(row) >= {"vm", "what", "disruption", "done"} for row in rows)
    return rows
