"""What is shown and kept of a test that fails with a guest: its console, its packets, and what the command said."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qemunet.guest import image
from tests.pcap import parse

pytestmark = pytest.mark.guest

TEST = '''
import pytest

@pytest.mark.qemunet_lab("""
[vm.web]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
[[vm.web.nic]]
mode = "user"
""", timeout=240)
def test_that_fails(qemunet_lab):
    web, = qemunet_lab
    web.send_console("echo so''far\\n")
    web.wait_for_console("sofar")
    web.execute("ping -c 1 -W 1 10.0.2.77")
    web.succeeds("echo it broke >&2; exit 3")
'''


def test_the_report_has_what_the_guest_said_and_the_directory_what_it_sent(tmp_path: Path) -> None:
    """A guest in user mode, whose frames only QEMU sees; nothing but that directory is left."""
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
    said, kept = done.stdout, tmp_path / "kept" / "test_it.py-test_that_fails"
    assert "1 failed" in said.splitlines()[-1], said
    assert "AssertionError: web: 'echo it broke >&2; exit 3' fails: status 3\n" in said
    assert "stderr: it broke" in said
    console = said.partition(" console of web ")[2]
    assert "\nsofar" in console, said
    assert "web net0: " in said.partition(" packets of ")[2], said
    assert "qemunet guest ready: web" in (kept / "web.console.log").read_text()
    assert parse((kept / "web.net0.pcap").read_bytes()), "it asked who has the address"
