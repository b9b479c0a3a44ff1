"""The runtime directory: locks die with their holders, and nothing empty stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qemunet.errors import NotFound, QemunetError
from qemunet.locks import Lock, is_locked
from qemunet.records import NicRecord, VmRecord
from qemunet.state import Runtime, locate

RECORD = VmRecord(
    "a", "lab", "/lab.toml", "q35", "tcg", (NicRecord("net0", "tap", "e1000", "52:54:00:00:00:01", "up"),)
)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(str(tmp_path / "run"))


def test_a_directory_made_here_goes_when_it_is_empty(runtime: Runtime) -> None:
    with runtime.exclusive():
        runtime.scope("vm/a").create()
        runtime.scope("vm/a").remove()
    assert not os.path.exists(runtime.path)


def test_a_directory_that_was_there_stays_as_it_was(runtime: Runtime) -> None:
    os.mkdir(runtime.path)
    with runtime.exclusive():
        pass
    assert os.listdir(runtime.path) == []


def test_a_directory_that_somebody_else_marked_first_goes_all_the_same(runtime: Runtime) -> None:
    """Between making it and saying so, another process may have found it empty."""
    with runtime.exclusive():
        Path(runtime.path, "used-by-qemunet").touch()
    assert not os.path.exists(runtime.path)


@pytest.mark.parametrize("entry", ["vm", "made-by-somebody", ".hidden"])
def test_a_directory_with_something_in_it_is_somebodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """Whatever that is: entries are removed as a matter of course."""
    (tmp_path / entry).mkdir()
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(QemunetError, match="not empty, and not qemunet's"):
        locate()


DIES = """
import os, sys
from qemunet.state import Runtime
runtime, left = Runtime(sys.argv[1]), int(sys.argv[2])
def die(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rmdir", "os.remove", "os.chmod") and runtime.path in str(arguments):
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(die)
with runtime.exclusive():
    pass
"""


def test_whoever_is_killed_while_making_or_removing_it_leaves_it_to_the_next(runtime: Runtime) -> None:
    """At whichever of its system calls: the next one takes it for what it is, and removes it."""
    died = 0
    while subprocess.run([sys.executable, "-c", DIES, runtime.path, str(died)]).returncode == 9:
        with runtime.exclusive():
            assert os.stat(runtime.path).st_mode & 0o7777 == 0o700
        assert not os.path.exists(runtime.path), f"killed at call {died}"
        died += 1
    assert died > 5


def test_a_directory_of_the_users_own_stays_whatever_its_mode(runtime: Runtime) -> None:
    os.mkdir(runtime.path, 0o700)
    os.chmod(runtime.path, 0o750)
    with runtime.exclusive():
        assert os.stat(runtime.path).st_mode & 0o7777 == 0o750
    assert os.stat(runtime.path).st_mode & 0o7777 == 0o750


def test_what_is_not_empty_stays(runtime: Runtime) -> None:
    with runtime.exclusive():
        runtime.scope("vm/a").create()
    assert os.path.isdir(runtime.scope("vm/a").directory)


def test_the_directory_is_private(runtime: Runtime) -> None:
    with runtime.exclusive():
        assert os.stat(runtime.path).st_mode & 0o777 == 0o700


def hold(path: str) -> subprocess.Popen[bytes]:
    """A process that holds the lock until it dies."""
    program = f"from qemunet.state import Lock; Lock.take({path!r}, create=True); print(flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def test_a_lock_is_gone_with_a_killed_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with hold(path) as holder:
        assert is_locked(path)
        assert Lock.take(path) is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert not is_locked(path)
        assert Lock.take(path) is not None


def test_a_lock_on_a_removed_file_counts_for_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = Lock.take(path, create=True)
    os.unlink(path)
    second = Lock.take(path, create=True)
    assert first is not None
    assert second is not None
    assert is_locked(path)


def test_many_processes_that_tidy_at_once_never_hold_the_lock_together(runtime: Runtime) -> None:
    program = (
        "import sys, os; from qemunet.state import Runtime; r = Runtime(sys.argv[1])\n"
        "for _ in range(100):\n"
        "  with r.exclusive():\n"
        "    fd = os.open(sys.argv[2], os.O_CREAT | os.O_EXCL); os.close(fd); os.unlink(sys.argv[2])\n"
    )
    witness = runtime.path + "-witness"
    workers = [subprocess.Popen([sys.executable, "-c", program, runtime.path, witness]) for _ in range(6)]
    assert [worker.wait() for worker in workers] == [0] * 6
    assert not os.path.exists(runtime.path)


def test_a_record_reads_back_as_it_was_written() -> None:
    assert VmRecord.from_json(RECORD.as_json()) == RECORD


def test_a_vm_without_a_living_qemu_is_dead(runtime: Runtime) -> None:
    with runtime.exclusive():
        scope = runtime.scope("vm/a")
        scope.create()
        scope.save(RECORD)
    assert [vm.state for vm in runtime.vms()] == ["dead"]


def test_an_unknown_vm_is_not_found_and_the_known_ones_are_named(runtime: Runtime) -> None:
    with runtime.exclusive():
        runtime.scope("vm/a").create()
        runtime.scope("vm/a").save(RECORD)
    for name in ("b", "../vm/a"):
        with pytest.raises(NotFound, match=f'no vm of the name "{name}" runs') as caught:
            runtime.vm(name)
        assert caught.value.hint == "running: a"


def test_claims_name_their_owners(runtime: Runtime) -> None:
    with runtime.exclusive():
        os.makedirs(f"{runtime.path}/claims/mac")
        Path(f"{runtime.path}/claims/mac/52:54:00:00:00:01").write_text("vm/a")
        assert runtime.claims() == {"mac/52:54:00:00:00:01": "vm/a"}


@pytest.mark.parametrize(
    ("environment", "uid", "expected"),
    [
        ({"QEMUNET_RUNTIME_DIR": "/x"}, 0, "/x"),
        ({}, 0, "/run/qemunet"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/qemunet"),
        ({}, 7, "/run/user/7/qemunet"),
    ],
)
def test_where_the_runtime_directory_is(
    environment: dict[str, str], uid: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QEMUNET_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert locate() == expected


def test_the_networks_that_are_up_are_known_by_their_files(runtime: Runtime) -> None:
    """One that is still being made is not up."""
    for name in ("lab", "early"):
        runtime.scope(f"net/{name}").create()
        Path(runtime.scope(f"net/{name}").path("net.toml")).write_text(f"[network.{name}]\n")
    runtime.scope("net/lab").complete("fingerprint")
    assert runtime.networks() == {"lab": "[network.lab]\n"}
