"""The ways of doing the same work that the benchmark compares; each is a context that is entered once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from qemunet import runner
from qemunet.facts import Facts
from qemunet.guest import image
from qemunet.guest.clock import kernel_word
from qemunet.host.linux import LinuxHost
from qemunet.journal import Journal
from qemunet.model.names import group
from qemunet.steps import Mark, OpenTap

QEMUNET = str(Path(sys.executable).with_name("qemunet"))
QEMU = "qemu-system-x86_64"
BRIDGE = "qnbench0"
MAC = "52:54:00:0b:e0:{:02x}"
SPARE_SLOTS = 8  # what `hotplug-slots` is where a file says nothing
FACTS = Facts(runtime="/nowhere", machine_id="bench", uid=0, can_switch_user=True)

IFUP = """#!/bin/sh
# what people write into /etc/qemu-ifup
ip link set dev "$1" up promisc on
ip link set dev "$1" master {bridge}
{pause}
"""


def ip(*words: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *words], check=True)


class Contender(ABC):
    """Something that takes turns. `parts` names the numbers, in seconds, that a turn gives."""

    name: str
    parts: tuple[str, ...] = ("start",)

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self.prepare()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @abstractmethod
    def prepare(self) -> None:
        """Make what is not part of the work; register on the stack what takes it down."""

    @abstractmethod
    def turn(self) -> tuple[float, ...]:
        """Do the work once and return how long each part took."""

    def bridge(self) -> None:
        """Make the bridge of the benchmark, unless another contender has."""
        if subprocess.run(["ip", "link", "show", "dev", BRIDGE], capture_output=True).returncode:
            ip("link", "add", "name", BRIDGE, "type", "bridge")
            ip("link", "set", "dev", BRIDGE, "up")


class Qemu(Contender):
    """A QEMU started by hand, with the built-in guest; the time until its monitor answers."""

    def __init__(self, scratch: Path, cards: int) -> None:
        self.scratch = scratch
        self.cards = cards
        self.guest = image.build(print)

    def arguments(self) -> list[str]:
        """Return the arguments that make the cards."""
        words = []
        for card in range(self.cards):
            words += ["-netdev", f"tap,id=n{card},{self.tap(card)}"]
            words += ["-device", f"virtio-net-pci,netdev=n{card},mac={MAC.format(card)}"]
        return words

    def tap(self, card: int) -> str:
        """Return the options of a card's tap."""
        raise NotImplementedError

    def turn(self) -> tuple[float, ...]:
        path = self.scratch / "monitor"
        base = [QEMU, "-nodefaults", "-display", "none", "-machine", "q35,accel=tcg", "-m", "128"]
        base += ["-kernel", self.guest.kernel, "-initrd", self.guest.initrd, "-append", self.guest.append]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            fd = listener.fileno()
            began = time.perf_counter()
            monitor = ["-chardev", f"socket,id=qmp,fd={fd},server=on,wait=off", "-mon", "chardev=qmp,mode=control"]
            qemu = subprocess.Popen([*base, *monitor, *self.arguments()], pass_fds=[fd])
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-status"}')
            answers = b""
            while answers.count(b'"return"') < 2:
                answers += client.recv(4096)
            taken = time.perf_counter() - began
        qemu.send_signal(signal.SIGKILL)
        qemu.wait()
        path.unlink()
        return (taken,)


class PlainQemu(Qemu):
    """The yardstick: the taps are there already."""

    name = "QEMU alone, its taps made before"
    prefix = "plain"

    def tap(self, card: int) -> str:
        return f"ifname={self.prefix}{card},script=no,downscript=no"

    def prepare(self) -> None:
        self.bridge()
        for card in range(self.cards):
            name = f"{self.prefix}{card}"
            ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr")
            ip("link", "set", "dev", name, "master", BRIDGE, "up")
            self._stack.callback(ip, "link", "del", "dev", name)


class RoomyQemu(PlainQemu):
    """The machine that qemunet starts: a slot for each card, eight spare ones for cards that come later, a sandbox."""

    name = "QEMU alone, with slots and sandbox likewise"
    prefix = "roomy"

    def arguments(self) -> list[str]:
        words = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
        for port in range(self.cards + SPARE_SLOTS):
            place = f"chassis={port + 1},port={port},addr={2 + port // 8:#x}.{port % 8}"
            shared = ",multifunction=on" if port % 8 == 0 else ""
            words += ["-device", f"pcie-root-port,id=rp{port},{place}{shared}"]
        for card in range(self.cards):
            words += ["-netdev", f"tap,id=n{card},{self.tap(card)}"]
            words += ["-device", f"virtio-net-pci,netdev=n{card},mac={MAC.format(card)},bus=rp{card},romfile="]
        return words


class ScriptedQemu(Qemu):
    """The classic: QEMU makes its taps and calls a script for each."""

    def __init__(self, scratch: Path, cards: int, *, pause: bool) -> None:
        super().__init__(scratch, cards)
        self.pause = pause
        self.name = f"QEMU with a qemu-ifup script, {'sleep 0.5 in it' if pause else 'no sleep in it'}"

    def prepare(self) -> None:
        self.bridge()
        self.script = self.scratch / f"qemu-ifup-{self.cards}-{self.pause}"
        self.script.write_text(IFUP.format(bridge=BRIDGE, pause="sleep 0.5" if self.pause else ""))
        self.script.chmod(0o755)

    def tap(self, card: int) -> str:
        return f"script={self.script},downscript=no"


