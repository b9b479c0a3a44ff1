"""When a bridge is looked at, what is told of it, and when somebody who takes it away has his way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any

import pytest

from qemunet.errors import TimedOut
from qemunet.host import netlink as nl
from qemunet.live import heal, linkwatch, mend
from qemunet.live.heal import MOST, Healer
from qemunet.live.mend import Found, How
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime

CARD = NicRecord("net0", "tap", "e1000", "52:54:00:00:00:01", "up", "qn-a", "fe:54:00:00:00:01", "lab", "qn-lab")
HEALED = Found("qn-lab", 8, How.HEALED, "it was made again", "lab", ("a",))
LOST = Found("qn-lab", None, How.LOST, "it is gone", "lab", ("a",))
FINE = Found("qn-lab", 7)


def message(kind: int, index: int, name: str, family: int = 0) -> bytes:
    body = struct.pack("=BxHiII", family, 0, index, 0, 0) + nl.text(3, name) + nl.number(4, 1500)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


class Scene:
    """A guest with a card on qn-lab, whose index is 7 until the kernel says otherwise."""

    def __init__(self, runtime: Runtime) -> None:
        self.kernel: socket.socket
        self.found: list[Found] = []
        self.looks: list[list[str]] = []
        self.told: list[tuple[object, ...]] = []
        self.said: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.vms = ["a"]
        self.runtime = runtime
        self.healer = Healer(runtime, self.vms, self._look, self._tell, self.said.append, self._begin)
        scope = runtime.scope("vm/a")
        scope.create()
        scope.save(VmRecord("a", "lab", "/lab.toml", "q35", "tcg", (CARD,)))

    def listening(self) -> socket.socket:
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        return ours

    async def _look(self, vms: list[str], names: Collection[str]) -> list[Found]:
        assert vms == ["a"]
        self.looks.append(sorted(names))
        return [self.found.pop(0)] if self.found else [FINE]

    def _tell(self, kind: str, vm: str | None, /, **details: object) -> None:
        self.told.append((kind, vm, details["what"], details["bridge"], details["vms"]))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.add(asyncio.ensure_future(work))

    async def hears(self, *messages: bytes) -> None:
        for one in messages:
            self.kernel.send(one)
        self.healer._read()
        await self.settled()

    async def settled(self) -> None:
        while self.tasks:
            await self.tasks.pop()


Run = Callable[[Callable[[Scene], Awaitable[None]]], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a test in a loop, with a kernel that says what it is made to say."""
    monkeypatch.setattr(heal, "GRACE", 0)

    async def body(test: Callable[[Scene], Awaitable[None]]) -> None:
        scene = Scene(Runtime(str(tmp_path / "run")))
        monkeypatch.setattr(linkwatch, "listening", scene.listening)
        try:
            scene.healer.look()
            await scene.settled()
            assert scene.looks.pop() == ["qn-lab"], "nobody has watched until now"
            await test(scene)
        finally:
            scene.healer.close()
            scene.kernel.close()

    return lambda test: asyncio.run(body(test))


def test_a_bridge_that_is_deleted_is_looked_at_and_what_was_done_is_told(run: Run) -> None:
    async def test(scene: Scene) -> None:
        scene.found = [HEALED]
        await scene.hears(message(nl.DELLINK, 7, "qn-lab"))
        assert scene.looks == [["qn-lab"]]
        assert scene.told == [("network", None, "healed", "qn-lab", ["a"])]
        assert scene.said == ["bridge qn-lab healed: it was made again"]

    run(test)


def test_a_bridge_that_is_made_anew_is_looked_at(run: Run) -> None:
    """Deleted and made within a moment: once is enough."""

    async def test(scene: Scene) -> None:
        scene.found = [HEALED]
        await scene.hears(message(nl.DELLINK, 7, "qn-lab"), message(nl.NEWLINK, 8, "qn-lab"))
        await scene.hears(message(nl.NEWLINK, 8, "qn-lab"))
        assert scene.looks == [["qn-lab"]]

    run(test)


