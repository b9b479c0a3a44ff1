"""Real QEMUs without a system: how they start, die and are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet import interrupts
from qemunet.errors import Failed, Gone, Interrupted, LaunchFailed, Taken, TimedOut
from qemunet.frozen import replace
from qemunet.host import guests, hooks, processes, qmp
from qemunet.host.linux import LinuxHost
from qemunet.locks import Lock
from qemunet.model.vm import RunAs
from qemunet.steps import (
    AwaitQemu,
    CreateImage,
    EndQemu,
    Handle,
    LoadFile,
    OpenFile,
    OpenOverlay,
    RemoveImage,
    Resume,
    RunHook,
    SetGuestLink,
    StartQemu,
    Word,
)

NOBODY = RunAs(65534, 65534)


def words(*texts: str) -> tuple[Word, ...]:
    return tuple(Word((text,)) for text in texts)


def chardevs() -> Iterator[Word]:
    for name in ("qmp", "monitor", "serial"):
        yield Word(("-chardev",))
        yield Word((f"socket,id={name},fd=", Handle(f"a:{name}.sock"), ",server=on,wait=off"))
    yield from words("-mon", "chardev=qmp,mode=control", "-mon", "chardev=monitor", "-serial", "chardev:serial")


def qemu(directory: Path, *more: Word) -> StartQemu:
    directory.mkdir(parents=True, exist_ok=True)
    base = words("qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "16M")
    return StartQemu("a", str(directory), (*base, *chardevs(), *more), ())


@pytest.fixture
def directory(host: LinuxHost, fresh: Path) -> Iterator[Path]:
    """A guest's directory; when the test is over no process of it is left."""
    path = fresh / "vm"
    yield path
    pid = guests.find(str(path))
    if pid is not None:
        host.perform(EndQemu("a", str(path)))
    if path.exists():
        (path / "qemu.log").unlink(missing_ok=True)
        path.rmdir()
    assert pid is None, f"process {pid} was left running"


def test_a_guest_has_what_it_needs_and_the_terminal_has_no_hold_on_it(host: LinuxHost, directory: Path) -> None:
    host.perform(qemu(directory))
    guest = host.guests["a"]
    assert (directory / "pid").read_text() == f"{guest.pid}\n"
    assert guest.start_time == processes.start_time(guest.pid)
    assert os.getsid(guest.pid) == guest.pid
    assert Path(f"/proc/{guest.pid}/fd/0").readlink() == Path("/dev/null")
    assert Path(f"/proc/{guest.pid}/fd/2").readlink() == directory / "qemu.log"
    host.perform(AwaitQemu("a"))
    host.perform(Resume("a"))
    host.perform(EndQemu("a", str(directory)))


def test_a_path_that_is_too_long_for_a_socket_does_not_matter(host: LinuxHost, fresh: Path) -> None:
    directory = fresh / ("d" * 100) / ("e" * 100)
    host.perform(qemu(directory))
    host.perform(AwaitQemu("a"))
    host.perform(EndQemu("a", str(directory)))
    (directory / "qemu.log").unlink()
    directory.rmdir()
    directory.parent.rmdir()


def test_a_qemu_that_refuses_its_command_line_says_why(host: LinuxHost, directory: Path) -> None:
    host.perform(qemu(directory, *words("-machine", "nonsense")))
    with pytest.raises(LaunchFailed, match=r"unsupported machine type.*") as caught:
        host.perform(AwaitQemu("a"))
    assert caught.value.status == 1
    assert "nonsense" in caught.value.argv
    with pytest.raises(Gone):
        host.perform(EndQemu("a", str(directory)))


