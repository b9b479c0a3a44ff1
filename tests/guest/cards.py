"""A lab whose guests' cards come and go: the commands for that, and what guests, QEMU and host have of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qemunet.guest import image
from qemunet.journal import Journal
from qemunet.live.control import Control
from tests import forked, namespace
from tests.dump import Dump, difference, dump
from tests.guest.scene import QEMUNET, Guest, Peer, Scene, ip, join
from tests.patience import rest

PATIENCE = 60.0  # seconds

Card = dict[str, Any]
Done = subprocess.CompletedProcess[str]


def machine(name: str, *lines: str) -> str:
    """The table of a vm that boots the built-in guest, without its cards."""
    return "\n".join([f"[vm.{name}]", 'memory = "128M"', 'accel = "tcg"', 'boot.guest = "tiny"', *lines, ""])


class Stage:
    """The running lab of a scene, and the consoles of its guests."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.guests: dict[str, Guest] = {}

    # ---------------------------------------------------------------- commands

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command in a Python of its own."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([QEMUNET, *words], env=self.scene.environment, text=True, **pipes)

    def does(self, *words: str) -> Done:
        (done,) = self.all_do([words])
        return done

    def all_do(self, commands: Sequence[Sequence[str]]) -> list[Done]:
        """Give commands at once; wait for all."""
        begun = [forked.start(("qemunet", *words), self.scene.environment) for words in commands]
        return [unbroken(one.finish(PATIENCE)) for one in begun]

    def succeeds(self, *words: str) -> Done:
        done = self.does(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}: {done.stderr}"
        return done

    def fails(self, status: int, *words: str) -> str:
        """Give a command that must end with `status`; return what it said."""
        done = self.does(*words)
        assert done.returncode == status, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stderr

    def add(self, vm: str, *words: str) -> Card:
        return card(self.succeeds("nic", "add", vm, "--json", *words))

    def set(self, vm: str, nic: str, *words: str) -> Card:
        return card(self.succeeds("nic", "set", vm, nic, "--json", *words))

    def remove(self, vm: str, *nics: str) -> None:
        for done in self.all_do([("nic", "del", vm, nic) for nic in nics]):
            assert done.returncode == 0, f"{done.args}: {done.stderr}"

    def cards(self, vm: str) -> dict[str, Card]:
        return {one["id"]: one for one in self.scene.cards(vm)}

    def qmp(self, vm: str, command: str, arguments: dict[str, Any] | None = None) -> Any:
        return json.loads(self.succeeds("qmp", vm, command, json.dumps(arguments or {})).stdout)

    # ---------------------------------------------------------------- what there is

    def guest(self, vm: str) -> Guest:
        """A guest's console, from the time on when it is ready."""
        if vm not in self.guests:
            self.guests[vm] = self.scene.guest(vm)
            self.guests[vm].await_ready()
        return self.guests[vm]

    def lose(self, vm: str) -> None:
        """Forget a guest's console: it has ended, or its keeper has."""
        if vm in self.guests:
            self.guests.pop(vm).close()

    def pid(self, vm: str) -> int:
        return int((self.scene.runtime / "vm" / vm / "pid").read_text())

    def keeper(self) -> int:
        (file,) = (self.scene.runtime / "lab").glob("*/pid")
        return int(file.read_text())

    def control(self) -> Control:
        (path,) = (self.scene.runtime / "lab").glob("*/keeper.sock")
        return Control.open(str(path))

    @contextlib.contextmanager
    def heard(self, vm: str, **wanted: object) -> Iterator[None]:
        """Check that an event with these values is told, from now to some time after."""
        with self.control() as control:
            control.ask("events", vm=vm)
            yield
            seen = [control.wait(PATIENCE)]
            while not wanted.items() <= seen[-1].items():
                seen.append(control.wait(PATIENCE))

    def owed(self, vm: str) -> list[str]:
        """What the journal of a vm says is to be undone, and for which card."""
        journal = Journal(str(self.scene.runtime / "vm" / vm / "journal.jsonl"))
        try:
            return sorted(f"{one.about}: {one.undo.describe()}" for one in journal.owed(started=True))
        finally:
            journal.close()

    def owed_for(self, vm: str, *nics: str) -> list[str]:
        """What of that is about some cards."""
        return [line for line in self.owed(vm) if line.partition(":")[0] in nics]

    def look(self) -> Dump:
        """All that cards could leave behind: on the host, in the runtime directory, open in QEMUs and keeper."""
        seen = dump(self.scene.runtime)
        seen["processes"] = [re.sub(r"socket:\[\d+\]", "socket", line) for line in seen["processes"]]
        vms = [folder.name for folder in (self.scene.runtime / "vm").glob("*")]
        return seen | {f"owed by {vm}": self.owed(vm) for vm in vms}

    def is_as(self, before: Dump, seconds: float = 20) -> None:
        """Check that all is as it was; what ends by itself has some time for that."""
        begun = time.monotonic()
        deadline = begun + seconds
        while found := difference(before, self.look()):
            assert time.monotonic() < deadline, found
            rest(begun)
            begun = time.monotonic()

    # ---------------------------------------------------------------- a guest's view

    def ifname(self, vm: str, mac: str, *, timeout: float = 30) -> str:
        """What a guest calls a card, as soon as it has it."""
        words = f"grep -l {mac} /sys/class/net/*/address"
        said = self.guest(vm).wait_until(words, timeout=timeout)
        found = re.search(r"/sys/class/net/([^/]+)/address", said)  # somebody else may say something on a console
        assert found, said
        return found[1]

    def has(self, vm: str, mac: str) -> bool:
        return self.guest(vm).run(f"grep -q {mac} /sys/class/net/*/address")[0] == 0

    def macs(self, vm: str) -> set[str]:
        """The addresses of the cards that a guest has."""
        said = self.guest(vm).succeeds("cat /sys/class/net/*/address")
        return set(re.findall(r"(?m)^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$", said)) - {"00:00:00:00:00:00"}

    def give(self, vm: str, mac: str, address: str) -> str:
        """Have a guest use an address on a card; return what it calls that."""
        name = self.ifname(vm, mac)
        self.guest(vm).wait_until(f"ip address add {address} dev {name} && ip link set {name} up")
        return name

    def reaches(self, vm: str, address: str, *, timeout: float = 15) -> None:
        """Wait until a guest gets answers."""
        self.guest(vm).wait_until(f"ping -c 1 -W 1 {address}", timeout=timeout)

    def is_cut_off(self, vm: str, address: str) -> None:
        self.guest(vm).cannot_ping(address)

    def read(self, vm: str, path: str) -> str:
        return self.guest(vm).run(f"cat {path}")[1].strip()


