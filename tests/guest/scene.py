"""A host in a network namespace of its own, the labs that run on it, and its tiny guests at their consoles."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pexpect
import pexpect.fdpexpect

from qemunet.live.control import connect
from tests import forked
from tests.patience import rest

TREE = Path(__file__).parents[2]
QEMUNET = str(Path(sys.executable).with_name("qemunet"))
BOOT = 90.0  # seconds that a guest may take under emulation on a busy machine


class Guest:
    """A guest's root shell on its serial console."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._log = directory / "console.log"
        self._socket = connect(str(directory / "console.sock"))
        self._shell = pexpect.fdpexpect.fdspawn(self._socket.fileno(), encoding="utf-8", codec_errors="replace")

    def await_ready(self) -> str:
        """Wait for the line that the guest prints when it is up; return it."""
        deadline = time.monotonic() + BOOT
        while True:
            text = self._log.read_text(errors="replace")
            found = re.search(r"(?m)^qemunet guest ready: .*$", text)
            if found:
                self._quieten()
                return found[0]
            assert time.monotonic() < deadline, f"{self.name} is not up; it said: {text[-500:]}"
            select.select([], [], [], 0.05)

    def run(self, command: str, *, timeout: float = 30) -> tuple[int, str]:
        """Run a command; return its exit status and what it printed."""
        self._shell.sendline(f'{{ {command}\n}} 2>&1; echo "@@"E$?@@')
        self._shell.expect(r"@@E(\d+)@@\r\n", timeout=timeout)
        return int(self._shell.match[1]), self._shell.before.replace("\r\n", "\n")

    def succeeds(self, command: str, *, timeout: float = 30) -> str:
        status, text = self.run(command, timeout=timeout)
        assert status == 0, f"{self.name}: {command}: status {status}: {text}"
        return text

    def fails(self, command: str, *, timeout: float = 30) -> str:
        status, text = self.run(command, timeout=timeout)
        assert status != 0, f"{self.name}: {command} succeeds: {text}"
        return text

    def wait_until(self, command: str, *, timeout: float = 30) -> str:
        """Repeat a command until it succeeds."""
        deadline = time.monotonic() + timeout
        while True:
            begun = time.monotonic()
            status, text = self.run(command)
            if status == 0:
                return text
            assert time.monotonic() < deadline, f"{self.name}: {command} never succeeds: {text}"
            rest(begun)

    def pings(self, address: str) -> None:
        self.succeeds(f"ping -c 1 -W 5 {address}")

    def cannot_ping(self, address: str) -> None:
        self.fails(f"ping -c 2 -W 1 {address}")

    def close(self) -> None:
        self._socket.close()

    def _quieten(self) -> None:
        """Have neither echo nor prompt from here on."""
        self._shell.sendline("stty -echo; PS1= PS2=; echo @@qui''et@@")
        self._shell.expect(r"@@quiet@@\r\n", timeout=30)


class Peer:
    """Another host: a network namespace kept by a process that sleeps."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(b"up\n")
        self._keeper.stdin.flush()
        self._keeper.stdout.readline()
        self.pid = self._keeper.pid
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program there."""
        inside = ["nsenter", f"--net=/proc/{self.pid}/ns/net", *argv]
        return subprocess.run(inside, check=check, capture_output=True, text=True, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._keeper.kill()
        self._keeper.communicate()


class Scene:
    """Runs labs with a runtime directory below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.environment = {**os.environ, "QEMUNET_RUNTIME_DIR": str(self.runtime)}

    def qemunet(self, *words: str, status: int = 0) -> str:
        """Run a command, which must end with `status`; return what it printed."""
        done = forked.run(("qemunet", *words), self.environment, BOOT)
        assert done.returncode == status, f"qemunet {' '.join(words)}: {done.returncode}: {done.stderr}"
        return done.stdout if status == 0 else done.stderr

    @contextlib.contextmanager
    def lab(self, text_or_file: str | Path, *options: str) -> Iterator[dict[str, Guest]]:
        """Run a lab in the background; give its guests when all are ready; end it."""
        file = text_or_file if isinstance(text_or_file, Path) else self.write(text_or_file)
        self.qemunet("run", "-d", str(file), *options)
        names = [vm["name"] for vm in json.loads(self.qemunet("ps", "--json"))]
        guests: dict[str, Guest] = {}
        try:
            for name in names:
                guests[name] = self.guest(name)
            for guest in guests.values():
                guest.await_ready()
            yield guests
        finally:
            for guest in guests.values():
                guest.close()
            self.qemunet("stop", "--force", *names)

    def write(self, text: str) -> Path:
        file = self.folder / "lab.toml"
        file.write_text(text)
        return file

    def guest(self, name: str) -> Guest:
        """Open a guest's console as soon as its keeper serves it."""
        return attach(name, self.runtime / "vm" / name)

    def cards(self, vm: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.qemunet("nic", "list", vm, "--json"))
        return found


def attach(name: str, directory: Path) -> Guest:
    """Open a guest's console as soon as it is served: a socket has its name a moment before anybody listens there."""
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            if (directory / "console.log").exists():
                return Guest(name, directory)
        assert time.monotonic() < deadline, sorted(directory.iterdir())
        select.select([], [], [], 0.05)


def wait_for(condition: Callable[[], bool], *, timeout: float = 30) -> None:
    """Wait until something is so."""
    begun = time.monotonic()
    deadline = begun + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        rest(begun)
        begun = time.monotonic()


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def join(peer: Peer, here: str, there: str) -> None:
    """Lay a cable between the host and another; both ends are up."""
    ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", str(peer.pid))
    ip("link", "set", here, "up")
    peer.run("ip", "link", "set", there, "up")


def host_pings(address: str, *, source: str = "") -> bool:
    words = ["busybox", "ping", "-c", "2", "-W", "1", *(["-I", source] if source else []), address]
    return subprocess.run(words, capture_output=True).returncode == 0
