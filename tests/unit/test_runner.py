"""The runner writes before it acts, and taking back goes on whatever happens."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest

from qemunet import interrupts, runner
from qemunet.errors import Gone, Interrupted, NotFound, StepFailed, Taken
from qemunet.facts import Facts, Wanted
from qemunet.journal import Journal
from qemunet.steps import Claim, CreateImage, DelGroup, Mark, OpenTap, SetSysctl, Step, Unclaim

BEFORE = Facts(runtime="/run/q", machine_id="m", uid=0, can_switch_user=True, sysctls={"net.x": "0"})
CLAIMS = [Claim(f"/run/q/claims/uid/{n}", "vm/a") for n in range(3)]


class Recorder:
    """A host that remembers what it was told to do, and fails as asked."""

    def __init__(self, errors: dict[str, BaseException] | None = None) -> None:
        self.seen: list[Step] = []
        self.errors = errors or {}

    def photograph(self, wanted: Wanted) -> Facts:
        raise NotImplementedError

    def perform(self, step: Step) -> None:
        self.seen.append(step)
        error = self.errors.get(step.describe())
        if error:
            raise error


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "journal.jsonl"))


def tap(name: str, group: int = 7) -> OpenTap:
    return OpenTap(f"a:{name}", name, Mark("vm/a", name, group), "fe:54:00:00:00:01", 1500)


def test_every_step_is_on_record_before_it_is_done(journal: Journal) -> None:
    class Watcher(Recorder):
        def perform(self, step: Step) -> None:
            assert journal.owed()[0].undo == step.inverse(BEFORE)
            super().perform(step)

    runner.apply(CLAIMS, BEFORE, Watcher(), journal)
    assert len(journal.owed()) == 3


def test_a_failed_step_is_owed_too(journal: Journal) -> None:
    host = Recorder({CLAIMS[1].describe(): OSError(errno.ENOSPC, "No space left on device")})
    with pytest.raises(StepFailed, match=r"could not claim uid/1 for vm/a: No space left on device \(ENOSPC\)"):
        runner.apply(CLAIMS, BEFORE, host, journal)
    assert [owed.undo.describe() for owed in journal.owed()] == ["give up uid/1", "give up uid/0"]


def test_taking_back_goes_newest_first(journal: Journal) -> None:
    runner.apply(CLAIMS, BEFORE, Recorder(), journal)
    host = Recorder()
    assert runner.unwind(journal, host) == []
    assert [step.describe() for step in host.seen] == ["give up uid/2", "give up uid/1", "give up uid/0"]
    assert journal.owed() == []


def test_taking_back_goes_on_after_an_error_and_keeps_it_on_record(journal: Journal) -> None:
    runner.apply(CLAIMS, BEFORE, Recorder(), journal)
    host = Recorder({"give up uid/1": OSError(errno.EACCES, "Permission denied")})
    (failure,) = runner.unwind(journal, host)
    assert "give up uid/1" in str(failure)
    assert len(host.seen) == 3
    assert [owed.undo for owed in journal.owed()] == [Unclaim("/run/q/claims/uid/1", "vm/a")]


def test_what_is_already_gone_counts_as_taken_back(journal: Journal) -> None:
    runner.apply(CLAIMS, BEFORE, Recorder(), journal)
    host = Recorder({f"give up uid/{n}": Gone() for n in range(3)})
    assert runner.unwind(journal, host) == []
    assert journal.owed() == []


def test_neighbouring_links_of_one_scope_go_together(journal: Journal) -> None:
    steps = [tap("t0"), tap("t1"), CLAIMS[0], tap("t2", group=8), tap("t3")]
    runner.apply(steps, BEFORE, Recorder(), journal)
    host = Recorder()
    runner.unwind(journal, host)
    assert [step.describe() for step in host.seen] == ["delete t3", "delete t2", "give up uid/0", "delete t1, t0"]
    assert isinstance(host.seen[-1], DelGroup)
    assert journal.owed() == []


def test_a_setting_that_was_so_already_is_not_taken_back(journal: Journal) -> None:
    runner.apply([SetSysctl("net.x", "0")], BEFORE, Recorder(), journal)
    assert journal.owed() == []


def test_a_setting_is_put_back_only_if_nobody_changed_it(journal: Journal) -> None:
    runner.apply([SetSysctl("net.x", "1")], BEFORE, Recorder(), journal)
    assert journal.owed()[0].undo == SetSysctl("net.x", "0", only_if="1")


def test_an_image_is_for_good_once_it_is_said_so(journal: Journal) -> None:
    lasting = runner.apply([CreateImage("/d.qcow2", "qcow2", 1, "/r/note")], BEFORE, Recorder(), journal)
    assert len(journal.owed()) == 1
    for number in lasting:
        journal.mark(number, "kept")
    assert journal.owed(started=True) == []


def test_an_interrupt_comes_between_steps_and_never_while_taking_back(journal: Journal) -> None:
    class Interrupter(Recorder):
        def perform(self, step: Step) -> None:
            super().perform(step)
            interrupts._note(signal.SIGINT, None)
            if isinstance(step, Unclaim):
                interrupts.check()

    host = Interrupter()
    try:
        with pytest.raises(Interrupted, match="SIGINT"):
            runner.apply(CLAIMS, BEFORE, host, journal)
        assert host.seen == CLAIMS[:1]
        assert runner.unwind(journal, host) == []
    finally:
        interrupts.forget()
    assert journal.owed() == []


# ---------------------------------------------------------------- live changes


def test_what_is_done_for_a_card_in_a_change_is_on_record_as_that(journal: Journal) -> None:
    operation = journal.begin()
    runner.apply(CLAIMS[:1], BEFORE, Recorder(), journal, about="net0", operation=operation)
    runner.apply(CLAIMS[1:], BEFORE, Recorder(), journal)
    assert [(one.about, one.operation) for one in journal.owed()] == [("", 0), ("", 0), ("net0", operation)]
    assert journal.unfinished() == [operation]


def test_a_part_of_what_is_owed_can_be_taken_back(journal: Journal) -> None:
    """A card goes, and all else stays."""
    for number, step in enumerate(CLAIMS):
        runner.apply([step], BEFORE, Recorder(), journal, about=f"net{number}")
    host = Recorder()
    assert runner.unwind(journal, host, which=lambda owed: owed.about == "net1") == []
    assert host.seen == [Unclaim("/run/q/claims/uid/1", "vm/a")]
    assert [owed.about for owed in journal.owed()] == ["net2", "net0"]


def test_links_of_others_do_not_go_together_with_those_that_are_picked(journal: Journal) -> None:
    """They lie side by side in the journal."""
    for number in range(4):
        runner.apply([tap(f"t{number}")], BEFORE, Recorder(), journal, about=f"net{number % 2}")
    host = Recorder()
    runner.unwind(journal, host, which=lambda owed: owed.about == "net1")
    assert [step.describe() for step in host.seen] == ["delete t3, t1"]
    assert [owed.about for owed in journal.owed()] == ["net0", "net0"]


def test_what_somebody_else_has_is_not_taken_back(journal: Journal) -> None:
    """It is promised that nothing was done."""
    host = Recorder({CLAIMS[1].describe(): Taken("somebody has it")})
    with pytest.raises(Taken):
        runner.apply(CLAIMS, BEFORE, host, journal, about="net0", operation=journal.begin())
    assert [owed.undo for owed in journal.owed()] == [Unclaim("/run/q/claims/uid/0", "vm/a")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, None),
        (Gone(), None),
        (OSError(errno.EACCES, "Permission denied"), "could not claim uid/0 for vm/a: Permission denied (EACCES)"),
        (NotFound("nobody talks to it"), "nobody talks to it"),
    ],
)
def test_taking_one_step_back_says_what_went_wrong(error: BaseException | None, said: str | None) -> None:
    """What is not there is as good as taken back."""
    host = Recorder({CLAIMS[0].describe(): error} if error else {})
    failure = runner.undo(CLAIMS[0], host)
    assert (str(failure) if failure else None) == said
    assert host.seen == CLAIMS[:1]


def test_a_mistake_of_ours_is_not_swallowed_on_the_way_back() -> None:
    with pytest.raises(ZeroDivisionError):
        runner.undo(CLAIMS[0], Recorder({CLAIMS[0].describe(): ZeroDivisionError()}))


def test_what_has_gone_on_the_way_there_is_an_error_and_owed(journal: Journal) -> None:
    """A guest that ends in the middle of a change: only on the way back it is as good as done."""
    host = Recorder({CLAIMS[1].describe(): Gone("QEMU of a is gone")})
    with pytest.raises(NotFound, match="QEMU of a is gone"):
        runner.apply(CLAIMS, BEFORE, host, journal)
    assert len(journal.owed()) == 2
