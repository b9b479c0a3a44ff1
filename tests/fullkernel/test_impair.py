"""Cards on a bad network, by the frames that arrive: how late, how many, and how often."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from qemunet.host import qdiscs
from qemunet.host.linux import LinuxHost
from qemunet.model.impair import ALL, Impairment
from qemunet.model.nic import OnBridge, Rate, TapBackend
from tests.dump import dump, left_behind, program
from tests.frames import Player, ethernet
from tests.kernel.conftest import fresh_bridge
from tests.world import until

A, B = "52:54:00:00:00:01", "52:54:00:00:00:02"
MANY = 200  # frames


class Lan:
    """Two cards on a bridge, of which one is impaired by turns."""

    def __init__(self, host: LinuxHost) -> None:
        self.bad = Player(host, "bad", A, TapBackend("qn-bad", 1500, OnBridge("br0")), impair=Impairment(loss=ALL))
        self.good = Player(host, "good", B, TapBackend("qn-good", 1500, OnBridge("br0")))

    def take_back(self) -> None:
        self.bad.take_back()
        self.good.take_back()

    def pairs(self) -> tuple[tuple[Player, Player], tuple[Player, Player]]:
        """Who speaks to whom: both ways by the bad card."""
        return (self.bad, self.good), (self.good, self.bad)


def count(sender: Player, receiver: Player, number: int = MANY, least: int = 0) -> dict[bytes, int]:
    """How often each of some frames arrives; `least` of them are waited for."""
    frames = [ethernet(sender.nic.mac, b"%04d" % at) for at in range(number)]
    receiver.frames()
    found: list[bytes] = []

    def heard() -> int:
        found.extend(receiver.frames())
        return sum(map(found.count, frames))

    for frame in frames:
        sender.send(frame)
        heard()
    until(lambda: heard() >= least, f"{least} of {number} frames arrive")
    return {frame: found.count(frame) for frame in frames}


def qdisc(name: str) -> list[tuple[str, str]]:
    """The qdiscs of an interface that are ours: kind and handle."""
    shown = json.loads(program("tc", "-j", "qdisc", "show", "dev", name))
    return [(one["kind"], one["handle"]) for one in shown if one["handle"] in ("1:", "2:", "ffff:")]


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
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


def test_this_kernel_impairs() -> None:
    assert not qdiscs.lacking_netem()


def test_a_card_that_loses_all_neither_hears_nor_is_heard(lan: Lan) -> None:
    """From its first frame on."""
    for sender, receiver in lan.pairs():
        assert set(count(sender, receiver, 20).values()) == {0}


def test_a_part_is_lost(lan: Lan) -> None:
    """Of 200 frames that are lost by half there are never fewer than 30, nor more than 170."""
    lan.bad.change(impair=Impairment(loss=ALL // 2))
    for sender, receiver in lan.pairs():
        assert 30 < sum(count(sender, receiver, least=31).values()) < 170


def test_every_frame_arrives_twice(lan: Lan) -> None:
    lan.bad.change(impair=Impairment(duplicate=ALL))
    for sender, receiver in lan.pairs():
        assert set(count(sender, receiver, 20, least=40).values()) == {2}


def test_no_frame_is_earlier_than_its_delay(lan: Lan) -> None:
    """Each way, so an answer takes twice as long."""
    lan.bad.change(impair=Impairment(delay=300_000))
    begin = time.monotonic()
    for at, (sender, receiver) in enumerate(lan.pairs(), 1):
        frame = ethernet(sender.nic.mac, b"late")
        sender.send(frame)
        assert receiver.hears(frame)
        assert time.monotonic() - begin >= at * 0.3


def test_every_frame_has_a_wrong_bit(lan: Lan) -> None:
    lan.bad.change(impair=Impairment(corrupt=ALL))
    sender, receiver = lan.pairs()[1]
    for _ in range(20):  # one by one: with a wrong bit, one may be like another
        assert set(count(sender, receiver, 1).values()) == {0}


def test_rate_and_impairment_come_and_go_each_by_itself(lan: Lan) -> None:
    """What the kernel has is what the card says, after each change and after each that was taken back."""
    card, slow = lan.bad, Rate(8_000_000, 16_000_000)
    for change, found in (
        ({"impair": Impairment(delay=1000, jitter=500, reorder=ALL // 4)}, [("netem", "1:")]),
        ({"rate": slow}, [("netem", "1:"), ("tbf", "2:")]),
        ({"impair": None}, [("tbf", "1:")]),
        ({"impair": Impairment(loss=10)}, [("netem", "1:"), ("tbf", "2:")]),
        ({"rate": Rate()}, [("netem", "1:")]),
        ({"impair": Impairment(delay=5000)}, [("netem", "1:")]),
    ):
        owed, was, nic = len(card.undo), qdisc("qn-bad"), card.nic
        card.change(**change)
        assert qdisc("qn-bad")[: len(found)] == found
        while len(card.undo) > owed:
            card.host.perform(card.undo.pop())
        card.nic = nic
        assert qdisc("qn-bad") == was
        card.change(**change)
        assert qdisc("qn-bad")[: len(found)] == found
    card.change(impair=None)
    assert qdisc("qn-bad") == []
    for sender, receiver in lan.pairs():
        assert set(count(sender, receiver, 20, least=20).values()) == {1}
