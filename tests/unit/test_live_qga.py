"""Commands by way of the QEMU guest agent: its answers are taken apart and not believed, its limits are told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from qemunet.errors import Failed, TimedOut
from qemunet.live import qga as qgas
from qemunet.live import qgaport
from qemunet.live.client import Client
from qemunet.live.frames import Frames, Kind, frame
from qemunet.live.qga import Qga
from qemunet.live.qgawords import answer, exit_status, is_greeting

PATIENCE = 30.0  # seconds
PID = 77
Said = dict[str, object]
ENDED: Said = {"exited": True, "exitcode": 0}


class Peer:
    """An agent in a guest: it answers greetings, and to anything else what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.asked: asyncio.Queue[tuple[str, Said]] = asyncio.Queue()
        self.statuses: list[Said] = [ENDED]
        self.begun: list[Said] = []
        self.error: Said = {}
        self.greets = True

    async def serve(self) -> None:
        while line := await self.reader.readline():
            found = json.loads(line.removeprefix(b"\xff"))
            name, arguments = found["execute"], found["arguments"]
            if name == "guest-sync-delimited":
                if self.greets:
                    self.say({"return": arguments["id"]}, b"\xff")
            else:
                self.say(self._answer(name, arguments))
            self.asked.put_nowait((name, arguments))

    def say(self, message: Said, before: bytes = b"") -> None:
        self.writer.write(before + json.dumps(message).encode() + b"\n")

    def _answer(self, name: str, arguments: Said) -> Said:
        if self.error:
            return {"error": self.error}
        if name == "guest-exec":
            self.begun.append(arguments)
            return {"return": {"pid": PID}}
        assert (name, arguments) == ("guest-exec-status", {"pid": PID})
        return {"return": self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]}

    async def hears(self, name: str) -> Said:
        async with asyncio.timeout(PATIENCE):
            while (found := await self.asked.get())[0] != name:
                pass
        return found[1]


@contextlib.asynccontextmanager
async def guest(*statuses: Said) -> AsyncIterator[tuple[Qga, Peer]]:
    ours, theirs = socket.socketpair()
    agent = Qga(ours)
    peer = Peer(*await asyncio.open_unix_connection(sock=theirs, limit=1 << 25))
    peer.statuses = list(statuses) or peer.statuses
    serving = asyncio.create_task(peer.serve())
    try:
        yield agent, peer
    finally:
        agent.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        peer.writer.close()
        with contextlib.suppress(OSError):
            await peer.writer.wait_closed()


class Asker:
    """Who wants a command: his end of the connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.frames = Frames()

    async def send(self, kind: Kind, data: bytes = b"") -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, frame(kind, data))

    async def ends(self) -> tuple[Said, bytes, bytes]:
        """The last frame, and what came before it."""
        written = {Kind.OUT: b"", Kind.ERR: b""}
        async with asyncio.timeout(PATIENCE):
            while True:
                while (found := self.frames.next()) is None:
                    data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 18)
                    assert data, "hung up"
                    self.frames.add(data)
                if found[0] is Kind.END:
                    return json.loads(found[1]), written[Kind.OUT], written[Kind.ERR]
                written[found[0]] += found[1]


@contextlib.asynccontextmanager
async def asked(agent: Qga, **settings: bool) -> AsyncIterator[Asker]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    client = Client(theirs, **{"has_input": False, **settings})
    work = asyncio.create_task(client.serve(agent.run([b"cmd", b"a b"], client)))
    try:
        yield Asker(ours)
    finally:
        ours.close()
        async with asyncio.timeout(PATIENCE):
            await work


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_commands_outputs_and_status_are_passed_on() -> None:
    """It is asked again until it has ended; the words go as they are."""

    async def main() -> None:
        big = bytes(range(256)) * 4000
        status = {"exited": True, "exitcode": 7, "out-data": text(big), "err-data": text(b"oops")}
        async with guest({"exited": False}, {"exited": False}, status) as (agent, peer), asked(agent) as asker:
            assert await asker.ends() == ({"status": 7}, big, b"oops")
            (begun,) = peer.begun
            assert isinstance(begun["arg"], list)
            assert begun["arg"][-2:] == ["cmd", "a b"]
            assert begun["capture-output"] is True
            assert "input-data" not in begun

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "number"), [({"exitcode": 3}, 3), ({"signal": 9}, 137), ({"exitcode": 0, "signal": 15}, 143)]
)
def test_a_signal_is_a_status_as_in_a_shell(status: Said, number: int) -> None:
    assert exit_status(status) == number


def test_what_was_meant_for_another_keeper_is_passed_over() -> None:
    """Half an answer, one of its greetings, bytes: nothing counts before the answer with our number."""

    async def main() -> None:
        async with guest() as (agent, peer):
            peer.writer.write(b'\x00garbage}\n{"return": {"pid": 5}}\n\xff{"return": 12345}\n\xff\xff{"retu')
            assert await agent.awake(PATIENCE)
            peer.writer.write(b'{"return": {}}\n')  # late: after a reboot we greet again
            agent.forget()
            async with asked(agent) as asker:
                assert (await asker.ends())[0] == {"status": 0}

    asyncio.run(main())


def test_a_guest_that_boots_finds_few_greetings_and_answers_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was taken in and not answered is repeated."""
    monkeypatch.setattr(qgaport, "_RETRY", 0.02)

    async def main() -> None:
        async with guest() as (agent, peer):
            peer.greets = False
            waiting = asyncio.create_task(agent.awake(PATIENCE))
            first = await peer.hears("guest-sync-delimited")
            second = await peer.hears("guest-sync-delimited")
            assert first != second
            peer.greets = True
            assert await waiting

    asyncio.run(main())


