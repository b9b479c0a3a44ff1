"""A journal says what is owed, whatever moment its writer died in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qemunet.facts import Facts
from qemunet.journal import Journal, from_json, to_json
from qemunet.model.mac import host_twin
from qemunet.steps import (
    AddAddress,
    AddLink,
    BridgeLink,
    DelLink,
    DelNetns,
    EndQemu,
    In,
    Mark,
    RunHook,
    SetLink,
    SetMaster,
    SetSysctl,
    Step,
    Unclaim,
)

MARK = Mark("net/lab", "bridge", 0x4000_0001)
BEFORE = Facts(runtime="/run/q", machine_id="m", uid=0, can_switch_user=True)
BRIDGE = AddLink("qn-lab", BridgeLink(host_twin("52:54:00:00:00:01"), 1500), MARK)

UNDOS: list[Step] = [
    DelLink("qn-lab", MARK),
    SetLink("eth1", up=False, mtu=9000),
    SetMaster("eth1", None),
    AddAddress("eth1", "fd00::1/64"),
    SetSysctl("net.ipv4.conf.eth1.forwarding", "0", only_if="1"),
    Unclaim("/run/q/claims/mac/52:54:00:00:00:01", "vm/a"),
    RunHook("/bin/down", None, "tap0", (("QEMUNET_VM", "a"),)),
    EndQemu("a", "/run/q/vm/a"),
    DelNetns("one"),
    In("one", DelLink("qn-a", MARK)),
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "journal.jsonl")


@pytest.mark.parametrize("step", UNDOS, ids=lambda step: type(step).__name__)
def test_every_undo_survives_the_journal(step: Step) -> None:
    assert from_json(to_json(step)) == step


def test_a_step_is_owed_from_its_intent_on(path: str) -> None:
    Journal(path).intent(BRIDGE, BRIDGE.inverse(BEFORE))
    (owed,) = Journal(path).owed()
    assert owed.undo == DelLink("qn-lab", MARK)


@pytest.mark.parametrize("how", ["done", "failed"])
def test_a_step_stays_owed_when_it_is_done_or_failed(path: str, how: str) -> None:
    journal = Journal(path)
    journal.mark(journal.intent(BRIDGE, BRIDGE.inverse(BEFORE)), how)
    assert len(journal.owed()) == 1


def test_a_step_is_not_owed_once_it_is_undone(path: str) -> None:
    journal = Journal(path)
    journal.mark(journal.intent(BRIDGE, BRIDGE.inverse(BEFORE)), "undone")
    assert journal.owed() == []


def test_what_is_kept_is_owed_until_the_guest_was_started(path: str) -> None:
    """It is written before the start is final, and then it may fail yet."""
    journal = Journal(path)
    journal.mark(journal.intent(BRIDGE, BRIDGE.inverse(BEFORE)), "kept")
    assert journal.owed()
    assert journal.owed(started=True) == []


def test_a_step_without_an_undo_is_never_owed(path: str) -> None:
    journal = Journal(path)
    journal.intent(BRIDGE, None)
    assert journal.owed() == []


def test_what_is_owed_comes_newest_first(path: str) -> None:
    journal = Journal(path)
    for undo in UNDOS:
        journal.intent(BRIDGE, undo)
    assert [owed.undo for owed in journal.owed()] == UNDOS[::-1]


def test_a_continued_journal_goes_on_counting(path: str) -> None:
    first = Journal(path).intent(BRIDGE, UNDOS[0])
    second = Journal(path).intent(BRIDGE, UNDOS[1])
    assert second == first + 1
    assert len(Journal(path).owed()) == 2


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_as_good_as_not_written(path: str, cut: int) -> None:
    journal = Journal(path)
    journal.intent(BRIDGE, UNDOS[0])
    whole = Path(path).read_bytes()
    journal.intent(BRIDGE, UNDOS[1])
    Path(path).write_bytes(Path(path).read_bytes()[: len(whole) + cut])
    assert [owed.undo for owed in Journal(path).owed()] == [UNDOS[0]]


def test_a_journal_continued_after_a_torn_line_loses_nothing(path: str) -> None:
    journal = Journal(path)
    journal.intent(BRIDGE, UNDOS[0])
    with open(path, "ab") as file:
        file.write(b'{"n":2,"do":"half')
    again = Journal(path)
    again.intent(BRIDGE, UNDOS[1])
    assert [owed.undo for owed in Journal(path).owed()] == [UNDOS[1], UNDOS[0]]


def test_an_intent_that_a_full_disk_took_half_of_is_an_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) then returns less than it was given, and no error."""
    journal = Journal(path)
    journal.intent(BRIDGE, UNDOS[0])
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
        with pytest.raises(OSError, match="No space left on device"):
            journal.intent(BRIDGE, UNDOS[1])
    journal.intent(BRIDGE, UNDOS[1])
    assert [owed.undo for owed in Journal(path).owed()] == [UNDOS[1], UNDOS[0]]


