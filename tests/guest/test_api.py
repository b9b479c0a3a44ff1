"""Labs held by programs: what the README shows works, the examples run, and whatever ends a program ends its guests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qemunet
from qemunet import sync
from qemunet.api import How
from qemunet.errors import (
    ConfigError,
    Failed,
    LaunchFailed,
    NotFound,
    QemunetError,
    Refused,
    Taken,
    TimedOut,
    UsageError,
)
from qemunet.host import processes
from qemunet.live import begin
from qemunet.live.control import Message
from qemunet.state import Runtime
from tests.dump import Dump, dump, left_behind
from tests.guest.scene import BOOT, TREE, Scene, wait_for
from tests.world import machine

pytestmark = pytest.mark.guest

README = (TREE / "README.md").read_text()
EXAMPLES = sorted((TREE / "examples" / "python").glob("*.py"))
TWO = '[lab]\nname = "shop"\n[network.lab]\nmode = "private"\n' + machine("one") + machine("two")


@pytest.fixture
def before(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Dump:
    """What was there; the programs in this process use the scene's runtime directory."""
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(scene.runtime))
    return dump(scene.folder / "run")


@pytest.fixture
def nothing_left(before: Dump, scene: Scene) -> Iterator[None]:
    yield
    found = left_behind(before, scene.runtime, 30)
    assert not found, found


def program(scene: Scene, *words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.guest.patient", *words]
    environment = {**scene.environment, "PYTHONPATH": str(TREE)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, cwd=scene.folder, env=environment, text=True, **pipes)


def succeeds(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=BOOT)
    assert (process.returncode, err) == (0, "")
    return out


@contextlib.contextmanager
def holding(scene: Scene, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A program in its block; gives it and the guests' processes."""
    file = scene.write(TWO)
    with program(scene, "-m", "tests.guest.holder", str(file), "block", *words) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], BOOT)[0]
            pids = [int(word) for word in process.stdout.readline().split()]
            assert len(pids) == 2, process.communicate()
            yield process, pids
        finally:
            process.kill()


def running(scene: Scene) -> list[str]:
    return [vm["name"] for vm in json.loads(scene.qemunet("ps", "--json"))]


# ---------------------------------------------------------------- what is shown works


def test_the_program_in_the_readme_works_on_the_lab_in_the_readme(scene: Scene, nothing_left: None) -> None:
    """And it says what the guest calls the card that it plugs in."""
    found = {
        kind: re.search(rf"^```{kind}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE) for kind in ("toml", "python")
    }
    assert found["toml"]
    assert found["python"]
    scene.write(found["toml"][1])
    (scene.folder / "program.py").write_text(found["python"][1])
    assert "eth1" in succeeds(program(scene, "program.py"))


def test_there_are_examples() -> None:
    assert [path.stem for path in EXAMPLES] == ["lab_script", "plug_and_move", "watch_events"]


WORDS = {
    "lab_script": ["pulled: no answer", "plugged in: an answer", "alice powerdown"],
    "plug_and_move": ["on red: True", "on blue: False", "on red again: True", "the guest calls eth1", "left: net0"],
    "watch_events": ["qmp alice: STOP", "qmp alice: RESUME", "guest alice: over", "it took: powerdown"],
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_does_what_it_says(example: Path, scene: Scene, nothing_left: None) -> None:
    said = succeeds(program(scene, str(example)))
    assert not [word for word in WORDS[example.stem] if word not in said], said


# ---------------------------------------------------------------- whatever ends it


@pytest.mark.parametrize("place", ["order", "ready", "go", "block"])
def test_a_program_that_is_killed_leaves_nothing(place: str, scene: Scene, nothing_left: None) -> None:
    """Wherever it was: no guest, no link, no file, and nobody has to clear up."""
    with program(scene, "-m", "tests.guest.holder", str(scene.write(TWO)), place) as process:
        process.communicate(timeout=BOOT)
    assert process.returncode == -signal.SIGKILL


def test_an_error_in_the_block_takes_everything_back(scene: Scene, before: Dump) -> None:
    """Before the program goes on: there is nothing to wait for."""
    with program(scene, "-m", "tests.guest.holder", str(scene.write(TWO)), "block", "error") as process:
        _, said = process.communicate(timeout=BOOT)
    assert said.endswith("ZeroDivisionError\n")
    assert not left_behind(before, scene.runtime, 0)


@pytest.mark.parametrize("fault", ["wait", "sync"])
def test_an_interrupted_program_takes_everything_back(fault: str, scene: Scene, before: Dump) -> None:
    """Of both kinds, and before it ends."""
    with holding(scene, fault) as (process, _):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=BOOT)
        assert said.endswith("KeyboardInterrupt\n")
    assert not left_behind(before, scene.runtime, 0)


def test_a_guest_whose_keeper_was_killed_is_held_all_the_same(scene: Scene, nothing_left: None) -> None:
    """A new keeper is there by itself, and the guests end with the program as before."""
    with holding(scene, "wait") as (process, pids):
        os.kill(int((scene.runtime / "lab/shop/pid").read_text()), signal.SIGKILL)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], BOOT)[0]
        assert "another one holds its guests now" in process.stdout.readline()
        assert all(processes.start_time(pid) for pid in pids)
        process.kill()


