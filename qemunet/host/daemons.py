"""Starts, finds and ends the programs that serve a network.

Theory of operation. A program of ours outlives whoever started it, and goes with its network. Its log is locked by it
as long as it lives: dnsmasq closes all that it inherits but its standard error, so that is the descriptor which has
the lock. Who holds it is the program, also if we were killed before we had written its number down. What it takes to
start it again lies beside the log.

Started by root it is a user of its own, with the rights over networks that it needs and no others. Its files are
root's; it sees them in a view of its own (`cells`), for the directory above is closed to it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import select
import stat
import subprocess
import time
import typing

from qemunet import interrupts
from qemunet.errors import Failed, Taken, TimedOut, command_line, describe_status
from qemunet.frozen import replace
from qemunet.host import cells, processes, programs, spaces
from qemunet.host.links import Vanished
from qemunet.journal import from_json, to_json
from qemunet.locks import Lock, is_locked
from qemunet.steps import FILES, Handle, StartDaemon

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.steps import EndDaemon, Reconfigure, Reserve, Unreserve

DEADLINE = 10.0  # seconds until it is ready, and from a kill to its end
_GRACE = 2.0  # seconds from a polite request to a kill
_GLANCE = 5  # milliseconds between two looks at what it says
_TAIL = 4096  # bytes of the log, in an error
_PACKAGES = {"dnsmasq": "dnsmasq-base", "setpriv": "util-linux"}
_NO_PORT = re.compile(r"failed to (?:create listening socket for \S+|bind (DHCP|DHCPv6) server socket): .*in use")
_NO_FORWARD = re.compile(r"Failed to bind .*'--?(t|u)\S* (?:(\S+)/)?(\d+):")
_NO_SYSLOG = re.compile(r"Failed to send \d+ bytes to syslog\n")  # says passt of each of its words
_PORTS = {None: (53, "dns"), "DHCP": (67, "dhcp"), "DHCPv6": (547, "dhcp")}


# ---------------------------------------------------------------- starting


def start(step: StartDaemon, *, anew: bool = True) -> None:
    """Start it and wait until it is ready; to be called in the place where it is to serve.

    Raises Taken if somebody has a port that it needs, HostLacks, Failed with its last words, TimedOut; then it is gone,
    with what was made for it here if that was `anew`.
    """
    lock = Lock.take(_log(step), create=True)
    if lock is None:
        raise Failed(f"{step.name} of {step.where} runs already", where=step.where)
    try:
        _run(step, lock)
    except BaseException:
        if anew:
            _forget(step.directory, step.name)
        raise
    finally:
        lock.release()


def _run(step: StartDaemon, lock: Lock) -> None:
    """Start it with the lock of its log, and wait until it is ready; raises as `start`."""
    fcntl.fcntl(lock.fd, fcntl.F_SETFL, os.O_APPEND)
    told = os.fstat(lock.fd).st_size
    files = _open_up(step)
    _write(step, ".json", json.dumps(to_json(replace(step, script=()))))
    argv, pid = _spawn(step, files, lock.fd)
    _write(step, ".pid", f"{pid}\n")
    try:
        _await(step, pid, argv, told)
    except BaseException:
        _kill([pid])
        raise


def again(directory: str, name: str) -> tuple[int, bool] | None:
    """Start one that has died once more; return its number and whether it had. None: there is nothing to start.

    It is started where it was to serve, and what it had begun, and may still have its lock, is ended first. Raises as
    `start`.
    """
    try:
        with open(os.path.join(directory, f"{name}.json")) as file:
            step = from_json(json.load(file))
    except (FileNotFoundError, ValueError):
        return None
    assert isinstance(step, StartDaemon), "nothing else is written there"
    known = processes.written(os.path.join(directory, f"{name}.pid"))
    if known is not None and processes.holds(known, _log(step)):
        return known, False
    _kill(list(processes.holders(_log(step))))
    spaces.place(os.path.dirname(os.path.dirname(directory)), step.netns).inside(lambda: start(step, anew=False))
    known = processes.written(os.path.join(directory, f"{name}.pid"))
    assert known is not None, "it was written at its start"
    return known, True


def begin(step: StartDaemon | Reconfigure) -> None:
    """Start it, or have it begin again; raises as these do."""
    if isinstance(step, StartDaemon):
        start(step)
    else:
        reconfigure(step)


def reconfigure(step: Reconfigure) -> None:
    """Write its files, end it and start it again; raises as `start`, and Vanished if it was never started."""
    files = os.path.join(step.directory, step.name)
    for path, text in step.files:
        fd = os.open(os.path.join(files, path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with open(fd, "w") as file:
            file.write(text)
    _finish(os.path.join(step.directory, f"{step.name}.log"))
    if again(step.directory, step.name) is None:
        raise Vanished(errno.ESRCH, f"no {step.name} of {step.directory} was started")


def _open_up(step: StartDaemon) -> str:
    """Let it read its files; all that is above them is closed to everybody else. Return their directory."""
    files = os.path.join(step.directory, step.name)
    os.makedirs(files, exist_ok=True)
    for folder, _, names in os.walk(files):
        os.chmod(folder, 0o755)  # noqa: S103 - nobody else comes as far as this
        for name in set(names).difference(step.writes):
            os.chmod(os.path.join(folder, name), 0o644)
    for name in step.writes:
        if name.endswith("/"):
            _give_directory(os.path.join(files, name), step.uid)
            continue
        fd = os.open(os.path.join(files, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd):
            if step.uid is not None:
                os.fchown(fd, step.uid, step.uid)
    return files


def _give_directory(path: str, uid: int | None) -> None:
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o700)
    if uid is not None:
        os.chown(path, uid, uid)


def _spawn(step: StartDaemon, files: str, log: int) -> tuple[list[str], int]:
    """Start the process in a session of its own; return its command line and its number."""
    if step.uid is None or not cells.can_be():
        argv = _argv(step, files)
        return argv, _started(argv, log)
    argv = [*_lowered(step, step.uid), *_argv(step, cells.PLACE)]
    return argv, cells.within(files, lambda: _started(argv, log))


def _started(argv: list[str], log: int) -> int:
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True)
    process.returncode = 0  # not ours to wait for: it will outlive us
    return process.pid


def _lowered(step: StartDaemon, uid: int) -> list[str]:
    program = programs.path("setpriv", _PACKAGES["setpriv"])
    kept = ",".join(["-all", *(f"+{one}" for one in step.rights)])
    rights = [f"--{which}={kept}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    return [program, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", *rights]


def _argv(step: StartDaemon, files: str) -> list[str]:
    here = {FILES: files}
    first, *rest = (
        "".join(here[part.name] if isinstance(part, Handle) else part for part in word.parts) for word in step.argv
    )
    return [programs.path(first, _PACKAGES.get(first, first)), *rest]


def _await(step: StartDaemon, pid: int, argv: list[str], told: int) -> None:
    """Wait until it says that it is ready."""
    fd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + DEADLINE
        while True:
            ended = poll.poll(_GLANCE)
            said = _said(step, told)
            if ended:
                raise _story(step, argv, said, processes.reap(pid))
            if step.ready in said:
                return
            interrupts.check()
            if time.monotonic() > deadline:
                last = said.splitlines()[-1] if said else "it has said nothing"
                raise TimedOut(f"{step.name} is not ready after {DEADLINE:g} s: {last}", where=step.where)
    finally:
        os.close(fd)


def _story(step: StartDaemon, argv: list[str], said: str, status: int | None) -> Failed | Taken:
    """Say why it died: somebody has a port that it wanted, or its own words."""
    if found := _NO_PORT.search(said):
        port, key = _PORTS[found[1]]
        hint = f"end that program, or write `{key} = false`"
        return Taken(f"port {port} is in use by {_holder(port)}", where=step.where, hint=hint)
    if taken := _no_forward(step, said):
        return taken
    files = os.path.join(step.directory, step.name)
    said = said.replace(f"{cells.PLACE}/", f"{files}/")
    lines = "".join(f"\n    {text}" for text in said.strip().splitlines()[-10:]) or " (nothing)"
    command = command_line([word.replace(f"{cells.PLACE}/", f"{files}/") for word in argv])
    return Failed(
        f"{step.name} died at start ({describe_status(status)})\n  it said:{lines}\n  command line:\n    {command}",
        where=step.where,
    )


def _no_forward(step: StartDaemon, said: str) -> Taken | None:
    """Return the error if a passt could not have a port and somebody has it."""
    found = _NO_FORWARD.search(said)
    if found is None:
        return None
    from qemunet.host import complaints

    protocol, address, port = {"t": "tcp", "u": "udp"}[found[1]], found[2] or "", int(found[3])
    who = next((who for _, who in complaints.listeners(protocol, address, port, port)), "")
    hint = "choose another port of the host in `forward`, or end that program"
    return Taken(f"{protocol}:{address}:{port} is in use by {who}", where=step.where, hint=hint) if who else None


def _holder(port: int) -> str:
    from qemunet.host import complaints

    found = (who for protocol in ("udp", "tcp") for _, who in complaints.listeners(protocol, "", port, port))
    return next(found, "somebody")


def _said(step: StartDaemon, told: int) -> str:
    with open(_log(step), "rb") as file:
        file.seek(max(told, file.seek(0, os.SEEK_END) - _TAIL))
        return _NO_SYSLOG.sub("", file.read().decode(errors="replace"))


def _write(step: StartDaemon, suffix: str, text: str) -> None:
    path = os.path.join(step.directory, step.name + suffix)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(text)


# ---------------------------------------------------------------- finding and ending


def alive(directory: str, name: str) -> bool:
    """Tell whether the program is there."""
    return is_locked(os.path.join(directory, f"{name}.log"))


def find(directory: str, name: str) -> int | None:
    """Return the process of a program that was started in a directory, or None."""
    log = os.path.join(directory, f"{name}.log")
    known = processes.written(os.path.join(directory, f"{name}.pid"))
    if known is not None and processes.holds(known, log):
        return known
    return next(processes.holders(log), None)


def end(step: EndDaemon) -> None:
    """Ask it to end, then make it, with all that it has begun. Raises Vanished if there is none."""
    log = os.path.join(step.directory, f"{step.name}.log")
    known = processes.written(os.path.join(step.directory, f"{step.name}.pid"))
    ended = _finish(log)
    if not ended and known is not None:
        processes.reap(known)  # it may be a child of ours that has ended by itself
    _forget(step.directory, step.name)
    if not ended:
        raise Vanished(errno.ESRCH, f"no {step.name} of {step.directory} runs")


def _forget(directory: str, name: str) -> None:
    """Remove what was written about a program that is gone, and what it has left."""
    for suffix in (".json", ".pid", ".log"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(os.path.join(directory, name + suffix))
    _clear(os.path.join(directory, name))


def _clear(files: str) -> None:
    """Remove the sockets that it has left, and the directories in which nothing is then."""
    for folder, _, names in os.walk(files, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _finish(log: str) -> int:
    """Ask all that have a lock on a log to end, then make them; return how many there were when they are gone.

    All are held before the first is asked: it ends the others itself, and one that has only just let go of its files
    is not gone yet.
    """
    with contextlib.ExitStack() as stack:
        held = list(_held(stack, log)) if is_locked(log) else []
        for ending in held:
            ending.ask()
            try:
                ending.wait(_GRACE)
            except TimedOut:
                ending.kill()
                ending.wait(DEADLINE)
    return len(held)


def _held(stack: contextlib.ExitStack, log: str) -> Iterator[processes.Ending]:
    for pid in processes.holders(log):
        with contextlib.suppress(ProcessLookupError):
            ending = stack.enter_context(processes.Ending(pid))
            if processes.holds(pid, log):  # else it ended meanwhile, and its number may be somebody else's
                yield ending


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError), interrupts.deferred(), processes.Ending(pid) as ending:
            ending.kill()
            ending.wait(DEADLINE)


def _log(step: StartDaemon) -> str:
    return os.path.join(step.directory, f"{step.name}.log")


# ---------------------------------------------------------------- telling it


def reserve(step: Reserve) -> None:
    """Give it a file, which it notices; it never sees half of it. What was in one of that name it forgets."""
    files = os.path.join(step.directory, step.name)
    draft, path = os.path.join(files, ".draft"), os.path.join(files, step.path)
    known = os.path.exists(path)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with open(fd, "w") as file:
        os.fchmod(fd, 0o644)
        file.write(step.text)
    os.rename(draft, path)
    if known:
        _read_again(step)


def unreserve(step: Unreserve) -> None:
    """Take a file away and have it forget what was in it; raises Vanished if it is not there."""
    try:
        os.unlink(os.path.join(step.directory, step.name, step.path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Vanished(*error.args) from error
    _read_again(step)


def _read_again(step: Reserve | Unreserve) -> None:
    pid = find(step.directory, step.name)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError), processes.Ending(pid) as ending:
            ending.hang_up()
