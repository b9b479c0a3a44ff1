"""A guest may say of its cards what it likes: what is passed on has the form of a card, and a keeper never waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemunet.live import agent
from qemunet.live.agent import Agent, GuestCard, parse

MAC = "52:54:00:00:00:01"
TWO = b"cards 7 eth0/52:54:00:00:00:01,1,10.0.0.2/24,fd00::2/64,fe80::1/64 eth1/52:54:00:00:00:02,0"


def test_a_line_tells_names_carriers_and_addresses() -> None:
    """An address that follows from the MAC is left out: every card has one."""
    assert parse(TWO) == {
        MAC: GuestCard("eth0", MAC, carrier=True, addresses=("10.0.0.2/24", "fd00::2/64")),
        "52:54:00:00:00:02": GuestCard("eth1", "52:54:00:00:00:02", carrier=False, addresses=()),
    }


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"eth0",
        b"/52:54:00:00:00:01,1",
        b"eth0/52:54:00:00:00,1",
        b"eth0/52:54:00:00:00:0g,1",
        b"eth0/52:54:00:00:00:01:02,1",
        b"sixteen-bytes-16/52:54:00:00:00:01,1",
        b"/////",
    ],
)
def test_what_is_no_card_is_left_out_and_the_rest_counts(word: bytes) -> None:
    """One bad word spoils no other."""
    assert list(parse(b"cards 0 " + word + b" eth5/52:54:00:00:00:05,1")) == ["52:54:00:00:00:05"]


@pytest.mark.parametrize("address", [b"10.0.0.256/24", b"x", b"10.0.0.1/33", b"fe80::1%eth0/64", b"\xff", b"1" * 99])
def test_what_is_no_address_is_left_out(address: bytes) -> None:
    """The card stays, and so do its others."""
    card = parse(b"cards 0 eth0/52:54:00:00:00:01,1," + address + b",10.0.0.1/24")[MAC]
    assert card.addresses == ("10.0.0.1/24",)


def test_an_address_without_a_length_is_one_of_its_own() -> None:
    """So is that of a point-to-point card in the guest."""
    assert parse(b"cards 0 eth0/52:54:00:00:00:01,1,10.0.0.1")[MAC].addresses == ("10.0.0.1/32",)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"eth0", "eth0"),
        ("län0".encode(), "län0"),
        (b"a\x1b[31mb", "a\\x1b[31mb"),
        (b"a\rb\x00", "a\\rb\\x00"),
        (b"\xff\x9b", "\\udcff\\udc9b"),
        ("\u202eevil".encode(), "\\u202eevil"),
        (b"a\\x1b", "a\\\\x1b"),
    ],
)
def test_a_name_is_only_shown_by_a_terminal_never_obeyed(name: bytes, shown: str) -> None:
    """Whatever is no visible character is spelled out, and the spelling cannot be feigned."""
    assert parse(b"cards 0 " + name + b"/52:54:00:00:00:01,1")[MAC].name == shown


def test_of_two_cards_with_one_address_the_first_counts() -> None:
    """A guest can give a second one the MAC of the first."""
    assert parse(b"cards 0 a/52:54:00:00:00:01,1 b/52:54:00:00:00:01,1")[MAC].name == "a"


def test_thousands_of_cards_and_addresses_are_bounded() -> None:
    """More are not looked at. (Of a line as long as may be the last card is left out, whatever it is.)"""
    many = b"cards 0 " + b" ".join(b"e%d/52:54:00:00:%02x:%02x,1" % (n, n >> 8, n & 255) for n in range(9999))
    assert len(parse(many)) == agent.CARDS
    rich = b"cards 0 eth0/52:54:00:00:00:01,1" + b"".join(b",10.0.%d.%d/24" % (n >> 8, n & 255) for n in range(4000))
    assert len(parse(rich)[MAC].addresses) == agent.ADDRESSES


def test_of_a_line_that_is_cut_the_last_card_does_not_count() -> None:
    """Half an address may look like another one."""
    line = (b"cards 0 a/52:54:00:00:00:01,1 " + b"x" * agent.LINE)[
        : agent.LINE - 40
    ] + b" b/52:54:00:00:00:02,1,10.0.0.1"
    cut = (line + b"9" * 40)[: agent.LINE]
    assert len(cut) == agent.LINE
    assert list(parse(cut)) == [MAC]


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_nothing_that_is_said_breaks_anything(said: bytes) -> None:
    """What comes out is text that JSON has, and a terminal shows."""
    for line in (said, b"cards 0 " + said, b"cards 0 " + said + b"/52:54:00:00:00:01,1," + said):
        found = parse(line)
        assert all(card.name.isprintable() for card in found.values())
        json.dumps([card.addresses for card in found.values()]).encode()


# ---------------------------------------------------------------- the port


@contextlib.asynccontextmanager
async def port() -> AsyncIterator[tuple[Agent, socket.socket]]:
    """An agent, and the guest's end of its port, after the first request."""
    here, there = socket.socketpair()
    there.settimeout(5)
    one = Agent(here)
    try:
        assert there.recv(100) == b"\ncards 1\n"
        yield one, there
    finally:
        one.close()
        there.close()


