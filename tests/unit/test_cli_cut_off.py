"""Who is cut off from a keeper that is changing something is told where to see what came of it."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Iterator

import pytest

from qemunet.cli import apply, nic
from qemunet.errors import Interrupted, QemunetError
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


def test_what_is_left_to_do_is_what_apply_would_do(error: type[QemunetError]) -> None:
    """The name of the file is the one that was given."""
    with pytest.raises(error) as caught:
        apply._ask("shop", "/x/shop.toml", Namespace(file="shop.toml", overrides=[], dry_run=False, timeout=1.0))
    assert "`qemunet apply shop.toml --dry-run`" in caught.value.hint
