"""The kernel below has what the machine's may lack; everything else here stands on that."""

from __future__ import annotations

import os

import pytest

from qemunet.host import nft, qdiscs
from tests.dump import program
from tests.kernel.conftest import ip


@pytest.mark.parametrize(
    "words",
    [
        ("name", "dummy0", "type", "dummy"),
        ("link", "eth1", "name", "eth1.7", "type", "vlan", "id", "7"),
        ("name", "br1", "type", "bridge", "vlan_filtering", "1", "vlan_default_pvid", "0"),
    ],
)
def test_it_makes_these_interfaces(fresh: object, words: tuple[str, ...]) -> None:
    ip("link", "add", *words)
    assert "state" in program("ip", "-o", "link", "show", "dev", words[words.index("name") + 1])


def test_it_delays_frames(fresh: object) -> None:
    """By netem."""
    assert not program("tc", "qdisc", "add", "dev", "eth1", "root", "netem", "delay", "10ms")


def test_it_carries_the_frames_of_guests_itself() -> None:
    os.close(os.open("/dev/vhost-net", os.O_RDWR))


def test_it_lacks_nothing_that_rates_and_guards_need() -> None:
    assert (qdiscs.lacking(), nft.guard_lacks()) == (frozenset(), frozenset())
