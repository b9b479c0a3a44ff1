"""Cards in VLANs, by the frames that arrive: who hears whom, and with which tags."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Sequence

import pytest

from qemunet.facts import Wanted
from qemunet.host.linux import LinuxHost
from qemunet.model.nic import OnBridge, TapBackend
from qemunet.model.vlan import Vlans
from qemunet.plan import mend
from qemunet.steps import FilterVlans, SetCarrier, SetMaster, SetVlans
from tests.dump import dump, left_behind, program
from tests.frames import EXPERIMENT, Player, ethernet
from tests.kernel.conftest import fresh_bridge, ip, quiet

TAGGED = 0x8100  # the ethertype of a frame with a tag (IEEE 802.1Q)


def frame(sender: Player, text: bytes, vlan: int | None = None) -> bytes:
    """A frame to all, with or without a tag."""
    if vlan is None:
        return ethernet(sender.nic.mac, text)
    return ethernet(sender.nic.mac, struct.pack("!HH", vlan, EXPERIMENT) + text, TAGGED)


def vlans_of(port: str) -> dict[int, list[str]]:
    """The VLANs of a port, as bridge(8) shows them."""
    shown = json.loads(program("bridge", "-j", "vlan", "show", "dev", port))
    found: dict[int, list[str]] = {}
    for one in shown[0]["vlans"] if shown else []:
        every = range(one["vlan"], one.get("vlanEnd", one["vlan"]) + 1)
        found |= dict.fromkeys(every, one.get("flags", []))
    return found


def sh(lines: Sequence[str]) -> None:
    program("sh", "-ec", "\n".join(lines))


class Lan:
    """A bridge of somebody else's that tells VLANs apart, and cards on it: two in VLAN 10, one in 20, two trunks, and
    one of which nothing is said."""

    def __init__(self, host: LinuxHost) -> None:
        ip("link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
        ip("link", "set", "eth1", "master", "br0")
        settings = {
            "ten": Vlans(10),
            "tenth": Vlans(10),
            "twenty": Vlans(20),
            "trunk": Vlans(None, (10, 20)),
            "native": Vlans(20, (10,)),
            "plain": None,
        }
        self.players = {
            name: Player(host, name, f"52:54:00:00:00:{number:02}", on(f"qn-{name}"), vlans=vlans)
            for number, (name, vlans) in enumerate(settings.items())
        }

    def reach(self, name: str, vlan: int | None = None) -> dict[str, int | None]:
        """Who hears what one says to all, with a tag or without, and which tag it has there."""
        speaker = self.players[name]
        text = f"{name} {vlan}".encode()
        speaker.send(frame(speaker, text, vlan))  # what is written to a tap is delivered before the write is done
        heard = {other: player.frames() for other, player in self.players.items()}
        forms = {tag: frame(speaker, text, tag) for tag in (None, 1, 10, 20, 30)}
        return {other: tag for other, frames in heard.items() for tag, form in forms.items() if form in frames}

    def take_back(self) -> None:
        for player in self.players.values():
            player.take_back()
        ip("link", "set", "eth1", "nomaster")
        ip("link", "set", "br0", "type", "bridge", "vlan_filtering", "0")


def on(tap: str, bridge: str = "br0") -> TapBackend:
    return TapBackend(tap, 1500, OnBridge(bridge))


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """The same for all tests here, each of which leaves it as it was."""
    folder = tmp_path_factory.mktemp("lan")
    with fresh_bridge():
        before = dump(folder)
        host = LinuxHost(str(folder))
        found = Lan(host)
        yield found
        found.take_back()
        host.close()
        left = left_behind(before, folder)
        assert not left, left


def test_who_is_in_a_vlan_hears_its_frames_as_his_port_has_them(lan: Lan) -> None:
    """Same VLAN talks, another one does not; a trunk has tags, but for the frames of its native VLAN."""
    assert lan.reach("ten") == {"tenth": None, "trunk": 10, "native": 10}
    assert lan.reach("twenty") == {"trunk": 20, "native": None}
    assert lan.reach("trunk", 10) == {"ten": None, "tenth": None, "native": 10}
    assert lan.reach("trunk", 20) == {"twenty": None, "native": None}
    assert lan.reach("native", 10) == {"ten": None, "tenth": None, "trunk": 10}
    assert lan.reach("native") == {"twenty": None, "trunk": 20}


def test_no_frame_gets_into_a_vlan_by_a_port_that_is_not_in_it(lan: Lan) -> None:
    """Not into that of every new port either, nor out of it."""
    assert lan.reach("trunk") == {}
    assert lan.reach("trunk", 1) == {}
    assert lan.reach("trunk", 30) == {}
    assert lan.reach("ten", 20) == {}
    assert lan.reach("plain") == {}
    assert lan.reach("plain", 10) == {}


def test_a_port_is_in_its_vlans_alone_and_those_of_others_are_left(lan: Lan) -> None:
    """The bridge and its other ports stay in the VLAN that they had."""
    usual = {1: ["PVID", "Egress Untagged"]}
    assert vlans_of("qn-ten") == {10: ["PVID", "Egress Untagged"]}
    assert vlans_of("qn-trunk") == {10: [], 20: []}
    assert vlans_of("qn-native") == {10: [], 20: ["PVID", "Egress Untagged"]}
    assert [vlans_of(name) for name in ("qn-plain", "eth1", "br0")] == [usual, usual, usual]


@contextlib.contextmanager
def taken_back(card: Player) -> Iterator[None]:
    """Take back what is done to a card meanwhile, by its undos."""
    owed, nic = len(card.undo), card.nic
    try:
        yield
    finally:
        while len(card.undo) > owed:
            card.host.perform(card.undo.pop())
        card.nic = nic


def test_vlans_change_while_a_card_is_used_and_back_with_what_takes_the_change_back(lan: Lan) -> None:
    card = lan.players["tenth"]
    with taken_back(card):
        card.change(vlans=Vlans(None, tuple(range(20, 3000))))
        assert lan.reach("twenty") == {"tenth": 20, "trunk": 20, "native": None}
        assert list(vlans_of("qn-tenth")) == list(range(20, 3000))
        card.change(vlans=None)
        assert lan.reach("plain") == {"tenth": None}
    assert lan.reach("ten") == {"tenth": None, "trunk": 10, "native": 10}


def test_a_card_moves_with_its_vlans_and_back(lan: Lan) -> None:
    """While its cable is out it is for a moment in the VLAN that a bridge puts new ports into."""
    ip("link", "add", "br1", "address", "02:00:00:00:00:09", "type", "bridge", "vlan_filtering", "1")
    ip("link", "set", "br1", "type", "bridge", "vlan_default_pvid", "20")
    quiet("br1")
    ip("link", "set", "br1", "up")
    card = lan.players["tenth"]
    with taken_back(card):
        steps = card.change(backend=on("qn-tenth", "br1"), vlans=Vlans(20, (7,)))
        assert [step.describe() for step in steps if isinstance(step, SetCarrier | SetMaster | SetVlans)] == [
            "set the carrier of qn-tenth off",
            "put qn-tenth into the VLAN of a new port",
            "plug qn-tenth into br1",
            "put qn-tenth into VLAN 7 with tags, 20 without",
            "set the carrier of qn-tenth on",
        ]
        assert vlans_of("qn-tenth") == {7: [], 20: ["PVID", "Egress Untagged"]}
        card.change(vlans=None)
        assert vlans_of("qn-tenth") == {20: ["PVID", "Egress Untagged"]}
    assert lan.reach("ten") == {"tenth": None, "trunk": 10, "native": 10}
    ip("link", "del", "br1")


def test_a_card_whose_bridge_was_made_again_is_plugged_in_with_its_vlans(lan: Lan) -> None:
    """As the keeper does it, and down until it is."""
    ip("link", "set", "qn-ten", "nomaster")
    host = lan.players["ten"].host
    facts = host.photograph(Wanted(links=frozenset({"br0", "qn-ten"})))
    loose = mend.Loose(facts.links["qn-ten"], facts.links["qn-ten"].mac, vlans=Vlans(10))
    for step in mend.plug(facts.links["br0"], [loose], facts):
        host.perform(step)
    assert lan.reach("ten") == {"tenth": None, "trunk": 10, "native": 10}


def test_a_bridge_itself_is_put_into_a_vlan_and_back(lan: Lan) -> None:
    """That is the host's way into it."""
    host = lan.players["ten"].host
    host.perform(SetVlans("br0", Vlans(20), own=True))
    assert vlans_of("br0") == {20: ["PVID", "Egress Untagged"]}
    host.perform(SetVlans("br0", None, own=True))
    assert vlans_of("br0") == {1: ["PVID", "Egress Untagged"]}


def test_what_a_shell_would_do_is_the_same(lan: Lan) -> None:
    for vlans in (Vlans(30), Vlans(None, (1, 5, 6, 7)), Vlans(4094, (1,)), None):
        sh(SetVlans("qn-plain", vlans).shell())
        by_shell = vlans_of("qn-plain")
        lan.players["plain"].host.perform(SetVlans("qn-plain", Vlans(99)))
        lan.players["plain"].host.perform(SetVlans("qn-plain", vlans))
        assert vlans_of("qn-plain") == by_shell
    sh(SetVlans("br0", Vlans(30), own=True).shell())
    assert vlans_of("br0") == {30: ["PVID", "Egress Untagged"]}
    sh((*SetVlans("br0", None, own=True).shell(), *FilterVlans("br0", on=False).shell()))
    assert set(lan.reach("plain")) == {*lan.players} - {"plain"}
    sh(FilterVlans("br0").shell())
    assert lan.reach("plain") == {}
