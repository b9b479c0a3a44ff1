"""A journal tells a live change that is final from one that was killed, whatever moment its writer died in."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from qemunet.frozen import frozen
from qemunet.journal import Journal, Owed
from qemunet.locks import Lock, is_locked
from qemunet.steps import AddCard, Claim, DelCard, RunHook, Step, Unclaim, Word

START = Claim("/run/q/claims/mac/52:54:00:00:00:01", "vm/a")
CARD = AddCard("a", "net1", Word(('{"id":"net1"}',)))
HOOK = RunHook("/up", "/down", "t1", ())


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.jsonl")


def do(journal: Journal, step: Step, undo: Step | None, about: str = "", operation: int = 0) -> int:
    number = journal.intent(step, undo, about, operation)
    journal.mark(number, "done")
    return number


def history(path: str) -> None:
    """A start; a change that came true; one that was taken back; one that gave up what the first had made."""
    journal = Journal(path)
    do(journal, START, Unclaim(START.path, START.by), "net0")
    first = journal.begin()
    card = do(journal, CARD, DelCard("a", "net1"), "net1", first)
    hook = do(journal, HOOK, RunHook("/down", None, "t1", ()), "net1", first)
    journal.prepare(first)
    journal.commit(first, kept=[hook])
    second = journal.begin()
    third = do(journal, CARD, DelCard("a", "net2"), "net2", second)
    journal.mark(third, "undone")
    last = journal.begin()
    journal.prepare(last)
    journal.commit(last, over=[card])
    journal.mark(card, "undone")
    journal.close()


@frozen
class Seen:
    """What a journal says of a guest that ran: numbers of records, of operations, and how its last change stands."""

    owed: tuple[int, ...] = ()
    unfinished: tuple[int, ...] = ()
    overdue: tuple[int, ...] = ()
    committed: bool = False


def seen(path: str) -> Seen:
    journal = Journal(path)
    owed = journal.owed(started=True)
    assert all((one.about, one.operation) == OF[one.number] for one in owed)
    overdue = tuple(one.number for one in journal.overdue())
    found = Seen(tuple(one.number for one in owed), tuple(journal.unfinished()), overdue, journal.is_committed())
    journal.close()
    return found


OF = {1: ("net0", 0), 2: ("net1", 1), 3: ("net1", 1), 4: ("net2", 2)}  # the card and the operation of each record
AFTER = [  # what is seen after so many records
    Seen(),
    Seen((1,)),
    Seen((1,)),
    Seen((2, 1), (1,), (2,)),
    Seen((2, 1), (1,), (2,)),
    Seen((3, 2, 1), (1,), (3, 2)),
    Seen((3, 2, 1), (1,), (3, 2)),
    Seen((3, 2, 1), (1,), (3, 2)),  # its drafts are written
    Seen((2, 1), committed=True),  # the hook's undo is kept by the commit itself
    Seen((4, 2, 1), (2,), (4,)),
    Seen((4, 2, 1), (2,), (4,)),
    Seen((2, 1)),
    Seen((2, 1)),
    Seen((2, 1), overdue=(2,), committed=True),  # the card's undo is to be done now
    Seen((1,)),
]


def test_after_each_record_it_is_clear_what_is_owed_and_whether_the_change_is_final(path: str) -> None:
    """Its writer may be killed after any of them."""
    history(path)
    lines = Path(path).read_bytes().splitlines(keepends=True)
    assert len(lines) + 1 == len(AFTER)
    for count, expected in enumerate(AFTER):
        Path(path).write_bytes(b"".join(lines[:count]))
        assert seen(path) == expected, f"after {count} records"


def test_a_record_that_was_cut_anywhere_was_not_written(path: str) -> None:
    """Not even if only its end is missing, and not when somebody writes on: it was an error for whoever wrote it."""
    history(path)
    whole = Path(path).read_bytes()
    for cut in range(len(whole)):
        expected = AFTER[whole[:cut].count(b"\n")]
        Path(path).write_bytes(whole[:cut])
        assert seen(path) == expected
        journal = Journal(path)
        number = journal.intent(CARD, DelCard("a", "net9"), "net9", 9)
        assert [one.number for one in journal.owed(started=True)] == [number, *expected.owed], f"cut at {cut}"
        assert journal.unfinished() == [*expected.unfinished, 9]
        assert [one.number for one in journal.overdue()] == [number, *expected.overdue]
        journal.close()


def test_a_commit_that_does_not_fit_is_an_error_and_none_later(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk may be full but for the last byte; what is written next must not complete the line."""
    journal = Journal(path)
    operation = journal.begin()
    number = journal.intent(CARD, DelCard("a", "net1"), "net1", operation)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[:-1]))
        with pytest.raises(OSError, match="No space left on device"):
            journal.commit(operation)
    assert journal.unfinished() == [operation]
    journal.mark(number, "done")
    assert journal.unfinished() == Journal(path).unfinished() == [operation]


