"""What passes a card with a rate, counted in frames: the test is QEMU, with the tap or macvtap in its hands.

A rate is judged by its ratio to what passes without one, and by what a bucket of it lets out in the time that went by.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qemunet.errors import Gone
from qemunet.facts import Facts, Wanted
from qemunet.frozen import replace
from qemunet.host import netlink as nl
from qemunet.host import netns, qdiscs
from qemunet.host.linux import LinuxHost
from qemunet.model.nic import MacvtapBackend, MacvtapMode, Nic, OnBridge, Rate, TapBackend
from qemunet.model.vm import Accel, Firmware, FirmwareBoot, Machine, NicBus, Vm
from qemunet.plan import links, rates
from qemunet.steps import DelLink, Limit, Step
from tests.dump import dump, left_behind, program
from tests.world import World, kill, machine

from .conftest import ip

MBIT = 10**6
SLOW, FASTER = 8 * MBIT, 40 * MBIT
KIND = 0x88B5  # for experiments, says IEEE 802
PAYLOAD = struct.pack("!H", KIND) + bytes(1400)
HEADER = bytes(10)  # of virtio, before every frame of a tap
WINDOW = 0.3  # seconds
ATTEMPTS = 6
GUEST = "52:54:00:00:00:01"
BACKENDS = {
    "tap": TapBackend("qn-a-net0", 1500, OnBridge("br0")),
    "macvtap": MacvtapBackend("qn-a-net0", "eth1", MacvtapMode.BRIDGE, 1500),
}
IFB = "qn-a-net0.ifb"


class Card:
    """A card of a vm on this host, and somebody on the other end of its network."""

    def __init__(self, host: LinuxHost, kind: str) -> None:
        self.host = host
        self.nic = Nic("net0", "virtio-net-pci", GUEST, BACKENDS[kind])
        self.vm = Vm(
            "a",
            Machine("q35", "q35", NicBus.ROOT_PORTS, 0, "host", ""),
            1 << 27,
            1,
            Accel.TCG,
            FirmwareBoot(),
            Firmware.BIOS,
            (),
            (self.nic,),
        )
        self.peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(KIND))
        self.peer.bind(("br0" if kind == "tap" else "eth1-peer", KIND))
        self.peer.setblocking(False)
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.undo: list[Step] = []

    @property
    def fd(self) -> int:
        return self.host.handles["a:net0"][0]

    def facts(self) -> Facts:
        return self.host.photograph(Wanted(links=rates.links_of(self.vm, self.nic)))

    def perform(self, steps: tuple[Step, ...]) -> None:
        before = self.facts()
        for step in steps:
            self.undo += [undo for undo in [step.inverse(before)] if undo]
            self.host.perform(step)

    def make(self, rate: Rate) -> None:
        self.nic = replace(self.nic, rate=rate)
        self.perform(links.card(self.vm, self.nic, self.facts()))

    def change(self, rate: Rate) -> tuple[Step, ...]:
        old, self.nic = self.nic, replace(self.nic, rate=rate)
        steps = rates.change(old, self.nic, self.vm, self.facts())
        self.perform(steps)
        return steps

    def take_back(self) -> None:
        while self.undo:
            with contextlib.suppress(Gone):
                self.host.perform(self.undo.pop())

    def ends(self) -> tuple[bytes, bytes]:
        return bytes.fromhex(GUEST.replace(":", "")), self.peer.getsockname()[4]

    def to_guest(self) -> float:
        guest, peer = self.ends()
        return measured(lambda: self.peer.send(guest + peer + PAYLOAD), lambda: os.read(self.fd, 2048))

    def from_guest(self) -> float:
        guest, peer = self.ends()
        return measured(lambda: os.write(self.fd, HEADER + peer + guest + PAYLOAD), lambda: self.peer.recv(2048))


def measured(send: Callable[[], object], receive: Callable[[], bytes]) -> float:
    """Send as much as goes for a while; return the bits per second that arrived, after the first burst."""
    flow(send, receive, WINDOW / 5)
    return flow(send, receive, WINDOW)


def flow(send: Callable[[], object], receive: Callable[[], bytes], seconds: float) -> float:
    drained(receive)  # what lies there has come in a time that is not counted
    arrived, begin = 0, time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        with contextlib.suppress(OSError):  # it was dropped at once
            for _ in range(8):
                send()
        arrived += drained(receive)
    return arrived * 8 / elapsed


def drained(receive: Callable[[], bytes]) -> int:
    arrived = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            arrived += len(receive())
    return arrived


def is_limited(flowing: Callable[[], float], rate: int) -> None:
    """Claim that no more than the rate passes, ever; and that, when this machine lets us work, not much less does."""
    found: list[float] = []
    while not found or (found[-1] < rate / 2 and len(found) < ATTEMPTS):
        found.append(flowing())
        assert found[-1] < 1.5 * rate
    assert found[-1] > rate / 2, found


def is_free(flowing: Callable[[], float]) -> None:
    """Claim that much more passes than with a rate."""
    assert any(flowing() > 5 * SLOW for _ in range(ATTEMPTS))


@pytest.fixture(autouse=True)
def able() -> None:
    """Skip what this kernel cannot do."""
    if lacks := ", ".join(sorted(qdiscs.lacking())):
        pytest.skip(f"this kernel has no {lacks}")


@pytest.fixture
def card(host: LinuxHost, request: pytest.FixtureRequest) -> Iterator[Card]:
    """A card on ``br0`` or ``eth1``; in the end it is taken back."""
    card = Card(host, request.param)
    yield card
    card.take_back()
    card.peer.close()


both = pytest.mark.parametrize("card", BACKENDS, indirect=True)


def qdisc(name: str) -> list[dict[str, Any]]:
    """What somebody has put on a link: the kernel's own have no handle."""
    return [one for one in json.loads(program("tc", "-s", "-j", "qdisc", "show", "dev", name)) if one["handle"] != "0:"]


