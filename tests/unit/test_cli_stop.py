"""`stop` and `down` ask the keeper, all vms at the same time, and tell how each ended."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from qemunet.cli import main, stop
from qemunet.errors import QemunetError, TimedOut
from qemunet.live import reach
from qemunet.records import VmRecord
from qemunet.state import Runtime

Output = pytest.CaptureFixture[str]


class Keeper:
    """Answers every stop, once all that are expected have asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.answers: dict[str, str | QemunetError] = {}
        self.together = threading.Barrier(1)

    def ask(self, do: str, *, within: float | None, **arguments: object) -> dict[str, object]:
        assert (do, within) == ("stop", None)
        self.asked.append(arguments)
        self.together.wait(timeout=10)
        answer = self.answers.get(str(arguments["vm"]), "powerdown")
        if isinstance(answer, QemunetError):
            raise answer
        return {"how": answer}

    def see_off(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    """Three vms of two labs, none of which is really there."""
    keeper = Keeper()
    runtime = Runtime(str(tmp_path / "run"))
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", runtime.path)
    monkeypatch.setattr(reach, "reach", lambda _runtime, _lab: keeper)
    for name, lab in (("db", "shop"), ("web", "shop"), ("kali2", "pentest")):
        scope = runtime.scope(f"vm/{name}")
        with runtime.exclusive():
            scope.create()
        scope.save(VmRecord(name, lab, f"/labs/{lab}.toml", "q35", "tcg", ()))
        Path(scope.path("journal.jsonl")).touch()
    monkeypatch.setattr("qemunet.state.Scope.alive", lambda _scope: True)
    return keeper


def test_how_a_vm_ended_is_said(keeper: Keeper, capsys: Output) -> None:
    """On stderr, because it is talk; with --json on stdout."""
    keeper.answers["db"] = "kill"
    assert main.main(["stop", "db"]) == 0
    assert capsys.readouterr() == ("", "db: QEMU was killed\n")
    assert main.main(["stop", "db", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"vm": "db", "how": "kill"}]


def test_the_time_and_the_force_reach_the_keeper(keeper: Keeper) -> None:
    """30 seconds and the power button unless told otherwise."""
    main.main(["stop", "db"])
    main.main(["stop", "db", "--timeout", "2m", "--force"])
    assert keeper.asked == [
        {"vm": "db", "timeout": 30.0, "force": False},
        {"vm": "db", "timeout": 120.0, "force": True},
    ]


def test_vms_are_stopped_at_the_same_time(keeper: Keeper) -> None:
    """None waits for the shutdown of another; a name that was typed twice is meant once."""
    keeper.together = threading.Barrier(3)
    assert main.main(["stop", "web", "db", "kali2", "web"]) == 0
    assert sorted(str(one["vm"]) for one in keeper.asked) == ["db", "kali2", "web"]


def test_one_that_fails_does_not_hide_the_others(keeper: Keeper, capsys: Output) -> None:
    """Each success is told, and the exit status is that of the failure."""
    keeper.answers["web"] = TimedOut("it is still there", where="vm.web")
    assert main.main(["stop", "web", "db"]) == 5
    assert capsys.readouterr().err == "db: powered off\nerror: vm.web: it is still there\n"


def test_nothing_is_stopped_if_one_name_is_wrong(keeper: Keeper) -> None:
    """A typing mistake must not leave half of it done."""
    assert main.main(["stop", "web", "dbb"]) == 4
    assert keeper.asked == []


def test_down_ends_all_of_a_lab_by_its_name_or_file(keeper: Keeper, capsys: Output) -> None:
    """And nothing of another lab."""
    for name in ("shop", "/labs/shop.toml"):
        keeper.asked.clear()
        assert main.main(["down", name]) == 0
        assert sorted(str(one["vm"]) for one in keeper.asked) == ["db", "web"]
    capsys.readouterr()
    assert main.main(["down", "db"]) == 4
    assert "(labs: pentest, shop)" in capsys.readouterr().err
    assert main.main(["down", "nosuch.toml"]) == 4
    assert "nosuch.toml: no such file, and nothing runs that was started from it" in capsys.readouterr().err


def test_a_dead_vm_needs_no_keeper(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path
) -> None:
    """What it left is taken back here and now."""
    monkeypatch.setattr("qemunet.state.Scope.alive", lambda _scope: False)
    assert main.main(["stop", "db"]) == 0
    assert capsys.readouterr().err == "db: was dead already; what it had left was taken back\n"
    assert not (tmp_path / "run/vm/db").exists()
    assert keeper.asked == []


def test_what_goes_wrong_in_a_thread_comes_out_of_it() -> None:
    """An error of the system is one of ours from there on, and a mistake of ours is told as one."""

    def refused() -> str:
        raise ConnectionRefusedError(111, "Connection refused")

    def mistaken() -> str:
        raise ZeroDivisionError("by zero")

    results = stop.at_once([lambda: "powerdown", refused, mistaken])
    assert results[0] == "powerdown"
    assert str(results[1]) == "Connection refused"
    assert str(results[2]).startswith("a mistake in qemunet: ZeroDivisionError: by zero")


def test_gc_says_what_it_would_do_and_does_it(keeper: Keeper, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """Guests that are dead are taken back; afterwards there is nothing to do."""
    monkeypatch.setattr("qemunet.state.Scope.alive", lambda _scope: False)
    assert main.main(["gc", "--dry-run", "--json"]) == 0
    would = json.loads(capsys.readouterr().out)
    assert len(would) == 3
    assert main.main(["gc"]) == 0
    assert capsys.readouterr().out.splitlines() == would
    assert main.main(["gc"]) == 0
    assert capsys.readouterr() == ("", "nothing was left behind\n")