def test_what_a_full_disk_does_not_take_is_remembered(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking back goes on, and what is somebody else's is not taken back; but what is for good must be written."""
    journal = Journal(path)
    numbers = [journal.intent(BRIDGE, undo) for undo in UNDOS]
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: 0)
        journal.mark(numbers[0], "undone")
        with pytest.raises(OSError, match="No space left on device"):
            journal.mark(numbers[1], "kept")
    assert [owed.undo for owed in journal.owed()] == UNDOS[:0:-1]


def test_only_the_owner_may_read_it(path: str) -> None:
    Journal(path)
    assert Path(path).stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------- live changes


def test_a_change_that_is_not_final_is_overdue(path: str) -> None:
    """What the start did is owed as ever."""
    journal = Journal(path)
    journal.intent(BRIDGE, UNDOS[0])
    operation = journal.begin()
    number = journal.intent(BRIDGE, UNDOS[1], "net1", operation)
    again = Journal(path)
    assert again.unfinished() == [operation]
    assert [owed.number for owed in again.overdue()] == [number]
    again.mark(number, "undone")
    assert (again.unfinished(), again.overdue()) == ([], [])
    assert [owed.undo for owed in again.owed()] == [UNDOS[0]]


def test_one_line_makes_a_change_final_with_all_that_follows_from_it(path: str) -> None:
    """What led back is kept, what nobody uses any more is overdue; both are so from that line on."""
    journal = Journal(path)
    used = journal.intent(BRIDGE, UNDOS[0], "net1")
    operation = journal.begin()
    back, lasting = (journal.intent(BRIDGE, undo, "net1", operation) for undo in UNDOS[1:3])
    journal.commit(operation, kept=[back], over=[used])
    again = Journal(path)
    assert again.unfinished() == []
    assert [owed.number for owed in again.owed(started=True)] == [lasting, used]
    assert [owed.number for owed in again.overdue()] == [used]
    assert again.begin() == operation + 1


def test_drafts_belong_to_the_last_change_only_if_it_is_final(path: str) -> None:
    """Those of a change that does nothing else, too: it says that it writes them."""
    journal = Journal(path)
    assert not journal.is_committed()
    first = journal.begin()
    journal.prepare(first)
    assert not Journal(path).is_committed()
    journal.commit(first)
    assert Journal(path).is_committed()
    journal.prepare(journal.begin())
    assert not Journal(path).is_committed()


def test_a_journal_grows_with_what_is_owed_and_not_with_what_was_done(path: str) -> None:
    """As long as something is overdue nothing is left out."""
    journal = Journal(path)
    journal.intent(BRIDGE, UNDOS[0])
    for _ in range(100):
        operation = journal.begin()
        number = journal.intent(BRIDGE, UNDOS[1], "net1", operation)
        journal.commit(operation, over=[number])
    size = os.stat(path).st_size
    journal.compact()
    assert os.stat(path).st_size == size
    for one in journal.overdue():
        journal.mark(one.number, "undone")
    journal.compact()
    again = Journal(path)
    assert os.stat(path).st_size < size / 50
    assert [owed.undo for owed in again.owed(started=True)] == [UNDOS[0]]


def test_a_journal_that_cannot_be_made_smaller_stays_as_it_is(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room for all of it."""
    journal = Journal(path)
    for _ in range(200):
        journal.mark(journal.intent(BRIDGE, UNDOS[1]), "undone")
    journal.intent(BRIDGE, UNDOS[0])
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
        journal.compact()
    assert not Path(f"{path}.new").exists()
    assert [owed.undo for owed in Journal(path).owed()] == [UNDOS[0]]
