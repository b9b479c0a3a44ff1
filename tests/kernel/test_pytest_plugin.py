"""The pytest plugin with guests that run nothing but their firmware: who shares a lab, what is kept, what is left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from qemunet.host import pcap
from tests import namespace

LAB = """
[network.lan]
mode = "isolated"
address = "192.168.77.1/24"
[netns.peer]
[[cable]]
a = "network:lan"
b = "netns:peer"
b-name = "eth0"
b-address = "192.168.77.9/24"
[vm.web]
memory = "64M"
accel = "tcg"
[[vm.web.nic]]
network = "lan"
[vm.db]
memory = "64M"
accel = "tcg"
[[vm.db.nic]]
network = "lan"
[[expect]]
from = "peer"
to = "host"
ping = true
"""
BOTH = """
import pytest

pids = []

def test_both_are_there(qemunet_lab):
    web, db = qemunet_lab
    assert (web.name, db.name, qemunet_lab["db"] is db) == ("web", "db", True)
    pids.append(web.vm.pid)
    assert "192.168.77.9" in qemunet_lab["peer"].succeeds("ip -4 -br address")
    qemunet_lab.verify()
"""
SHARED = """
def test_the_same_ones_are_there_again(qemunet_lab):
    web, db = qemunet_lab
    assert pids == [web.vm.pid]
    web.link_down()
    assert web.vm.nics["net0"].link == "down"
    db.crash()

def test_one_that_has_ended_is_there_anew(qemunet_lab):
    assert pids != [qemunet_lab["web"].vm.pid]

@pytest.mark.qemunet_lab(scope="function", set="vm.web.memory=72M")
def test_a_lab_of_its_own(qemunet_lab):
    assert "72M" in qemunet_lab.qemunet("show", "web")
"""
FAILING = """
def test_that_fails(qemunet_lab):
    peer = qemunet_lab["peer"]
    peer.succeeds("busybox ping -c 1 -W 20 192.168.77.1")
    peer.succeeds("echo much >&2; exit 3")

def test_that_waits_in_vain(qemunet_lab):
    qemunet_lab["peer"].wait_for_port(7, timeout=1)

def test_that_takes_too_long(qemunet_lab):
    qemunet_lab["peer"].fails("sleep 100", timeout=1)
"""


def run(folder: Path, *words: str) -> tuple[str, dict[str, int]]:
    """Run pytest there; return what it printed, and how many tests ended how. Nothing of its labs is left."""
    said = run_to_its_end(folder, *words)
    counts = re.findall(r"(\d+) (passed|failed|errors?|warnings?)", said.stdout.splitlines()[-1])
    return said.stdout + said.stderr, {kind: int(number) for number, kind in counts}


def run_to_its_end(folder: Path, *words: str, patience: float = 0) -> subprocess.CompletedProcess[str]:
    """Run pytest there; nothing of its labs is left `patience` seconds later."""
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:cacheprovider -p no:hypothesispytest\nfilterwarnings = error\n"
    )
    argv = [sys.executable, "-m", "pytest", "--basetemp", str(folder / "tmp"), *words]
    with tempfile.TemporaryDirectory(prefix="qn-") as short:  # the path of a socket is no longer than 107 bytes
        asked = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}  # of this run
        environment = {**asked, "TMPDIR": short}
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
        deadline = time.monotonic() + patience
        while os.listdir(short) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert os.listdir(short) == [], done.stdout
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if why := namespace.lack():
        pytest.skip(why)
    (tmp_path / "lab.toml").write_text(LAB)
    return tmp_path


def test_a_lab_is_shared_by_a_module_and_made_anew_where_it_is_wanted(folder: Path) -> None:
    """In two workers at once, with the same names and subnets; each sees its own only."""
    (folder / "test_one.py").write_text(BOTH + SHARED)
    (folder / "test_two.py").write_text(BOTH)
    said, counts = run(folder, "-n", "2", "--dist", "loadfile")
    assert counts == {"passed": 5}, said


def test_what_a_failing_test_leaves_for_its_author(folder: Path) -> None:
    """What failed and why in its report, consoles and packets in files; the trace ends in the test itself."""
    (folder / "test_it.py").write_text(FAILING)
    said, counts = run(folder, "--qemunet-artifacts", "kept")
    assert counts == {"failed": 3}, said
    assert "AssertionError: peer: 'echo much >&2; exit 3' fails: status 3\n" in said
    assert "stderr: much" in said
    assert "test_it.py:5: AssertionError" in said
    assert "port 7 of 127.0.0.1 after 1 s: 127.0.0.1 refuses it" in said
    assert "AssertionError: peer: 'sleep 100' has not ended after 1 s" in said
    assert "test_it.py:11: AssertionError" in said
    assert "packets of lab" in said
    kept = folder / "kept" / "test_it.py-test_that_fails"
    assert sorted(path.name for path in kept.iterdir()) == [
        "db.console.log",
        "db.net0.pcap",
        "db.qemu.log",
        "lab.keeper.log",
        "web.console.log",
        "web.net0.pcap",
        "web.qemu.log",
    ]
    assert len((kept / "web.net0.pcap").read_bytes()) > len(pcap.HEADER), "somebody asked who has the address"


def test_of_a_pytest_that_is_killed_nothing_is_left(folder: Path) -> None:
    """Its keeper takes the lab back, and what else there was is where pytest keeps its own temporary files."""
    text = "import os, signal\ndef test_it(qemunet_lab): os.kill(os.getpid(), signal.SIGKILL)"
    (folder / "test_it.py").write_text(text)
    assert run_to_its_end(folder, patience=60).returncode == -9


def test_what_is_wrong_about_a_lab_is_said_once_and_plainly(folder: Path) -> None:
    """Without a trace of how it was found; where there is one, with a hint."""
    tests = (
        '@pytest.mark.qemunet_lab("""\n[vm.a]\nmemry = "1G"\n""")\ndef test_typo(qemunet_lab): pass',
        '@pytest.mark.qemunet_lab("no.toml")\ndef test_file(qemunet_lab): pass',
        '@pytest.mark.qemunet_lab(scope="modul")\ndef test_scope(qemunet_lab): pass',
        "@pytest.mark.qemunet_lab(fresh=True)\ndef test_key(qemunet_lab): pass",
        "def test_no_such_vm(qemunet_lab): qemunet_lab['mail']",
        '@pytest.mark.qemunet_lab("lab.toml", "web", timeout=1, set="vm.web.ready=console=hello")',
        "def test_never_ready(qemunet_lab): pass",
    )
    (folder / "test_it.py").write_text("\n".join(("import pytest", *tests)))
    said, counts = run(folder, "-rA")
    assert counts == {"failed": 1, "errors": 5}, said
    assert "qemunet/config" not in said
    assert "pytest_plugin.py" not in said
    for text in (
        'vm.a.memry: unknown key "memry"\n  hint: did you mean "memory"?',
        "no.toml: no such file",
        "unknown scope 'modul'; scopes are function, class, module, session",
        "unknown 'fresh'; it takes",
        "lab has no vm and no namespace 'mail'; it has web, db, peer",
        "lab: not ready after 1 s: web: ",
    ):
        assert text in said, (text, said)
