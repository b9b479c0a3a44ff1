"""What is shown and kept of a test that fails with a guest: consoles, packets, and what command and keeper said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qemunet.guest import image
from tests.pcap import parse

pytestmark = pytest.mark.guest

TEST = '''
import os
import signal

import pytest

with_web = pytest.mark.qemunet_lab("""
[vm.web]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 0
[[vm.web.nic]]
mode = "user"
""", timeout=240)
in_a_shop = pytest.mark.parametrize("qemunet_lab", [{"set": "lab.name=shop"}], ids=["web"], indirect=True)
folders = []

@in_a_shop
@with_web
def test_that_fails(qemunet_lab):
    web, = qemunet_lab
    web.send_console("echo so''far\\n")
    web.wait_for_console("sofar")
    web.execute("ping -c 1 -W 1 10.0.2.77")
    web.succeeds("echo it broke >&2; exit 3")

@in_a_shop
@with_web
def test_that_loses_its_guest(qemunet_lab):
    folders.append(qemunet_lab.runtime.path)
    web, = qemunet_lab
    os.kill(web.vm.pid, signal.SIGKILL)
    web.vm.wait(60)
    web.start()
    web.succeeds("false")

def test_after_which_there_is_no_guest():
    assert not os.path.exists(folders[0])
'''


def test_the_report_has_what_guest_and_keeper_said_and_the_directory_what_was_sent(tmp_path: Path) -> None:
    """A guest in user mode, whose frames only QEMU sees; of one that was killed, what its keeper said of that.

    That one was the last, and can be started again all the same.
    They share it as they are parametrized alike, and it ends with them; nothing but those directories is left.
    """
    image.build(print)
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\nfilterwarnings = error\n")
    words = ["-m", "pytest", "--basetemp", str(tmp_path / "tmp"), "--qemunet-artifacts", "kept"]
    with tempfile.TemporaryDirectory(prefix="qn-") as short:
        environment = {**os.environ, "TMPDIR": short}
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
        )
        assert os.listdir(short) == [], done.stdout
    (said, killed), kept = done.stdout.split("_ test_that_loses_its_guest[web] _"), tmp_path / "kept"
    assert "2 failed, 1 passed" in killed.splitlines()[-1], done.stdout
    assert "AssertionError: web: 'echo it broke >&2; exit 3' fails: status 3\n" in said
    assert "stderr: it broke" in said
    console = said.partition(" console of web ")[2]
    assert "\nsofar" in console, said
    assert "web net0: " in said.partition(" packets of ")[2], said
    assert "qemunet guest ready: web" in (kept / "test_it.py-test_that_fails-web" / "web.console.log").read_text()
    assert parse((kept / "test_it.py-test_that_fails-web" / "web.net0.pcap").read_bytes()), (
        "it asked who has the address"
    )
    assert "keeper of" not in said, "there was nothing to say"
    (keeper,) = re.findall(r"(?s) keeper of shop -+\n(.*?)\n\(all of it: (.*?)\)", killed)
    assert " web: QEMU was killed" in keeper[0], keeper
    assert keeper[0] in Path(keeper[1]).read_text()
    assert (
        "qemunet guest ready: web"
        in (kept / "test_it.py-test_that_loses_its_guest-web" / "web.console.log").read_text()
    )
