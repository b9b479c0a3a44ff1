"""`events` prints what keepers tell as it comes, and `qmp` what QEMU answers."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qemunet.cli.main import SIGPIPE_STATUS, main
from qemunet.errors import NotFound
from qemunet.live import control
from qemunet.locks import Lock
from qemunet.records import VmRecord
from qemunet.state import Runtime

Output = pytest.CaptureFixture[str]
Lines = list[dict[str, Any]]

RUNNING = {"event": "guest", "vm": "db", "what": "running"}
ENDED = {"event": "guest", "vm": "db", "what": "ended", "status": 0}
OVER = {"event": "guest", "vm": "db", "what": "over", "failures": []}


class Keeper:
    """Answers each connection's first request but a ping with `lines`, and hangs up unless it `stays`."""

    def __init__(self, runtime: Runtime, lab: str, *lines: object, stays: bool = False) -> None:
        runtime.lab(lab).create()
        self.asked: Lines = []
        self.connected = threading.Event()
        self._lines = lines
        self._stays = stays
        self._open: list[socket.socket] = []
        self._over = False
        self._listener = control.listen(runtime.lab(lab).path("keeper.sock"))
        self._listener.settimeout(None)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._over = True
        for sock in (*self._open, self._listener):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever hangs up asks nothing
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                if self._over:  # it came just then, and nobody looks at the list any more
                    sock.close()
                    return
                while (request := json.loads(sock.recv(65536)))["do"] == "ping":
                    sock.sendall(b'{"ok": {}}\n')
                self.asked.append(request)
                sock.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in self._lines))
                if not self._stays:
                    sock.close()
                self.connected.set()


Begin = Callable[..., Keeper]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """One vm of the lab shop runs."""
    runtime = Runtime(str(tmp_path / "run"))
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", runtime.path)
    scope = runtime.scope("vm/db")
    with runtime.exclusive():
        scope.create()
    scope.save(VmRecord("db", "shop", "/labs/shop.toml", "q35", "tcg", (), 4242, 1, started=True))
    lock = Lock.take(scope.path("lock"), create=True)
    assert lock is not None
    yield runtime
    lock.release()


@pytest.fixture
def keeper(runtime: Runtime) -> Iterator[Begin]:
    keepers: list[Keeper] = []

    def begin(lab: str, *lines: object, stays: bool = False) -> Keeper:
        keepers.append(Keeper(runtime, lab, *lines, stays=stays))
        return keepers[-1]

    yield begin
    for one in keepers:
        one.close()


def lines(text: str) -> Lines:
    return [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def listening() -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "qemunet", "events"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, env=os.environ, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def a_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 30)[0], "no line came"
    (line,) = lines(process.stdout.readline())
    return line


# ---------------------------------------------------------------- events of one vm


def test_the_events_of_a_vm_end_with_it(runtime: Runtime, keeper: Begin, capsys: Output) -> None:
    """And with what was made for it."""
    one = keeper("shop", RUNNING, {"ok": {}}, ENDED, OVER, {"event": "never"}, stays=True)
    assert main(["events", "db"]) == 0
    assert lines(capsys.readouterr().out) == [RUNNING, ENDED, OVER]
    assert one.asked == [{"do": "events", "vm": "db"}]


def test_json_is_what_it_prints_anyway(runtime: Runtime, keeper: Begin, capsys: Output) -> None:
    keeper("shop", {"ok": {}}, OVER)
    assert main(["events", "db", "--json"]) == 0
    assert lines(capsys.readouterr().out) == [OVER]


def test_a_keeper_that_goes_with_the_end_told_has_told_enough(
    runtime: Runtime, keeper: Begin, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper("shop", {"ok": {}}, ENDED)
    monkeypatch.setattr("qemunet.state.Runtime.vms", lambda _runtime: [])
    assert main(["events", "db"]) == 0
    assert lines(capsys.readouterr().out) == [ENDED]


def test_an_end_that_nobody_saw_is_an_end(
    runtime: Runtime, keeper: Begin, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeper and guest were killed: whoever waits for the end must not wait for ever."""
    keeper("shop", {"ok": {}})
    monkeypatch.setattr("qemunet.state.Runtime.vms", lambda _runtime: [])
    assert main(["events", "db"]) == 0
    (event,) = lines(capsys.readouterr().out)
    assert (event["what"], event["status"], event["reason"]) == ("ended", None, "unknown")
    assert (event["event"], event["lab"], event["vm"]) == ("guest", "shop", "db")


def test_another_keeper_takes_over_and_what_is_missing_is_marked(
    runtime: Runtime, keeper: Begin, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest outlives its keeper, and so does its stream of events."""
    first = keeper("shop", RUNNING, {"ok": {}})

    def second(here: Runtime, lab: str) -> control.Control:
        if not first.asked:
            return control.Control.open(here.lab(lab).path("keeper.sock"))
        first.close()
        keeper("next", RUNNING, {"ok": {}}, ENDED, OVER)
        return control.Control.open(here.lab("next").path("keeper.sock"))

    monkeypatch.setattr("qemunet.live.reach.reach", second)
    assert main(["events", "db"]) == 0
    events = lines(capsys.readouterr().out)
    assert [(event["event"], event["what"]) for event in events] == [
        ("guest", "running"),
        ("gap", "keeper"),
        ("guest", "running"),
        ("guest", "ended"),
        ("guest", "over"),
    ]


@pytest.mark.parametrize("argv", [["events", "no"], ["qmp", "no", "stop"], ["events", "../x"], ["events", ""]])
def test_an_unknown_vm_is_no_vm(argv: list[str], runtime: Runtime, capsys: Output) -> None:
    assert main(argv) == 4
    assert "db" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["events", "db"], ["qmp", "db", "stop"]])
