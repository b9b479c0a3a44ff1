"""A console is read always and logged exactly, and no client can hold it up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qemunet.live import console, consolelog
from qemunet.live.console import Console
from qemunet.live.control import connect


class Bench:
    """A console whose QEMU is a socket of ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[str] = []
        self.qemu, theirs = socket.socketpair()
        self.qemu.settimeout(0)
        self.console = Console(theirs, str(directory), self.said.append)

    @property
    def log(self) -> bytes:
        return (self.directory / "console.log").read_bytes()

    async def write(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.qemu, data)

    async def client(self) -> socket.socket:
        sock = connect(str(self.directory / "console.sock"))
        sock.settimeout(0)
        count = len(self.console._clients)
        await self.until(lambda: len(self.console._clients) > count)
        return sock

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 - what it waits for is not ours to signal
                await asyncio.sleep(0.001)


def with_bench(directory: Path, scene: Callable[[Bench], Awaitable[None]]) -> Bench:
    async def run() -> Bench:
        bench = Bench(directory)
        try:
            await scene(bench)
        finally:
            await bench.console.close()
            bench.qemu.close()
        return bench

    return asyncio.run(run())


async def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(10):
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(sock, 65536)
            if not more:
                break
            data += more
    return data


def test_every_byte_is_logged(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000

    async def scene(bench: Bench) -> None:
        await bench.write(data)
        bench.qemu.shutdown(socket.SHUT_WR)
        await bench.console.drain()

    assert with_bench(tmp_path, scene).log == data


def test_what_qemu_wrote_before_it_died_is_logged(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.qemu.send(b"last words")
        bench.qemu.close()
        await bench.console.drain()

    assert with_bench(tmp_path, scene).log == b"last words"


def test_a_second_keeper_goes_on_in_the_same_log(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        bench.console.mark("a gap")
        await bench.write(b"more")
        await bench.until(lambda: bench.log.endswith(b"more"))

    (tmp_path / "console.log").write_bytes(b"before")
    assert with_bench(tmp_path, scene).log == b"before\r\n[qemunet: a gap]\r\nmore"


def test_all_clients_see_all_and_all_may_type(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        clients = [await bench.client() for _ in range(3)]
        await bench.write(b"login: ")
        assert [await receive(client, 7) for client in clients] == [b"login: "] * 3
        for letter, client in zip(b"abc", clients, strict=True):
            client.send(bytes([letter]))
        assert sorted(await receive(bench.qemu, 3)) == sorted(b"abc")
        for client in clients:
            client.close()

    with_bench(tmp_path, scene)


def test_a_new_client_sees_nothing_of_the_past(tmp_path: Path) -> None:
    """A program that waits for a prompt must not find an old one."""

    async def scene(bench: Bench) -> None:
        await bench.write(b"past ")
        await bench.until(lambda: bench.log == b"past ")
        client = await bench.client()
        await bench.write(b"present")
        assert await receive(client, 7) == b"present"
        client.close()

    with_bench(tmp_path, scene)


def test_replayed_and_live_bytes_join_without_a_seam(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        await bench.write(b"0123456789")
        await bench.until(lambda: len(bench.log) == 10)
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        bench.console.add(theirs, replay=4)
        await bench.write(b"abc")
        assert await receive(ours, 7) == b"6789abc"
        ours.close()

    with_bench(tmp_path, scene)


def test_a_client_that_does_not_read_is_dropped_and_nobody_waits_for_it(tmp_path: Path) -> None:
    total = console.CLIENT_BUFFER * 4

    async def scene(bench: Bench) -> None:
        stuck, good = await bench.client(), await bench.client()
        reading = asyncio.create_task(receive(good, total))
        await bench.write(b"x" * total)
        assert len(await reading) == total
        await bench.until(lambda: len(bench.log) == total)
        assert len(bench.console._clients) == 1
        stuck.close()
        good.close()

    bench = with_bench(tmp_path, scene)
    assert len(bench.said) == 1
    assert "does not read and was dropped" in bench.said[0]


def test_input_for_a_guest_that_does_not_read_waits_in_its_sender(tmp_path: Path) -> None:
    """Nothing is lost, and the keeper's memory does not grow with a paste."""
    paste = bytes(range(256)) * 40_000

    async def scene(bench: Bench) -> None:
        client = await bench.client()
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(client, paste))
        await asyncio.wait([sending], timeout=0.3)
        assert not sending.done()
        assert len(bench.console._input) <= console.INPUT_BUFFER + console.CHUNK
        await bench.write(b"still heard")
        await bench.until(lambda: bench.log == b"still heard")
        assert await receive(bench.qemu, len(paste)) == paste
        await sending
        client.close()

    with_bench(tmp_path, scene)


def test_a_client_that_types_no_more_still_listens(tmp_path: Path) -> None:
    """`echo ls | socat - console.sock` shows what `ls` says."""

    async def scene(bench: Bench) -> None:
        client = await bench.client()
        client.send(b"ls\n")
        client.shutdown(socket.SHUT_WR)
        assert await receive(bench.qemu, 3) == b"ls\n"
        await bench.write(b"file\n")
        assert await receive(client, 5) == b"file\n"
        client.close()

    with_bench(tmp_path, scene)


def test_a_client_that_hung_up_is_forgotten(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        (await bench.client()).close()
        await bench.until(lambda: not bench.console._clients)

    with_bench(tmp_path, scene)


def test_clients_are_counted(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        clients = [await bench.client() for _ in range(console.CLIENTS)]
        with connect(str(bench.directory / "console.sock")) as one_more:
            one_more.settimeout(0)
            assert await receive(one_more, 1) == b""
        for client in clients:
            client.close()

    assert "no more are taken" in with_bench(tmp_path, scene).said[0]


def test_a_client_gets_the_last_words_before_the_end(tmp_path: Path) -> None:
    size = console.CLIENT_BUFFER // 2

    async def scene(bench: Bench) -> None:
        client = await bench.client()
        await bench.write(b"y" * size)
        bench.qemu.close()
        await bench.console.drain()
        reading = asyncio.create_task(receive(client, size + 1))
        await bench.console.close()
        assert len(await reading) == size
        client.close()

    async def run() -> None:
        await scene(Bench(tmp_path))

    asyncio.run(run())


def test_the_log_is_turned_before_it_fills_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolelog, "LOG_LIMIT", 1000)

    async def scene(bench: Bench) -> None:
        for number in range(25):
            await bench.write(b"%03d" % number * 33 + b"\n")
            await bench.until(lambda number=number: bench.log.endswith(b"%03d\n" % number))

    log = with_bench(tmp_path, scene).log
    assert len(log) <= 1000
    older = (tmp_path / "console.log.1").read_bytes()
    assert older.endswith(b"019\n")
    assert log.startswith(b"020")


def test_a_full_disk_costs_the_log_and_not_the_guest(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        client = await bench.client()
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, bench.console.log._fd)
        os.close(full)
        for _ in range(3):
            await bench.write(b"go on")
            assert await receive(client, 5) == b"go on"
        client.close()

    bench = with_bench(tmp_path, scene)
    assert len(bench.said) == 1
    assert "No space left" in bench.said[0]


def test_the_socket_is_private_and_goes(tmp_path: Path) -> None:
    async def scene(bench: Bench) -> None:
        assert os.stat(tmp_path / "console.sock").st_mode & 0o777 == 0o600

    with_bench(tmp_path, scene)
    assert not (tmp_path / "console.sock").exists()


@pytest.mark.parametrize("size", [9, 150_000])
def test_what_a_client_typed_before_it_hung_up_reaches_the_guest(tmp_path: Path, size: int) -> None:
    """Also when the guest speaks first, so that telling the client fails before its words are read."""

    async def scene(bench: Bench) -> None:
        client = await bench.client()
        bench.qemu.send(b"a prompt")
        sent = client.send(b"x" * size)
        client.close()
        await bench.until(lambda: bench.log.endswith(b"a prompt"))
        assert await receive(bench.qemu, sent) == b"x" * sent
        await bench.until(lambda: not bench.console._clients)

    with_bench(tmp_path, scene)
