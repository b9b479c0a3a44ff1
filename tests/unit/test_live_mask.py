"""A secret is nowhere to be seen in what a mask lets through, however it comes; all else is as it was."""

from __future__ import annotations

import random

import pytest

from qemunet.live.mask import Mask
from qemunet.live.seen import words

SECRET = b"hunter2"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"Password: hunter2\r\n# ", b"Password: *******\r\n# "),
        (b"hunter hunter2hunter2hunthunter2", b"hunter **************hunt*******"),
        (b"hun\r\nter2, hu \rnter2", b"***\r\n****, ***\r*****"),
        (b"hun ter2", b"hun ter2"),
        (b"\xff\x00hunter2\x1b[m", b"\xff\x00*******\x1b[m"),
        (b"hunter", b"hunter"),
    ],
)
def test_it_is_masked_in_one_piece_and_byte_by_byte(said: bytes, shown: bytes) -> None:
    """Also where a shell has broken the line."""
    whole, bits = Mask([SECRET]), Mask([SECRET])
    assert whole.feed(said) + whole.flush() == shown
    assert b"".join(bits.feed(bytes([byte])) for byte in said) + bits.flush() == shown


def test_nothing_of_it_is_let_through_before_all_of_it_is_there() -> None:
    mask = Mask([SECRET])
    assert [mask.feed(bytes([byte])) for byte in SECRET] == [b""] * 6 + [b"*" * 7]
    assert mask.feed(b"a h") == b"a "
    assert (mask.held, mask.rest()) == (b"h", b"*")
    assert mask.feed(b"at") == b"hat"
    assert not mask.held


def test_what_is_no_secret_is_neither_changed_nor_lost() -> None:
    dice = random.Random(1)
    said = bytes(dice.choice(b"abc\r\n ") for _ in range(20_000))
    mask, shown, rest = Mask([b"abcd", b"ccx", b"d"]), b"", said
    while rest:
        size = dice.randrange(1, 40)
        shown, rest = shown + mask.feed(rest[:size]), rest[size:]
    assert shown + mask.flush() == said


@pytest.mark.parametrize("said", [b"h" + b"\r\n" * 30_000, b"h \r\n " * 9_000, b"hunter" * 9_000, b"h" * 60_000])
def test_no_flood_takes_it_long(said: bytes) -> None:
    """A pattern that could match line ends in several ways would take for ever."""
    mask = Mask([SECRET, b"h h x", b"hhhhh!"])
    assert mask.feed(said) + mask.flush() == said


def test_the_longer_of_two_secrets_is_masked() -> None:
    assert Mask([b"root", b"rootroot", b""]).feed(b"rootroot.") == b"********."


def test_without_secrets_everything_passes_at_once() -> None:
    assert Mask([]).feed(b"anything") == b"anything"


def test_words_of_a_console_do_not_drive_a_terminal() -> None:
    said = b"\x1b[2J\x1b]0;title\x07 \x1b[1;31mfailed\x1b[0m:\x1b[6n no\x07 disk\r\n\x9b"
    assert words(said, 80) == "failed: no. disk �"
    assert words(said, 6) == "disk �"
