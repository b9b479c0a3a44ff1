"""A live change that is killed, fails or loses its QEMU at any of its steps: it has come true, or was never there.

Each change is done once without a fault, which shows how everything is before and after it. Then it is done again with
a fault at each thing that it does, in turn, in one guest. After each, what the next keeper finds has to be wholly as
before or wholly as after: records, files, QEMU's cards and backends, the host's links, claims, journals.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from qemunet.errors import NotFound, NotTakenBack, QemunetError
from tests.crash import covered
from tests.crash.live import Live, differs, until_state
from tests.world import until

pytestmark = [pytest.mark.guest]


@dataclass(frozen=True)
class Case:
    """A change, what has to be there before it, and what leads back."""

    verb: str
    arguments: dict[str, Any]
    first: dict[str, Any] | None = None  # keys of a card that is added once, before everything
    back: tuple[str, dict[str, Any]] = ("nic-del", {"nic": "net1"})


DOOR = f"/tmp/qemunet-crash-{os.getpid()}.sock"
TAP = {"network": "second", "ifup": "HOOK", "ifdown": "HOOK", "link": "down"}
CASES = {
    "add-tap": Case("nic-add", {"keys": TAP}),
    "add-macvtap": Case("nic-add", {"keys": {"mode": "macvtap", "parent": "up0"}}),
    "add-user": Case("nic-add", {"keys": {"mode": "user", "forward": ["tcp:127.0.0.1:2222:22"]}}),
    "add-stream": Case("nic-add", {"keys": {"mode": "stream", "listen": "unix:HOOK.sock"}}),
    "add-passt": Case("nic-add", {"keys": {"mode": "passt"}}),
    "add-vhost-user": Case("nic-add", {"keys": {"mode": "vhost-user", "path": DOOR}}),
    "del": Case("nic-del", {"nic": "net1"}, TAP, ("nic-add", {"keys": TAP})),
    "move": Case(
        "nic-set",
        {"nic": "net1", "keys": {"network": "second"}},
        {"network": "first"},
        ("nic-set", {"nic": "net1", "keys": {"network": "first"}}),
    ),
    "forwards": Case(
        "nic-set",
        {"nic": "net1", "keys": {"forward": ["tcp:127.0.0.1:2223:22"], "link": "down"}},
        {"mode": "user", "forward": ["tcp:127.0.0.1:2222:22"]},
        ("nic-set", {"nic": "net1", "keys": {"forward": ["tcp:127.0.0.1:2222:22"], "link": "up"}}),
    ),
}
# of the others both: what is not done yet can be taken back, and what is done already
KINDS = {
    "add-macvtap": ("kill-after",),
    "add-user": ("kill-before",),
    "add-stream": ("kill-after",),
    "add-passt": ("kill-after",),
    "add-vhost-user": ("kill-after",),
    "move": ("kill-after",),
}


class Bench:
    """One change to be hurt again and again."""

    def __init__(self, live: Live, case: Case) -> None:
        self.live = live
        self.case = _placed(case, str(live.world.folder / "hook"))
        if self.case.first is not None:
            self.live.ask("nic-add", vm="one", keys=self.case.first, timeout=10)
        self.before = self.live.state()
        assert self.hurt(0, "none") is None
        self.things = self.live.things()
        self.after = self.live.state()
        self.go_back()
        back = self.live.state()
        assert not differs(self.before, back), f"there and back is not the same: {differs(self.before, back)}"

    def hurt(self, number: int, kind: str) -> Exception | None:
        return self.live.hurt(number, kind, self.case.verb, vm="one", timeout=10, **self.case.arguments)

    def ask_in_vain(self) -> None:
        with contextlib.suppress(QemunetError):
            self.live.ask(self.case.verb, vm="one", timeout=10, **self.case.arguments)

    def go_back(self) -> None:
        verb, arguments = self.case.back
        self.live.ask(verb, vm="one", timeout=10, **arguments)

    def check(self, what: str) -> None:
        """It must be as before or as after; then it is led back."""
        there, found = until_state(self.live.state, self.before, self.after)
        assert there, f"{what}: {found}"
        if there is self.after:
            self.go_back()


@pytest.fixture(autouse=True)
def way_out(live: Live, request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the host have a default route, if there is to be a passt, which wants one."""
    if "passt" not in request.node.name:
        yield
        return
    if shutil.which("passt") is None:
        pytest.skip("there is no passt")
    for words in ("address add 192.0.2.10/24 dev up0", "route add default via 192.0.2.1"):
        subprocess.run(["ip", *words.split()], check=True)
    yield
    subprocess.run(["ip", "address", "del", "192.0.2.10/24", "dev", "up0"], check=True)


@pytest.fixture(autouse=True)
def backend(live: Live, request: pytest.FixtureRequest) -> Iterator[None]:
    """Have somebody serve cards in mode vhost-user, if there is to be one."""
    if "vhost-user" not in request.node.name:
        yield
        return
    words = [sys.executable, str(Path(__file__).parents[1] / "vhost_user.py"), DOOR]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.kill()
    os.unlink(DOOR)


def _placed(case: Case, hook: str) -> Case:
    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(one) for key, one in value.items()}
        return value.replace("HOOK", hook) if isinstance(value, str) else value

    verb, arguments = case.back
    return Case(case.verb, placed(case.arguments), placed(case.first), (verb, placed(arguments)))


