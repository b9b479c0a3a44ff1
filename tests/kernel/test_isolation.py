"""Cards of one bridge that do not reach each other, by the frames that arrive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qemunet.host.linux import LinuxHost
from qemunet.model.nic import OnBridge, TapBackend
from qemunet.steps import SetMaster, SetPort
from tests.frames import Ear, Player, ethernet
from tests.kernel.conftest import ip, quiet

A, B, C = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"


class Lan:
    """Two cards that are isolated, one that is not, and the host, all on br0."""

    def __init__(self, host: LinuxHost) -> None:
        self.one = Player(host, "one", A, TapBackend("qn-one", 1500, OnBridge("br0")), port_isolation=True)
        self.two = Player(host, "two", B, TapBackend("qn-two", 1500, OnBridge("br0")), port_isolation=True)
        self.free = Player(host, "free", C, TapBackend("qn-free", 1500, OnBridge("br0")))
        self.host = Ear("br0")

    def reach(self, speaker: Player, text: bytes) -> list[str]:
        """Who hears what somebody says to all; what is written to a tap is delivered before the write is done."""
        frame = ethernet(speaker.nic.mac, text)
        speaker.send(frame)
        others = {"one": self.one, "two": self.two, "free": self.free, "host": self.host}
        return [name for name, other in others.items() if frame in other.frames()]

    def take_back(self) -> None:
        self.host.close()
        for player in (self.one, self.two, self.free):
            player.take_back()


@pytest.fixture
def lan(host: LinuxHost) -> Iterator[Lan]:
    found = Lan(host)
    yield found
    found.take_back()


def test_isolated_cards_reach_the_host_and_the_others_alone(lan: Lan) -> None:
    """From their first frame on."""
    assert lan.reach(lan.one, b"a") == ["free", "host"]
    assert lan.reach(lan.two, b"b") == ["free", "host"]
    assert lan.reach(lan.free, b"c") == ["one", "two", "host"]


def test_isolation_comes_and_goes_while_a_card_is_used(lan: Lan) -> None:
    lan.two.change(port_isolation=False)
    assert lan.reach(lan.one, b"a") == ["two", "free", "host"]
    lan.two.change(port_isolation=True)
    assert lan.reach(lan.one, b"b") == ["free", "host"]


def test_isolation_moves_with_a_card_and_back_with_what_takes_the_move_back(lan: Lan) -> None:
    """On the way back to its bridge it is as it was."""
    ip("link", "add", "br1", "address", "02:00:00:00:00:09", "type", "bridge")
    quiet("br1")
    ip("link", "set", "br1", "up")
    owed = len(lan.one.undo)
    steps = lan.one.change(backend=TapBackend("qn-one", 1500, OnBridge("br1")))
    said = [step.describe() for step in steps if isinstance(step, SetMaster | SetPort)]
    assert said == [
        "let all ports reach qn-one",
        "plug qn-one into br1",
        "keep qn-one apart from other such ports",
    ]
    assert lan.reach(lan.one, b"a") == []
    while len(lan.one.undo) > owed:
        lan.one.host.perform(lan.one.undo.pop())
    assert lan.reach(lan.one, b"b") == ["free", "host"]
    ip("link", "del", "br1")