def card(done: Done) -> Card:
    found: Card = json.loads(done.stdout)
    return found


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for a command that has a Python of its own."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return unbroken(subprocess.CompletedProcess(process.args, process.returncode, out, err))


def unbroken(done: Done) -> Done:
    """Return what a command has come to; nobody ever sees a traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    assert "mistake in qemunet" not in done.stderr, done.stderr
    assert "keeper.log" not in done.stderr, done.stderr
    return done


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something is true."""
    begun = time.monotonic()
    deadline = begun + seconds
    while not true():
        assert time.monotonic() < deadline, f"it never came true: {what}"
        rest(begun)
        begun = time.monotonic()


def answers(peer: Peer, address: str) -> None:
    """Check that another host gets answers from an address."""
    until(lambda: peer.run("busybox", "ping", "-c", "1", "-W", "1", address, check=False).returncode == 0, address, 30)


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(ip("-j", "link"))}


def link(ifname: str) -> dict[str, Any]:
    """An interface of the host, in the words of ip."""
    (found,) = json.loads(ip("-j", "-d", "link", "show", "dev", ifname))
    return dict(found)


def carrier(ifname: str) -> bool:
    return "LOWER_UP" in link(ifname)["flags"]


def foreign_bridge(name: str, address: str) -> dict[str, Any]:
    """Make a bridge that is none of ours; return it as it is."""
    ip("link", "add", name, "address", "02:00:00:00:00:07", "type", "bridge")
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    ip("address", "add", address, "dev", name)
    ip("link", "set", name, "up")
    return link(name)


@contextlib.contextmanager
def empty_stage(folder: Path) -> Iterator[Stage]:
    """A host in a namespace of its own; whatever was left running there is ended."""
    if why := namespace.lack():
        pytest.skip(why)
    image.build(print)
    with namespace.fresh_namespace():
        stage = Stage(Scene(folder))
        before = dump(stage.scene.runtime)
        try:
            yield stage
        finally:
            failed = end_everything(stage)
        assert not failed, failed
        stage.is_as(before)


def end_everything(stage: Stage) -> str:
    """End all guests as a user would; return what was wrong with that."""
    for vm in list(stage.guests):
        stage.lose(vm)
    vms = [vm["name"] for vm in json.loads(stage.scene.qemunet("ps", "--json"))]
    done = stage.does("stop", "--force", *vms) if vms else None
    return done.stderr if done and done.returncode else ""


@contextlib.contextmanager
def running(folder: Path, text: str, *vms: str) -> Iterator[Stage]:
    """A lab, or some vms of it, that run in a namespace where nothing else is; the guests boot."""
    with empty_stage(folder) as stage:
        stage.scene.qemunet("run", "-d", str(stage.scene.write(text)), *vms)
        yield stage


@contextlib.contextmanager
def lan() -> Iterator[Peer]:
    """A host 192.0.2.2 at the other end of ``eth1``, which has no address and is up."""
    with Peer() as peer:
        join(peer, "eth1", "lan0")
        Path("/proc/sys/net/ipv6/conf/eth1/disable_ipv6").write_text("1")
        peer.run("ip", "address", "add", "192.0.2.2/24", "dev", "lan0")
        yield peer
        ip("link", "del", "eth1")


def rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
