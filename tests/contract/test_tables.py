"""What every host promises about tables of rules."""

from __future__ import annotations

import subprocess

import pytest

from qemunet.errors import Gone, Taken
from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.steps import DropTable, LoadTable, Mark
from qemunet.testing.fake import FakeHost
from tests.dump import program

from .conftest import World

MARK = Mark("net/lab", "firewall", 0x4000_0007)
NAME = "qemunet-lab-40000007"


def text(chain: str, comment: str = MARK.altname) -> str:
    return f'table inet {NAME} {{\n    comment "{comment}"\n\n    chain {chain} {{\n    }}\n}}\n'


TABLE, DROP = LoadTable(NAME, MARK, text("one")), DropTable(NAME, MARK)


def chains(world: World) -> list[str]:
    """The chains of the table, "" for none."""
    if isinstance(world.host, FakeHost):
        rules = world.host.tables.get(NAME, ("", ""))[1]
    else:
        rules = program("nft", "list", "ruleset")
    return [line.split()[1] for line in rules.splitlines() if line.strip().startswith("chain ")]


def of_somebody_else(world: World, comment: str) -> None:
    rules = text("theirs", comment)
    if isinstance(world.host, FakeHost):
        world.host.tables[NAME] = (comment, rules)
        return
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)


@pytest.fixture(autouse=True)
def cleared(world: World) -> object:
    yield
    if not isinstance(world.host, FakeHost):
        subprocess.run(["nft", "delete", "table", "inet", NAME], capture_output=True)


def test_a_table_is_loaded_and_dropped(world: World) -> None:
    """A second time there is none."""
    world.do(TABLE)
    assert chains(world) == ["one"]
    world.do(DROP)
    assert chains(world) == []
    with pytest.raises(Gone):
        world.do(DROP)


def test_a_table_of_ours_is_replaced_as_a_whole(world: World) -> None:
    """Whether it was left or is changed."""
    world.do(TABLE, replace(TABLE, rules=text("two"), was=TABLE.rules))
    assert chains(world) == ["two"]


def test_the_inverse_is_what_there_was(world: World) -> None:
    nothing = world.host.photograph(Wanted())
    changed = replace(TABLE, rules=text("two"), was=TABLE.rules)
    back, end = changed.inverse(nothing), TABLE.inverse(nothing)
    assert back is not None
    assert end is not None
    world.do(TABLE, changed, back)
    assert chains(world) == ["one"]
    world.do(end)
    assert chains(world) == []


@pytest.mark.parametrize("comment", ["mine", ""])
def test_a_table_of_that_name_of_somebody_else_is_taken(world: World, comment: str) -> None:
    """And stays as it is."""
    of_somebody_else(world, comment)
    with pytest.raises(Taken):
        world.do(TABLE)
    with pytest.raises(Gone):
        world.do(DROP)
    assert chains(world) == ["theirs"]


@pytest.mark.parametrize("family", ["bridge", "netdev", "arp"])
def test_tables_of_any_family_come_and_go(world: World, family: str) -> None:
    """Whose one is, is looked at in its own family."""
    table = replace(TABLE, rules=text("one").replace("inet", family), family=family)
    drop = table.inverse(world.host.photograph(Wanted()))
    assert drop == replace(DROP, family=family)
    world.do(table, replace(table, rules=table.rules.replace("one", "two"), was=table.rules))
    assert chains(world) == ["two"]
    world.do(replace(DROP, family=family))
    assert chains(world) == []
    with pytest.raises(Gone):
        world.do(replace(DROP, family=family))


def test_a_table_that_is_dropped_on_purpose_comes_back_with_what_takes_that_back(world: World) -> None:
    world.do(TABLE)
    drop = replace(DROP, was=TABLE.rules)
    back = drop.inverse(world.host.photograph(Wanted()))
    assert back is not None
    world.do(drop, back)
    assert chains(world) == ["one"]