def test_an_agent_that_does_not_answer_is_waited_for_so_long_and_no_longer() -> None:
    async def main() -> None:
        async with guest() as (agent, peer):
            peer.greets = False
            assert not await agent.awake(0.05)

    asyncio.run(main())


def test_an_agent_that_falls_silent_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had answered before."""
    monkeypatch.setattr(qgaport, "SILENCE", 0.2)

    async def main() -> None:
        async with guest() as (agent, peer):
            assert await agent.awake(PATIENCE)
            peer.greets = False
            agent.forget()
            with pytest.raises(TimedOut, match="does not answer guest-exec"):
                await agent.ask("guest-exec", {})

    asyncio.run(main())


def test_an_agent_that_refuses_says_why() -> None:
    """With what to do; a terminal obeys nothing of it."""

    async def main() -> None:
        async with guest() as (agent, peer):
            peer.error = {"class": "GenericError", "desc": "guest-exec has been disabled\x1b[31m"}
            async with asked(agent) as asker:
                report = (await asker.ends())[0]["error"]
            assert isinstance(report, dict)
            assert "guest-exec has been disabled\\x1b[31m" in report["message"]
            assert "qemu-ga.conf" in report["hint"]

    asyncio.run(main())


@pytest.mark.parametrize("is_bulk", [False, True])
def test_output_that_is_cut_is_no_success(is_bulk: bool) -> None:
    """What there is comes first; a copy of half a file is worth nothing."""

    async def main() -> None:
        status = {**ENDED, "out-data": text(b"half"), "out-truncated": True}
        async with guest(status) as (agent, _), asked(agent, is_bulk=is_bulk) as asker:
            report, out, _ = await asker.ends()
            assert out == (b"" if is_bulk else b"half")
            assert "keeps 16 MB of stdout" in str(report["error"])

    asyncio.run(main())


def test_input_goes_with_the_request_and_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more nothing is begun."""
    monkeypatch.setattr(qgas, "MOST_INPUT", 8)

    async def main() -> None:
        async with guest() as (agent, peer):
            async with asked(agent, has_input=True) as asker:
                for part in (b"\x00one", b"two\xff"):
                    await asker.send(Kind.INPUT, part)
                await asker.send(Kind.EOF)
                assert (await asker.ends())[0] == {"status": 0}
            assert [one["input-data"] for one in peer.begun] == [text(b"\x00onetwo\xff")]
            async with asked(agent, has_input=True) as asker:
                await asker.send(Kind.INPUT, bytes(9))
                assert "MB of input" in str((await asker.ends())[0]["error"])
            assert len(peer.begun) == 1

    asyncio.run(main())


def test_nobody_has_to_type_before_a_command_begins() -> None:
    """What somebody types all the same is not in the way of his ^C."""

    async def main() -> None:
        async with guest({"exited": False}) as (agent, peer), asked(agent, has_input=True, is_typed=True) as asker:
            await peer.hears("guest-exec-status")
            for _ in range(5):
                await asker.send(Kind.INPUT, b"x")
            await asker.send(Kind.KILL)
            assert (await peer.hears("guest-exec"))["path"] == "sh"
            peer.statuses = [ENDED]
            assert (await asker.ends())[0] == {"status": 0}
            assert "input-data" not in peer.begun[0]

    asyncio.run(main())


def test_a_command_that_nobody_wants_any_more_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """First it is asked to end; one that does not is killed, and given up."""
    monkeypatch.setattr(qgas, "GRACE", 0.05)
    monkeypatch.setattr(qgas, "DEATH", 0.05)

    async def main() -> None:
        async with guest({"exited": False}) as (agent, peer), asked(agent) as asker:
            await peer.hears("guest-exec")
            await asker.send(Kind.KILL)
            for name in ("TERM", "KILL"):
                words = (await peer.hears("guest-exec"))["arg"]
                assert isinstance(words, list)
                assert words[-2:] == [name, str(PID)]
            assert "does not end" in str((await asker.ends())[0]["error"])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("happens", "said"), [(Qga.forget, "rebooted"), (Qga.close, "ended"), (None, "ended")], ids=["reboot", "end", "eof"]
)
def test_a_guest_that_goes_ends_its_calls_with_one_line(happens: Callable[[Qga], None] | None, said: str) -> None:
    async def main() -> None:
        async with guest({"exited": False}) as (agent, peer), asked(agent) as asker:
            await peer.hears("guest-exec-status")
            happens(agent) if happens else peer.writer.close()
            assert f"{said} meanwhile" in str((await asker.ends())[0]["error"])

    asyncio.run(main())


def test_commands_run_at_once_and_requests_one_by_one() -> None:
    """One that takes long keeps nobody else from beginning."""

    async def main() -> None:
        async with guest({"exited": False}) as (agent, peer), contextlib.AsyncExitStack() as stack:
            askers = [await stack.enter_async_context(asked(agent)) for _ in range(5)]
            for _ in askers:
                await peer.hears("guest-exec")
            peer.statuses = [ENDED]
            for asker in askers:
                assert (await asker.ends())[0] == {"status": 0}

    asyncio.run(main())


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"error": 7}', b'{"retur'])
def test_what_is_no_answer_is_told_apart(line: bytes) -> None:
    """It ends the call, and nothing else."""
    with pytest.raises(Failed, match="is no answer"):
        answer(line, "guest-exec")
    assert not is_greeting(line, 7)


def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper's memory is bounded."""
    monkeypatch.setattr(qgaport, "LONGEST", 1000)

    async def main() -> None:
        async with guest({**ENDED, "out-data": "A" * 500_000}) as (agent, _), asked(agent) as asker:
            assert "answers without an end" in str((await asker.ends())[0]["error"])

    asyncio.run(main())
