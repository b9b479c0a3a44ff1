"""A card is added, removed or changed in a lab file, and nothing else of it is."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import tomli_w

from qemunet.config import check, read, save
from qemunet.config.spec import LabSpec
from qemunet.errors import ConfigError, NotFound
from qemunet.frozen import replace
from tests.unit.generated_labs import Line, Written, generate

NET = '[network.n]\nmode = "private"\n'
SEEDS = range(60)


def add(text: str, vm: str = "a", **values: Any) -> str:
    return save.add_nic(text, vm, keyed(values))


def put(text: str, nic: str | int, vm: str = "a", **values: Any) -> str:
    return save.set_nic(text, vm, nic, keyed(values))


def remove(text: str, nic: str | int, vm: str = "a") -> str:
    return save.remove_nic(text, vm, nic)


def keyed(values: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("_", "-"): value for key, value in values.items()}


# ---------------------------------------------------------------- one card more


def test_a_card_is_added_after_the_last_one() -> None:
    before = '[vm.a]\n\n# one\n[[vm.a.nic]]\nmode = "user"  # x\n\n# b\n[vm.b]\n\n' + NET
    after = '[vm.a]\n\n# one\n[[vm.a.nic]]\nmode = "user"  # x\n\n[[vm.a.nic]]\nnetwork = "n"\n\n# b\n[vm.b]\n\n' + NET
    assert add(before, network="n") == after


def test_an_added_card_is_spelled_as_those_before_it() -> None:
    """Header, indentation, line breaks and empty lines, or none."""
    before = '[vm.a]\r\n  [[vm."a".nic]]\r\n\tmode = "user"\r\n[vm.b]\r\n'
    after = '[vm.a]\r\n  [[vm."a".nic]]\r\n\tmode = "user"\r\n  [[vm."a".nic]]\r\n\tmode = "user"\r\n[vm.b]\r\n'
    assert add(before, mode="user") == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("nic = [ ]  # none", "nic = [{ mtu = 1400 }]  # none"),
        ("nic = [{mtu = 1300}]", "nic = [{mtu = 1300}, { mtu = 1400 }]"),
        ("nic = [ {mtu = 1300}, ]", "nic = [ {mtu = 1300}, { mtu = 1400 }, ]"),
        ("nic = [\n  {}, # x\n]", "nic = [\n  {}, # x\n  { mtu = 1400 },\n]"),
        ("nic = [\n  {} # x\n] # y", "nic = [\n  {}, # x\n  { mtu = 1400 }\n] # y"),
        ("nic = [\n  {} # x\n  , # y\n]", "nic = [\n  {}, { mtu = 1400 } # x\n  , # y\n]"),
        ("nic = [ # none\n]", "nic = [ # none\n  { mtu = 1400 },\n]"),
        ("nic = [{} # x\n  , {} # y\n  ]", "nic = [{} # x\n  , {}, { mtu = 1400 } # y\n  ]"),
    ],
)
def test_a_card_is_added_to_an_array(before: str, after: str) -> None:
    assert add(f"[vm.a]\ncpus = 1\n{before}\n[vm.b]\n", mtu=1400) == f"[vm.a]\ncpus = 1\n{after}\n[vm.b]\n"


def test_a_table_takes_the_place_of_a_line_that_says_there_is_no_card() -> None:
    """So that removing the last card and adding one again leads back to tables."""
    before = '[vm.a]\ncpus = 1\n\n[[vm.a.nic]]\nmode = "user"\n\n[vm.b]\n'
    none = "[vm.a]\ncpus = 1\nnic = []\n\n[vm.b]\n"
    assert remove(before, "net0") == none
    assert add(none, mode="user") == before


def test_the_card_that_a_vm_has_without_saying_so_stays_when_another_is_added() -> None:
    before = "[vm.a]\ncpus = 1\n\n[vm.b]\n"
    after = '[vm.a]\ncpus = 1\n\n[[vm.a.nic]]\nmode = "user"\n\n[[vm.a.nic]]\nmodel = "e1000"\n\n[vm.b]\n'
    assert add(before, model="e1000") == after


@pytest.mark.parametrize(
    "text",
    [
        "vm.a.cpus = 1\nvm.b.cpus = 1\n",
        "[vm]\na.cpus = 1\nb.cpus = 1\n",
        "[vm]\na = {cpus = 1}\nb.cpus = 1\n",
        "vm = {a.cpus = 1, b = {}}\n",
        "vm = {a = {cpus = 1}, b = {}}\n",
        "vm.a = {cpus = 1}\nvm.b = {}\n",
        "vm = {a = {}}\n",
        '[vm.b]\n[vm.a.boot]\nguest = "tiny"\n[vm.c]\n[vm.a]\n[vm.d]\n',
        '[vm.a.boot]\nguest = "tiny"\n[vm.b]',
        '\ufeff[vm.a.boot]\nguest = "tiny"',
        '\ufeffvm.a.boot.guest = "tiny"',
    ],
)
def test_a_vm_can_be_written_in_any_way(text: str) -> None:
    """Wherever it stands, its first cards are added, and the one that was not written can be changed or removed."""
    both = add(text, id="x", mtu=1400)
    assert cards(both) == [{"mode": "user"}, {"id": "x", "mtu": 1400}]
    assert cards(remove(text, "net0")) == []
    assert cards(put(text, "net0", link="down")) == [{"link": "down"}]
    assert cards(remove(remove(both, "net0"), "x")) == []
    assert cards(add(remove(text, 0), mtu=1400)) == [{"mtu": 1400}]


def test_an_added_card_gets_an_id_if_another_card_has_the_one_that_it_would_have() -> None:
    text = '[vm.a]\n[[vm.a.nic]]\nid = "net1"\n'
    assert ids(add(text, mode="user")) == ["net1", "net0"]


def test_values_are_written_as_toml_has_them() -> None:
    values = {"forward": ("tcp::80:80",), "restrict": True, "hostname": "h", "mtu": 1400, "bootfile": 'a"\\\u00fc'}
    text = save.add_nic("[vm.a]\nnic = []\n", "a", values)
    assert cards(text) == [{**values, "forward": ["tcp::80:80"]}]


# ---------------------------------------------------------------- one card less


def test_a_removed_card_takes_the_comments_that_touch_it() -> None:
    """A comment apart from it stays, and so does one that touches the next table."""
    before = (
        '[vm.a]\n\n# stays\n\n# goes\n# too\n[[vm.a.nic]]  # goes\nid = "x"\n# goes = 1\n\n# stays\n\n# b\n[vm.b]\n'
    )
    assert remove(before, "x") == "[vm.a]\nnic = []\n\n# stays\n\n# stays\n\n# b\n[vm.b]\n"
    close = '[vm.a]\n[[vm.a.nic]]\nid = "x"\n# b\n[vm.b]\n'
    assert remove(close, "x") == "[vm.a]\nnic = []\n# b\n[vm.b]\n"


def test_the_comment_that_begins_a_file_stays() -> None:
    before = '# My lab\n[[vm.a.nic]]\nid = "x"\n\n[[vm.a.nic]]\nid = "y"\n'
    assert remove(before, "x") == '# My lab\n\n[[vm.a.nic]]\nid = "y"\n'


def test_what_looks_like_a_comment_in_a_text_is_none() -> None:
    before = '[vm.a.boot]\nkernel = "k"\nappend = """\\\n# x"""\n[[vm.a.nic]]\nid = "x"\n[[vm.a.nic]]\nid = "y"\n'
    assert remove(before, "x") == before.replace('[[vm.a.nic]]\nid = "x"\n', "")


