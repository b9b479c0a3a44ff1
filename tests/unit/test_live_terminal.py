"""The terminal is joined with the console, its menu does what it says, and it gets back what it had."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from qemunet.live import rawmode, terminal
from qemunet.live.control import listen

ATTACH = """
import json, sys
from qemunet.errors import QemunetError
from qemunet.live import terminal
from qemunet.live.control import Control
control = Control.open(sys.argv[2]) if len(sys.argv) > 2 else None
try:
    outcome = terminal.attach(sys.argv[1], "one", control)
    print("OUTCOME", outcome.how, json.dumps(outcome.ended), file=sys.stderr)
except QemunetError as error:
    print("ERROR", error.kind, error, file=sys.stderr)
"""


class Guest:
    """The two sockets of a guest, played by the test."""

    def __init__(self, directory: Path) -> None:
        self.paths = [str(directory / name) for name in ("console.sock", "keeper.sock")]
        self._listeners = [listen(path) for path in self.paths]
        self.console: socket.socket
        self.keeper: socket.socket
        self._open = list(self._listeners)

    def accept(self, *, keeper: bool = True) -> None:
        for listener in self._listeners:
            listener.settimeout(20)
        if keeper:
            self.keeper = self._take(1)
        self.console = self._take(0)

    def _take(self, which: int) -> socket.socket:
        sock, _ = self._listeners[which].accept()
        sock.settimeout(20)
        self._open.append(sock)
        return sock

    def request(self, reply: object) -> dict[str, object]:
        """Take one request and answer it."""
        data = b""
        while not data.endswith(b"\n"):
            data += self.keeper.recv(4096)
        self.keeper.sendall(json.dumps(reply).encode() + b"\n")
        request: dict[str, object] = json.loads(data)
        return request

    def end(self) -> None:
        """Do what a keeper does when the guest powers itself off."""
        self.console.sendall(b"reboot: Power down\r\n")
        ended = {"event": "ended", "vm": "one", "status": 0, "reason": "guest-shutdown", "text": "off"}
        over = {"event": "over", "failures": []}
        self.keeper.sendall(json.dumps(ended).encode() + b"\n")
        self.console.close()
        self.keeper.sendall(json.dumps(over).encode() + b"\n")

    def close(self) -> None:
        for sock in self._open:
            sock.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    one = Guest(tmp_path)
    yield one
    one.close()


@contextlib.contextmanager
def at_terminal(guest: Guest, *, keeper: bool = True) -> Iterator[pexpect.spawn[bytes]]:
    """`attach` in a process on a terminal of its own."""
    paths = guest.paths if keeper else guest.paths[:1]
    child = pexpect.spawn(sys.executable, ["-c", ATTACH, *paths], timeout=20, echo=True)
    try:
        guest.accept(keeper=keeper)
        until_raw(child.child_fd)
        yield child
    finally:
        child.close(force=True)


def until_raw(fd: int) -> None:
    deadline = time.monotonic() + 20
    while is_cooked(fd):
        assert time.monotonic() < deadline, "the terminal never became raw"


def until_cooked(fd: int) -> None:
    until(lambda: is_cooked(fd))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_cooked(fd: int) -> bool:
    flags = termios.tcgetattr(fd)[3]
    return bool(flags & termios.ICANON and flags & termios.ECHO and flags & termios.ISIG)


def test_keys_go_to_the_guest_untouched_and_output_to_the_screen(guest: Guest) -> None:
    """Enter is \\r, ^C is a byte, nothing is echoed here."""
    with at_terminal(guest) as child:
        child.send(b"ls\r\x03\x04\x1a")
        data = b""
        while len(data) < 6:
            data += guest.console.recv(100)
        assert data == b"ls\r\x03\x04\x1a"
        guest.console.sendall(b"hello\n")
        child.expect(rb"^hello\n")


def test_the_end_of_the_guest_is_told_after_its_last_words(guest: Guest) -> None:
    with at_terminal(guest) as child:
        guest.end()
        child.expect(b"Power down\r\n")
        child.expect(b"OUTCOME ended .*guest-shutdown")
        child.expect(pexpect.EOF)


def test_detaching_is_said_to_the_keeper(guest: Guest) -> None:
    """Otherwise the closed connection would end the guest."""
    with at_terminal(guest) as child:
        child.send(terminal.MENU_KEY)
        child.expect(b"d: detach.*back")
        child.send(b"d")
        assert guest.request({"ok": {}}) == {"do": "detach"}
        child.expect(b"OUTCOME detached")


@pytest.mark.parametrize(
    ("key", "request_"),
    [
        (b"p", {"do": "powerdown", "vm": "one"}),
        (b"q", {"do": "stop", "vm": "one", "force": True}),
        (b"k", {"do": "stop", "vm": "one", "force": True}),
    ],
)
def test_the_menu_can_end_the_guest(key: bytes, request_: dict[str, object], guest: Guest) -> None:
    with at_terminal(guest) as child:
        child.send(terminal.MENU_KEY + key)
        assert guest.request({"ok": {}}) == request_
        guest.end()
        child.expect(b"OUTCOME ended")


def test_what_the_keeper_refuses_is_shown_and_the_session_goes_on(guest: Guest) -> None:
    with at_terminal(guest) as child:
        child.send(terminal.MENU_KEY + b"p")
        guest.request({"error": {"kind": "timeout", "message": "no answer", "where": "", "hint": ""}})
        child.expect(b"not done: no answer")
        child.send(b"x")
        assert guest.console.recv(1) == b"x"


def test_the_menu_key_twice_sends_it_and_any_other_goes_back(guest: Guest) -> None:
    with at_terminal(guest) as child:
        child.send(terminal.MENU_KEY * 2)
        assert guest.console.recv(10) == terminal.MENU_KEY
        child.send(terminal.MENU_KEY + b"zab")
        assert guest.console.recv(10) == b"ab"


def test_output_waits_while_the_menu_is_open(guest: Guest) -> None:
    with at_terminal(guest) as child:
        child.send(terminal.MENU_KEY)
        child.expect(b"any other key: back ")
        guest.console.sendall(b"meanwhile")
        child.send(b"z")
        child.expect(rb"^\r\n\[qemunet\] back\r\nmeanwhile")


def test_without_a_keeper_the_menu_still_detaches(guest: Guest) -> None:
    with at_terminal(guest, keeper=False) as child:
        child.send(terminal.MENU_KEY + b"q")
        child.expect(b"no keeper listens")
        child.send(terminal.MENU_KEY + b"d")
        child.expect(b"OUTCOME detached")


def test_a_killed_keeper_is_not_taken_for_the_end_of_the_guest(guest: Guest) -> None:
    with at_terminal(guest) as child:
        guest.console.close()
        guest.keeper.close()
        child.expect(b"OUTCOME lost")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_the_terminal_is_as_before(number: signal.Signals, guest: Guest) -> None:
    with at_terminal(guest) as child:
        before_is_raw = not is_cooked(child.child_fd)
        child.kill(number)
        child.expect(f"ERROR interrupted interrupted by {number.name}".encode())
        assert before_is_raw
        assert is_cooked(child.child_fd)


def test_every_way_out_restores_the_terminal(guest: Guest) -> None:
    """Line mode, echo, colours, cursor, wrapping; and the shell's prompt begins a line."""
    with at_terminal(guest) as child:
        guest.console.sendall(b"\x1b[31;1mred and no newline")
        child.expect(b"no newline")
        guest.end()
        child.expect_exact(rawmode._CALM)
        child.expect(b"OUTCOME")
        assert is_cooked(child.child_fd)