@pytest.mark.parametrize(
    ("kind", "bound", "wanted"),
    [
        ("tcp", "127.0.0.1", "127.0.0.1"),
        ("tcp", "0.0.0.0", "127.0.0.1"),
        ("tcp", "127.0.0.1", ""),
        ("tcp", "::", "127.0.0.1"),
        ("udp", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_forward_of_a_port_that_is_in_use_says_by_whom(
    host: LinuxHost, directory: Path, kind: str, bound: str, wanted: str
) -> None:
    with _bound(kind, bound) as port:
        rule = f'{{"type":"user","id":"n","hostfwd":[{{"str":"{kind}:{wanted}:{port}-:22"}}]}}'
        host.perform(qemu(directory, *words("-netdev", rule)))
        with pytest.raises(Taken) as caught:
            host.perform(AwaitQemu("a"))
    assert caught.value.message == f"{kind} {wanted or '0.0.0.0'}:{port} is in use by {_ourselves()}"
    assert caught.value.where == "vm.a"
    assert "forward" in caught.value.hint
    with pytest.raises(Gone):
        host.perform(EndQemu("a", str(directory)))


def test_a_forward_that_fails_for_another_reason_is_qemus_own_story(host: LinuxHost, directory: Path) -> None:
    """Here the host does not have the address, and the port is in use on another one."""
    with _bound("tcp", "127.0.0.1") as port:
        rule = f'{{"type":"user","id":"n","hostfwd":[{{"str":"tcp:192.0.2.77:{port}-:22"}}]}}'
        host.perform(qemu(directory, *words("-netdev", rule)))
        with pytest.raises(LaunchFailed, match="host forwarding rule"):
            host.perform(AwaitQemu("a"))
    with pytest.raises(Gone):
        host.perform(EndQemu("a", str(directory)))


@pytest.mark.parametrize(("bound", "wanted"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_a_display_that_is_in_use_says_by_whom(host: LinuxHost, directory: Path, bound: str, wanted: str) -> None:
    with _bound("tcp", bound) as port:
        host.perform(qemu(directory, *words("-vnc", f"{wanted}:{port - 5900}")))
        with pytest.raises(Taken) as caught:
            host.perform(AwaitQemu("a"))
    said = f"VNC display {port - 5900}, tcp {wanted}:{port}, is in use by {_ourselves()}"
    assert (caught.value.message, caught.value.where) == (said, "vm.a")
    with pytest.raises(Gone):
        host.perform(EndQemu("a", str(directory)))


@contextlib.contextmanager
def _bound(kind: str, address: str) -> Iterator[int]:
    """Have some port of this address; give its number."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))
        if kind == "tcp":
            sock.listen()
        yield sock.getsockname()[1]


def _ourselves() -> str:
    return f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"


def test_a_qemu_that_dies_later_is_reported_as_well(host: LinuxHost, directory: Path) -> None:
    host.perform(qemu(directory))
    host.perform(AwaitQemu("a"))
    os.kill(host.guests["a"].pid, signal.SIGKILL)
    with pytest.raises(LaunchFailed, match="signal 9"):
        host.perform(Resume("a"))
    with pytest.raises(Gone):
        host.perform(EndQemu("a", str(directory)))


def test_a_program_that_is_missing_leaves_nothing(host: LinuxHost, directory: Path) -> None:
    start = replace(qemu(directory), argv=words("/nonexistent/qemu"))
    with pytest.raises(FileNotFoundError):
        host.perform(start)
    assert "a" not in host.guests
    with pytest.raises(Gone):
        host.perform(EndQemu("a", str(directory)))


def test_a_card_that_is_not_there_has_no_cable(host: LinuxHost, directory: Path) -> None:
    host.perform(qemu(directory))
    host.perform(AwaitQemu("a"))
    with pytest.raises(Failed, match="QEMU refused set_link: Device 'net7' not found"):
        host.perform(SetGuestLink("a", "net7", up=True))
    host.perform(EndQemu("a", str(directory)))


def test_a_guest_is_found_without_its_number(host: LinuxHost, directory: Path) -> None:
    """Whoever started it may have been killed before he wrote it down."""
    host.perform(qemu(directory))
    pid = host.guests["a"].pid
    (directory / "pid").unlink()
    LinuxHost(host.runtime).perform(EndQemu("a", str(directory)))
    assert processes.start_time(pid) is None


def test_a_number_that_belongs_to_somebody_else_is_not_killed(host: LinuxHost, directory: Path) -> None:
    host.perform(qemu(directory))
    with subprocess.Popen(["sleep", "60"]) as other:
        (directory / "pid").write_text(f"{other.pid}\n")
        host.perform(EndQemu("a", str(directory)))
        assert other.poll() is None
        (directory / "pid").write_text(f"{other.pid}\n")
        with pytest.raises(Gone):
            host.perform(EndQemu("a", str(directory)))
        assert other.poll() is None
        other.kill()


def test_a_process_that_was_not_yet_qemu_is_known_by_the_lock_that_it_inherited(
    host: LinuxHost, directory: Path
) -> None:
    """A start that was killed between fork and exec has a child that will be QEMU in a moment."""
    directory.mkdir()
    held = Lock.take(str(directory / "lock"), create=True)
    assert held is not None
    with os.fdopen(held.fd) as lock, open(directory / "lock") as looked_at:
        bystander = subprocess.Popen(["sleep", "60"], pass_fds=[looked_at.fileno()])
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
        assert guests.find(str(directory)) == child.pid
        host.perform(EndQemu("a", str(directory)))
        assert processes.start_time(child.pid) is None
        child.wait(timeout=10)
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()
        assert guests.find(str(directory)) is None
    (directory / "lock").unlink()


def test_root_starts_it_as_somebody_else(host: LinuxHost, directory: Path) -> None:
    host.perform(replace(qemu(directory), run_as=NOBODY, groups=(12,)))
    host.perform(AwaitQemu("a"))
    status = Path(f"/proc/{host.guests['a'].pid}/status").read_text()
    found = {
        line.split(":")[0]: line.split()[1:]
        for line in status.splitlines()
        if line.startswith(("Uid", "Gid", "Groups"))
    }
    assert found == {"Uid": ["65534"] * 4, "Gid": ["65534"] * 4, "Groups": ["12"]}
    host.perform(EndQemu("a", str(directory)))


def test_files_reach_a_qemu_that_could_not_open_them(host: LinuxHost, directory: Path, fresh: Path) -> None:
    """Kernel by a copy in memory, a raw disk by its descriptor, an overlay without a name above another."""
    host.perform(CreateImage(str(fresh / "disk.qcow2"), "qcow2", 1 << 20, str(fresh / "note")))
    (fresh / "secret").write_bytes(b"\0" * 512 * 8)
    for path in ("disk.qcow2", "secret"):
        (fresh / path).chmod(0o600)
    host.perform(OpenFile("a:raw", str(fresh / "secret"), writable=True))
    host.perform(OpenFile("a:below", str(fresh / "disk.qcow2")))
    host.perform(OpenOverlay("a:overlay", str(fresh / "disk.qcow2")))
    host.perform(LoadFile("a:blob", str(fresh / "secret")))
    more: list[Word] = []
    for number, name in enumerate(("raw", "below", "overlay"), 1):
        more += [Word(("-add-fd",)), Word(("fd=", Handle(f"a:{name}"), f",set={number}"))]
        only = "true" if name == "below" else "false"
        node = f'{{"driver":"file","node-name":"{name}.f","read-only":{only},"filename":"/dev/fdset/{number}"}}'
        more += words("-blockdev", node)
    more += words("-blockdev", '{"driver":"raw","node-name":"raw","file":"raw.f"}')
    more += words(
        "-blockdev", '{"driver":"qcow2","node-name":"below","read-only":true,"file":"below.f","backing":null}'
    )
    more += words("-blockdev", '{"driver":"qcow2","node-name":"over","file":"overlay.f","backing":"below"}')
    more += words("-device", "virtio-blk-pci,drive=over,romfile=", "-device", "virtio-blk-pci,drive=raw,romfile=")
    more += [Word(("-fw_cfg",)), Word(("name=opt/blob,file=/proc/self/fd/", Handle("a:blob")))]
    host.perform(replace(qemu(directory, *more), run_as=NOBODY))
    host.perform(AwaitQemu("a"))
    monitor = host.guests["a"].qmp
    assert monitor is not None
    nodes = {node["node-name"]: node for node in qmp.execute(monitor, "query-named-block-nodes")}
    assert nodes["over"]["image"]["virtual-size"] == 1 << 20
    assert nodes["over"]["backing_file_depth"] == 1
    host.perform(EndQemu("a", str(directory)))
    host.perform(RemoveImage(str(fresh / "disk.qcow2"), str(fresh / "note")))
    (fresh / "secret").unlink()


def silent(directory: Path) -> StartQemu:
    """Something that takes the sockets and says nothing."""
    return replace(qemu(directory), argv=words("sleep", "60"))


def test_a_qemu_that_does_not_answer_is_given_up_in_time(
    host: LinuxHost, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "_DEADLINE", 0.05)
    host.perform(silent(directory))
    with pytest.raises(TimedOut, match=r"QEMU has not sent the greeting within 0.05 s; it sent nothing"):
        host.perform(AwaitQemu("a"))
    host.perform(EndQemu("a", str(directory)))


def test_waiting_for_an_answer_can_be_interrupted(
    host: LinuxHost, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_seen", [signal.SIGINT])
    host.perform(silent(directory))
    started = time.monotonic()
    with pytest.raises(Interrupted):
        host.perform(AwaitQemu("a"))
    assert time.monotonic() - started < 5
    with interrupts.deferred():
        host.perform(EndQemu("a", str(directory)))


def script(fresh: Path, text: str) -> str:
    path = fresh / "hook.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_hook_that_fails_is_quoted(host: LinuxHost, fresh: Path) -> None:
    program = script(fresh, "echo no such bridge >&2; exit 3")
    with pytest.raises(Failed, match=r"hook.sh eth1 ended with exit status 3: no such bridge"):
        host.perform(RunHook(program, None, "eth1", ()))
    Path(program).unlink()


def test_a_hook_that_hangs_is_killed(host: LinuxHost, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "DEADLINE", 0.3)
    program = script(fresh, "exec sleep 60")
    with pytest.raises(TimedOut, match=r"has not ended within 0.3 s and was killed"):
        host.perform(RunHook(program, None, "eth1", ()))
    Path(program).unlink()


def test_what_a_hook_leaves_behind_is_not_waited_for(host: LinuxHost, fresh: Path) -> None:
    program = script(fresh, f"sleep 60 & echo $! >{fresh}/pid")
    started = time.monotonic()
    host.perform(RunHook(program, None, "eth1", ()))
    assert time.monotonic() - started < 10
    os.kill(int((fresh / "pid").read_text()), signal.SIGKILL)
    Path(program).unlink()
    (fresh / "pid").unlink()
