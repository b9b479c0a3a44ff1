"""Who is cut off from a keeper that is changing something is told where to see what came of it."""

from __future__ import annotations

import contextlib
import signal
from argparse import Namespace
from collections.abc import Iterator

import pytest

from qemunet import interrupts
from qemunet.cli import apply, nic
from qemunet.errors import Interrupted, QemunetError, TimedOut
from qemunet.live import reach
from qemunet.live.control import Lost
from qemunet.records import VmRecord
from qemunet.state import Runtime

DB = VmRecord("db", "shop", "/shop.toml", "q35", "tcg", ())


class Deaf:
    """A keeper that takes what it is asked for, and whose answer never comes."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def ask(self, *_: object, **__: object) -> dict[str, object]:
        raise self.error

    def withdraw(self, *_: object) -> dict[str, object]:
        raise TimedOut("waited too long for the keeper to take it back")


class Obliging:
    """A keeper that hears that its user has given up, and says what it has done by then."""

    def __init__(self, word: dict[str, object] | QemunetError, *, again: bool) -> None:
        self.word = word
        self.again = again

    def ask(self, *_: object, **__: object) -> dict[str, object]:
        interrupts._note(signal.SIGINT, None)
        interrupts.check()
        raise AssertionError

    def withdraw(self, *_: object) -> dict[str, object]:
        interrupts.check()  # the first one is over
        if self.again:
            interrupts._note(signal.SIGINT, None)
            interrupts.check()
        if isinstance(self.word, QemunetError):
            raise self.word
        return self.word


@pytest.fixture(autouse=True)
def not_really(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interrupts, "install", lambda: None)
    yield
    interrupts.forget()


@pytest.fixture(params=[Interrupted, Lost, KeyboardInterrupt])
def error(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[QemunetError]:
    """What is told of whatever ends the wait for the only keeper there is."""
    kind: type[BaseException] = request.param

    @contextlib.contextmanager
    def reached(*_: object) -> Iterator[Deaf]:
        yield Deaf(kind("over"))

    monkeypatch.setattr(reach, "reach", reached)
    return kind if issubclass(kind, QemunetError) else Interrupted


def test_a_card_may_have_come_all_the_same(error: type[QemunetError]) -> None:
    """The keeper does not stop half-way."""
    with pytest.raises(error) as caught:
        nic._ask(Runtime("/nowhere"), DB, "nic-add", 1.0)
    assert "`qemunet nic list db`" in caught.value.hint


@pytest.mark.parametrize(
    ("word", "again", "message", "hint"),
    [
        (Interrupted("interrupted; net0 was taken out again"), False, "interrupted; net0 was taken out again", ""),
        ({"nic": {}}, False, "interrupted, but it was done already", "`qemunet nic list db`"),
        (Lost("the keeper has gone"), False, "interrupted (the keeper has gone)", "`qemunet nic list db`"),
        ({}, True, "interrupted", "it may be done all the same: `qemunet nic list db`"),
    ],
)
def test_who_gives_up_is_told_what_has_become_of_it(
    word: dict[str, object] | QemunetError, *, again: bool, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the last word of the keeper; who gives up that too gets none."""
    monkeypatch.setattr(reach, "reach", lambda *_: contextlib.nullcontext(Obliging(word, again=again)))
    with pytest.raises(Interrupted) as caught:
        nic._ask(Runtime("/nowhere"), DB, "nic-add", 1.0)
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


def test_who_gives_up_an_unplugging_is_told_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "reach", lambda *_: contextlib.nullcontext(Obliging({}, again=False)))
    with pytest.raises(Interrupted, match="interrupted; net0 leaves as soon as the guest lets go of it"):
        nic._ask(Runtime("/nowhere"), DB, "nic-del", 1.0, nic="net0", cut=False)


def test_what_is_left_to_do_is_what_apply_would_do(error: type[QemunetError]) -> None:
    """The name of the file is the one that was given."""
    with pytest.raises(error) as caught:
        apply._ask("shop", "/x/shop.toml", Namespace(file="shop.toml", overrides=[], dry_run=False, timeout=1.0))
    assert "`qemunet apply shop.toml --dry-run`" in caught.value.hint


def test_what_could_not_be_applied_is_reported_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is that of the first; what was done is none of it."""
    late = [{"error": TimedOut(f"the guest has not let go of {nic}", where="vm.db").as_json()["error"]} for nic in "xy"]
    assert apply._status([{"done": True}, *late], as_json=False) == TimedOut.exit_status
    assert capsys.readouterr().err == "".join(f"error: vm.db: the guest has not let go of {nic}\n" for nic in "xy")
    assert apply._status([{"done": True}], as_json=False) == 0
