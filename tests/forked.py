"""Runs commands of qemunet in processes forked from one that has loaded it: a new Python costs more than most commands.

A forked command is one like any other: it has the caller's namespaces and directory, the environment that it is given,
no input, and nobody's descriptors. What only a new Python shows (how the program is installed, what it loads and when)
is for tests that start one: `tests.world.World.start` does.

The process that has loaded qemunet is begun once for a whole process of tests, outside of every namespace that these
make. It never runs anything itself, so that each command finds it as it was.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

TREE = Path(__file__).parents[1]
QEMUNET = "qemunet.cli.main:entry"  # what a command runs: a module and its function
NAMESPACES = {"net": 0x40000000, "mnt": 0x00020000}
MOST = 1 << 17  # bytes of a request
LEFT_OUT = {"qemunet.__main__", "qemunet.pytest_plugin"}

Done = subprocess.CompletedProcess[str]


# ---------------------------------------------------------------- who wants a command


@functools.cache
def begin() -> socket.socket:
    """Have the process that is forked, for as long as this one lasts; before any descriptors are compared."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
    null = subprocess.DEVNULL
    process = subprocess.Popen(argv, cwd=TREE, pass_fds=[theirs.fileno()], stdin=null, stdout=null)
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


@dataclass
class Command:
    """A command that was begun: where it writes, where it complains, and where its process and its end are told."""

    argv: Sequence[str]
    pipes: list[int]

    def finish(self, seconds: float) -> Done:
        """Wait for its end, and for that of all that writes where it does; return what was said.

        Raises subprocess.TimeoutExpired after some seconds, and kills the command then.
        """
        out, err, ended = _read(self.pipes, self.argv, seconds)
        _, *status = ended.split()
        assert status, f"who should tell how {self.argv} ended is gone: {err}"
        return subprocess.CompletedProcess(self.argv, int(status[0]), out, err)


def start(argv: Sequence[str], env: Mapping[str, str], entry: str = QEMUNET) -> Command:
    """Begin a command, which has to be finished."""
    server, request = begin(), {"argv": argv, "env": dict(env), "cwd": os.getcwd(), "entry": entry}
    pipes = [os.pipe() for _ in range(3)]
    spaces = [os.open(f"/proc/thread-self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES]
    given = [*(theirs for _, theirs in pipes), *spaces]
    try:
        socket.send_fds(server, [json.dumps(request).encode()], given)
    finally:
        for fd in given:
            os.close(fd)
    return Command(argv, [ours for ours, _ in pipes])


def run(argv: Sequence[str], env: Mapping[str, str], seconds: float, entry: str = QEMUNET) -> Done:
    """Begin a command and finish it (see `Command.finish`)."""
    return start(argv, env, entry).finish(seconds)


def _read(fds: list[int], argv: Sequence[str], seconds: float) -> list[str]:
    """Return all that comes, and close them."""
    said: dict[int, list[bytes]] = {fd: [] for fd in fds}
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        try:
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    _kill(b"".join(said[fds[-1]]))
                    raise subprocess.TimeoutExpired(list(argv), seconds, b"".join(said[fds[0]]), b"".join(said[fds[1]]))
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    said[key.fd].append(data)
                    if not data:
                        selector.unregister(key.fd)
        finally:
            for fd in fds:
                os.close(fd)
    return [b"".join(parts).decode().replace("\r\n", "\n") for parts in said.values()]


def _kill(said: bytes) -> None:
    pid, *status = said.split()
    if not status:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


# ---------------------------------------------------------------- who is forked for it


def load() -> None:
    """Load all of qemunet, and have nothing of it looked through or copied in those that are forked."""
    import qemunet

    for found in pkgutil.walk_packages(qemunet.__path__, "qemunet."):
        if found.name not in LEFT_OUT:
            importlib.import_module(found.name)
    gc.collect()
    gc.freeze()


def serve(requests: socket.socket) -> None:
    """Fork for each request, and say how that ends, until nobody wants anything any more."""
    running: dict[int, tuple[int, int]] = {}  # by the descriptor that tells of its end: a process, and whom to tell
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != requests.fileno():
                poll.unregister(fd)
                _tell(fd, *running.pop(fd))
                continue
            data, fds, _, _ = socket.recv_fds(requests, MOST, 8)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                _be(json.loads(data), fds)
            os.write(fds[2], f"{pid}\n".encode())
            end = os.pidfd_open(pid)
            running[end] = (pid, os.dup(fds[2]))
            poll.register(end, select.POLLIN)
            for one in fds:
                os.close(one)


def _tell(end: int, pid: int, asker: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        os.write(asker, f"{status}\n".encode())
    os.close(asker)
    os.close(end)


def _be(request: dict[str, Any], fds: Sequence[int]) -> NoReturn:
    """Be the command, as if its own Python had begun it."""
    status = 1
    try:
        out, err, _, *spaces = fds
        for space, kind in zip(spaces, NAMESPACES.values(), strict=True):
            assert ctypes.CDLL(None, use_errno=True).setns(space, kind) == 0, os.strerror(ctypes.get_errno())
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
        _open_streams()
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = request["argv"]
        module, _, name = request["entry"].partition(":")
        status = getattr(importlib.import_module(module), name)()
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _open_streams() -> None:
    """Begin them anew: those that there are know what their descriptors were before, and whether that can be sought."""
    sys.stdin, sys.stdout, sys.stderr = map(_again, (sys.stdin, sys.stdout, sys.stderr), "rww", (-1, -1, 1))


def _again(stream: TextIO, mode: str, buffering: int) -> TextIO:
    return open(stream.fileno(), mode, buffering, stream.encoding, stream.errors, closefd=False)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is meant for the tests, which end this one
    inherited = socket.socket(fileno=int(sys.argv[1]))
    load()
    serve(inherited)
