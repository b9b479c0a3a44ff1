"""Processes and QMP, without QEMU."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet import interrupts
from qemunet.errors import Failed, Interrupted, TimedOut
from qemunet.host import processes, qmp


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, qemus = socket.socketpair()
    yield ours, qemus
    ours.close()
    qemus.close()


def test_a_process_is_its_number_and_when_it_started(sleeper: subprocess.Popen[bytes]) -> None:
    assert processes.start_time(sleeper.pid) == processes.start_time(sleeper.pid)
    assert processes.start_time(2**22 + 1) is None


def test_a_zombie_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert processes.start_time(sleeper.pid) is None


def test_a_process_that_is_killed_is_waited_for_and_reaped() -> None:
    process = subprocess.Popen(["sleep", "60"])
    with processes.Ending(process.pid) as ending:
        ending.kill()
        assert ending.wait(10) == -signal.SIGKILL
    process.returncode = 0
    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def test_a_process_that_does_not_end_is_not_waited_for_for_ever(sleeper: subprocess.Popen[bytes]) -> None:
    with processes.Ending(sleeper.pid) as ending, pytest.raises(TimedOut, match=r"has not ended within 0\.01 s"):
        ending.wait(0.01)


def test_waiting_for_an_end_can_be_interrupted(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_seen", [signal.SIGTERM])
    with processes.Ending(sleeper.pid) as ending, pytest.raises(Interrupted, match="SIGTERM"):
        ending.wait(10)


def test_a_process_is_known_by_where_its_errors_go(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(["sleep", "60"], stderr=file) as process:
        assert processes.writes_errors_to(process.pid, log.stat())
        assert not processes.writes_errors_to(os.getpid(), log.stat())
        process.kill()


def answer(sock: socket.socket, *pieces: bytes) -> None:
    """Answer as QEMU does, in these pieces."""

    def body() -> None:
        for piece in pieces:
            sock.sendall(piece)

    threading.Thread(target=body).start()


def test_an_answer_may_come_in_pieces_and_behind_events(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, qemus = ends
    answer(qemus, b'{"event": "RESUME"}\r\n{"ret', b'urn": {"status": "running"}}\r\n{"event', b'": "STOP"}\r\n')
    assert qmp.execute(ours, "query-status") == {"status": "running"}
    ours.setblocking(False)
    rest = b""
    with contextlib.suppress(BlockingIOError):
        rest = ours.recv(100)
    assert not rest or rest.startswith(b"{"), "the next reader would start inside a message"


def test_a_refusal_is_passed_on_in_qemus_words(ends: tuple[socket.socket, socket.socket]) -> None:
    answer(ends[1], b'{"error": {"class": "DeviceNotFound", "desc": "Device \'zz\' not found"}}\r\n')
    with pytest.raises(Failed, match="QEMU refused set_link: Device 'zz' not found"):
        qmp.execute(ends[0], "set_link", name="zz", up=True)


def test_an_end_of_the_connection_is_not_an_answer(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()
    with pytest.raises(qmp.HungUp):
        qmp.negotiate(ends[0])


def test_half_an_answer_is_quoted_when_time_is_up(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "_DEADLINE", 0.01)
    ends[1].sendall(b'{"QMP": {"ver')
    with pytest.raises(TimedOut, match=r'it sent \{"QMP": \{"ver'):
        qmp.negotiate(ends[0])


def test_a_process_is_not_gone_before_its_last_thread() -> None:
    """Its first thread is a zombie then, but the others hold what it has open: locks, taps, ports."""
    program = (
        "import ctypes, sys, threading; threading.Thread(target=sys.stdin.read).start(); print(flush=True); "
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    deadline = time.monotonic() + 30
    while not processes.is_ending(child.pid):
        assert time.monotonic() < deadline
    assert processes.start_time(child.pid) is not None
    child.kill()
    while processes.start_time(child.pid) is not None:
        assert time.monotonic() < deadline
    assert processes.is_ending(child.pid)
    child.communicate()
    assert not processes.is_ending(child.pid)