async def heard(one: Agent) -> None:
    async with asyncio.timeout(5):
        await one._said.wait()


def test_a_fresh_answer_is_one_to_this_very_question() -> None:
    """What the guest said just before may be older than what one wants to know."""

    async def scenario() -> None:
        async with port() as (one, there):
            waiting = asyncio.create_task(one.fresh(5))
            await asyncio.sleep(0)
            assert there.recv(100) == b"\ncards 2\n"
            there.sendall(b"cards 0 old/52:54:00:00:00:01,1\ncards 1 old/52:54:00:00:00:01,1\n")
            await heard(one)
            assert not waiting.done()
            there.sendall(b"cards 2 new/52:54:00:00:00:01,1\n")
            assert (await waiting)[MAC].name == "new"

    asyncio.run(scenario())


def test_a_guest_that_does_not_answer_costs_patience_and_keeps_what_it_said_last() -> None:
    """It is better than nothing."""

    async def scenario() -> None:
        async with port() as (one, there):
            assert await one.fresh(0.01) == {}
            there.sendall(TWO + b"\n")
            await heard(one)
            assert len(await one.fresh(0.01)) == 2
            one.forget()
            assert (one.heard, one.cards()) == (False, {})

    asyncio.run(scenario())


def test_a_guest_that_does_not_read_is_asked_once() -> None:
    """Else it would find a question for every `status` while it booted, and answer them all."""

    async def scenario() -> None:
        async with port() as (one, there):
            for _ in range(1000):
                one.ask()
            assert there.recv(100_000) == b"\ncards 2\n"
            one.ask()
            assert there.recv(100) == b"\ncards 3\n"

    asyncio.run(scenario())


def test_megabytes_without_a_newline_are_read_and_not_kept() -> None:
    """The guest is never held up, and what it says next counts."""

    async def scenario() -> None:
        async with port() as (one, there):
            loop = asyncio.get_running_loop()
            there.settimeout(0)
            await loop.sock_sendall(there, b"cards 0 " + b"x" * (8 << 20))
            await asyncio.sleep(0)
            assert len(one._rest) <= agent.LINE
            await loop.sock_sendall(there, b"\n" + TWO + b"\n")
            while not one.cards():
                await heard(one)
            assert one.cards() == parse(TWO)
            assert len(one._last) <= agent.LINE

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "said",
    [
        b"\n\n",
        b"exec 1 done\n",
        b"cards\n",
        b"cards x y\n",
        b"cards -1 \n",
        b"cards 99999999999999999999 \n",
        b"\0" * 99,
    ],
)
def test_other_lines_are_passed_over(said: bytes) -> None:
    """Firmware's noise, and kinds that this keeper does not know."""

    async def scenario() -> None:
        async with port() as (one, there):
            there.sendall(said + b"\n" + TWO + b"\r\n")
            await heard(one)
            assert one.cards() == parse(TWO)

    asyncio.run(scenario())


def test_a_name_is_waited_for_until_the_guest_tells_it() -> None:
    """The first answer may come before its kernel has made the interface."""

    async def scenario() -> None:
        async with port() as (one, there):
            there.sendall(b"cards 1 eth0/52:54:00:00:00:09,1\n")
            await heard(one)
            waiting = asyncio.create_task(one.name(MAC, 5))
            await asyncio.sleep(0)
            there.sendall(b"cards 2 eth0/52:54:00:00:00:09,1\n")
            await asyncio.sleep(0.01)
            assert not waiting.done()
            there.sendall(TWO + b"\n")
            assert await waiting == "eth0"
            assert await one.name("52:54:00:00:00:77", 0.01) is None

    asyncio.run(scenario())


def test_a_guest_that_never_spoke_is_not_waited_for() -> None:
    """It has not booted."""

    async def scenario() -> None:
        async with port() as (one, _):
            async with asyncio.timeout(1):
                assert await one.name(MAC, 60) is None

    asyncio.run(scenario())


def test_whoever_waits_is_told_when_qemu_is_gone() -> None:
    """There will be no answer."""

    async def scenario() -> None:
        async with port() as (one, there):
            waiting = asyncio.create_task(one.fresh(60))
            await asyncio.sleep(0)
            there.close()
            async with asyncio.timeout(5):
                assert await waiting == {}
            one.close()
            assert await one.fresh(60) == {}

    asyncio.run(scenario())
