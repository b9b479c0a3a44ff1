"""Each card model with each kind of host side is plugged into each machine, used, and unplugged without a trace."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest

from tests.guest.cards import Card, Stage, answers, card, foreign_bridge, lan, machine, running, until
from tests.guest.scene import Peer, host_pings, ip

pytestmark = [pytest.mark.root, pytest.mark.guest]

LAB = (
    '[network.lab]\nmode = "isolated"\naddress = ["10.77.1.1/24"]\n'
    + machine("q35", "hotplug-slots = 5", "nic = []")
    + machine("pc", 'profile = "pc"', "nic = []")
)
PORT = "5581"
WAYS = {
    "user": ("--mode", "user", "--forward", f"tcp:127.0.0.1:{PORT}:80"),
    "network": ("--network", "lab"),
    "bridge": ("--bridge", "br7"),
    "point": ("--mode", "tap", "--address", "10.0.0.1/30"),
    "macvtap": ("--mode", "macvtap", "--parent", "eth1"),
}
ADDRESSES = {"network": "10.77.1.2/24", "bridge": "10.7.0.2/24", "point": "10.0.0.2/30", "macvtap": "192.0.2.11/24"}
HOSTS = {"network": "10.77.1.1", "bridge": "10.7.0.1", "point": "10.0.0.1", "macvtap": "192.0.2.2"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, Peer]]:
    with running(tmp_path_factory.mktemp("everywhere"), LAB) as stage, lan() as peer:
        foreign_bridge("br7", "10.7.0.1/24")
        for vm in ("q35", "pc"):  # while one boots, its QEMU opens what belongs to its devices
            stage.guest(vm)
        yield stage, peer
        ip("link", "del", "br7")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"])
@pytest.mark.parametrize("vm", ["q35", "pc"])
def test_cards_with_every_host_side_come_work_and_go(place: tuple[Stage, Peer], vm: str, model: str) -> None:
    """Success means that the guest has the card, or is rid of it; then the host is as before, QEMU and keeper too."""
    stage, peer = place
    guest = stage.guest(vm)
    before = stage.look()
    commands = [("nic", "add", vm, "--id", way, "--model", model, "--json", *words) for way, words in WAYS.items()]
    done = dict(zip(WAYS, stage.all_do(commands), strict=True))
    assert [one.stderr for one in done.values()] == [""] * len(WAYS)
    cards = {way: card(one) for way, one in done.items()}
    macs = {one["mac"] for one in cards.values()}
    until(lambda: stage.macs(vm) == macs, "drivers that have their cards make interfaces of them", 30)
    assert len({one["slot"] for one in cards.values()}) == len(WAYS)
    carry_traffic(stage, peer, vm, cards)
    stage.remove(vm, *WAYS)
    assert not stage.macs(vm)
    assert guest.succeeds("ls /sys/class/net").split() == ["lo"]
    stage.is_as(before)


def carry_traffic(stage: Stage, peer: Peer, vm: str, cards: dict[str, Card]) -> None:
    for way, address in ADDRESSES.items():
        stage.give(vm, cards[way]["mac"], address)
    for host in HOSTS.values():
        stage.reaches(vm, host)
    for way, address in ADDRESSES.items():
        if way == "macvtap":  # whose host is the one place that it does not reach
            answers(peer, address.partition("/")[0])
        else:
            assert host_pings(address.partition("/")[0]), way
    leased = f"ip -4 address show dev {stage.ifname(vm, cards['user']['mac'])} | grep -q 10.0.2.15/24"
    stage.guest(vm).wait_until(leased)
    until(lambda: fetched() == f"{vm}\n", "the forward leads to the guest's web server")


def fetched() -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
