"""A capture goes where it is wanted, whole, and never over something that is no file."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet import interrupts
from qemunet.cli import sink
from qemunet.cli.sink import Sink
from qemunet.errors import Failed, Interrupted, UsageError


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    yield
    interrupts.forget()


def test_a_new_file_is_private_and_an_old_one_is_emptied_but_not_before_it_begins(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_bytes(b"something else")
    for path in (new, old):
        one = Sink(str(path))
        assert path == new or path.read_bytes() == b"something else"
        assert path == old or not path.exists()
        one.begin(b"head ")
        one.write(b"body")
        assert path.read_bytes() == b"head body", "at once"
        one.close()
    assert new.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("path", ["/dev/null", "/", "/proc/self/fd"])
def test_devices_and_directories_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="neither a file nor a FIFO"):
        Sink(path)


def test_a_terminal_is_refused() -> None:
    """A child has one."""
    script = "from qemunet.cli.sink import Sink; Sink('-')"
    ours, theirs = os.openpty()
    done = subprocess.run([sys.executable, "-c", script], stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(ours)
    os.close(theirs)
    assert "a capture is nothing for a terminal" in done.stderr


def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    """The file's size is limited in a child; what was written before stays and nothing of the rest."""
    script = f"""
import resource, signal
from qemunet.cli.sink import Sink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
one = Sink({str(tmp_path / "file")!r})
one.begin(b"head ")
one.write(b"123456789")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "cannot write: File too large" in done.stderr
    assert Failed.__name__ in done.stderr
    assert (tmp_path / "file").read_bytes() == b"head "


def test_a_fifo_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    one = Sink(str(path))
    one.begin(b"head")
    one.write(b"x" * 100_000)
    one.close()
    reader.join(10)
    assert found == [b"head" + b"x" * 100_000]


def test_who_waits_for_a_reader_can_be_interrupted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    interrupts._note(signal.SIGINT, None)
    with pytest.raises(Interrupted):
        Sink(str(tmp_path / "fifo"))


def test_a_reader_that_has_left_and_one_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is told at once; the second cannot keep somebody who wants to go."""
    monkeypatch.setattr(sink, "_GRACE", 0.1)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    one = Sink(str(path))
    one.begin(b"")
    interrupts._note(signal.SIGINT, None)
    with pytest.raises(Interrupted, match="nobody takes"):
        one.write(b"x" * (1 << 20))
    assert select.select([reader], [], [], 0)[0]
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        one.write(b"x")
    one.close()