def test_a_terminal_whose_process_was_killed_is_put_back_all_the_same(guest: Guest) -> None:
    """By a process that outlives it for that moment, and holds nothing else of it: the keeper sees the end at once."""
    with at_terminal(guest) as child:
        before = children(child.pid)
        assert len(before) == 1
        os.kill(child.pid, signal.SIGKILL)
        assert guest.keeper.recv(1) == b""
        assert guest.console.recv(1) == b""
        until_cooked(child.child_fd)
        child.expect(re.escape(rawmode._CALM), timeout=20)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))


def test_a_terminal_that_a_shell_has_taken_over_is_left_to_it(guest: Guest) -> None:
    with at_terminal(guest) as child:
        (guard,) = children(child.pid)
        modes = termios.tcgetattr(child.child_fd)
        modes[3] |= termios.ISIG  # as the shells' own editors have it
        termios.tcsetattr(child.child_fd, termios.TCSANOW, modes)
        os.kill(child.pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{guard}").exists())
        assert termios.tcgetattr(child.child_fd) == modes


def test_its_guard_goes_with_it(guest: Guest) -> None:
    with at_terminal(guest) as child:
        (guard,) = children(child.pid)
        guest.end()
        child.expect("OUTCOME ended")
        assert not Path(f"/proc/{guard}").exists()


def test_the_size_of_the_window_is_typed_on_demand(guest: Guest) -> None:
    """A serial line has no other way to tell it."""
    with at_terminal(guest) as child:
        child.setwinsize(33, 111)
        child.send(b"\x1dw")
        child.expect_exact("111 columns, 33 lines")
        assert guest.console.recv(100) == b"stty cols 111 rows 33\r"


def test_a_script_that_fails_is_told_to_whoever_is_there(guest: Guest) -> None:
    with at_terminal(guest) as child:
        event = {"event": "script", "vm": "one", "what": "failed", "text": "step 1 of 1 of its script: no prompt"}
        guest.keeper.sendall(json.dumps(event).encode() + b"\n")
        child.expect_exact("\r\n[qemunet] step 1 of 1 of its script: no prompt\r\n")
        guest.console.sendall(b"go on")
        child.expect_exact("go on")


def test_the_last_words_of_a_guest_ask_the_terminal_nothing(guest: Guest) -> None:
    """Its answer would be typed into the shell that comes then."""
    with at_terminal(guest) as child:
        child.send(b"\x1d")
        child.expect_exact("[qemunet] d: detach")
        guest.console.sendall(b"one\x1b[6ntwo")
        guest.end()
        child.expect("onetwo.*OUTCOME ended")


def test_a_stopped_job_gives_the_terminal_back_and_takes_it_again(guest: Guest) -> None:
    with at_terminal(guest) as child:
        child.kill(signal.SIGTSTP)
        deadline = time.monotonic() + 20
        while state_of(child.pid) != "T":
            assert time.monotonic() < deadline
        assert is_cooked(child.child_fd)
        child.kill(signal.SIGCONT)
        until_raw(child.child_fd)
        child.send(b"x")
        assert guest.console.recv(1) == b"x"


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ---------------------------------------------------------------- pipes


def in_pipes(guest: Guest, stdin: int, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", ATTACH, *guest.paths]
    return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)


def test_the_end_of_stdin_leaves_it_watching(guest: Guest) -> None:
    """`echo poweroff | qemunet run lab.toml` shows how the guest goes down; a pipe has no menu."""
    with in_pipes(guest, subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\x1dd\n")
        process.stdin.close()
        process.stdin = None
        guest.accept()
        data = b""
        while len(data) < 4:
            data += guest.console.recv(100)
        assert data == b"a\x1dd\n"
        guest.end()
        out, err = process.communicate(timeout=20)
    assert out == b"reboot: Power down\r\n"
    assert err.startswith(b"OUTCOME ended")


def test_without_any_stdin_it_is_no_busy_loop(guest: Guest) -> None:
    with in_pipes(guest, subprocess.DEVNULL) as process:
        guest.accept()
        guest.console.sendall(b"x")
        before = cpu_ticks(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        assert cpu_ticks(process.pid) - before < 20, "in hundredths of a second"
        guest.end()
        process.communicate(timeout=20)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_reader_that_goes_away_ends_it(guest: Guest) -> None:
    """`qemunet run lab.toml | head -1`."""
    with in_pipes(guest, subprocess.DEVNULL) as process:
        guest.accept()
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        guest.console.sendall(b"x" * 100)
        _, err = process.communicate(timeout=20)
    assert b"ERROR interrupted nobody reads the output any more" in err


def test_a_slow_reader_never_makes_the_keeper_wait(guest: Guest) -> None:
    """The console is read on, so that the keeper does not drop us; beyond the backlog, output is left out."""
    with in_pipes(guest, subprocess.DEVNULL) as process:
        guest.accept()
        for _ in range(24):
            guest.console.sendall(b"z" * (1 << 20))
        assert process.stdout is not None
        head = process.stdout.read(2 << 20)
        guest.console.sendall(b"the end")
        guest.end()
        rest, _ = process.communicate(timeout=20)
    assert set(head) == {ord("z")}
    assert b"bytes left out]\r\n" in rest
    assert b"the end" in rest