def test_a_dead_vm_has_nothing_to_say(
    argv: list[str], runtime: Runtime, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qemunet.state.Scope.alive", lambda _scope: False)
    assert main(argv) == 4
    assert "dead" in capsys.readouterr().err


# ---------------------------------------------------------------- events of all


def test_all_keepers_are_heard_and_those_that_come_later(runtime: Runtime, keeper: Begin) -> None:
    keeper("shop", {**RUNNING, "lab": "shop"}, {"ok": {}}, stays=True)
    with listening() as process:
        assert a_line(process)["lab"] == "shop"
        keeper("later", {**RUNNING, "lab": "later"}, {"ok": {}}, stays=True)
        assert a_line(process)["lab"] == "later"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_term_ends_it_as_an_interrupt_does(runtime: Runtime, keeper: Begin) -> None:
    """With a word, and the status that a shell gives to who ends of it."""
    keeper("shop", {**RUNNING, "lab": "shop"}, {"ok": {}}, stays=True)
    with listening() as process:
        assert a_line(process)["lab"] == "shop"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, "error: interrupted by SIGTERM\n")


def test_it_waits_where_nothing_runs_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the runtime directory, which comes with the first vm."""
    runtime = Runtime(str(tmp_path / "none"))
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", runtime.path)
    with listening() as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert not os.path.exists(runtime.path)
        one = Keeper(runtime, "shop", RUNNING, {"ok": {}}, stays=True)
        assert a_line(process) == RUNNING
        one.close()


def test_it_ends_quietly_when_its_reader_leaves_even_if_nothing_happens(runtime: Runtime, keeper: Begin) -> None:
    """``events | head -1`` ends with `head`."""
    keeper("shop", RUNNING, {"ok": {}}, stays=True)
    with listening() as process:
        assert a_line(process) == RUNNING
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == SIGPIPE_STATUS
        assert process.stderr.read() == ""


# ---------------------------------------------------------------- qmp


def test_qmp_prints_what_qemu_returns_in_one_line(runtime: Runtime, keeper: Begin, capsys: Output) -> None:
    one = keeper("shop", {"ok": {"return": [{"status": "running"}, None]}})
    assert main(["qmp", "db", "query-x", '{"id": "net0"}']) == 0
    assert capsys.readouterr().out == '[{"status": "running"}, null]\n'
    assert one.asked == [{"do": "qmp", "vm": "db", "execute": "query-x", "arguments": {"id": "net0"}}]


def test_qmp_without_arguments_sends_none(runtime: Runtime, keeper: Begin, capsys: Output) -> None:
    one = keeper("shop", {"ok": {"return": {}}})
    assert main(["qmp", "db", "stop"]) == 0
    assert one.asked[0]["arguments"] == {}


def test_an_error_of_qemu_names_its_class(runtime: Runtime, keeper: Begin, capsys: Output) -> None:
    error = {"kind": "qmp", "message": "DeviceNotFound: no net7", "where": "device_del", "hint": ""}
    keeper("shop", {"error": error})
    assert main(["qmp", "db", "device_del", '{"id": "net7"}', "--json"]) == 1
    assert json.loads(capsys.readouterr().err) == {"error": error}


def test_a_vm_that_ended_just_now_is_none(runtime: Runtime, keeper: Begin, capsys: Output) -> None:
    keeper("shop", NotFound("no vm of the name db runs here").as_json())
    assert main(["qmp", "db", "stop"]) == 4


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "7", "[" * 100_000, "{'id': 1}"])
def test_arguments_that_are_no_object_are_refused_before_anything_is_asked(
    text: str, runtime: Runtime, capsys: Output
) -> None:
    """No keeper is there, and none is looked for."""
    assert main(["qmp", "db", "stop", "--", text]) == 2
    err = capsys.readouterr().err
    assert "hint" in err
    assert len(err) < 1000


@pytest.mark.parametrize("argv", [["qmp"], ["qmp", "db"], ["events", "a", "b"], ["qmp", "a", "b", "{}", "d"]])
def test_a_word_too_few_or_too_many_is_a_wrong_command_line(argv: list[str], runtime: Runtime, capsys: Output) -> None:
    assert main(argv) == 2