def test_the_cards_after_a_removed_one_keep_their_names() -> None:
    """A name is QEMU's id of the card, and its address is made of it."""
    before = '[vm.a]\n[[vm.a.nic]]\n[[vm.a.nic]]\n  mtu = 1400 # x\n[[vm.a.nic]]\nid = "z"\n[[vm.a.nic]]  # last\n'
    after = '[vm.a]\n[[vm.a.nic]]\n  id = "net1"\n  mtu = 1400 # x\n[[vm.a.nic]]\nid = "z"\n[[vm.a.nic]]  # last\n'
    after += 'id = "net3"\n'
    assert remove(before, "net0") == after
    assert ids(remove(after, "z")) == ["net1", "net3"]


def test_the_cards_before_a_removed_one_need_no_name() -> None:
    text = "[vm.a]\n[[vm.a.nic]]\n[[vm.a.nic]]\nmtu = 1400\n"
    assert remove(text, 1) == "[vm.a]\n[[vm.a.nic]]\n"


@pytest.mark.parametrize(
    ("index", "before", "after"),
    [
        (0, "[{mtu = 1}]", "[]"),
        (0, "[ {mtu = 1}, ]", "[]"),
        (0, "[\n  {mtu = 1},  # x\n]", "[]"),
        (0, "[\n  # none\n\n  {mtu = 1},  # x\n]", "[\n  # none\n\n]"),
        (0, "[ # cards\n {mtu = 1} ]", "[ # cards\n  ]"),
        (1, "[{mtu = 1}, {mtu = 2}]", "[{mtu = 1}]"),
        (1, "[{mtu = 1}, {mtu = 2},]", "[{mtu = 1},]"),
        (1, "[\n {mtu = 1},\n # goes\n {mtu = 2} # goes\n # stays\n]", "[\n {mtu = 1},\n # stays\n]"),
        (1, "[ {mtu = 1}, # stays\n  {mtu = 2} ]", "[ {mtu = 1} # stays\n]"),
        (1, "[ {mtu = 1} # stays, too\n, {mtu = 2} ]", "[ {mtu = 1} # stays, too\n]"),
        (0, "[ {mtu = 1}, # goes\n  {id = 'x'} ]", "[ {id = 'x'} ]"),
        (0, "[ {mtu = 1}, # a\n # b\n  {id = 'x'} ]", "[  # a\n # b\n  {id = 'x'} ]"),
        (0, "[\n  {mtu = 1} # a\n  , {id = 'x'}\n]", "[\n   # a\n   {id = 'x'}\n]"),
        (0, "[ {mtu = 1} # a,\n # b\n , {id = 'x'} ]", "[  # a,\n # b\n  {id = 'x'} ]"),
        (0, "[{}, {}]", '[{ id = "net1" }]'),
    ],
)
def test_a_card_is_removed_from_an_array(index: int, before: str, after: str) -> None:
    before, after = (one.replace("mtu = ", "mtu = 140") for one in (before, after))
    assert remove(f"[vm.a]\nnic = {before} # end\n[vm.b]\n", index) == f"[vm.a]\nnic = {after} # end\n[vm.b]\n"