def test_nothing_else_that_happens_to_interfaces_matters(run: Run) -> None:
    """Neither the bridge's own news, nor what it says of a port, nor other interfaces."""

    async def test(scene: Scene) -> None:
        await scene.hears(
            message(nl.NEWLINK, 7, "qn-lab"),
            message(nl.DELLINK, 9, "qn-other"),
            message(nl.DELLINK, 9, "qn-lab", family=socket.AF_BRIDGE),
        )
        assert scene.looks == []

    run(test)


def test_bad_news_is_told_once_until_it_is_good_again(run: Run) -> None:
    async def test(scene: Scene) -> None:
        scene.found = [LOST, LOST, HEALED, LOST]
        await scene.hears(message(nl.DELLINK, 7, "qn-lab"))
        scene.healer._wake("qn-lab")
        await scene.settled()
        await scene.hears(message(nl.NEWLINK, 8, "qn-lab"))
        await scene.hears(message(nl.DELLINK, 8, "qn-lab"))
        assert [words[2] for words in scene.told] == ["lost", "healed", "lost"]

    run(test)


def test_whoever_takes_a_bridge_away_again_and_again_has_his_way(run: Run) -> None:
    """So often a minute it is put right; then it is said, once, and it is looked at again when the minute is over."""

    async def test(scene: Scene) -> None:
        scene.found = [HEALED] * 20
        for _ in range(MOST + 3):
            await scene.hears(message(nl.NEWLINK, 8, "qn-lab"), message(nl.DELLINK, 8, "qn-lab"))
        assert len(scene.looks) == MOST
        assert [words[2] for words in scene.told] == ["healed"] * MOST + ["not healed"]
        assert f"{MOST} times" in scene.said[-1]
        scene.healer._healed["qn-lab"] = []
        scene.healer._once_more("qn-lab")
        await scene.settled()
        assert scene.told[-1][2] == "healed"

    run(test)


def test_news_that_got_lost_means_to_look(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much at once for the socket (ENOBUFS): any of it may have been about a bridge."""

    async def test(scene: Scene) -> None:
        class Full:
            def __init__(self) -> None:
                self.answers: list[OSError] = [OSError(105, "No buffer space available"), BlockingIOError()]

            def recv(self, size: int) -> bytes:
                raise self.answers.pop(0)

        real, scene.healer._sock = scene.healer._sock, Full()  # type: ignore[assignment]
        scene.healer._read()
        scene.healer._sock = real
        await scene.settled()
        assert scene.looks == [["qn-lab"]]

    run(test)


def test_a_look_that_could_not_be_had_is_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody works on the runtime directory for longer than anybody waits."""
    monkeypatch.setattr(heal, "AGAIN", 0)

    async def test(scene: Scene) -> None:
        async def busy(vms: list[str], names: Collection[str]) -> list[Found]:
            scene.healer._look = scene._look
            scene.found = [HEALED]
            raise TimedOut("somebody works on it")

        scene.healer._look = busy
        await scene.hears(message(nl.DELLINK, 7, "qn-lab"))
        assert scene.said == ["bridges were not looked at: somebody works on it"]
        while scene.healer._later:  # noqa: ASYNC110 - the loop's own timer is to end it
            await asyncio.sleep(0)
        await scene.settled()
        assert scene.told[-1][2] == "healed"

    run(test)


def test_without_a_card_on_a_bridge_nothing_is_open(run: Run) -> None:
    """A guest in user mode costs nobody a socket."""

    async def test(scene: Scene) -> None:
        assert scene.healer._sock is not None
        scene.vms.clear()
        scene.healer.look()
        assert scene.healer._sock is None

    run(test)


def test_only_taps_on_bridges_count(tmp_path: Path) -> None:
    runtime = Runtime(str(tmp_path / "run"))
    scope = runtime.scope("vm/a")
    scope.create()
    user = NicRecord("net1", "user", "e1000", "52:54:00:00:00:02", "up")
    alone = NicRecord("net2", "tap", "e1000", "52:54:00:00:00:03", "up", "qn-b", "fe:54:00:00:00:03")
    scope.save(VmRecord("a", "lab", "/lab.toml", "q35", "tcg", (CARD, user, alone)))
    assert {name: [tap.nic for tap in taps] for name, taps in mend.bridges(runtime, ["a", "gone"]).items()} == {
        "qn-lab": ["net0"]
    }