@both
def test_what_reaches_a_guest_is_limited_and_what_it_sends_is_not(card: Card) -> None:
    card.make(Rate(inbound=SLOW))
    is_limited(card.to_guest, SLOW)
    is_free(card.from_guest)


@both
def test_what_a_guest_sends_is_limited_and_what_reaches_it_is_not(card: Card) -> None:
    card.make(Rate(outbound=SLOW))
    is_limited(card.from_guest, SLOW)
    is_free(card.to_guest)


@both
def test_each_way_has_its_own_rate(card: Card) -> None:
    card.make(Rate(inbound=FASTER, outbound=SLOW))
    is_limited(card.to_guest, FASTER)
    is_limited(card.from_guest, SLOW)


@both
def test_a_card_without_a_rate_is_not_limited(card: Card) -> None:
    card.make(Rate())
    is_free(card.to_guest)
    is_free(card.from_guest)
    assert qdisc("qn-a-net0") == []


@both
def test_a_rate_comes_changes_and_goes_while_packets_flow(card: Card) -> None:
    """And leaves no more than there was."""
    card.make(Rate())
    before = dump()
    for flowing in (card.to_guest, card.from_guest):
        is_free(flowing)
    card.change(Rate(SLOW, SLOW))
    for flowing in (card.to_guest, card.from_guest):
        is_limited(flowing, SLOW)
    card.change(Rate(FASTER, FASTER))
    for flowing in (card.to_guest, card.from_guest):
        is_limited(flowing, FASTER)
    card.change(Rate(None, SLOW))
    card.change(Rate(SLOW, None))
    is_limited(card.to_guest, SLOW)
    is_free(card.from_guest)
    card.change(Rate())
    for flowing in (card.to_guest, card.from_guest):
        is_free(flowing)
    assert not left_behind(before)


