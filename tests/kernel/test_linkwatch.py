"""Whatever somebody does to a card's interface on the host is told, once, and nothing of other interfaces."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.host.netns import Namespace
from qemunet.live import linkwatch
from qemunet.live.linkwatch import LinkWatch, Roster
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime
from qemunet.steps import Mark, OpenTap

from .conftest import ip

TUNSETCARRIER = 0x400454E2
CARD = NicRecord("net0", "tap", "virtio-net-pci", "52:54:00:00:00:01", "up", "qn-a0")
TAP = OpenTap("a:net0", "qn-a0", Mark("vm/a", "net0", 0x4000_0012), "fe:54:00:00:01:00", 1500, "br0")

SMALL = 16384  # bytes: some messages

Events = list[dict[str, Any]]


class Scene:
    """A guest `a` with one tap on br0, and who watches its interfaces."""

    def __init__(self, host: LinuxHost, runtime: Runtime) -> None:
        self.host = host
        self.runtime = runtime
        self.vms = ["a"]
        self.told: Events = []
        self.watch = LinkWatch(Roster(runtime, self.vms), self._tell, host.place)
        host.perform(TAP)
        runtime.scope("vm/a").create()
        self.save(CARD)

    def save(self, *cards: NicRecord) -> None:
        self.runtime.scope("vm/a").save(VmRecord("a", "lab", "/lab.toml", "q35", "tcg", cards))

    def news(self) -> Events:
        """What was told since the last time."""
        self.watch.read()
        told, self.told = self.told, []
        return told

    def _tell(self, kind: str, vm: str | None, /, **details: object) -> None:
        self.told.append({"event": kind, "vm": vm, **details})


def link(what: str, *changed: str, **state: Any) -> dict[str, Any]:
    base = {"event": "link", "vm": "a", "nic": "net0", "what": what, "changed": list(changed)}
    return {**base, "ifname": "qn-a0", "up": True, "carrier": True, "master": "br0", **state}


DOWN = {"up": False, "carrier": False}


@pytest.fixture
def scene(host: LinuxHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(host, Runtime(str(tmp_path_factory.mktemp("run"))))
    yield scene
    drop(host)


def drop(host: LinuxHost) -> None:
    for fds in host.handles.values():
        for fd in fds:
            os.close(fd)
    host.handles.clear()


def quickly(*lines: str) -> None:
    """Do much within a moment."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def flap(name: str, times: int) -> list[str]:
    return [f"link set {name} {way}" for way in ("down", "up") * times]


def watched(scene: Scene, what: Callable[[], Awaitable[None]]) -> None:
    """Do something while the interfaces are watched."""

    async def body() -> None:
        scene.watch.open()
        try:
            await what()
        finally:
            scene.watch.close()

    asyncio.run(body())


def test_what_ip_does_to_a_tap_is_told_with_the_state_that_it_has_now(scene: Scene) -> None:
    async def body() -> None:
        assert scene.news() == [], "what is there already is no news"
        ip("link", "set", "qn-a0", "down")
        assert scene.news() == [link("changed", "up", "carrier", **DOWN)]
        ip("link", "set", "qn-a0", "up")
        assert scene.news() == [link("changed", "up", "carrier")]
        ip("link", "set", "qn-a0", "nomaster")
        assert scene.news() == [link("changed", "master", master=None)]
        ip("link", "set", "qn-a0", "master", "br0")
        assert scene.news() == [link("changed", "master")]

    watched(scene, body)


def test_what_changes_nothing_of_it_is_not_told(scene: Scene) -> None:
    """Nor is what happens to interfaces of others, of which a host may have thousands."""

    async def body() -> None:
        ip("link", "set", "qn-a0", "alias", "somebody's")
        ip("link", "set", "eth1", "down")
        ip("link", "set", "eth1", "up")
        ip("link", "add", "qn-b0", "type", "veth", "peer", "name", "qn-b1")
        ip("link", "set", "qn-b0", "master", "br0")
        ip("link", "del", "qn-b0")
        assert scene.news() == []

    watched(scene, body)


def test_a_carrier_that_goes_is_told(scene: Scene) -> None:
    """The kernel tells it when it finds the time."""

    async def body() -> None:
        fcntl.ioctl(scene.host.handles["a:net0"][0], TUNSETCARRIER, struct.pack("=i", 0))
        async with asyncio.timeout(20):
            while not scene.told:  # noqa: ASYNC110 - the loop's own reader is to hear it
                await asyncio.sleep(0.01)
        assert scene.news() == [link("changed", "carrier", carrier=False)]

    watched(scene, body)


