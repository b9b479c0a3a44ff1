"""A script waits for what a guest says and answers it; how far it came outlives whoever plays it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from qemunet.live import console, consolelog, script, secrets
from qemunet.live.process import Guest
from qemunet.live.script import Progress, State
from qemunet.model.script import ScriptStep
from tests.unit.test_live_console import Bench, receive, with_bench

Scene = Callable[[Bench], Awaitable[None]]


def step(expect: str | None = None, send: str | None = None, **more: object) -> ScriptStep:
    keys = {"fail": None, "enter": True, "timeout": 20, **more}
    return ScriptStep(expect=expect, send=send, **keys)  # type: ignore[arg-type]


def played(folder: Path, steps: Sequence[ScriptStep], scene: Scene, begun: Progress | None = None) -> Progress:
    """Play a script at a console while the guest of `scene` is at its other end; return how far it came."""
    told: list[object] = []

    async def both(bench: Bench) -> None:
        if begun is not None:
            bench.console.log.write(b"said before, " * 10 + b"login: ")
        script.write(str(folder), steps, begun)
        bench.console.hide(map(secrets.as_bytes, secrets.recall(str(folder)).values()))  # as its keeper does at once
        guest = cast("Guest", SimpleNamespace(vm="one", directory=str(folder), console=bench.console, ending="ended"))

        def tell(kind: str, vm: str | None, /, **details: object) -> None:
            told.append((kind, vm, details["what"]))

        async with asyncio.timeout(60):
            await asyncio.gather(script.play(guest, tell, bench.said.append), scene(bench))

    bench = with_bench(folder, both)
    found = script.read(str(folder))
    assert found is not None
    assert told == [("script", "one", found.progress.state.value)]
    assert bench.said[-1] == f"one: {found.progress.text}"
    return found.progress


async def heard(bench: Bench, wanted: bytes) -> None:
    found = b""
    while wanted not in found:
        found += await asyncio.get_running_loop().sock_recv(bench.qemu, 4096)
    assert found == wanted


def test_it_answers_step_by_step(tmp_path: Path) -> None:
    """Also what comes in pieces, is not UTF-8, or was said before anybody waited for it."""
    steps = [step("login: $", "root"), step(None, "\x03", enter=False), step(r"[#$] $", "ls"), step("a b")]

    async def guest(bench: Bench) -> None:
        for piece in (b"\xff\xfe lo", b"gin", b": "):
            await bench.write(piece)
        await heard(bench, b"root\r\x03")
        await bench.write(b"\xc3# ")
        await heard(bench, b"ls\r")
        await bench.write(b"a b\r\n")

    found = played(tmp_path, steps, guest)
    assert (found.state, found.text) == (State.DONE, "its script is done")


def test_what_was_said_once_is_not_seen_twice(tmp_path: Path) -> None:
    async def guest(bench: Bench) -> None:
        await bench.write(b"login: ")
        await heard(bench, b"root\r")

    found = played(tmp_path, [step("login: ", "root"), step("login: ", timeout=1)], guest)
    assert found.state is State.FAILED
    assert found.text == 'step 2 of 2 of its script: no "login: " within 1 s; last seen: login:'


def test_a_step_that_was_begun_goes_on_where_its_wait_began(tmp_path: Path) -> None:
    """Not with what was said before that."""
    steps = [step("said before"), step("login: ", "root"), step("said before", "no", timeout=1)]

    async def guest(bench: Bench) -> None:
        await heard(bench, b"root\r")

    found = played(tmp_path, steps, guest, Progress(at=1, offset=len(b"said before, " * 10)))
    assert found.text.startswith('step 3 of 3 of its script: no "said before" within 1 s')


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"Kernel panic - not syncing", 'it said what "panic" finds; last seen: Kernel panic - not syncing'),
        (b"\r\n Welcome\r\n", 'no "login: " within 1 s; last seen: Welcome'),
    ],
)
def test_a_step_that_fails_says_what_it_waited_for_and_what_it_saw(tmp_path: Path, said: bytes, text: str) -> None:
    async def guest(bench: Bench) -> None:
        await bench.write(said)

    found = played(tmp_path, [step("login: ", "root", fail="panic", timeout=1)], guest)
    assert (found.state, found.text) == (State.FAILED, f"step 1 of 1 of its script: {text}")


def test_the_end_of_the_guest_is_told_and_the_end_of_its_keeper_is_not_the_script_s(tmp_path: Path) -> None:
    """The next keeper goes on with it; of a guest that has ended nothing is written any more, as all of it goes."""

    async def scene(bench: Bench) -> None:
        script.write(str(tmp_path), [step("login: ", "{secret.x}")])
        secrets.keep(str(tmp_path), {"secret.x": "hunter2"})
        told: list[object] = []
        for ending in (None, "ended"):
            guest = SimpleNamespace(vm="one", directory=str(tmp_path), console=bench.console, ending=ending)
            playing = asyncio.create_task(
                script.play(cast("Guest", guest), lambda *_, **more: told.append(more["text"]), bench.said.append)
            )
            await bench.until(lambda: bool(bench.console._clients))
            for client in list(bench.console._clients.values()):
                bench.console._drop(client)
            await playing
            found = script.read(str(tmp_path))
            assert found is not None
            assert found.progress.state is State.RUNNING
            assert bool(secrets.recall(str(tmp_path))) is (ending is None)
        text = 'step 1 of 1 of its script: the guest ended before it said "login: "; nothing was seen'
        assert (told, bench.said) == ([text], [f"one: {text}"])

    with_bench(tmp_path, scene)


def test_a_secret_is_typed_and_seen_nowhere(tmp_path: Path) -> None:
    """But by whoever asks for every byte: not in the log, in messages, on screens; and it is forgotten at the end."""
    begun: dict[str, bytes] = {}
    shown = b"Password: pw=*******\r\nwrong: ******* h"

    async def guest(bench: Bench) -> None:
        await bench.until(lambda: bool(bench.console._clients))
        ours, theirs = zip(*(socket.socketpair() for _ in range(2)), strict=True)
        for end in ours:
            end.settimeout(0)
        for number, end in enumerate(theirs):
            bench.console.add(end, masked=number == 0)
        await bench.write(b"Password: ")
        await heard(bench, b"pw=hunter2\r")
        for piece in (b"pw=hu", b"nter", b"2\r\n", b"wrong: hunter2 h"):
            await bench.write(piece)
        for name, end in zip(("screen", "socket"), ours, strict=True):
            begun[name] = await receive(end, len(shown))
            end.close()

    secrets.keep(str(tmp_path), {"secret.root": "hunter2"})
    steps = [step("Password: $", "pw={secret.root}"), step("welcome", fail="never", timeout=1)]
    found = played(tmp_path, steps, guest)
    assert found.text.endswith(': no "welcome" within 1 s; last seen: Password: pw=******* wrong: ******* *')
    assert begun == {"screen": shown, "socket": shown.replace(b"*******", b"hunter2")}
    assert (tmp_path / "console.log").read_bytes() == shown
    assert not any(b"hunter2" in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert secrets.recall(str(tmp_path)) == {}


def test_what_looks_like_a_secret_is_held_back_for_a_moment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the log and of screens, and not of who gets every byte; a replay has it all the same."""
    monkeypatch.setattr(console, "PATIENCE", 0.05)

    async def scene(bench: Bench) -> None:
        bench.console.hide([b"# secret"])
        await bench.write(b"a# ")
        await bench.until(lambda: bench.log == b"a# ")
        monkeypatch.setattr(console, "PATIENCE", 60)
        await bench.write(b"b# se")
        await bench.until(lambda: bench.log == b"a# b")
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        bench.console.add(theirs, replay=100)
        await bench.write(b"lf")
        assert await receive(ours, 10) == b"a# b# self"
        assert bench.log == b"a# b# self"
        ours.close()

    with_bench(tmp_path, scene)


