"""Which card a word on the command line means."""

from __future__ import annotations

import pytest

from qemunet.errors import NotFound, Taken, UsageError
from qemunet.frozen import replace
from qemunet.live.record import pick, refuse_taken
from qemunet.records import NicRecord

NET0 = NicRecord("net0", "tap", "virtio-net-pci", "52:54:00:0a:00:01", "up", "qn-a-net0", None, "lab", "qn-lab")
NET1 = NicRecord("net1", "tap", "e1000", "52:54:00:0a:00:02", "up", "qn-a-net1", None, None, "br0")
NET2 = NicRecord("net2", "tap", "e1000", "52:54:00:0a:00:03", "up", "qn-a-net2", None, "wan", "br0")
USER = NicRecord("net3", "user", "e1000", "52:54:00:0a:00:04", "up")
ROWS = (NET0, NET1, NET2, USER)


@pytest.mark.parametrize(
    ("word", "row"),
    [
        ("net0", NET0),
        ("net3", USER),
        ("52:54:00:0a:00:02", NET1),
        ("52:54:00:0A:00:02", NET1),
        ("52-54-00-0A-00-02", NET1),
        ("lab", NET0),
        ("wan", NET2),
        ("qn-lab", NET0),
        ("qn-a-net1", NET1),
    ],
)
def test_a_card_is_its_id_its_address_or_the_only_one_in_its_place(word: str, row: NicRecord) -> None:
    """An address is the same in every spelling."""
    assert pick(ROWS, "a", word) is row


def test_a_word_for_several_cards_is_for_none() -> None:
    """Which they are is said."""
    with pytest.raises(UsageError, match=r'vm\.a: several cards are "br0": net1 \(52:54:00:0a:00:02\), net2') as caught:
        pick(ROWS, "a", "br0")
    assert (caught.value.where, "id" in caught.value.hint) == ("vm.a", True)


def test_an_id_goes_before_a_network_of_that_name() -> None:
    """A network is named by its users, and may be called as a card is."""
    assert pick((replace(NET0, network="net1"), NET1), "a", "net1") is NET1


def test_a_card_that_is_all_of_it_at_once_is_one_card() -> None:
    assert pick((replace(NET0, network="x", bridge="x", ifname="x"),), "a", "x").id == "net0"


@pytest.mark.parametrize("word", ["net9", "52:54:00:0a:00:99", "", "None", "NET0", "user"])
def test_what_the_vm_does_not_have_is_not_found(word: str) -> None:
    """What it has is said, with the addresses."""
    with pytest.raises(NotFound, match=f'vm.a: there is no card "{word}"') as caught:
        pick(ROWS, "a", word)
    assert "net0 (52:54:00:0a:00:01), net1" in caught.value.hint
    with pytest.raises(NotFound) as caught:
        pick((), "a", word)
    assert caught.value.hint == "it has none"


def test_an_id_is_given_once() -> None:
    """Also while its card is on its way out, which is said."""
    refuse_taken(ROWS, "a", "net9")
    with pytest.raises(Taken, match=r'vm\.a: there is a card "net0" already \(52:54:00:0a:00:01\)$'):
        refuse_taken(ROWS, "a", "net0")
    with pytest.raises(Taken, match="and is being unplugged"):
        refuse_taken((replace(NET0, state="unplugging"),), "a", "net0")