def test_a_tap_whose_descriptors_are_closed_is_deleted(scene: Scene) -> None:
    async def body() -> None:
        drop(scene.host)
        *_, last = scene.news()
        assert last == link("deleted", **DOWN, master=None)

    watched(scene, body)


def test_the_last_words_come_when_the_record_is_gone(scene: Scene) -> None:
    async def body() -> None:
        scene.runtime.scope("vm/a").remove()
        drop(scene.host)
        assert scene.news()[-1]["what"] == "deleted"

    watched(scene, body)


def test_an_interface_that_somebody_renames_is_still_the_cards(scene: Scene) -> None:
    async def body() -> None:
        ip("link", "set", "qn-a0", "down")
        ip("link", "set", "qn-a0", "name", "other0")
        assert scene.news()[-1] == link("changed", "ifname", **DOWN, ifname="other0")
        scene.watch.close()
        scene.watch.open()
        ip("link", "set", "other0", "up")
        assert scene.news() == [link("changed", "up", "carrier", ifname="other0")], "known by its mark"

    watched(scene, body)


def test_a_card_that_comes_or_goes_live_is_watched_from_then_on_or_no_more(scene: Scene) -> None:
    async def body() -> None:
        scene.save(CARD, replace(CARD, id="net1", ifname="qn-a1"))
        scene.host.perform(replace(TAP, handle="a:net1", name="qn-a1", mark=replace(TAP.mark, part="net1")))
        events = scene.news()
        assert {event["nic"] for event in events} == {"net1"}
        assert events[0]["what"] == "new"
        assert events[-1] == link(events[-1]["what"], *events[-1]["changed"], nic="net1", ifname="qn-a1")
        scene.save(CARD)
        ip("link", "set", "qn-a1", "down")
        assert scene.news() == []

    watched(scene, body)


def test_a_guest_that_is_taken_in_later_is_no_news_either(scene: Scene) -> None:
    async def body() -> None:
        scene.vms.clear()
        scene.watch.close()
        scene.watch.open()
        scene.vms.append("a")
        scene.watch.learn("a")
        ip("link", "set", "qn-a0", "down")
        assert scene.news() == [link("changed", "up", "carrier", **DOWN)]

    watched(scene, body)


def test_too_much_at_once_leaves_a_gap_and_then_the_truth(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOBUFS: nobody knows what was lost, but everybody knows how it is now."""
    monkeypatch.setattr(linkwatch, "_BUFFER", SMALL)

    async def body() -> None:
        quickly(*flap("qn-a0", 200), "link set qn-a0 down")
        events = scene.news()
        gap = next(event for event in events if event["event"] == "gap")
        assert (gap["vm"], gap["what"]) == (None, "links")
        states = [event for event in events if event["event"] == "link"]
        assert states[-1] == link("changed", "up", "carrier", **DOWN)
        ip("link", "set", "qn-a0", "up")
        assert scene.news() == [link("changed", "up", "carrier")], "and it goes on"

    watched(scene, body)


def test_a_deletion_within_the_gap_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linkwatch, "_BUFFER", SMALL)

    async def body() -> None:
        quickly(*flap("eth1", 200))
        drop(scene.host)
        assert [event["what"] for event in scene.news()] == ["links", "deleted"]

    watched(scene, body)


def test_a_burst_that_fits_leaves_no_gap(scene: Scene) -> None:
    """A few hundred interfaces may come at once."""

    async def body() -> None:
        quickly(*flap("eth1", 500))
        assert scene.news() == []

    watched(scene, body)


def test_nothing_is_held_open_when_nobody_listens(scene: Scene) -> None:
    async def body() -> None:
        scene.watch.close()
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            scene.watch.open()
            scene.watch.open()
            scene.watch.close()
            scene.watch.close()
        assert len(os.listdir("/proc/self/fd")) == len(before)

    watched(scene, body)


def test_a_place_that_cannot_be_entered_is_a_gap_and_no_error(scene: Scene) -> None:
    """Whoever listens hears everything else."""
    scene.watch = LinkWatch(Roster(scene.runtime, ["a"]), scene._tell, Namespace("/nowhere"))

    async def body() -> None:
        (gap,) = scene.news()
        assert (gap["event"], gap["what"]) == ("gap", "links")

    watched(scene, body)
