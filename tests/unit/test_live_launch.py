"""The two processes of ``run``, and what they say to each other before there is a guest."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qemunet.cli import main
from qemunet.config import ahead
from qemunet.errors import HostLacks, Interrupted
from qemunet.facts import Wanted
from qemunet.frozen import as_dict, replace
from qemunet.live import launch, sheets, starter, tether
from qemunet.live.agenda import Agenda, Brief
from qemunet.live.order import take
from qemunet.live.source import Source
from qemunet.live.thinker import Here
from tests.golden import test_golden
from tests.unit import config_host

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were made, as far as they are known here."""
    found: list[int] = []
    fork = os.fork

    def noted() -> int:
        found.append(fork())
        return found[-1]

    monkeypatch.setattr(os, "fork", noted)
    return found


def assert_gone(children: list[int]) -> None:
    """There was one, and it was waited for."""
    (child,) = children
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)


# ---------------------------------------------------------------- the child that is there before its order


def test_a_child_without_an_order_ends_by_itself(children: list[int]) -> None:
    with launch.ahead():
        pass
    assert_gone(children)


def test_a_child_ends_although_the_parent_failed(children: list[int]) -> None:
    with pytest.raises(KeyError), launch.ahead():
        raise KeyError
    assert_gone(children)


@pytest.mark.parametrize("argv", [["run"], ["run", "--no-such"], ["run", "--help"]])
def test_a_command_line_that_starts_nothing_leaves_no_process(
    argv: list[str], children: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path / "run"))
    assert main.main(argv) == (0 if "--help" in argv else 2)
    assert_gone(children)
    assert not (tmp_path / "run").exists()


def test_what_is_wrong_with_a_file_is_said_by_the_parent(
    children: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path / "run"))
    assert main.main(["run", "-d", str(tmp_path / "none.toml")]) == 2
    assert capfd.readouterr().err.count("no such file") == 1
    assert_gone(children)


# ---------------------------------------------------------------- what they say to each other


class Scene:
    """The parent with a lab file, while a child of ours answers as that does which starts guests."""

    def __init__(self, pair: Pair, folder: Path, text: str) -> None:
        self.ours, self.theirs = pair
        self.file = folder / "a \udcff.toml"
        self.file.write_text(text)
        self.order = launch.Order(file=str(self.file), vms=("x",), overrides=("vm.x.cpus=2",), detach=True)
        self.told: list[str] = []

    def answer(self, child: Callable[[], None]) -> dict[str, Any]:
        """Let the parent work, and `child` beside it; return what the parent got in the end."""
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(child)
            reply = launch._Parent(self.order, 0, self.ours, self.told.append)._answer()
            beside.result()
        return reply

    def receive(self) -> dict[str, Any]:
        return tether.receive(self.theirs)


@pytest.fixture
def scene(pair: Pair, tmp_path: Path) -> Scene:
    return Scene(pair, tmp_path, '[vm.x]\naccel = "tcg"\nboot.guest = "tiny"\nnic = [{ mode = "user" }]\n')


GUEST = replace(config_host.FACTS, guest=config_host.GUEST)


def test_the_parent_sends_its_order_and_thinks_for_the_child(scene: Scene) -> None:
    """The child parses, looks and acts; the notes are the parent's to tell."""
    seen: list[dict[str, Any]] = []

    def child() -> None:
        seen.append(scene.receive())
        tether.send(scene.theirs, {"parsed": ahead.parsed(str(scene.file))})
        seen.append(scene.receive())
        tether.send(scene.theirs, {"facts": True}, GUEST)
        seen.append(scene.receive())
        tether.send(scene.theirs, {"ready": ["x"], "tethered": False})

    assert scene.answer(child) == {"ready": ["x"], "tethered": False}
    order, brief, agenda = seen
    assert order == {**json.loads(json.dumps(as_dict(scene.order))), "thinks": True}
    thinker = Here(Source.read(str(scene.file), scene.order.overrides), ("x",))
    assert brief == {"environ": {}, "value": thinker.brief}
    assert agenda == {"agenda": True, "value": thinker.agenda(GUEST)}
    assert agenda["value"].vms["x"].record.name == "x"


def test_what_the_parent_finds_wrong_when_it_thinks_is_the_childs_to_report(scene: Scene) -> None:
    """It has to take back what it has done by then."""

    def child() -> None:
        there, environ = starter._thinker(take(scene.theirs), scene.theirs)
        assert environ == {}
        with pytest.raises(HostLacks, match="the built-in guest") as caught:
            there.agenda(replace(GUEST, guest=None))
        tether.send(scene.theirs, caught.value.as_json())

    assert scene.answer(child)["error"]["kind"] == HostLacks.kind


def test_a_parent_that_dies_while_it_thinks_interrupts_the_child(pair: Pair) -> None:
    ours, theirs = pair
    ours.close()
    with pytest.raises(Interrupted, match="is gone"):
        starter.There(theirs, Brief("lab", "/lab.toml", ("x",), Wanted())).agenda(GUEST)