@pytest.mark.parametrize("name", CASES)
def test_a_keeper_killed_anywhere_in_a_change_leaves_all_of_it_or_nothing(live: Live, name: str) -> None:
    """SIGKILL before or after each step, descriptor, line that makes it final, and rename; then the change works."""
    bench = Bench(live, CASES[name])
    assert {*bench.things} >= covered.LIVE.get(name, set())
    for number, thing in enumerate(bench.things, 1):
        for kind in KINDS.get(name, ("kill-before", "kill-after")):
            bench.hurt(number, kind)
            bench.check(f"{kind} {number} ({thing}) of {bench.things}")


@pytest.mark.parametrize("name", CASES)
def test_a_step_that_fails_has_its_change_taken_back_and_told(live: Live, name: str) -> None:
    """By the same keeper, at once. What fails after it is final is told, too, and the next change sees to it."""
    bench, seen = Bench(live, CASES[name]), set[str]()
    keeper = live.world.keeper()
    for number, thing in enumerate(bench.things, 1):
        if thing.startswith("rename"):  # within a directory, it does not fail
            continue
        error = bench.hurt(number, "fail")
        seen |= {*live.things()}
        assert error is not None, f"{number} ({thing}) of {bench.things}"
        if isinstance(error, NotTakenBack):
            live.ask("nic-set", vm="one", nic="net0", keys={"link": "up"})
        elif (name, thing) == ("del", "commit"):  # the guest has let go of it: there is no way back
            live.ask("nic-del", vm="one", nic="net1")
        bench.check(f"{error} at {number} ({thing}) of {bench.things}")
    assert live.world.keeper() == keeper
    assert seen >= covered.FAILED_LIVE.get(name, set())


@pytest.mark.parametrize(("name", "at"), [("add-tap", "SetCarrier"), ("move", "SetMaster"), ("del", "DelLink")])
def test_a_qemu_that_dies_in_a_change_is_taken_back_with_it(live: Live, name: str, at: str) -> None:
    """There is one clear error, and then nothing is left."""
    bench = Bench(live, CASES[name])
    error = bench.hurt(bench.things.index(at) + 1, "end")
    assert error is None if name == "del" else "has ended meanwhile" in str(error), repr(error)
    assert not live.left()
    live.run()


def test_a_guest_that_powers_itself_off_in_a_change_is_taken_back_with_it(live: Live) -> None:
    """It does so while the change is held up; the one who asked is told."""
    answers: list[object] = []

    def add() -> None:
        try:
            answers.append(live.ask("nic-add", vm="one", keys={"network": "second"}, timeout=10))
        except QemunetError as error:
            answers.append(error)

    with live.trap(8, "hold"):
        asking = Thread(target=add)
        asking.start()
        until(live.is_held, "the keeper is in the middle of it")
        pid = live.world.pid("one")
        live.type("one", "poweroff -f")
        live.await_death(pid)
    asking.join()
    assert isinstance(answers[0], NotFound), answers
    assert not live.left()
    live.run()


def test_a_keeper_that_is_told_to_go_in_a_change_leaves_all_of_it_or_nothing(live: Live) -> None:
    """SIGTERM at each step of a card that is added; guests stay, and the next keeper finds no half of it."""
    bench = Bench(live, CASES["add-tap"])
    for number in range(1, len(bench.things) + 1, 3):
        keeper = live.world.keeper()
        with live.trap(number, "hold"):
            asking = Thread(target=bench.ask_in_vain)
            asking.start()
            until(live.is_held, "the keeper is in the middle of it")
            os.kill(keeper, signal.SIGTERM)
            live.go_on()
            live.await_death(keeper)
        asking.join()
        live.keep()
        bench.check(f"TERM at {number} of {bench.things}")


@pytest.mark.parametrize(
    ("name", "at"), [("add-tap", "SetGuestLink"), ("move", "SetMaster"), ("forwards", "SetForwards")]
)
def test_when_keeper_and_qemu_die_in_a_change_gc_takes_everything_back(live: Live, name: str, at: str) -> None:
    """There is nobody any more to unplug a card from, nor a cable to plug in again."""
    bench = Bench(live, CASES[name])
    keeper = live.world.keeper()
    with live.trap(bench.things.index(at) + 1, "kill-after"):
        bench.ask_in_vain()
    live.await_death(keeper)
    pid = live.world.pid("one")
    os.kill(pid, signal.SIGKILL)
    live.await_death(pid)
    live.world.succeeds("gc")
    assert not live.left()


@pytest.mark.parametrize("at", ["AddCard", "commit", "rename vm.toml"])
def test_the_next_command_brings_a_keeper_that_finishes_a_killed_change(live: Live, at: str) -> None:
    """Whatever the command is; it waits for that."""
    bench = Bench(live, CASES["add-tap"])
    keeper = live.world.keeper()
    with live.trap(bench.things.index(at) + 1, "kill-after"):
        bench.ask_in_vain()
    live.await_death(keeper)
    live.world.succeeds("nic", "set", "one", "net0", "--link", "up")
    there, found = until_state(live.state, bench.before if at == "AddCard" else bench.after)
    assert there, found
    live.kill_keeper()
