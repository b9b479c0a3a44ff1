"""The control socket: one line each way, errors that arrive as they were raised, and nothing that can harm a keeper."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qemunet import errors
from qemunet.errors import Interrupted, NotFound, NotTakenBack, QemunetError, TimedOut, UsageError
from qemunet.live import control
from qemunet.live.control import Control, Lost, Message, error_from
from qemunet.live.frames import Kind, frame
from qemunet.live.inside import Command
from qemunet.live.server import Peer, Server

Script = Callable[[socket.socket], None]


@contextlib.contextmanager
def keeper(script: Script) -> Iterator[Control]:
    """A connection to a keeper that does what the script says."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs:
            script(theirs)

    thread = threading.Thread(target=run)
    thread.start()
    client = Control(ours)
    try:
        yield client
    finally:
        client.close()
        thread.join(10)


def says(*lines: object) -> Script:
    def script(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    return script


# ---------------------------------------------------------------- the client


def test_whoever_gives_up_still_hears_the_last_word() -> None:
    """The keeper sees that he asks for nothing more."""

    def obliging(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass
        sock.sendall(json.dumps(Interrupted("interrupted; it was taken out again").as_json()).encode() + b"\n")

    with keeper(obliging) as client:
        client._send({"do": "nic-add"})
        with pytest.raises(Interrupted, match="taken out again"):
            client.withdraw(10)


def test_a_reply_is_what_ok_holds() -> None:
    with keeper(says({"ok": {"pid": 7}})) as client:
        assert client.ask("ping") == {"pid": 7}


def test_a_request_is_one_line_of_json() -> None:
    seen = bytearray()

    def script(sock: socket.socket) -> None:
        seen.extend(sock.recv(65536))
        sock.sendall(b'{"ok": {}}\n')

    with keeper(script) as client:
        client.ask("stop", vm="a", timeout=3)
    assert seen.endswith(b"\n")
    assert json.loads(seen) == {"do": "stop", "vm": "a", "timeout": 3}


def test_events_that_come_before_the_reply_are_kept() -> None:
    with keeper(says({"event": "ended", "vm": "a"}, {"ok": {}}, {"event": "over", "failures": []})) as client:
        assert client.ask("stop") == {}
        assert [client.wait(5)["event"], client.wait(5)["event"]] == ["ended", "over"]


def test_what_was_said_before_the_end_is_heard_before_the_end_is_told() -> None:
    ours, theirs = socket.socketpair()
    client = Control(ours)
    theirs.sendall(b'{"event": "over", "failures": []}\n')
    theirs.close()
    assert client.events() == [{"event": "over", "failures": []}]
    with pytest.raises(Lost):
        client.events()
    client.close()


def test_events_that_came_with_a_reply_need_no_further_byte() -> None:
    """select(2) would not tell of them."""
    with keeper(says({"ok": {}}, {"event": "ended", "vm": "a"}, {"event": "over", "failures": []})) as client:
        client.ask("stop")
        assert [event["event"] for event in client.events()] == ["ended", "over"]


def test_a_keeper_that_goes_between_event_and_reply_is_lost() -> None:
    with keeper(says({"event": "ended", "vm": "a"})) as client, pytest.raises(Lost):
        client.ask("stop")


def test_a_keeper_that_hangs_up_is_lost() -> None:
    with keeper(lambda sock: None) as client, pytest.raises(Lost):
        client.ask("ping")


def test_a_keeper_that_does_not_answer_times_out() -> None:
    ended = threading.Event()
    with keeper(lambda sock: bool(ended.wait(10)) or None) as client:
        with pytest.raises(TimedOut, match="answer to 'ping'"):
            client.ask("ping", within=0.1)
        ended.set()


def test_nobody_listening_is_lost(tmp_path: Path) -> None:
    with pytest.raises(Lost):
        Control.open(str(tmp_path / "keeper.sock"))


def tree(top: type[QemunetError]) -> Iterator[type[QemunetError]]:
    yield top
    for below in top.__subclasses__():
        yield from tree(below)


@pytest.mark.parametrize("kind", sorted(one.kind for one in tree(errors.QemunetError)))
def test_an_error_arrives_as_the_kind_that_it_was(kind: str) -> None:
    """So that `except NotFound` and the exit status work on both sides of the socket."""
    error = error_from({"kind": kind, "message": "m", "where": "w", "hint": "h"})
    assert (error.kind, error.message, error.where, error.hint) == (kind, "m", "w", "h")
    assert error.as_json()["error"]["kind"] == kind


@pytest.mark.parametrize("report", [None, {}, [], "x", {"kind": "from-the-future", "message": "m"}])
def test_an_error_nobody_knows_is_still_an_error(report: object) -> None:
    assert type(error_from(report)) is QemunetError


def test_an_error_reply_is_raised() -> None:
    with keeper(says(NotFound("no such vm", hint="look").as_json())) as client:
        with pytest.raises(NotFound, match="no such vm") as caught:
            client.ask("stop")
        assert caught.value.hint == "look"


def test_the_console_begins_right_after_the_reply() -> None:
    with keeper(lambda sock: (sock.recv(999) and sock.sendall(b'{"ok": {}}\nboot\x00\n{"')) or None) as client:
        sock, data = client.console("a", replay=10), b""
        while len(data) < 8:
            data += sock.recv(100)
        assert data == b'boot\x00\n{"'


def test_a_command_that_is_over_before_anybody_looks_has_ended_as_it_did() -> None:
    """The answer, all that it wrote, its end and the keeper's goodbye are there at once."""
    said = frame(Kind.OUT, b"one\n") + frame(Kind.END, b'{"status": 3}')
    with keeper(lambda sock: (sock.recv(999) and sock.sendall(b'{"ok": {}}\n' + said)) or None) as client:
        command = Command("a", client.command("a", ["x"], 1.0))
        assert command.wait()
        written = []
        while command.status is None:
            written += command.frames(readable=command.wait())
        assert (written, command.status) == ([(Kind.OUT, b"one\n")], 3)


# ---------------------------------------------------------------- sockets with long names


def test_a_socket_may_lie_deeper_than_its_address_can_say(tmp_path: Path) -> None:
    """sockaddr_un has 108 bytes; a runtime directory of a user may be longer."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    path = deep / "keeper.sock"
    with control.listen(str(path)) as listener, control.connect(str(path)) as client:
        listener.settimeout(5)
        server, _ = listener.accept()
        with server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"


def test_a_socket_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with control.listen(str(tmp_path / "s")):
            assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    control.listen(str(tmp_path / "s")).close()
    with control.listen(str(tmp_path / "s")), control.connect(str(tmp_path / "s")):
        pass


# ---------------------------------------------------------------- the server


class Echo:
    """Answers `echo`, raises on `fail`, and counts who is lost."""

    def __init__(self) -> None:
        self.lost_peers = 0

    async def answer(self, peer: Peer, request: Message) -> Message:
        if request.get("do") == "fail":
            raise NotTakenBack(["a link"])
        if request.get("do") == "flood":
            for _ in range(6000):
                peer.tell({"event": "x", "text": "y" * 1000})
        return {"echo": request.get("do")}

    def lost(self, peer: Peer) -> None:
        self.lost_peers += 1


async def talk(data: bytes, *, half_close: bool = True) -> tuple[list[Message], Echo]:
    """Send `data` to a server, hang up for writing, and return its lines."""
    handler = Echo()
    server = Server(handler)
    ours, theirs = socket.socketpair()
    await server.add(theirs)
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 24)
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    if half_close:
        writer.write_eof()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await server.close()
    return [json.loads(line) for line in answer.splitlines()], handler


def test_several_requests_are_answered_in_order() -> None:
    lines, handler = asyncio.run(talk(b'{"do": "a"}\n{"do": "b", "id": 5}\n\n{"do": "fail"}\n{"do": "c"}'))
    assert lines == [
        {"ok": {"echo": "a"}},
        {"ok": {"echo": "b"}, "id": 5},
        NotTakenBack(["a link"]).as_json(),
        {"ok": {"echo": "c"}},
    ]
    assert handler.lost_peers == 1


def test_a_line_beyond_measure_is_refused() -> None:
    lines, _ = asyncio.run(talk(b'{"do": "' + b"x" * (3 << 20) + b'"}\n{"do": "a"}\n'))
    assert len(lines) <= 1, "nothing after it is taken for a request"
    assert all(UsageError.kind in str(line) for line in lines)


@settings(max_examples=200, deadline=None)
@example(b"[" * 100_000)
@example(b"\xff\xfe\n{}\n")
@example(b'{"do": null}\n"do"\n[]\n1\nnull\n')
@example(b"1" * 5000)
@given(st.binary(max_size=300))
def test_garbage_gets_errors_and_the_next_request_its_answer(garbage: bytes) -> None:
    lines, _ = asyncio.run(talk(garbage + b'\n{"do": "still here"}\n'))
    assert lines[-1] == {"ok": {"echo": "still here"}}
    for line in lines[:-1]:
        assert line.keys() & {"ok", "error"}


def test_who_does_not_read_what_he_asked_for_is_hung_up_on() -> None:
    """Otherwise what waits for him would grow without bound."""
    lines, handler = asyncio.run(unread())
    assert handler.lost_peers == 1
    assert not lines


async def unread() -> tuple[list[Message], Echo]:
    handler = Echo()
    server = Server(handler)
    ours, theirs = socket.socketpair()
    peer = await server.add(theirs)
    ours.sendall(b'{"do": "flood"}\n')
    async with asyncio.timeout(10):
        while not handler.lost_peers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert peer.gone()
    ours.close()
    await server.close()
    return [], handler
