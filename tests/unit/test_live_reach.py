"""A keeper may end while it is asked: a question goes to the next one, and is answered as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.errors import NotFound
from qemunet.live import control, reach
from qemunet.live.control import Control, Lost
from qemunet.state import Runtime

ANSWER: dict[str, object] = {"nics": [], "foreign": []}


class Keepers:
    """One after the other at the same socket: the first `few` end after their greeting, the next one answers."""

    def __init__(self, runtime: Runtime, few: int) -> None:
        self.asked: list[str] = []
        self._few = few
        self._listener = control.listen(runtime.lab("shop").path("keeper.sock"))
        self._listener.settimeout(None)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock, sock.makefile("rb") as lines:
                    self._greet(sock, lines.readline())
                    if self._few:
                        self._few -= 1
                    else:
                        self._answer(sock, lines.readline())

    def _greet(self, sock: socket.socket, line: bytes) -> None:
        assert json.loads(line)["do"] == "ping"
        sock.sendall(b'{"ok": {"vms": []}}\n')

    def _answer(self, sock: socket.socket, line: bytes) -> None:
        if line:
            self.asked.append(json.loads(line)["do"])
            sock.sendall(json.dumps({"ok": ANSWER}).encode() + b"\n")


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """A lab whose keeper is there as long as this lasts."""
    runtime = Runtime(str(tmp_path / "run"))
    lock = runtime.take_lab("shop")
    assert lock is not None
    yield runtime
    runtime.leave_lab("shop", lock)


@pytest.mark.parametrize("few", [0, 1, 3])
def test_a_question_is_asked_again_of_the_next_keeper(runtime: Runtime, few: int) -> None:
    """However many have ended between their greeting and their answer."""
    keepers = Keepers(runtime, few)
    try:
        assert reach.learn(runtime, "shop", "nics", vm="db") == ANSWER
    finally:
        keepers.close()
    assert keepers.asked == ["nics"]


def test_that_nothing_runs_any_more_is_the_answer_when_the_next_keeper_finds_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that went had seen the last guest off."""
    outcomes: list[Exception] = [Lost("gone"), NotFound("nothing runs")]

    def found(*_: object) -> Control:
        raise outcomes.pop(0)

    monkeypatch.setattr(reach, "reach", found)
    with pytest.raises(NotFound, match="nothing runs"):
        reach.learn(runtime, "shop", "nics", vm="db")


def test_keepers_that_all_end_are_not_asked_for_ever(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last of them left unsaid is told."""
    monkeypatch.setattr(reach, "_START", 0)
    monkeypatch.setattr(reach, "reach", lambda *_: (_ for _ in ()).throw(Lost("gone")))
    with pytest.raises(Lost, match="gone"):
        reach.learn(runtime, "shop", "nics", vm="db")
