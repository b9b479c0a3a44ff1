"""Whoever hurts a lab begins when its guests have booted, however slow the keeper is at opening their logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash import live
from tests.world import World


def test_a_guest_whose_log_is_not_there_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run -d` comes back before that; what is typed at a guest that boots is lost."""
    world = World(tmp_path)
    guest = world.runtime / "vm" / "one"
    keeper = world.runtime / "lab" / "live"
    for directory in (guest, keeper):
        directory.mkdir(parents=True)
    (keeper / "pid").write_text("1\n")
    waited: list[str] = []

    def until(true: Callable[[], object], what: str) -> None:
        waited.append(what)
        assert not true()
        (guest / "console.log").write_text("BIOS\n")
        assert not true()
        (guest / "console.log").write_text(f"BIOS\n{live.READY} one net0=-\n")
        assert true()

    monkeypatch.setattr(live, "until", until)
    live.Live(world).await_guests()
    assert waited == [f"ready in {guest / 'console.log'}"]
