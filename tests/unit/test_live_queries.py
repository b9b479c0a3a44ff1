"""Of all terminals that a guest asks one answers, and nothing else that is typed or said is touched."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from qemunet.live import console, queries
from tests.unit.test_live_console import Bench, receive, with_bench

QUESTIONS = (
    b"\x1b[6n",
    b"\x1b[5n",
    b"\x1b[?6n",
    b"\x1b[c",
    b"\x1b[0c",
    b"\x1b[>c",
    b"\x1b[?2026$p",
    b"\x1b[>0q",
    b"\x1b[18t",
    b"\x1b]11;?\x07",
    b"\x1b]52;c;?\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1bZ",
    b"\x05",
)
ANSWERS = (
    b"\x1b[24;80R",
    b"\x1b[0n",
    b"\x1b[?62;22c",
    b"\x1b[>41;354;0c",
    b"\x1b[?2026;2$y",
    b"\x1b[8;24;80t",
    b"\x1b]11;rgb:0000/0000/0000\x1b\\",
    b"\x1b]ltitle\x1b\\",
    b"\x1bP>|xterm\x1b\\",
)
NO_QUESTIONS = b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[H\x1b]0;title\x07\x1b[?25h\x1b[3;4r\x1b7\x1b8\x1b[5 q\xff\xfe"
NO_ANSWERS = b"\x1b[A\x1bOP\x1b[15~\x1b[200~pasted\x1b[201~\x1bx\x1b[1;5C\x03"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_known_in_one_piece_or_several(question: bytes) -> None:
    said = b"one" + question + b"two"
    assert queries.without(said) == b"onetwo"
    assert queries.Asked().count(said) == 1
    asked = queries.Asked()
    assert sum(asked.count(bytes([byte])) for byte in said) == 1


def test_what_is_none_stays() -> None:
    assert queries.without(NO_QUESTIONS) == NO_QUESTIONS
    assert queries.Asked().count(NO_QUESTIONS) == 0
    assert queries.unanswered(NO_ANSWERS, 3) == (NO_ANSWERS, 3)


@pytest.mark.parametrize("answer", ANSWERS)
def test_as_many_answers_are_left_out_as_are_owed(answer: bytes) -> None:
    assert queries.unanswered(b"a" + answer + b"b" + answer, 1) == (b"ab" + answer, 0)
    assert queries.unanswered(answer, 0) == (answer, 0)


def test_one_screen_answers_and_the_next_one_when_it_has_gone(tmp_path: Path) -> None:
    """Who is no screen may type what he likes, and counts for nothing."""

    async def scene(bench: Bench) -> None:
        ends = [socket.socketpair() for _ in range(3)]
        for number, (_, theirs) in enumerate(ends):
            bench.console.add(theirs, screen=number > 0)
        plain, first, second = (ours for ours, _ in ends)
        for sock in (plain, first, second):
            sock.settimeout(0)
        await bench.write(b"\x1b[6n")
        for sock in (plain, first, second):
            assert await receive(sock, 4) == b"\x1b[6n"
        second.send(b"\x1b[1;2Rls")
        assert await receive(bench.qemu, 2) == b"ls"
        first.send(b"\x1b[3;4R")
        assert await receive(bench.qemu, 6) == b"\x1b[3;4R"
        plain.send(b"\x1b[5;6R")
        assert await receive(bench.qemu, 6) == b"\x1b[5;6R"
        await bench.write(b"\x05" * 3)  # which the second does not answer
        for sock in (plain, first, second):
            assert await receive(sock, 3) == b"\x05" * 3
        first.close()
        await bench.until(lambda: len(bench.console._clients) == 2)
        await bench.write(b"\x1b[6n")
        assert await receive(second, 4) == b"\x1b[6n"
        second.send(b"\x1b[7;8R")
        assert await receive(bench.qemu, 6) == b"\x1b[7;8R"
        plain.close()
        second.close()

    with_bench(tmp_path, scene)


def test_what_is_shown_again_asks_nothing(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        await bench.write(b"# \x1b[6n")
        await bench.until(lambda: len(bench.log) == 6)
        for screen, seen in ((True, b"# "), (False, b"# \x1b[6n")):
            ours, theirs = socket.socketpair()
            ours.settimeout(0)
            bench.console.add(theirs, replay=100, screen=screen)
            assert await receive(ours, len(seen)) == seen
            ours.close()

    assert with_bench(tmp_path, scene).log == b"# \x1b[6n"


def test_a_screen_that_stands_still_is_told_how_much_it_missed(tmp_path: Path) -> None:
    """A job that was stopped goes on where the guest is by then; the keeper's memory did not grow meanwhile."""

    async def scene(bench: Bench) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        client = bench.console.add(theirs, masked=True, newest=True)
        total = console.CLIENT_BUFFER * 4
        most = 0
        for _ in range(64):
            await bench.write(b"x" * (total // 64))
            most = max(most, len(client.waiting))
        await bench.write(b"the end")
        await bench.until(lambda: len(bench.log) == total + 7)
        assert most <= console.CLIENT_BUFFER + 100
        reading = asyncio.create_task(until_end(ours))
        await bench.until(lambda: not client.waiting)
        seen = await reading
        assert seen.endswith(b"xthe end")
        assert f"\r\n[qemunet: {client.skipped} bytes left out]\r\n".encode() in seen
        ours.close()

    assert with_bench(tmp_path, scene).said == []


async def until_end(sock: socket.socket) -> bytes:
    seen = b""
    async with asyncio.timeout(20):
        while not seen.endswith(b"the end"):
            seen += await asyncio.get_running_loop().sock_recv(sock, 65536)
    return seen
