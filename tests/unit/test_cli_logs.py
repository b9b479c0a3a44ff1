"""`logs` prints a growing file as it is, and `-f` ends with the vm."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qemunet.cli.follow import follow
from qemunet.cli.main import main
from qemunet.live import readiness, script
from qemunet.model.ready import ConsoleReady, ScriptReady
from qemunet.model.script import ScriptStep
from qemunet.records import VmRecord
from qemunet.state import Runtime

Output = pytest.CaptureFixture[str]


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a vm."""
    runtime = Runtime(str(tmp_path / "run"))
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", runtime.path)
    with runtime.exclusive():
        runtime.scope("vm/kali2").create()
    directory = tmp_path / "run/vm/kali2"
    record = VmRecord("kali2", "pentest", "/labs/pentest.toml", "q35", "tcg", ())
    (directory / "record.json").write_text(record.as_json())
    return directory


def test_logs_are_printed_as_they_are(vm: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Escape sequences and bytes that are no text are the guest's own."""
    said = b"\x1b[31mred\xff\r\n"
    (vm / "console.log").write_bytes(said)
    (vm / "qemu.log").write_bytes(b"a warning\n")
    assert main(["logs", "kali2"]) == 0
    assert capsysbinary.readouterr().out == said
    assert main(["logs", "kali2", "--qemu"]) == 0
    assert capsysbinary.readouterr().out == b"a warning\n"


def test_a_vm_that_has_said_nothing_has_an_empty_log(vm: Path, capsys: Output) -> None:
    """It runs, so this is no error."""
    assert main(["logs", "kali2"]) == 0
    assert capsys.readouterr() == ("", "")


def test_following_ends_when_the_file_goes(vm: Path) -> None:
    """What is written before the file is there, while it is followed and just before its end is all seen, once."""
    path = vm / "console.log"
    seen: list[bytes] = []
    steps = [threading.Event(), threading.Event()]

    def read() -> None:
        for chunk in follow(str(path)):
            seen.append(chunk)
            steps[min(len(seen), len(steps)) - 1].set()

    reader = threading.Thread(target=read)
    reader.start()
    with path.open("ab", buffering=0) as file:
        file.write(b"one ")
        assert steps[0].wait(10)
        file.write(b"two ")
        assert steps[1].wait(10)
        file.write(b"three")
        path.unlink()
    reader.join(10)
    assert not reader.is_alive()
    assert b"".join(seen) == b"one two three"


def test_a_log_that_became_too_long_is_followed_into_the_next_file(vm: Path) -> None:
    """The keeper renames it and begins another; a reader does not notice."""
    path = vm / "console.log"
    path.write_bytes(b"one ")
    seen = follow(str(path))
    assert next(seen) == b"one "
    with path.open("ab") as old:
        path.rename(vm / "console.log.1")
        old.write(b"two ")
    path.write_bytes(b"three")
    assert next(seen) == b"two "
    assert next(seen) == b"three"
    path.unlink()
    assert list(seen) == []


def test_a_log_that_became_too_long_twice_is_followed_through_both(vm: Path) -> None:
    """As a flood does while the reader has not looked."""
    path, older = vm / "console.log", vm / "console.log.1"
    path.write_bytes(b"one ")
    seen = follow(str(path))
    assert next(seen) == b"one "
    for text in (b"two ", b"three"):
        with path.open("rb"):  # its number is not given to the next one
            path.rename(older)
            path.write_bytes(text)
    assert next(seen) == b"two "
    assert next(seen) == b"three"
    path.unlink()
    assert list(seen) == []


def test_whoever_waits_for_a_word_sees_what_came_before_the_log_was_moved_aside(vm: Path) -> None:
    here = Runtime(str(vm.parent.parent))
    path = vm / "console.log"
    path.write_bytes(b"one ")
    watch = readiness.watch(here, here.vm("kali2"), ConsoleReady("two th(?!$)ree"))
    assert not watch.ready()
    with path.open("ab") as old:
        old.write(b"two ")
    path.rename(vm / "console.log.1")
    path.write_bytes(b"three")
    assert watch.ready()


def test_whoever_waits_for_a_script_sees_where_it_is_and_what_the_guest_said_last(vm: Path) -> None:
    here = Runtime(str(vm.parent.parent))
    step = ScriptStep(expect="login: ", fail=None, send=None, enter=True, timeout=60)
    script.write(str(vm), [step])
    (vm / "console.log").write_bytes(b"x" * 5000 + b"\r\n\x1b[1mBooting\x1b[0m the kernel\r\n")
    watch = readiness.watch(here, here.vm("kali2"), ScriptReady())
    assert not watch.ready()
    assert watch.seen.startswith('step 1 of 1 of its script: waits for "login: "; last seen: xxx')
    assert watch.seen.endswith("x Booting the kernel")


def test_the_older_part_of_a_log_comes_first(vm: Path, capsys: Output) -> None:
    """Whoever prints a log wants all of it."""
    (vm / "console.log.1").write_text("older ")
    (vm / "console.log").write_text("newer")
    assert main(["logs", "kali2"]) == 0
    assert capsys.readouterr().out == "older newer"


def test_following_nothing_ends_with_its_directory(vm: Path) -> None:
    """A vm that ends before it says anything."""
    reader = threading.Thread(target=lambda: list(follow(str(vm / "console.log"))))
    reader.start()
    (vm / "record.json").unlink()
    vm.rmdir()
    reader.join(10)
    assert not reader.is_alive()
    assert list(follow(str(vm / "console.log"))) == []


def test_follow_reaches_a_pipe_line_by_line(vm: Path) -> None:
    """``logs -f | grep -m1 ready`` must not wait for a full buffer."""
    (vm / "console.log").write_bytes(b"ready\n")
    argv = [sys.executable, "-m", "qemunet", "logs", "kali2", "-f"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (vm / "console.log").unlink()
        assert process.wait(10) == 0