def test_a_guest_and_its_keeper_that_were_killed_are_cleared_up_after(scene: Scene, before: Dump) -> None:
    async def body() -> None:
        async with qemunet.open(scene.write(TWO)) as lab:
            os.kill(int((scene.runtime / "lab/shop/pid").read_text()), signal.SIGSTOP)
            for vm in lab.vm.values():
                os.kill(vm.pid, signal.SIGKILL)
            os.kill(int((scene.runtime / "lab/shop/pid").read_text()), signal.SIGKILL)
            ending = await lab.vm["one"].wait(30)
            assert ending.reason == "unknown"

    asyncio.run(body())
    assert not left_behind(before, scene.runtime, 0)


# ---------------------------------------------------------------- beside others


def test_two_labs_at_once_in_one_process(scene: Scene, before: Dump) -> None:
    """In two runtime directories or in one, and each ends with its own block."""
    (scene.folder / "more").mkdir()

    async def body() -> None:
        files = [scene.folder / f"{name}.toml" for name in ("red", "blue", "green")]
        for file in files:
            file.write_text(f'[lab]\nname = "{file.stem}"\n' + machine(f"vm-{file.stem}", card='mode = "user"'))
        async with qemunet.open(files[0]) as red:
            async with qemunet.open(files[1]) as blue, qemunet.open(files[2], runtime=scene.folder / "more") as green:
                assert sorted(running(scene)) == ["vm-blue", "vm-red"]
                for lab in (red, blue, green):
                    assert (await lab.vm[f"vm-{lab.name}"].qmp("query-status"))["running"]
            assert running(scene) == ["vm-red"]

    asyncio.run(body())
    assert not left_behind(before, scene.runtime, 0)
    assert list((scene.folder / "more").iterdir()) == []


ORDERED = (
    '[lab]\nname = "shop"\n[network.lab]\nmode = "private"\n'
    + machine("one")
    + machine("two", 'depends = ["one"]')
    + machine("three", 'depends = ["two"]')
)


def test_a_program_brings_the_rest_of_its_lab_up_and_down_in_order(scene: Scene, nothing_left: None) -> None:
    """By the work of the commands, and all that is up ends with the block, however it came to that."""
    with sync.open(scene.write(ORDERED), "one") as lab:
        assert lab.up("two") == ("two",)
        assert lab.up() == ("three",)
        assert lab.up() == ()
        assert sorted(lab.vm) == ["one", "three", "two"]
        assert lab.vm["three"].nics["net0"].network == "lab"
        with lab.events() as events:
            assert lab.down(force=True) == dict.fromkeys(("one", "two", "three"), How.QUIT)
            said = [str(event.vm) for event in events if event.kind == "guest" and event.what == "ended"]
    assert said == ["three", "two", "one"]


