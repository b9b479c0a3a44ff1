"""The built-in guest at its keeper's console: its shell, its flood, its power button, its own end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pexpect.fdpexpect
import pytest

from qemunet import state
from qemunet.errors import HostLacks, NotFound
from qemunet.guest import image
from qemunet.live.control import Control, connect

QEMUNET = str(Path(sys.executable).parent / "qemunet")
BOOT = 90  # seconds
LINES = 20_000

LAB = """
[vm.one]
memory = "128M"
accel = "tcg"
boot.guest = "tiny"
hotplug-slots = 0
nic = []
"""

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64"),
]


class Lab:
    """One guest in a runtime directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "lab.toml"
        self.file.write_text(LAB)
        self.runtime = state.Runtime(str(directory / "run"))
        self.env = {**os.environ, "QEMUNET_RUNTIME_DIR": self.runtime.path}

    def qemunet(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [QEMUNET, *words], env=self.env, capture_output=True, text=True, timeout=BOOT, stdin=subprocess.DEVNULL
        )

    def start(self) -> Control:
        result = self.qemunet("run", str(self.file), "-d")
        assert result.returncode == 0, result.stderr
        path = self.runtime.lab("lab").path("keeper.sock")
        deadline = time.monotonic() + BOOT
        while not os.path.exists(path):
            assert time.monotonic() < deadline
        control = Control.open(path)
        control.ask("ping")  # which it answers when it has the console
        return control

    def foreground(self) -> pexpect.spawn[str]:
        return pexpect.spawn(
            QEMUNET, ["run", str(self.file)], env=self.env, timeout=BOOT, encoding="utf-8", codec_errors="replace"
        )

    def log(self) -> bytes:
        return Path(self.runtime.scope("vm/one").path("console.log")).read_bytes()

    def is_gone(self) -> bool:
        return not os.path.exists(self.runtime.path)

    def wait_gone(self) -> None:
        deadline = time.monotonic() + 30
        while not self.is_gone():
            assert time.monotonic() < deadline, list(Path(self.runtime.path).rglob("*"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    try:
        image.build(print)
    except HostLacks as error:
        pytest.skip(str(error))
    one = Lab(tmp_path)
    try:
        yield one
    finally:
        one.qemunet("stop", "one", "--force")
        one.wait_gone()


@contextlib.contextmanager
def shell(lab: Lab) -> Iterator[pexpect.fdpexpect.fdspawn[str]]:
    """The guest's shell, by the raw socket that any program may use."""
    with connect(lab.runtime.scope("vm/one").path("console.sock")) as sock:
        spawn = pexpect.fdpexpect.fdspawn(sock.fileno(), encoding="utf-8", codec_errors="replace", timeout=BOOT)
        spawn.sendline("")
        spawn.expect("one:~# ")
        yield spawn


def booted(lab: Lab) -> None:
    deadline = time.monotonic() + BOOT
    while b"~# " not in lab.log():
        assert time.monotonic() < deadline, lab.log()[-500:]


def test_a_flood_from_a_real_shell_is_logged_line_by_line(lab: Lab) -> None:
    """Two clients that do not read, and every line is there once, in order."""
    lab.start().close()
    booted(lab)
    path = lab.runtime.scope("vm/one").path("console.sock")
    with connect(path), connect(path), shell(lab) as guest:
        guest.sendline(f"seq 100001 {100000 + LINES}; echo done''now")
        guest.expect("donenow")
    numbers = [int(one) for one in re.findall(rb"(?m)^(1\d{5})\r$", lab.log())]
    assert numbers == list(range(100001, 100001 + LINES))


def test_the_power_button_shuts_the_guest_down(lab: Lab) -> None:
    with lab.start() as control:
        booted(lab)
        control.ask("watch", vms=["one"])
        assert control.ask("stop", vm="one", timeout=60, within=BOOT) == {"how": "powerdown"}
        events = {str(event["event"]): event for event in (control.wait(30), control.wait(30), control.wait(30))}
    assert events["ended"]["reason"] == "guest-shutdown"
    assert events["over"]["failures"] == []


def test_a_button_pressed_while_it_boots_is_not_lost(lab: Lab) -> None:
    with lab.start() as control:
        assert control.ask("stop", vm="one", timeout=60, within=BOOT) == {"how": "powerdown"}


def test_in_the_foreground_the_shell_is_at_the_terminal_and_poweroff_ends_with_0(lab: Lab) -> None:
    child = lab.foreground()
    child.expect("one:~# ")
    child.send("echo $((6*7))\r")
    child.expect("42\r\n")
    child.send("poweroff\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    lab.wait_gone()


def test_detached_from_the_menu_it_runs_on(lab: Lab) -> None:
    child = lab.foreground()
    child.expect("one:~# ")
    child.send("\x1dd")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert lab.runtime.vm("one").state == "running"
    assert lab.qemunet("stop", "one", "--force").returncode == 0
    lab.wait_gone()


def test_quit_from_the_menu_ends_it(lab: Lab) -> None:
    child = lab.foreground()
    child.expect("one:~# ")
    child.send("\x1dq")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    lab.wait_gone()


FAILING = """qemu-args = ["-S"]
[[vm.one.script]]
expect = "what it never says"
timeout = "1s"
"""


@pytest.mark.parametrize("words", [["--no-console"], []])
def test_a_script_that_fails_ends_a_run_that_nobody_is_at(lab: Lab, words: list[str]) -> None:
    lab.file.write_text(LAB + FAILING)
    result = lab.qemunet("run", str(lab.file), *words)
    said = 'error: vm.one: step 1 of 1 of its script: no "what it never says" within 1 s; nothing was seen'
    assert (result.returncode, result.stderr.splitlines()[-1]) == (5, said)
    assert lab.is_gone()


def test_a_script_that_fails_is_told_to_who_is_at_the_terminal(lab: Lab) -> None:
    """And left to him."""
    lab.file.write_text(LAB + FAILING)
    child = lab.foreground()
    child.expect_exact('[qemunet] step 1 of 1 of its script: no "what it never says" within 1 s')
    child.send("\x1dq")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    lab.wait_gone()


def test_a_terminal_that_is_killed_takes_the_guest_with_it(lab: Lab) -> None:
    child = lab.foreground()
    child.expect("one:~# ")
    child.kill(signal.SIGKILL)
    child.close(force=True)
    lab.wait_gone()
    with pytest.raises(NotFound):
        lab.runtime.vm("one")