class GuestBoot(Contender):
    """The built-in guest with one card, from the start of its QEMU to the line that says that it is ready."""

    parts = ("ready",)

    def __init__(self, machine: str, model: str) -> None:
        self.name = machine
        self.model = model
        self.guest = image.build(print)

    def prepare(self) -> None:
        """Nothing is there before."""

    def turn(self) -> tuple[float, ...]:
        base = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-m", "128", "-serial", "stdio"]
        base += ["-machine", f"{self.name},accel=tcg", "-netdev", "user,id=n", "-device", f"{self.model},netdev=n"]
        base += ["-kernel", self.guest.kernel, "-initrd", self.guest.initrd]
        began = time.perf_counter()
        append = f"{self.guest.append} {kernel_word()}"
        qemu = subprocess.Popen([*base, "-append", append], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert qemu.stdout is not None
        with qemu.stdout as console:
            ready = any(b"qemunet guest ready:" in line for line in console)
            taken = time.perf_counter() - began
            qemu.kill()
            qemu.wait()
        if not ready:
            raise RuntimeError(f"the built-in guest did not come up on {self.name}")
        return (taken,)


class QemunetRun(Contender):
    """The whole command, from its start to its end."""

    name = "qemunet run -d"

    def __init__(self, scratch: Path, cards: int) -> None:
        self.cards = cards
        self.file = scratch / f"bench{cards}.toml"

    def prepare(self) -> None:
        self.bridge()
        nic = f'[[vm.bench.nic]]\nbridge = "{BRIDGE}"\n'
        self.file.write_text(f'[vm.bench]\nmemory = "128M"\naccel = "tcg"\nboot.guest = "tiny"\n{nic * self.cards}')
        runtime = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="qemunet-bench-run-"))
        self.environment = {**os.environ, "QEMUNET_RUNTIME_DIR": runtime}

    def turn(self) -> tuple[float, ...]:
        began = time.perf_counter()
        subprocess.run([QEMUNET, "run", "-d", str(self.file)], env=self.environment, check=True)
        taken = time.perf_counter() - began
        stop = [QEMUNET, "stop", "--force", "bench"]
        subprocess.run(stop, env=self.environment, check=True, capture_output=True)
        return (taken,)


class Virsh(Contender):
    """A transient libvirt domain with the same cards; needs a libvirtd that runs."""

    name = "virsh create"

    def __init__(self, scratch: Path, cards: int) -> None:
        self.cards = cards
        self.file = scratch / f"bench{cards}.xml"

    def prepare(self) -> None:
        self.bridge()
        nic = f"<interface type='bridge'><source bridge='{BRIDGE}'/><model type='virtio'/></interface>"
        self.file.write_text(
            "<domain type='qemu'><name>bench</name><memory unit='MiB'>128</memory>"
            "<os><type machine='q35'>hvm</type></os>"
            f"<devices>{nic * self.cards}</devices></domain>"
        )

    def turn(self) -> tuple[float, ...]:
        began = time.perf_counter()
        subprocess.run(["virsh", "create", str(self.file)], check=True, capture_output=True)
        taken = time.perf_counter() - began
        subprocess.run(["virsh", "destroy", "bench"], check=True, capture_output=True)
        return (taken,)


class Taps(Contender):
    """Taps on a bridge: made, plugged in and up; then taken down."""

    parts = ("make", "take down")

    def __init__(self, count: int) -> None:
        self.count = count

    def prepare(self) -> None:
        self.bridge()


class IpBatchTaps(Taps):
    """The yardstick: one `ip -batch` makes them all, and one deletes them all by their group."""

    name = "ip -batch"

    def turn(self) -> tuple[float, ...]:
        made = [
            line
            for n in range(self.count)
            for line in (
                f"tuntap add dev batch{n} mode tap vnet_hdr",
                f"link set dev batch{n} group 77 master {BRIDGE} up",
            )
        ]
        return self._batch(made), self._batch(["link del group 77"])

    def _batch(self, lines: Sequence[str]) -> float:
        began = time.perf_counter()
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)
        return time.perf_counter() - began


class OurTaps(Taps):
    """The same by the runner: each with its MAC, mark and journal, and a descriptor for QEMU."""

    name = "qemunet, journal and marks included"

    def turn(self) -> tuple[float, ...]:
        scope = "vm/bench"
        number = group("/nowhere", scope)
        plan = [
            OpenTap(f"bench:t{n}", f"qnb{n}", Mark(scope, f"t{n}", number), f"fe{MAC.format(n)[2:]}", 1500, BRIDGE)
            for n in range(self.count)
        ]
        directory = tempfile.mkdtemp(prefix="qemunet-bench-taps-")
        host = LinuxHost(directory)
        journal = Journal(f"{directory}/journal.jsonl")
        began = time.perf_counter()
        runner.apply(plan, FACTS, host, journal)
        made = time.perf_counter()
        failures = runner.unwind(journal, host)
        host.close()
        gone = time.perf_counter()
        journal.close()
        shutil.rmtree(directory)
        if failures:
            raise ExceptionGroup("taps were left", failures)
        return made - began, gone - made
