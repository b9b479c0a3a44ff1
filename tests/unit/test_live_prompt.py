"""Commands at the prompt of a serial console: real shells on real terminals, and what is none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qemunet.live import prompt, script
from qemunet.live.client import Client
from qemunet.live.console import Console
from qemunet.live.frames import Frames, Kind, frame
from qemunet.live.prompt import Prompt
from qemunet.model.script import ScriptStep

PATIENCE = 60.0  # seconds
SHELLS = [["dash", "-i"], ["bash", "--norc", "--noprofile", "-i"], ["busybox", "sh", "-i"]]
Report = dict[str, Any]


class Bench:
    """A guest whose console is a socket of ours."""

    def __init__(self, directory: Path) -> None:
        self.qemu, theirs = socket.socketpair()
        self.qemu.settimeout(0)
        self.console = Console(theirs, str(directory), lambda text: None)
        self.hear: list[Callable[[Mapping[str, object]], None]] = []
        self.guest = SimpleNamespace(console=self.console, hear=self.hear, directory=str(directory))
        self.prompt = Prompt(self.guest)  # type: ignore[arg-type]

    async def says(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.qemu, data)

    async def hears(self, wanted: bytes) -> bytes:
        data = b""
        async with asyncio.timeout(PATIENCE):
            while wanted not in data:
                data += await asyncio.get_running_loop().sock_recv(self.qemu, 4096)
        return data

    async def run(self, *argv: str, seconds: float = PATIENCE, **settings: bool) -> tuple[Report, bytes, bytes]:
        """What is said of a command in the end, and what it wrote."""
        async with self.begun(*argv, seconds=seconds, **settings) as ours:
            return await ends(ours)

    @contextlib.asynccontextmanager
    async def begun(self, *argv: str, seconds: float = PATIENCE, **settings: bool) -> AsyncIterator[socket.socket]:
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        client = Client(theirs, **{"has_input": False, **settings})
        words = [os.fsencode(word) for word in argv]
        work = asyncio.create_task(client.serve(self.prompt.run(words, seconds, client)))
        try:
            yield ours
        finally:
            ours.close()
            async with asyncio.timeout(PATIENCE):
                await work


async def ends(sock: socket.socket) -> tuple[Report, bytes, bytes]:
    frames, written = Frames(), {Kind.OUT: b"", Kind.ERR: b""}
    async with asyncio.timeout(PATIENCE):
        while True:
            while (found := frames.next()) is None:
                data = await asyncio.get_running_loop().sock_recv(sock, 1 << 18)
                assert data, "hung up"
                frames.add(data)
            if found[0] is Kind.END:
                return json.loads(found[1]), written[Kind.OUT], written[Kind.ERR]
            written[found[0]] += found[1]


def with_bench(directory: Path, scene: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench(directory)
        try:
            await scene(bench)
        finally:
            await bench.console.close()
            bench.qemu.close()

    asyncio.run(main())


def at_its_terminal() -> None:
    """Have the terminal's signals, whatever this process was started with."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    os.setsid()
    os.close(os.open(os.ttyname(0), os.O_RDWR))


@contextlib.asynccontextmanager
async def shell(bench: Bench, argv: Sequence[str]) -> AsyncIterator[None]:
    """A shell on a terminal of its own, at the other end of the console."""
    loop, (main, terminal) = asyncio.get_running_loop(), pty.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220 - it takes no time
        argv,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=at_its_terminal,  # noqa: PLW1509 - before it there is one thread
        env={"PATH": os.environ["PATH"], "PS1": "# ", "TERM": "vt100", "HOME": "/"},
    )
    os.close(terminal)
    loop.add_reader(main, lambda: bench.qemu.sendall(os.read(main, 4096)))
    loop.add_reader(bench.qemu, lambda: os.write(main, bench.qemu.recv(4096)))
    try:
        yield
    finally:
        loop.remove_reader(main)
        loop.remove_reader(bench.qemu)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(main)