@both
def test_a_bucket_is_changed_in_place(card: Card) -> None:
    """Its counters go on, so what waited in it waits on."""
    card.make(Rate(SLOW, SLOW))
    card.to_guest()
    card.from_guest()
    before = {name: qdisc(name)[0] for name in ("qn-a-net0", IFB)}
    steps = card.change(Rate(FASTER, FASTER))
    after = {name: qdisc(name)[0] for name in ("qn-a-net0", IFB)}
    assert [type(step) for step in steps] == [Limit, Limit]
    for name, known in before.items():
        assert known["bytes"] > 10_000
        assert after[name]["bytes"] >= known["bytes"]
        assert (known["options"]["rate"], after[name]["options"]["rate"]) == (SLOW // 8, FASTER // 8)


@both
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Rate(), Rate(SLOW, SLOW)),
        (Rate(SLOW, SLOW), Rate(FASTER, FASTER)),
        (Rate(SLOW), Rate(None, SLOW)),
        (Rate(None, SLOW), Rate(SLOW)),
    ],
)
def test_a_change_that_fails_anywhere_is_taken_back(card: Card, old: Rate, new: Rate) -> None:
    """Each of its first steps, undone newest first, leaves the host as it was."""
    card.make(old)
    made, card.undo = card.undo, []
    before = dump()
    steps = rates.change(card.nic, replace(card.nic, rate=new), card.vm, card.facts())
    assert [number for number, step in enumerate(steps, 1) if isinstance(step, DelLink)] in ([], [len(steps)])
    for number in range(len(steps)):
        card.perform(steps[:number])
        card.take_back()
        assert not left_behind(before), steps[:number]
    card.undo = made


def test_what_is_led_through_an_ifb_arrives_whole_and_in_order(host: LinuxHost) -> None:
    card = Card(host, "tap")
    card.make(Rate(outbound=SLOW))
    guest, peer = card.ends()
    sent = [bytes(range(number, number + 60)) for number in range(20)]
    for one in sent:
        os.write(card.fd, HEADER + peer + guest + struct.pack("!H", KIND) + one)
    card.peer.settimeout(10)
    assert [card.peer.recv(2048) for _ in sent] == [peer + guest + struct.pack("!H", KIND) + one for one in sent]
    card.take_back()
    card.peer.close()


def test_a_bucket_of_somebody_elses_is_never_touched(host: LinuxHost) -> None:
    """An interface of the same name may come when ours has gone."""
    ip("link", "add", "qn-a-net0", "type", "veth", "peer", "name", "other")
    bucket = ("tbf", "rate", "1mbit", "burst", "9k", "limit", "9k")
    program("tc", "qdisc", "add", "dev", "qn-a-net0", "root", "handle", "1:", *bucket)
    before = qdisc("qn-a-net0")
    card = Card(host, "tap")
    for old, new in ((Rate(SLOW), Rate()), (Rate(), Rate(SLOW)), (Rate(None, SLOW), Rate())):
        steps = rates.change(replace(card.nic, rate=old), replace(card.nic, rate=new), card.vm, card.facts())
        with pytest.raises(Gone):
            host.perform(steps[0])
    assert qdisc("qn-a-net0") == before
    card.peer.close()
    ip("link", "del", "qn-a-net0")


def test_this_kernel_is_asked_what_it_can(host: LinuxHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """By trying all of it where nobody is."""
    assert host.photograph(Wanted(shaping=True)).shaping_lacks == frozenset()
    assert host.photograph(Wanted()).shaping_lacks == frozenset()
    do = nl.Netlink.do

    def without(net: nl.Netlink, *requests: nl.Request) -> None:
        """A kernel that knows neither of two words."""
        strange = [
            replace(one, body=one.body.replace(b"u32\0", b"u64\0").replace(b"mirr", b"merr")) for one in requests
        ]
        do(net, *strange)

    monkeypatch.setattr(nl.Netlink, "do", without)
    assert netns.in_fresh_namespace(qdiscs.lacking) == {"cls_u32", "act_mirred"}


def test_a_guest_starts_with_its_rate_and_nothing_is_left_of_it(world: World) -> None:
    """A real one, to its end; also if it is killed."""
    ip("link", "add", "br0", "type", "bridge")
    Path("/proc/sys/net/ipv6/conf/br0/disable_ipv6").write_text("1")
    ip("link", "set", "br0", "up")
    world.mark()
    lab = world.write(machine("a", card='bridge = "br0"\nrate = { in = "20mbit", out = "1mbps" }'))
    world.succeeds("run", "-d", lab)
    assert qdisc("qn-a-net0")[0]["options"]["rate"] == 20 * MBIT // 8
    assert qdisc(IFB)[0]["options"]["rate"] == MBIT
    assert world.succeeds("show", "a").count('rate = { in = "20mbit", out = "8mbit" }') == 1
    world.succeeds("stop", "--force", "a")
    assert not world.left()
    world.succeeds("run", "-d", lab)
    world.keeper()
    kill(world.pid("a"))
    assert not world.left(60)