def test_a_vm_that_was_only_its_card_is_still_there() -> None:
    assert remove('# alice\n\n[[vm.a.nic]]\nid = "x"', "x") == "# alice\n\n[vm.a]\nnic = []\n"


# ---------------------------------------------------------------- a card changed


def test_a_value_is_replaced_where_it_stands() -> None:
    before = "[[vm.a.nic]]\n'link'  =  \"up\"   # plugged\nmtu=1400\n"
    assert put(before, "net0", link="down") == before.replace('"up"', '"down"')


def test_a_new_value_comes_last_and_an_id_first() -> None:
    before = "[[vm.a.nic]] # x\n  mtu = 1400 # y\n  # queues = 2\n\n[vm.b]\n"
    after = '[[vm.a.nic]] # x\n  id = "q"\n  mtu = 1400 # y\n  link = "down"\n  # queues = 2\n\n[vm.b]\n'
    assert put(before, "net0", link="down", id="q") == after


def test_a_value_goes_with_its_line() -> None:
    before = '[[vm.a.nic]]\n# why\nip = [\n  "10.0.0.1/24", # x\n] # y\nnetwork = "n"\n' + NET
    assert put(before, 0, ip=None) == '[[vm.a.nic]]\n# why\nnetwork = "n"\n' + NET