def test_what_a_program_cannot_bring_up_is_taken_back_and_what_ran_runs_on(scene: Scene, nothing_left: None) -> None:
    file = scene.write(TWO + machine("three", 'ready = "console=never said"'))
    with sync.open(file, "one") as lab:
        with pytest.raises(TimedOut, match=r"it is not ready after 0\.2 s"):
            lab.up(wait="ready", timeout=0.2)
        assert running(scene) == ["one"]
        with pytest.raises(UsageError, match="is no way to be ready"):
            lab.up(wait="redy")
        assert lab.up("two") == ("two",)

    async def cancelled() -> None:
        async with qemunet.open(file, "one") as lab:
            work = asyncio.create_task(lab.up(wait="ready"))
            await asyncio.to_thread(wait_for, lambda: "three" in running(scene))
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert running(scene) == ["one"]

    asyncio.run(cancelled())


def test_a_guest_joins_a_lab_that_runs_and_leaves_it_running(scene: Scene, nothing_left: None) -> None:
    """What was started by `run -d` is none of the program's; more than one joins, too."""
    file = scene.write(TWO + machine("three"))
    scene.qemunet("run", "-d", str(file), "one")
    try:
        with sync.open(file, ["two", "three"]) as lab:
            assert sorted(running(scene)) == ["one", "three", "two"]
            assert sorted(lab.vm) == ["three", "two"]
            assert lab.vm["two"].nics["net0"].network == "lab"
        assert running(scene) == ["one"]
        with pytest.raises(Taken, match="one"), sync.open(file):
            pass
        assert running(scene) == ["one"]
    finally:
        scene.qemunet("stop", "--force", "one")


def test_a_program_that_is_killed_takes_nobody_elses_guests_with_it(scene: Scene, nothing_left: None) -> None:
    """Its own end with it, though it has started them in somebody else's keeper."""
    scene.qemunet("run", "-d", str(scene.write(TWO.replace("vm.one", "vm.theirs"))), "theirs")
    try:
        with holding(scene, "wait") as (process, pids):
            assert sorted(running(scene)) == ["one", "theirs", "two"]
            process.kill()
            wait_for(lambda: not any(map(processes.start_time, pids)))
        wait_for(lambda: running(scene) == ["theirs"])
    finally:
        scene.qemunet("stop", "--force", "theirs")


def test_a_start_whose_process_is_killed_is_taken_back_by_who_asked(
    scene: Scene, before: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = begin._Child.settle

    async def kill_first(child: begin._Child, runtime: Runtime, answer: Message) -> begin.Held:
        os.kill(child.pid, signal.SIGKILL)
        return await settle(child, runtime, answer)

    monkeypatch.setattr(begin._Child, "settle", kill_first)
    with pytest.raises(Failed, match="the process that started the guests died"), sync.open(scene.write(TWO)):
        pass
    assert not left_behind(before, scene.runtime, 0)


def test_what_is_wrong_is_raised_as_on_the_command_line(scene: Scene, before: Dump) -> None:
    file = scene.write(TWO)
    with pytest.raises(ConfigError, match="no such file"), sync.open(scene.folder / "none.toml"):
        pass
    with pytest.raises(QemunetError, match="four"), sync.open(file, "four"):
        pass
    with pytest.raises(LaunchFailed, match="nope"), sync.open(file, set='vm.one.qemu-args=["-device", "nope"]'):
        pass
    with sync.open(file, "one") as lab:
        with pytest.raises(Refused, match="net7"):
            lab.vm["one"].qmp("device_del", id="net7")
        with pytest.raises(NotFound, match='no card "net7"'):
            lab.vm["one"].remove_nic("net7")
        with pytest.raises(NotFound, match="no network"):
            lab.vm["one"].move_nic("net0", "nowhere")
    assert not left_behind(before, scene.runtime, 0)
