"""Our agent is one file for any Linux guest: it runs commands under whatever /bin/sh is there."""

from __future__ import annotations

import base64
import os
import pty
import select
import shutil
import signal
import subprocess
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.guest import image

PATIENCE = 30.0  # seconds
FILE = Path(image.__file__).parent / "files/agent.sh"
SHELLS = [shell for shell in (["dash"], ["busybox", "sh"]) if shutil.which(shell[0])]


class Port:
    """A terminal in place of the virtio port: the other end of a running agent."""

    def __init__(self, shell: list[str], folder: Path) -> None:
        self._fd, self._far = pty.openpty()  # without anybody at the far end there would be none
        tty.setraw(self._far)
        name = os.ttyname(self._far).removeprefix("/dev/")
        script = f". {FILE}; find_agent_port() {{ agent_port={name}; }}; RUN={folder}/run; be_agent"
        self.process = subprocess.Popen([*shell, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL)
        self._said = b""

    def tell(self, data: bytes) -> None:
        os.write(self._fd, data)

    def hears(self, *words: bytes) -> list[bytes]:
        """The words of the next line that begins with these; others are passed over."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line, newline, rest = self._said.partition(b"\n")
            if newline:
                self._said = rest
                if line.split()[: len(words)] == list(words):
                    return line.split()
                continue
            assert time.monotonic() < deadline, f"no {words} came, but {self._said!r}"
            if select.select([self._fd], [], [], 0.2)[0]:
                self._said += os.read(self._fd, 65536)

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._fd)
        os.close(self._far)


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Port]:
    found = Port(request.param, tmp_path)
    try:
        found.hears(b"started", b"0")  # before all else: whoever waits for another agent's commands waits in vain
        found.hears(b"cards", b"0")  # it says so when it listens
        yield found
    finally:
        found.close()


def test_a_command_gets_its_words_and_its_input_and_tells_its_status(port: Port) -> None:
    """Its output ends with the mark, and so do its errors."""
    port.tell(
        b"run 5 MARK 49152 in '' 'sh' '-c' 'cat; printf %s \"$1\"; exit 3' 'sh' 'it'\\''s'\"$nl\"'\xd0\x81\xff'\n"
    )
    port.hears(b"began", b"5")
    text = base64.b64encode(b"in\0put|")
    port.tell(b"in 5 0 %d\n%s\neof 5\n" % (len(text), text))
    said = b""
    assert port.hears(b"end", b"5") == [b"end", b"5", b"3"]
    port.tell(b"run 6 MARK 49152 - '' 'printf' 'in\\000put|it'\\''s\\n\\320\\201\\377'\n")
    while not said.endswith(b"MARK"):
        said += base64.b64decode(port.hears(b"out", b"6")[2])
    assert said == b"in\0put|it's\n\xd0\x81\xffMARK"


def test_a_killed_command_is_told_like_any_other(port: Port) -> None:
    """Meanwhile it answers what it is asked about its cards."""
    port.tell(b"run 7 MARK 49152 - '' 'sleep' '1000'\n")
    port.hears(b"began", b"7")
    port.tell(b"cards 4\n")
    port.hears(b"cards", b"4")
    port.tell(b"kill 7 KILL\n")
    assert port.hears(b"end", b"7") == [b"end", b"7", b"137"]
    assert base64.b64decode(port.hears(b"err", b"7")[2]) == b"MARK"


def test_a_guest_without_the_port_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Where it is started by its name, it begins by itself."""
    agent = tmp_path / "qemunet-agent"
    agent.write_text(image.agent())
    done = subprocess.run(["sh", str(agent)], env={"SYS": str(tmp_path), **os.environ}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "agent = true" in done.stderr
