"""The two processes of ``run``, and what they say to each other before there is a guest."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.cli import main
from qemunet.frozen import as_dict
from qemunet.live import launch, tether

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
    """The child finds out, and says nothing itself."""
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path / "run"))
    assert main.main(["run", "-d", str(tmp_path / "none.toml")]) == 2
    assert capfd.readouterr().err.count("no such file") == 1
    assert_gone(children)


# ---------------------------------------------------------------- what they say to each other


def test_the_parent_sends_its_order_and_tells_what_it_is_told(pair: Pair) -> None:
    ours, theirs = pair
    told: list[str] = []
    order = launch.Order(file="a \udcff.toml", vms=("x",), overrides=("vm.x.cpus=2",), detach=True)
    for message in ({"tell": "note: one"}, {"tell": "note: two"}, {"ready": ["x"], "tethered": False}):
        tether.send(theirs, message)
    assert launch._Parent(order, 0, ours, told.append)._answer() == {"ready": ["x"], "tethered": False}
    assert told == ["note: one", "note: two"]
    assert tether.receive(theirs) == {**json.loads(json.dumps(as_dict(order))), "parsed": []}


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
