"""Starts and ends QEMUs, and lets them run.

Theory of operation. Each QEMU inherits listening sockets, its taps, its files and its lock; our ends of them are
closed as soon as it has them, or an early death would go unnoticed and a tap would outlive its guest. Its serial
console is connected before it exists, so that not a byte is lost. Its errors go to a file, which is also how it is
known again: whoever has that file as standard error is that guest's QEMU, even if we were killed between starting it
and writing its number down. If we were killed even before it was QEMU, it is the process that holds the guest's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess

from qemunet.errors import Failed, LaunchFailed
from qemunet.host import processes, qmp
from qemunet.host.links import Vanished
from qemunet.steps import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qemunet.errors import QemunetError
    from qemunet.host.netns import Place
    from qemunet.steps import EndQemu, Resume, SetGuestLink, StartQemu, Word

AGENTS = ("agent.sock", "qga.sock")  # which only some guests have
SOCKETS = ("qmp.sock", "monitor.sock", "serial.sock", *AGENTS)
LOG, PID, LOCK = "qemu.log", "pid", "lock"
_END = 30.0  # seconds from a kill to the end of the process
_BACKLOG = 4
_TAIL = 4096  # bytes of the log, in an error


class RunningQemu:
    """A QEMU of ours. `console` was connected before it existed; `qmp` is None until it has answered.

    `start_time` is field 22 of proc_pid_stat(5): with the number, the identity of the process.
    """

    def __init__(
        self, step: StartQemu, process: tuple[int, int], console: socket.socket, argv: tuple[str, ...]
    ) -> None:
        self.vm = step.vm
        self.pid, self.start_time = process
        self.console = console
        self.qmp: socket.socket | None = None
        self.directory = step.directory
        self.argv = argv

    def close(self) -> None:
        """Close the sockets; the process stays."""
        self.console.close()
        if self.qmp is not None:
            self.qmp.close()


# ---------------------------------------------------------------- starting


def start(step: StartQemu, handles: Mapping[str, Sequence[int]], place: Place) -> RunningQemu:
    """Start a QEMU at a place with what `handles` has under the vm's name, and its sockets in the step's directory."""
    with contextlib.ExitStack() as stack:
        directory = os.open(step.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        listeners = {name: stack.enter_context(_listen(directory, name)) for name in _wanted(step)}
        console = _connect(directory, "serial.sock")
        own = {f"{step.vm}:{name}": [one.fileno()] for name, one in listeners.items()}
        try:
            argv = tuple(_spelled(word, {**handles, **own}) for word in step.argv)
            passed = [fd for name, fds in handles.items() if name.startswith(f"{step.vm}:") for fd in fds]
            fds = [*passed, *(found[0] for found in own.values())]
            process = place.inside(lambda: _spawn(step, argv, directory, fds))
        except BaseException:
            console.close()
            raise
        return RunningQemu(step, _noted(process, directory), console, argv)


def _wanted(step: StartQemu) -> list[str]:
    """Return the sockets of a guest: one that its QEMU was not told of would take connections and never answer."""
    told = {part for word in step.argv for part in word.parts}
    return [name for name in SOCKETS if name not in AGENTS or Handle(f"{step.vm}:{name}") in told]


def _listen(directory: int, name: str) -> socket.socket:
    """Listen in a directory whose own path may be too long for a socket's address."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{name}")
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(directory: int, name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{name}")
    except BaseException:
        sock.close()
        raise
    return sock


def _spelled(word: Word, handles: Mapping[str, Sequence[int]]) -> str:
    """Return an argument with the numbers of its descriptors."""
    return "".join(":".join(map(str, handles[part.name])) if isinstance(part, Handle) else part for part in word.parts)


def _spawn(step: StartQemu, argv: tuple[str, ...], directory: int, passed: list[int]) -> subprocess.Popen[bytes]:
    """Start the process in a session of its own: a ^C at the terminal is for us."""
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600, dir_fd=directory)
    who = step.run_as
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=passed,
            start_new_session=True,
            user=who.uid if who else None,
            group=who.gid if who else None,
            extra_groups=step.groups if who else None,
        )
    finally:
        os.close(log)


