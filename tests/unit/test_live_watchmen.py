"""What serves a network is started again when it dies, by one of those who watch it, and not for ever."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from qemunet.errors import Failed
from qemunet.live import watchmen
from qemunet.live.watchmen import MOST, Revived, Watchmen
from qemunet.locks import Lock
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime

CARD = NicRecord("net0", "tap", "virtio-net-pci", "52:54:00:00:00:0a", "up", "t0", network="lab")
ALICE = VmRecord("alice", "lab", "/lab.toml", "q35", "tcg", (CARD,), 1, 1, started=True)


class Scene:
    """A network whose program is a ``sleep`` that holds the lock of its log."""

    def __init__(self, path: Path) -> None:
        self.runtime = Runtime(str(path))
        self.folder = path / "net" / "lab"
        self.folder.mkdir(parents=True)
        (self.folder / "dnsmasq.json").write_text("{}")
        (path / "vm" / "alice").mkdir(parents=True)
        self.runtime.scope("vm/alice").save(ALICE)
        self.vms = ["alice"]
        self.said: list[str] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.programs: list[subprocess.Popen[bytes]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.revivals = 0
        self.revive: Callable[[], Revived | None] = self.again

    def start(self) -> int:
        lock = Lock.take(str(self.folder / "dnsmasq.log"), create=True)
        assert lock is not None
        program = subprocess.Popen(["sleep", "infinity"], stderr=lock.fd)
        lock.release()
        self.programs.append(program)
        (self.folder / "dnsmasq.pid").write_text(str(program.pid))
        return program.pid

    def again(self) -> Revived:
        return Revived(self.start(), started=True)

    async def _revive(self, name: str) -> Revived | None:
        assert name == "lab"
        self.revivals += 1
        return self.revive()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def watch(self) -> Watchmen:
        tell = lambda kind, _vm, /, **details: self.told.append((kind, details))  # noqa: E731
        return Watchmen(self.runtime, self.vms, self._revive, tell, self.said.append, self.begin)

    def kill(self) -> None:
        self.programs[-1].kill()
        self.programs[-1].returncode = 0  # whoever watches it reaps it

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110 - it waits for processes
                await asyncio.sleep(0.005)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(watchmen, "_PAUSE", 0.001)
    scene = Scene(tmp_path)
    yield scene
    for program in scene.programs:
        if program.returncode is None:
            program.kill()
            program.wait()


def test_it_is_started_again_and_watched_again(scene: Scene) -> None:
    """Each time, and it is told; a guest's record says which networks there are."""

    async def play() -> None:
        first = scene.start()
        watch = scene.watch()
        watch.learn("alice")
        assert watch.networks() == {"lab"}
        for number in (1, 2):
            scene.kill()
            await scene.until(lambda number=number: len(scene.told) == number)
        watch.close()
        firsts.append(first)

    firsts: list[int] = []
    asyncio.run(play())
    assert not os.path.exists(f"/proc/{firsts[0]}"), "it was reaped"
    restarted = [
        ("network", {"network": "lab", "what": "dhcp restarted", "pid": one.pid}) for one in scene.programs[1:]
    ]
    assert scene.told == restarted
    assert len(scene.said) == 2


def test_one_that_was_dead_before_anybody_looked_is_started(scene: Scene) -> None:
    async def play() -> None:
        watch = scene.watch()
        watch.learn("alice")
        await scene.until(lambda: scene.told)
        watch.close()

    asyncio.run(play())
    assert scene.revivals == 1


def test_who_comes_second_watches_what_the_first_has_started(scene: Scene) -> None:
    """And tells nothing."""
    scene.revive = lambda: Revived(scene.start(), started=False)

    async def play() -> None:
        scene.start()
        watch = scene.watch()
        watch.learn("alice")
        for number in (1, 2):
            scene.kill()
            await scene.until(lambda number=number: scene.revivals == number and not scene.tasks)
        watch.close()

    asyncio.run(play())
    assert scene.told == []


@pytest.mark.parametrize("fails", [True, False])
def test_one_that_dies_again_and_again_is_given_up(scene: Scene, fails: bool) -> None:
    """Whether it does not start or does not stay; a network that is up says so."""

    def useless() -> Revived:
        if fails:
            raise Failed("it died at start")
        scene.start()
        scene.kill()
        return Revived(scene.programs[-1].pid, started=True)

    scene.revive = useless

    async def play() -> None:
        scene.start()
        watch = scene.watch()
        watch.learn("alice")
        scene.kill()
        await scene.until(lambda: any(details["what"] == "dhcp given up" for _, details in scene.told))
        await scene.until(lambda: not scene.tasks)
        watch.close()

    asyncio.run(play())
    assert scene.revivals == MOST
    assert f"{MOST} times" in scene.said[-1]


def test_when_the_network_is_gone_so_is_the_watch(scene: Scene) -> None:
    scene.revive = lambda: None

    async def play() -> None:
        scene.start()
        watch = scene.watch()
        watch.learn("alice")
        scene.kill()
        await scene.until(lambda: scene.revivals and not scene.tasks)
        watch.close()

    asyncio.run(play())
    assert (scene.revivals, scene.told, scene.said) == (1, [], [])


def test_a_network_that_no_guest_is_on_is_not_watched(scene: Scene) -> None:
    async def play() -> None:
        scene.start()
        watch = scene.watch()
        watch.learn("alice")
        scene.vms.clear()
        watch.look()
        assert watch.networks() == set()
        scene.programs[-1].kill()
        scene.programs[-1].wait()
        await asyncio.sleep(0.05)
        watch.close()

    asyncio.run(play())
    assert scene.revivals == 0


def test_a_network_that_serves_nothing_is_not_watched(scene: Scene) -> None:
    (scene.folder / "dnsmasq.json").unlink()

    async def play() -> None:
        watch = scene.watch()
        watch.learn("alice")
        await asyncio.sleep(0)
        watch.close()

    asyncio.run(play())
    assert scene.revivals == 0