@pytest.fixture(params=SHELLS, ids=lambda argv: argv[0])
def argv(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    assert shutil.which(found[0]), f"{found[0]} is among what the set-up installs"
    return found


def test_a_command_runs_at_the_prompt(tmp_path: Path, argv: list[str]) -> None:
    """Its words are no shell's, its status is its own, errors are among the output, and that is said."""

    async def scene(bench: Bench) -> None:
        async with shell(bench, argv):
            odd = ["$HOME", "it's", "a  b", "*", 'q"', "\\"]
            assert await bench.run("printf", "%s|", *odd) == (
                {"status": 0},
                ("|".join(odd) + "|").encode(),
                prompt.NOTE,
            )
            assert (await bench.run("sh", "-c", "echo out; echo err >&2; exit 7"))[:2] == ({"status": 7}, b"out\nerr\n")
            assert (await bench.run("no-such-command"))[0] == {"status": 127}
            assert (await bench.run("seq", "20000"))[1] == b"".join(b"%d\n" % number for number in range(1, 20001))
            every = "printf '\\001\\177\\200\\377\\r\\n'"
            assert (await bench.run("sh", "-c", every))[1] == b"\x01\x7f\x80\xff\r\n"

    with_bench(tmp_path, scene)


def test_a_command_that_nobody_wants_any_more_is_interrupted(tmp_path: Path, argv: list[str]) -> None:
    """And the prompt is there for the next one; several wait for each other."""

    async def scene(bench: Bench) -> None:
        async with shell(bench, argv):
            async with bench.begun("sh", "-c", "echo begun; exec sleep 1000") as ours:
                seen = b""
                async with asyncio.timeout(PATIENCE):
                    while b"begun" not in seen:
                        seen += await asyncio.get_running_loop().sock_recv(ours, 4096)
                await asyncio.get_running_loop().sock_sendall(ours, frame(Kind.KILL, b""))
                assert (await ends(ours))[0] == {"status": 130}
            several = await asyncio.gather(*(bench.run("echo", str(number)) for number in range(3)))
            assert [written for _, written, _ in several] == [b"0\n", b"1\n", b"2\n"]

    with_bench(tmp_path, scene)


def test_nothing_is_typed_where_nobody_is_logged_in(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        await bench.says(b"debian login: ")
        report, out, _ = await bench.run("true", seconds=0.5)
        assert report["error"]["kind"] == "timeout"
        assert "nor is a shell's prompt at its console" in report["error"]["message"]
        assert "last seen: debian login:" in report["error"]["message"]
        assert out == b""
        with pytest.raises(BlockingIOError):
            bench.qemu.recv(1)

    with_bench(tmp_path, scene)


def test_a_script_has_done_before_a_command_is_typed(tmp_path: Path) -> None:
    step = ScriptStep("never", None, None, enter=True, timeout=9)
    script.write(str(tmp_path), [step])

    async def scene(bench: Bench) -> None:
        await bench.says(b"# ")
        assert (await bench.run("true", seconds=0.5))[0]["error"]["kind"] == "timeout"
        script.write(str(tmp_path), [step], script.Progress(script.State.DONE))
        async with bench.begun("true"):
            assert b"begin" in await bench.hears(b"\r")

    with_bench(tmp_path, scene)


def test_a_guest_that_reboots_meanwhile_is_told_of(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        await bench.says(b"# ")
        async with bench.begun("true") as ours:
            await bench.hears(b"\r")
            for listener in list(bench.hear):
                listener({"event": "RESET"})
            assert (await ends(ours))[0]["error"]["message"] == "the guest has rebooted meanwhile"
        assert bench.hear == []

    with_bench(tmp_path, scene)


def test_what_looks_like_a_prompt_and_is_none_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An echo alone is no answer."""
    monkeypatch.setattr(prompt, "_ANSWER", 0.3)

    async def scene(bench: Bench) -> None:
        await bench.says(b"Router> ")
        async with bench.begun("true") as ours:
            await bench.says(await bench.hears(b"\r"))
            assert "no shell that does as it is told" in (await ends(ours))[0]["error"]["message"]

    with_bench(tmp_path, scene)


@pytest.mark.parametrize(
    ("argv", "settings", "said"),
    [
        (("echo", "a\nb"), {}, "control character"),
        (("echo", "x" * 3000), {}, "3000 bytes"),
        (("tar",), {"is_bulk": True}, "files go into a guest"),
    ],
)
def test_what_a_console_cannot_take_is_refused(
    tmp_path: Path, argv: tuple[str, ...], settings: dict[str, bool], said: str
) -> None:
    async def scene(bench: Bench) -> None:
        report, _, _ = await bench.run(*argv, **settings)
        assert said in report["error"]["message"]
        assert report["error"]["hint"] == prompt.HINT or said == "files go into a guest"

    with_bench(tmp_path, scene)


def test_input_is_refused_as_soon_as_there_is_some(tmp_path: Path, argv: list[str]) -> None:
    """An input that is empty, or has not come yet, is none."""

    async def scene(bench: Bench) -> None:
        async with shell(bench, argv):
            async with bench.begun("cat", has_input=True) as ours:
                assert (await ends(ours))[0] == {"status": 0}
            async with bench.begun("sleep", "1000", has_input=True) as ours:
                await asyncio.get_running_loop().sock_sendall(ours, frame(Kind.INPUT, b"some"))
                report, _, _ = await ends(ours)
                assert "at its console a command gets no input" in report["error"]["message"]
            assert (await bench.run("echo", "next"))[1] == b"next\n"

    with_bench(tmp_path, scene)