def test_operations_are_numbered_on_over_a_restart(path: str) -> None:
    """Those of a killed writer are told from new ones, also if all that is left of one is its commit."""
    journal = Journal(path)
    assert (journal.begin(), journal.begin()) == (1, 2)
    do(journal, CARD, DelCard("a", "net1"), "net1", 2)
    assert Journal(path).begin() == 3
    journal.commit(7)
    assert Journal(path).begin() == 8


def test_a_commit_and_what_follows_from_it_are_one_line(path: str) -> None:
    """There is no moment at which half of it is true."""
    journal = Journal(path)
    numbers = [do(journal, CARD, DelCard("a", f"net{number}"), f"net{number}", 1) for number in range(4)]
    before = len(Path(path).read_bytes().splitlines())
    journal.commit(1, kept=numbers[1:3], over=numbers[:1])
    assert len(Path(path).read_bytes().splitlines()) == before + 1
    assert [one.number for one in journal.owed(started=True)] == [numbers[3], numbers[0]]
    assert [one.number for one in journal.overdue()] == [numbers[0]]


def test_an_operation_that_did_nothing_is_not_unfinished(path: str) -> None:
    """There is nothing to take back."""
    journal = Journal(path)
    operation = journal.begin()
    journal.intent(CARD, None, "net1", operation)
    assert journal.unfinished() == []


# ---------------------------------------------------------------- compaction


def long_history(path: str, cards: int = 60) -> None:
    """A start, and cards that came and went."""
    journal = Journal(path)
    do(journal, START, Unclaim(START.path, START.by), "net0")
    journal.mark(do(journal, START, Unclaim("/lasting", START.by)), "kept")
    for number in range(cards):
        operation = journal.begin()
        plugged = do(journal, CARD, DelCard("a", f"net{number}"), f"net{number}", operation)
        journal.commit(operation)
        if number:
            journal.mark(plugged, "undone")
    journal.close()


def plain(owed: list[Owed]) -> list[tuple[int, str, Step, str]]:
    return [(one.number, one.what, one.undo, one.about) for one in owed]


def test_compaction_leaves_out_what_is_over_and_nothing_else(path: str) -> None:
    """A guest whose cards come and go has no endless journal."""
    long_history(path, 200)
    before, size = plain(Journal(path).owed(started=True)), os.path.getsize(path)
    Journal(path).compact()
    after = Journal(path)
    assert plain(after.owed(started=True)) == before
    assert [about for _, _, _, about in before] == ["net0", "net0"]
    assert (after.unfinished(), after.is_committed()) == ([], False)
    assert os.path.getsize(path) < size / 20
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert os.listdir(os.path.dirname(path)) == ["journal.jsonl"]


def test_numbers_stay_unique_after_compaction(path: str) -> None:
    """A record is marked by its number, an operation made final by its own."""
    long_history(path, 200)
    Journal(path).compact()
    journal = Journal(path)
    there = {one.number for one in journal.owed()}
    operation = journal.begin()
    number = journal.intent(CARD, DelCard("a", "net9"), "net9", operation)
    assert number not in there
    assert journal.unfinished() == [operation]
    journal.mark(number, "undone")
    assert {one.number for one in journal.owed()} == there


def test_a_small_journal_is_not_worth_it(path: str) -> None:
    """A page or two."""
    history(path)
    before = Path(path).read_bytes()
    Journal(path).compact()
    assert Path(path).read_bytes() == before