@pytest.mark.parametrize("folder", test_golden.CASES, ids=lambda path: path.name)
def test_what_is_seen_and_what_is_to_do_are_the_same_at_both_ends(folder: Path, pair: Pair) -> None:
    ours, theirs = pair
    facts, found = test_golden.photograph(folder), test_golden.outcome(folder)
    vms = {vm.name: sheets.of_vm(found.lab, vm, facts, {"pass": "secret"}) for vm in found.lab.vms}
    shared = {part.scope: sheets.of_shared(found.lab, part.scope) for part in found.plan.shared}
    agenda = Agenda(found.plan, {scope: sheet for scope, sheet in shared.items() if sheet}, vms, ("net/lan",))
    with ThreadPoolExecutor(1) as pool:
        for value in (facts, agenda):
            sent = pool.submit(tether.send, ours, {"is": "sent"}, value)
            assert tether.receive(theirs) == {"is": "sent", "value": value}
            sent.result()


def test_a_value_of_which_the_end_is_missing_is_an_empty_message(pair: Pair) -> None:
    ours, theirs = pair
    ours.sendall(b'{"bytes": 10}\n12345')
    ours.close()
    assert tether.receive(theirs) == {}


def test_a_message_is_taken_and_the_next_one_left_for_the_next_reader(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b'{"final": true}\n{"what": "for the keeper\'s client"}\n')
    assert tether.receive(ours) == {"final": True}
    assert ours.recv(100) == b'{"what": "for the keeper\'s client"}\n'


def test_a_message_may_come_in_pieces(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b'{"fin')
    pid = os.fork()
    if pid == 0:
        theirs.sendall(b'al": true}\n')
        os._exit(0)
    assert tether.receive(ours) == {"final": True}
    os.waitpid(pid, 0)


def test_the_end_of_the_other_side_is_an_empty_message(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert tether.receive(ours) == {}
    tether.send(ours, {"ready": []})  # nobody there: seen when the answer is waited for


# ---------------------------------------------------------------- what a start costs


def loaded(code: str) -> set[str]:
    """Return the modules that are loaded when a new Python has run this."""
    code = f"{code}\nimport sys; print(*sys.modules)"
    return {*subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()}


def test_each_of_the_two_processes_loads_only_what_it_does() -> None:
    """One thinks, the other one acts: what both load, nobody has gained."""
    acting = loaded("from qemunet.live import starter; from qemunet.host import guests, openings, photograph, taps")
    assert not {name for name in acting if name.startswith(("qemunet.config", "qemunet.plan"))}
    thinking = loaded("from qemunet.live import launch, sheets, source, thinker")
    assert not {name for name in thinking if name.startswith(("qemunet.host", "qemunet.guest", "qemunet.state"))}


def test_what_starts_guests_loads_nothing_that_it_does_not_need() -> None:
    """It is on the way of every start, and each of these costs more than a tap does."""
    code = "import sys; from qemunet.live import starter; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"argparse", "asyncio", "pyroute2", "pathlib", "hashlib", "ipaddress", "difflib", "subprocess"}
    heavy |= {"typing", "tomllib", "datetime", "shlex", "importlib"}
    assert not (heavy | {"qemunet.plan.shell", "qemunet.host.images"}) & {*done.stdout.split()}


def test_what_a_start_loads_on_its_way_needs_no_types_at_run_time_either() -> None:
    code = "import sys; from qemunet.live import starter; from qemunet.host import guests, photograph, taps; "
    code += "from qemunet.config import write; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"typing", "tomllib", "tomli_w", "asyncio"} & {*done.stdout.split()}


SIMPLE = """
import sys
from qemunet import plan
from tests.unit import config_host
lab = config_host.lab('vm.a.boot.guest = "tiny"\\nvm.a.nic = [{ bridge = "br0" }, { mode = "user" }]')
assert plan.build(lab, config_host.FACTS, scripted=False).start
print(*sys.modules)
"""


def test_a_lab_without_networks_cables_and_namespaces_loads_nothing_about_them() -> None:
    """Nor the steps that it does not take: half of what there is to load would be for others."""
    done = subprocess.run([sys.executable, "-c", SIMPLE], capture_output=True, text=True, check=True)
    others = {
        f"qemunet.config.{name}" for name in ("cables", "cablekeys", "netkeys", "ports", "served", "spaces", "vlans")
    }
    others |= {f"qemunet.plan.{name}" for name in ("cables", "rates", "dhcp", "firewall", "ports")}
    others |= {
        f"qemunet.steps.{name}" for name in ("addresses", "cards", "daemons", "ports", "rates", "spaces", "vlans")
    }
    assert not others & {*done.stdout.split()}


def test_the_parent_loads_next_to_nothing_before_there_are_two_processes() -> None:
    """What is loaded later, both load at the same time."""
    code = "import sys, qemunet.cli.main; from qemunet.live import launch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"argparse", "json", "tomllib", "qemunet.state", "qemunet.steps"} & {*done.stdout.split()}
