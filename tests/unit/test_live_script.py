"""A script waits for what a guest says and answers it; how far it came outlives whoever plays it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from qemunet.live import script
from qemunet.live.process import Guest
from qemunet.live.script import Progress, State
from qemunet.model.script import ScriptStep
from tests.unit.test_live_console import Bench, with_bench

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
        guest = cast("Guest", SimpleNamespace(vm="one", directory=str(folder), console=bench.console))

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
        (None, 'the guest ended before it said "login: "; nothing was seen'),
    ],
)
def test_a_step_that_fails_says_what_it_waited_for_and_what_it_saw(
    tmp_path: Path, said: bytes | None, text: str
) -> None:
    async def guest(bench: Bench) -> None:
        if said is None:
            for client in list(bench.console._clients.values()):
                bench.console._drop(client)
        else:
            await bench.write(said)

    found = played(tmp_path, [step("login: ", "root", fail="panic", timeout=1)], guest)
    assert (found.state, found.text) == (State.FAILED, f"step 1 of 1 of its script: {text}")


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