def test_values_of_an_inline_card_change() -> None:
    assert put("vm.a.nic = [{mtu = 1400, link = 'up'}]\n", 0, mtu=None, link="down") == 'vm.a.nic = [{link = "down"}]\n'
    assert put("vm.a.nic = [{mtu = 1400}]\n", 0, mtu=None, link="up") == 'vm.a.nic = [{link = "up"}]\n'
    assert put("vm.a.nic = [{mtu = 1400}]\n", 0, mtu=None) == "vm.a.nic = [{}]\n"


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_what_is_so_already_changes_nothing(end: str) -> None:
    text = f"[network.n]\n[[vm.a.nic]]\nlink = 'up'\nip = [ '10.0.0.1/24', ]\nnetwork = 'n'{end}"
    assert put(text, 0, link="up", ip=("10.0.0.1/24",), mtu=None) == text
    assert put(text, 0) == text
    assert put("[vm.a]", "net0", mtu=None) == "[vm.a]"


def test_a_file_without_a_last_line_break_keeps_its_last_line() -> None:
    assert put("[[vm.a.nic]]\nmtu = 1400\n[vm.b]", 0, mtu=1300) == "[[vm.a.nic]]\nmtu = 1300\n[vm.b]"
    assert put("[[vm.a.nic]]\nmtu = 1400", 0, link="up") == '[[vm.a.nic]]\nmtu = 1400\nlink = "up"\n'


@pytest.mark.parametrize(
    "spelled",
    [
        'network = "n"\nrate = { in = "1mbit" }\n',
        'network = "n"\nrate.in = "1mbit"\n',
        'rate.in = "1mbit"\nnetwork = "n"\nrate.out = "2mbit"\n',
        'network = "n"\n[vm.a.nic.rate]\nin = "1mbit"\n',
    ],
)
def test_a_table_of_a_card_goes_and_comes_as_one_value(spelled: str) -> None:
    """However it was spelled it is the card's, also if that is removed or another one is added."""
    card = f"[[vm.a.nic]]\n{spelled}"
    plain = '[[vm.a.nic]]\nnetwork = "n"\n'
    rest = f'[[vm.a.nic]]\nid = "x"\n{NET}'
    assert put(card + rest, 0, rate=None) == plain + rest
    assert put(card + rest, 0, rate={"out": "9mbit"}) == f'{plain}rate = {{ out = "9mbit" }}\n{rest}'
    assert remove(card + rest, 0) == rest
    assert remove(card + NET, 0) == f"[vm.a]\nnic = []\n{NET}"
    assert add(card + NET, id="x") == card + rest


# ---------------------------------------------------------------- what is refused


