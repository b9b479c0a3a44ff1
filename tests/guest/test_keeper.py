"""A keeper sees everything, answers everybody, and neither its death nor anybody else's leaves anything behind."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemunet import state
from qemunet.errors import NotFound, QemunetError, UsageError
from qemunet.host import processes
from qemunet.live.control import Control, Lost, Message, connect
from tests.guest import bare

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64"),
]

PATIENCE = 30.0  # seconds
MUCH = 4 << 20  # bytes by which a keeper must not grow


class Bench:
    """A runtime directory with one lab in it."""

    def __init__(self, path: str) -> None:
        self.runtime = state.Runtime(path)
        self.keepers: list[subprocess.Popen[bytes]] = []
        self.pids: dict[str, int] = {}
        self._controls: list[Control] = []

    def start(self, *names: str, tether: socket.socket | None = None) -> Control:
        """Start guests in a process that becomes their keeper; return a connection to it."""
        fd = "" if tether is None else str(tether.fileno())
        argv = [sys.executable, "-m", "tests.guest.bare", self.runtime.path, "lab", ",".join(names), fd]
        pass_fds = [tether.fileno()] if tether else []
        self.keepers.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=pass_fds))
        control = self.reach()
        for name in names:
            self.pids[name] = self.runtime.vm(name).pid or 0
            until(lambda name=name: b"hi" in self.log(name))
        return control

    def adopt(self) -> Control:
        """Start a keeper that takes in what it finds."""
        argv = [sys.executable, "-m", "qemunet.live.keeper", bare.handover(self.runtime.path, "lab")]
        self.keepers.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))
        return self.reach()

    def reach(self) -> Control:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                control = Control.open(self.runtime.lab("lab").path("keeper.sock"))
                break
            except Lost:
                assert self.keepers[-1].poll() is None, "the keeper ended"
                assert time.monotonic() < deadline, "the keeper does not answer"
        self._controls.append(control)
        return control

    def console(self, vm: str) -> socket.socket:
        return connect(self.runtime.scope(f"vm/{vm}").path("console.sock"))

    def log(self, vm: str) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return Path(self.runtime.scope(f"vm/{vm}").path("console.log")).read_bytes()
        return b""

    def keepers_log(self) -> str:
        return Path(self.runtime.lab("lab").path("keeper.log")).read_text()

    @property
    def keeper(self) -> subprocess.Popen[bytes]:
        return self.keepers[-1]

    def close(self) -> None:
        for control in self._controls:
            control.close()
        for pid in self.pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for keeper in self.keepers:
            keeper.wait(PATIENCE)

    def check_nothing_left(self) -> None:
        self.keeper.wait(PATIENCE)
        assert not any(processes.start_time(pid) for pid in self.pids.values())
        left = [str(path) for path in Path(self.runtime.path).rglob("*") if path.name != "lock"]
        assert not left


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(str(tmp_path / "run"))
    try:
        yield one
    finally:
        one.close()


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        select.select([], [], [], 0.01)


def events_of(control: Control) -> list[Message]:
    """All events up to `over`."""
    events: list[Message] = []
    while not events or events[-1]["event"] != "over":
        events.append(control.wait(PATIENCE))
    return events


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("how", "status", "reason"), [(b"Q", bare.QUIT, "crash"), (b"R", 0, "guest-reset"), (b"", -9, "killed")]
)
def test_how_a_guest_ended_is_told_and_everything_taken_back(
    how: bytes, status: int, reason: str, bench: Bench
) -> None:
    """By itself, by a reset without reboot, by kill -9: the exit status is QEMU's own."""
    control = bench.start("a")
    control.ask("watch", vms=["a"])
    if how:
        with bench.console("a") as console:
            console.sendall(how)
    else:
        os.kill(bench.pids["a"], signal.SIGKILL)
    watching, ended, over = events_of(control)
    assert watching == {"event": "watching", "vms": ["a"]}
    assert (ended["vm"], ended["status"], ended["reason"]) == ("a", status, reason)
    assert over == {"event": "over", "failures": []}
    bench.check_nothing_left()


def test_stop_says_what_it_took(bench: Bench) -> None:
    """This firmware hears no button."""
    control = bench.start("a", "b")
    assert control.ask("stop", vm="a", timeout=0.5, within=PATIENCE) == {"how": "quit"}
    assert control.ask("ping")["vms"] == ["b"]
    assert not bench.runtime.scope("vm/a").exists()
    with pytest.raises(NotFound):
        control.ask("stop", vm="a")
    assert control.ask("stop", vm="b", force=True, within=PATIENCE) == {"how": "quit"}
    bench.check_nothing_left()