def test_an_unfinished_operation_keeps_the_journal_as_it_is(path: str) -> None:
    """Without the numbers nobody could tell it from those that are final."""
    long_history(path, 200)
    journal = Journal(path)
    operation = journal.begin()
    do(journal, CARD, DelCard("a", "net9"), "net9", operation)
    before = Path(path).read_bytes()
    journal.compact()
    assert Path(path).read_bytes() == before
    assert Journal(path).unfinished() == [operation]


def test_what_is_over_and_not_undone_keeps_the_journal_as_it_is(path: str) -> None:
    """Nobody would try it again: that it is over says only the line that made it so."""
    long_history(path, 200)
    journal = Journal(path)
    (last, *_) = journal.owed(started=True)
    journal.commit(journal.begin(), over=[last.number])
    journal.compact()
    journal.close()
    assert [one.number for one in Journal(path).overdue()] == [last.number]


def test_what_could_not_be_written_keeps_the_journal_as_it_is(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known to this process only, whose memory and the file together say what is owed."""
    long_history(path, 200)
    journal = Journal(path)
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: 0)
        journal.mark(1, "undone")
    before = Path(path).read_bytes()
    journal.compact()
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("call", ["open", "write"])
def test_a_disk_without_room_for_a_second_journal_leaves_the_first(
    path: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And raises nothing: the change that it comes after is final."""
    long_history(path, 200)
    journal = Journal(path)
    before = Path(path).read_bytes()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        journal.compact()
    assert Path(path).read_bytes() == before
    assert os.listdir(os.path.dirname(path)) == ["journal.jsonl"]


def test_half_a_second_journal_is_thrown_away(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one says all that it did."""
    long_history(path, 200)
    journal = Journal(path)
    before, write = Path(path).read_bytes(), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:30]))
        journal.compact()
    assert Path(path).read_bytes() == before
    assert os.listdir(os.path.dirname(path)) == ["journal.jsonl"]


def test_who_waits_for_the_right_to_work_gets_it_on_the_new_file(path: str) -> None:
    """The one that is locked when the file has changed its place would else be nobody's."""
    long_history(path, 200)
    right = Lock.take(path)
    assert right is not None
    had: list[Lock | None] = []
    waiter = threading.Thread(target=lambda: had.append(Lock.take(path, wait=True)))
    waiter.start()
    journal = Journal(path)
    journal.compact()
    journal.close()
    right.release()
    waiter.join(10)
    (lock,) = had
    assert lock is not None
    assert os.path.samestat(os.fstat(lock.fd), os.stat(path))
    assert is_locked(path)
    assert Lock.take(path) is None
    lock.release()


def test_a_commit_may_bring_what_is_to_be_undone_from_then_on(path: str) -> None:
    """It is never owed by a change that is taken back, and not lost when done records are left out."""
    journal = Journal(path)
    old = do(journal, HOOK, RunHook("/down", None, "t1", ()), "net1")
    operation = journal.begin()
    card = do(journal, CARD, DelCard("a", "net1"), "net1", operation)
    other = RunHook("/other", None, "t1", ())
    journal.commit(operation, kept=[old, card], owes=[("another ifdown", other, "net1")])
    (owed,) = Journal(path).owed(started=True)
    assert (owed.what, owed.undo, owed.about, owed.operation) == ("another ifdown", other, "net1", 0)
    assert (Journal(path).overdue(), Journal(path).unfinished()) == ([], [])
    assert journal.intent(CARD, None) == owed.number + 1
    assert Journal(path).intent(CARD, None) == owed.number + 2
    journal.mark(owed.number, "undone")
    assert Journal(path).owed(started=True) == []


def test_what_a_commit_brought_survives_that_the_journal_is_made_smaller(path: str) -> None:
    journal = Journal(path)
    while os.stat(path).st_size < 1 << 14:
        journal.mark(do(journal, CARD, DelCard("a", "net1")), "undone")
    journal.commit(journal.begin(), owes=[("another ifdown", RunHook("/other", None, "t1", ()), "net1")])
    (before,) = journal.owed(started=True)
    journal.compact()
    assert os.stat(path).st_size < 1 << 10
    assert Journal(path).owed(started=True) == [before]