def test_an_unknown_vm_or_card_is_named_with_those_there_are() -> None:
    text = "[vm.alice]\n[[vm.alice.nic]]\n[[vm.alice.nic]]\nid = 'lan'\n"
    with pytest.raises(NotFound, match=r'^lab\.toml: there is no vm "alcie"') as error:
        save.remove_nic(text, "alcie", "net0", file="lab.toml")
    assert "alice" in error.value.hint
    with pytest.raises(NotFound, match=r'there is no card "net1" in vm\.alice') as error:
        save.remove_nic(text, "alice", "net1")
    assert "net0 and lan" in error.value.hint
    for index in (2, -1):
        with pytest.raises(NotFound):
            save.set_nic(text, "alice", index, {})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"mtu": 1}, r"vm\.a\.nic\[1\]\.mtu: 1 is not between"),
        ({"mut": 1400}, r'vm\.a\.nic\[1\]\.mut: unknown key "mut"'),
        ({"network": "m"}, r'vm\.a\.nic\[1\]\.network: unknown network "m"'),
        ({"id": "net0"}, r'the id "net0" is also that of'),
        ({"ifup": "\udcff"}, r"vm\.a\.nic: .* not UTF-8"),
    ],
)
def test_what_the_reader_would_refuse_is_not_written(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        save.add_nic("[[vm.a.nic]]\n", "a", values)


def test_a_lab_that_needs_overrides_can_be_changed() -> None:
    """What was wrong before is not the fault of the change."""
    text = "[[vm.a.nic]]\nnetwork = 'given-later'\n"
    assert put(text, 0, link="down") == text + 'link = "down"\n'


def test_an_edit_that_would_do_something_else_is_refused_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the editor of lines does: what it wrote is read again and compared."""
    for wrong in (
        "[[vm.a.nic]]\nmtu = 1300\n[vm.b]\n",
        "[[vm.a.nic]]\nmtu = '1300'\n",
        "[[vm.a.nic\n",
        "[lab]\nname = 1\n",
    ):
        monkeypatch.setattr(save.layout, "put", lambda *_, wrong=wrong: wrong)
        with pytest.raises(ConfigError, match="nothing was changed") as error:
            put("[[vm.a.nic]]\nmtu = 1400\n", 0, mtu=1300)
        assert error.value.hint == "do it by hand: in the card net0 of a: mtu = 1300"


def test_true_is_not_one() -> None:
    with pytest.raises(ConfigError):
        put("[[vm.a.nic]]\nboot-index = 1\n", 0, boot_index=True)


# ---------------------------------------------------------------- any file


def cards(text: str, vm: str = "a") -> Any:
    return tomllib.loads(text.removeprefix("\ufeff"))["vm"][vm].get("nic")


def ids(text: str, vm: str = "a") -> list[str]:
    return [card.get("id", f"net{at}") for at, card in enumerate(cards(text, vm))]


def spec(text: str) -> LabSpec:
    found = read.loads(text, "lab.toml")
    return replace(found, vms=tuple(sorted(found.vms, key=lambda vm: vm.name)))


def intended(text: str, vm: str, change: Callable[[list[dict[str, Any]]], object]) -> LabSpec:
    """The lab with a vm's cards changed as Python changes lists, written by somebody else."""
    table = tomllib.loads(text.removeprefix("\ufeff"))
    found = table["vm"][vm].setdefault("nic", [{"mode": "user"}])
    named = [card.get("id", f"net{at}") for at, card in enumerate(found)]
    for name, card in zip(named, found, strict=True):
        card[""] = name
    change(found)
    for at, card in enumerate(found):
        name = card.pop("", None)
        if name is not None and name != card.get("id", f"net{at}"):
            card["id"] = name
    return spec(tomli_w.dumps(table))


def assert_kept(lab: Written, after: str, vm: str, card: int | None) -> None:
    """Every line of something else is there as it was, in its order; empty ones may go with a table."""
    lines = [line.removesuffix("\r") for line in after.removeprefix("\ufeff").split("\n")]
    if lab.end == "\r\n":
        assert after.count("\n") == after.count("\r\n")
    rest = iter(lines)
    for line in lab.lines:
        if line.text and not is_touched(line, vm, card):
            assert any(one == line.text for one in rest), f"{line} is not there any more:\n{after}"
    assert after.startswith("\ufeff") == lab.text.startswith("\ufeff")


def is_touched(line: Line, vm: str, card: int | None) -> bool:
    return line.owner == vm and (line.card is None or line.card == card)


def vms(lab: Written) -> list[tuple[str, int]]:
    """Its vms, and how many cards each has."""
    return [(vm.name, len(check.nics(vm))) for vm in spec(lab.text).vms]


@pytest.mark.parametrize("seed", SEEDS)
def test_adding_a_card_changes_nothing_else(seed: int) -> None:
    lab = generate(seed)
    for vm, count in vms(lab):
        values = {"id": "new", "network": "n", "ip": ["10.0.1.1/24"]}
        after = save.add_nic(lab.text, vm, values)
        assert spec(after) == intended(lab.text, vm, lambda found, values=values: found.append(dict(values)))
        # The comma after a last card that had none is all that may change in an array of several lines.
        last = count - 1 if any(line.owner == vm and "{" in line.text for line in lab.lines) else None
        assert_kept(lab, after, vm, last)
        again = save.remove_nic(after, vm, "new")
        assert spec(again) == intended(lab.text, vm, len)


@pytest.mark.parametrize("seed", SEEDS)
def test_removing_a_card_changes_nothing_else(seed: int) -> None:
    lab = generate(seed)
    for vm, count in vms(lab):
        for card in range(count):
            after = save.remove_nic(lab.text, vm, card)
            assert spec(after) == intended(lab.text, vm, lambda found, card=card: found.pop(card))
            inline = any(line.owner == vm and "{" in line.text for line in lab.lines)
            later = [line for line in lab.lines if inline and line.owner == vm and (line.card or 0) > card]
            kept = [line for line in lab.lines if line not in later]  # those get an id
            assert_kept(Written(lab.text, tuple(kept), lab.end), after, vm, card)


@pytest.mark.parametrize("seed", SEEDS)
def test_changing_a_card_changes_nothing_else(seed: int) -> None:
    lab = generate(seed)
    for vm, count in vms(lab):
        for card in range(count):
            after = save.set_nic(lab.text, vm, card, {"link": "down", "mtu": 1400, "model": None, "rate": None})

            def change(found: list[dict[str, Any]], card: int = card, vm: str = vm) -> None:
                if cards(lab.text, vm) is None:
                    found[0].pop("mode")
                found[card].update(link="down", mtu=1400)
                found[card].pop("model", None)
                found[card].pop("rate", None)

            assert spec(after) == intended(lab.text, vm, change)
            assert_kept(lab, after, vm, card)
            if "network" in (cards(lab.text, vm) or [{}])[card]:
                rated = save.set_nic(lab.text, vm, card, {"rate": {"in": "9mbit"}})
                assert spec(rated) == intended(
                    lab.text, vm, lambda found, at=card: found[at].update(rate={"in": "9mbit"})
                )
                assert_kept(lab, rated, vm, card)


@pytest.mark.parametrize("seed", SEEDS)
def test_many_changes_one_after_another_are_as_good_as_one(seed: int) -> None:
    dice, text = random.Random(seed), generate(seed).text
    for step in range(12):
        vm = dice.choice(spec(text).vms)
        names = [check.nic_id(at, nic) for at, nic in enumerate(check.nics(vm))]
        kind = dice.choice(["add", "remove", "set"]) if names else "add"
        if kind == "add":
            text = save.add_nic(text, vm.name, {"id": f"n{step}", "mtu": 1400})
            names.append(f"n{step}")
        else:
            name = dice.choice(names)
            text = (
                save.remove_nic(text, vm.name, name)
                if kind == "remove"
                else save.set_nic(text, vm.name, name, {"mtu": step + 1300})
            )
            names = [one for one in names if kind == "set" or one != name]
        now = next(one for one in spec(text).vms if one.name == vm.name)
        assert [check.nic_id(at, nic) for at, nic in enumerate(check.nics(now))] == names


def test_a_long_file_is_edited_quickly_enough() -> None:
    """Two thousand vms: what a person does not wait for."""
    one = '[vm.v{0}]\nmemory = "1G"  # much\n\n[[vm.v{0}.nic]]\nmode = "user"\n\n'
    text = "".join(one.format(number) for number in range(2000))
    after = save.remove_nic(save.add_nic(text, "v1000", {"mtu": 1400}), "v1000", "net1")
    assert after == text