def _noted(process: subprocess.Popen[bytes], directory: int) -> tuple[int, int]:
    """Write the number down and return it, with the time of the start."""
    process.returncode = 0  # not ours to wait for: the keeper will, or whoever adopts it
    fd = os.open(PID, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "w") as file:
        file.write(f"{process.pid}\n")
    return process.pid, processes.start_time(process.pid) or 0


# ---------------------------------------------------------------- talking


def await_answer(guest: RunningQemu) -> None:
    """Wait until it answers. Raises LaunchFailed if it died, Taken if for want of a port, TimedOut."""
    with _alive(guest):
        directory = os.open(guest.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            guest.qmp = _connect(directory, "qmp.sock")
        except ConnectionError as error:
            raise qmp.HungUp from error
        finally:
            os.close(directory)
        qmp.negotiate(guest.qmp)


def set_link(guest: RunningQemu, step: SetGuestLink) -> None:
    """Plug a card's cable in or out, by its device id."""
    with _alive(guest):
        qmp.execute(_monitor(guest), "set_link", name=step.nic, up=step.up)


def resume(guest: RunningQemu, step: Resume) -> None:
    """Let its processors run, and make sure that they do."""
    with _alive(guest):
        events = qmp.execute_and_hear(_monitor(guest), "cont")
    if "RESUME" not in events:
        raise Failed("it does not run, although QEMU was told so", where=f"vm.{step.vm}")


@contextlib.contextmanager
def _alive(guest: RunningQemu) -> Iterator[None]:
    """Turn a broken connection into the story of QEMU's death."""
    try:
        yield
    except qmp.HungUp as error:
        status = None
        with contextlib.suppress(ProcessLookupError), processes.Ending(guest.pid) as ending:
            status = ending.wait(_END)
        raise _story(guest, status) from error


def _story(guest: RunningQemu, status: int | None) -> QemunetError:
    """Say why it died: `Taken` if somebody has what it wanted, HostLacks if it has no such backend, else its words."""
    from qemunet.host import complaints

    said = _tail(guest.directory)
    return complaints.meant(guest.vm, said) or LaunchFailed(guest.vm, status, guest.argv, said)


def _monitor(guest: RunningQemu) -> socket.socket:
    if guest.qmp is None:
        raise Failed(f"QEMU of {guest.vm} has not answered yet", where=f"vm.{guest.vm}")
    return guest.qmp


def _tail(directory: str) -> str:
    try:
        with open(os.path.join(directory, LOG), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


# ---------------------------------------------------------------- ending


def end(step: EndQemu) -> None:
    """Kill a guest's QEMU and wait until it has let go of everything. Raises Vanished if there is none."""
    pid = find(step.directory)
    ended = pid is not None and _kill(pid, step.directory)
    for name in (*SOCKETS, PID):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(os.path.join(step.directory, name))
    if not ended:
        raise Vanished(errno.ESRCH, f"no QEMU of {step.vm} runs")


def find(directory: str) -> int | None:
    """Return the process of the QEMU that was started in a directory, or None."""
    try:
        log = os.stat(os.path.join(directory, LOG))
    except OSError:
        return next(processes.holders(os.path.join(directory, LOCK)), None)
    known = processes.written(os.path.join(directory, PID))
    if known is not None and processes.writes_errors_to(known, log):
        return known
    started = (pid for pid in processes.all_pids() if processes.writes_errors_to(pid, log))
    return next(started, None) or next(processes.holders(os.path.join(directory, LOCK)), None)


def _kill(pid: int, directory: str) -> bool:
    try:
        with processes.Ending(pid) as ending:
            if find(directory) != pid:  # ended meanwhile, and its number may be somebody else's
                return False
            ending.kill()
            ending.wait(_END)
    except ProcessLookupError:
        return False
    return True