@pytest.mark.slow
def test_a_qemu_that_hears_nothing_is_killed(bench: Bench) -> None:
    control = bench.start("a")
    os.kill(bench.pids["a"], signal.SIGSTOP)
    assert control.ask("status")["vms"] == control.ask("status", vm="a")["vms"]
    assert control.ask("stop", vm="a", force=True, within=60) == {"how": "kill"}
    bench.check_nothing_left()


def test_seen_off_a_keeper_has_left_nothing(bench: Bench) -> None:
    """The reply to `stop` comes while the keeper still runs; its end is the end of the connection."""
    control = bench.start("a", "b")
    control.ask("stop", vm="a", force=True, within=PATIENCE)
    control.see_off()
    assert control.ask("ping")["vms"] == ["b"]
    control.ask("stop", vm="b", force=True, within=PATIENCE)
    control.see_off()
    assert not os.path.exists(bench.runtime.lab("lab").directory)
    bench.check_nothing_left()


def test_two_who_stop_the_same_guest_both_get_an_answer(bench: Bench) -> None:
    first = bench.start("a")
    second = bench.reach()
    first._send({"do": "stop", "vm": "a", "timeout": 20})
    assert second.ask("stop", vm="a", force=True, within=PATIENCE)["how"] == "quit"
    assert first._wait(time.monotonic() + PATIENCE, "an answer") == {"ok": {"how": "powerdown"}}
    bench.check_nothing_left()


# ---------------------------------------------------------------- the console


def test_a_flood_is_logged_exactly_whoever_does_not_read(bench: Bench) -> None:
    """As fast as the guest can write, with a stuck client and a good one, and QEMU's end right behind it."""
    control = bench.start("a")
    control.ask("watch", vms=["a"])
    log = os.open(bench.runtime.scope("vm/a").path("console.log"), os.O_RDONLY)
    before = rss(bench.keeper.pid)
    with bench.console("a") as stuck, bench.console("a") as good:
        stuck.sendall(b"FFFFQ")
        seen = bytearray()
        while data := good.recv(65536):
            seen += data
        assert seen == bare.flood() * 4
    ended = events_of(control)[1]
    assert ended["status"] == bare.QUIT
    written = os.pread(log, 1 << 24, 0)
    os.close(log)
    assert written == b"hi\n" + bare.flood() * 4
    if bench.keeper.poll() is None:
        with contextlib.suppress(FileNotFoundError, IndexError):
            assert rss(bench.keeper.pid) - before < MUCH
    bench.check_nothing_left()


def test_the_control_socket_replays_and_becomes_the_console(bench: Bench) -> None:
    control = bench.start("a")
    assert control.ask("tail", vm="a", bytes=3) == {"text": "hi\n"}
    sock, data = bench.reach().console("a", replay=2), b""
    sock.settimeout(PATIENCE)
    sock.sendall(b"xyz")
    while len(data) < 5:
        data += sock.recv(100)
    assert data == b"i\nxyz"
    os.kill(bench.pids["a"], signal.SIGKILL)
    assert sock.recv(100) == b""
    bench.check_nothing_left()


# ---------------------------------------------------------------- a keeper that is gone


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_guests_outlive_their_keeper_and_a_new_one_adopts_them(number: signal.Signals, bench: Bench) -> None:
    control = bench.start("a", "b")
    os.kill(bench.keeper.pid, number)
    bench.keeper.wait(PATIENCE)
    with pytest.raises(Lost):
        control.ask("ping")
    assert all(processes.start_time(pid) for pid in bench.pids.values())
    control = bench.adopt()
    rows = control.ask("status")["vms"]
    assert isinstance(rows, list)
    assert [(row["vm"], row["state"], row["adopted"]) for row in rows] == [
        ("a", "running", True),
        ("b", "running", True),
    ]
    assert b"read again since" in bench.log("a")
    with bench.console("a") as console:
        console.settimeout(PATIENCE)
        console.sendall(b"x")
        assert console.recv(1) == b"x"
    control.ask("watch", vms=["a", "b"])
    for name in ("a", "b"):
        control.ask("stop", vm=name, force=True, within=PATIENCE)
    ended = [event for event in events_of(control) if event["event"] == "ended"]
    assert [(event["status"], event["reason"]) for event in ended] == [(None, "quit")] * 2
    bench.check_nothing_left()