def test_a_log_that_was_turned_meanwhile_is_gone_on_with_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consolelog, "LOG_LIMIT", 1000)
    script.write(str(tmp_path), [step("never")])

    async def scene(bench: Bench) -> None:
        guest = cast("Guest", SimpleNamespace(vm="one", directory=str(tmp_path), console=bench.console, ending=None))
        await bench.write(b"x" * 900)
        await bench.until(lambda: len(bench.log) == 900)
        begun = asyncio.create_task(script.play(guest, lambda *_, **__: None, bench.said.append))
        await bench.until(lambda: (found := script.read(str(tmp_path))) is not None and found.progress.log > 0)
        await bench.write(b"y" * 950)
        await bench.until(lambda: bench.log == b"y" * 950)
        for client in list(bench.console._clients.values()):
            bench.console._drop(client)
        await begun
        found = script.read(str(tmp_path))
        assert found is not None
        assert script._unseen(bench.console.log, found.progress) == 950
        assert script._unseen(bench.console.log, Progress(offset=900, log=bench.console.log.inode)) == 50

    with_bench(tmp_path, scene)


def test_of_a_guest_that_says_more_than_is_searched_the_script_gets_the_end(tmp_path: Path) -> None:
    """It is not sent away as others are who do not read."""

    async def scene(bench: Bench) -> None:
        ours, theirs = socket.socketpair()
        client = bench.console.add(theirs, newest=True)
        total = console.CLIENT_BUFFER * 3
        await bench.write(b"x" * total + b"login: ")
        await bench.until(lambda: bench.console.log.total == total + 7)
        assert 0 < client.skipped < total
        ours.settimeout(0)
        assert (await receive(ours, total + 7 - client.skipped))[-7:] == b"login: "
        ours.close()

    with_bench(tmp_path, scene)


def test_a_guest_that_says_very_much_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it says at last is seen."""
    monkeypatch.setattr(script, "_SLICE", 0.01)
    kept: list[int] = []
    wait = script._Player._wait

    def spy(self: script._Player, *words: object) -> None:
        wait(self, *words)  # type: ignore[arg-type]
        kept.append(len(self._shell.before or b""))

    monkeypatch.setattr(script._Player, "_wait", spy)

    async def guest(bench: Bench) -> None:
        for _ in range(50):
            await bench.write(b"x" * 200_000)
            await asyncio.sleep(0.02)
        await bench.write(b"login: ")

    assert played(tmp_path, [step("login: ")], guest).state is State.DONE
    assert kept[0] < 2_000_000


def test_one_that_is_done_is_not_played_again(tmp_path: Path) -> None:
    script.write(str(tmp_path), [step(None, "once")], Progress(State.DONE))

    async def scene(bench: Bench) -> None:
        guest = cast("Guest", SimpleNamespace(vm="one", directory=str(tmp_path), console=bench.console))
        await script.play(guest, lambda *_, **__: None, bench.said.append)
        assert not bench.said

    with_bench(tmp_path, scene)


def test_a_vm_without_one_has_none(tmp_path: Path) -> None:
    assert script.read(str(tmp_path)) is None