def test_a_lab_has_one_keeper(bench: Bench) -> None:
    control = bench.start("a")
    bench.adopt()
    assert bench.keeper.wait(PATIENCE) == 0
    assert control.ask("ping")["pid"] == bench.keepers[0].pid
    control.ask("stop", vm="a", force=True, within=PATIENCE)
    bench.keepers.pop()
    bench.check_nothing_left()


def test_a_keeper_without_guests_ends(bench: Bench) -> None:
    os.mkdir(bench.runtime.path)
    argv = [sys.executable, "-m", "qemunet.live.keeper", bare.handover(bench.runtime.path, "lab")]
    bench.keepers.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))
    assert bench.keeper.wait(PATIENCE) == 0
    bench.check_nothing_left()


# ---------------------------------------------------------------- tethers


def test_a_guest_goes_down_with_its_terminal(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        bench.start("a", tether=theirs)
    tether = Control(ours)
    assert tether.wait(PATIENCE) == {"event": "watching", "vms": ["a"]}
    tether.close()
    bench.check_nothing_left()


def test_a_terminal_that_detached_may_go(bench: Bench) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        control = bench.start("a", tether=theirs)
    tether = Control(ours)
    assert tether.ask("detach") == {"vms": ["a"]}
    tether.close()
    assert control.ask("ping")["vms"] == ["a"]
    assert not bench.runtime.vm("a").tethered
    again = bench.reach()
    again.ask("tether", vms=["a"])
    assert bench.runtime.vm("a").tethered
    again.close()
    bench.check_nothing_left()


def test_only_the_guests_of_the_tether_go_with_it(bench: Bench) -> None:
    control = bench.start("a", "b")
    tether = bench.reach()
    tether.ask("tether", vms=["b"])
    tether.close()
    until(lambda: control.ask("ping")["vms"] == ["a"])
    control.ask("stop", vm="a", force=True, within=PATIENCE)
    bench.check_nothing_left()


# ---------------------------------------------------------------- resilience


def test_garbage_harms_nobody(bench: Bench) -> None:
    control = bench.start("a")
    for garbage in (b"\x00" * 5000, b"{" * 3_000_000, b"[" * 90_000 + b"\n", b'{"do": "stop", "vm": 7}\n', b""):
        with connect(bench.runtime.lab("lab").path("keeper.sock")) as sock, contextlib.suppress(OSError):
            sock.settimeout(PATIENCE)
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    with pytest.raises(UsageError, match="unknown verb"):
        control.ask("dance")
    for verb in ("stop", "powerdown", "console", "tail", "qmp"):
        with pytest.raises(QemunetError):
            control.ask(verb)
        with pytest.raises(NotFound):
            control.ask(verb, vm="nobody", execute="x")
    for timeout in (-1, True, "x", 1e300, None):
        with pytest.raises(UsageError):
            control.ask("stop", vm="a", timeout=timeout)
    with pytest.raises(QemunetError, match="has not been found"):
        control.ask("qmp", vm="a", execute="no-such-command")
    assert control.ask("qmp", vm="a", execute="query-name") == {"return": {}}
    assert control.ask("ping")["vms"] == ["a"]
    assert "Traceback" not in bench.keepers_log()
    control.ask("stop", vm="a", force=True, within=PATIENCE)
    bench.check_nothing_left()


def test_events_are_not_kept_for_ever(bench: Bench) -> None:
    control = bench.start("a")
    for _ in range(50):
        control.ask("qmp", vm="a", execute="stop")
        control.ask("qmp", vm="a", execute="cont")
    before = rss(bench.keeper.pid)
    for _ in range(2000):
        control.ask("qmp", vm="a", execute="stop")
        control.ask("qmp", vm="a", execute="cont")
    assert rss(bench.keeper.pid) - before < MUCH
    control.ask("stop", vm="a", force=True, within=PATIENCE)
    bench.check_nothing_left()


def test_it_sleeps_when_nothing_happens_and_holds_no_foreign_descriptor(bench: Bench) -> None:
    names = [f"vm{number}" for number in range(8)]
    control = bench.start(*names)
    for name in names:
        with bench.console(name) as console:
            console.sendall(b"H")
    control.ask("status")
    before = cpu_ticks(bench.keeper.pid)
    select.select([], [], [], 1)
    assert cpu_ticks(bench.keeper.pid) - before <= 2, "in hundredths of a second"
    fds = [os.readlink(f"/proc/{bench.keeper.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{bench.keeper.pid}/fd")]
    assert len(fds) < 20 + 6 * len(names)
    assert os.getsid(bench.keeper.pid) == bench.keeper.pid
    for pid in bench.pids.values():
        os.kill(pid, signal.SIGKILL)
    bench.check_nothing_left()
