"""Frames as bytes, and cards whose guest is the test: it has the tap or the macvtap in its hands."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time

from qemunet.errors import Gone
from qemunet.facts import Facts, Wanted
from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.model.lab import Lab
from qemunet.model.mac import host_twin
from qemunet.model.nic import Backend, Nic
from qemunet.model.vm import Accel, Firmware, FirmwareBoot, Machine, NicBus, Vm
from qemunet.plan import links, plug, rates
from qemunet.steps import SetGuestLink, Step

EXPERIMENT = 0x88B5  # an ethertype for experiments, says IEEE 802
EVERYBODY = "ff:ff:ff:ff:ff:ff"
HEADER = bytes(10)  # of virtio, before every frame of a tap
DEADLINE = 10.0  # seconds for a frame that has to arrive


def address(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, payload: bytes, kind: int = EXPERIMENT, to: str = EVERYBODY) -> bytes:
    return address(to) + address(source) + struct.pack("!H", kind) + payload


class Player:
    """A card of a vm on this host; what is done for it is undone by `take_back`."""

    def __init__(self, host: LinuxHost, vm: str, mac: str, backend: Backend, **more: object) -> None:
        self.host = host
        self.nic = replace(Nic("net0", "virtio-net-pci", mac, backend), **more)  # type: ignore[arg-type]
        machine = Machine("q35", "q35", NicBus.ROOT_PORTS, 0, "host", "")
        boot = FirmwareBoot()
        self.vm = Vm(vm, machine, 1 << 27, 1, Accel.TCG, boot, Firmware.BIOS, (), (self.nic,))
        self.undo: list[Step] = []
        self.done: list[Step] = []
        self.perform(links.card(self.vm, self.nic, self.facts()))

    def facts(self) -> Facts:
        return self.host.photograph(Wanted(links=rates.links_of(self.vm, self.nic)))

    def perform(self, steps: tuple[Step, ...]) -> None:
        before = self.facts()
        for step in steps:
            if isinstance(step, SetGuestLink):
                continue  # there is no QEMU that pulls it
            self.undo += [undo for undo in [step.inverse(before)] if undo]
            self.host.perform(step)
            self.done.append(step)

    def host_mac(self) -> str:
        """The address of the host's end of a tap."""
        return host_twin(self.nic.mac)

    def change(self, **more: object) -> tuple[Step, ...]:
        """Change the card as `nic set` does; return the steps."""
        live = self.planned(**more)
        self.nic = replace(self.nic, **more)  # type: ignore[arg-type]
        steps = tuple(step for part in live.guest for step in part.steps)
        self.perform((*steps, *live.over))
        return steps

    def planned(self, **more: object) -> plug.Live:
        """Return what such a change does."""
        new = replace(self.nic, **more)  # type: ignore[arg-type]
        return plug.change(Lab("l", "/l.toml", (self.vm,), ()), self.vm, self.nic, new, self.facts())

    def take_back(self) -> None:
        while self.undo:
            with contextlib.suppress(Gone):
                self.host.perform(self.undo.pop())
        self.host.release(f"{self.vm.name}:net0")

    @property
    def fd(self) -> int:
        return self.host.handles[f"{self.vm.name}:net0"][0]

    def send(self, frame: bytes) -> None:
        os.write(self.fd, HEADER + frame)

    def frames(self) -> list[bytes]:
        """All that has arrived."""
        found: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(os.read(self.fd, 4096)[len(HEADER) :])
        return found

    def hears(self, frame: bytes) -> bool:
        """Wait until the frame arrives."""
        return arrives(self.fd, self.frames, frame)


class Ear:
    """Somebody who hears all that arrives by an interface of the calling thread's namespace, and may speak there."""

    def __init__(self, interface: str) -> None:
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.bind((interface, 3))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sock.setblocking(False)

    def close(self) -> None:
        self.sock.close()

    def send(self, frame: bytes) -> None:
        self.sock.send(frame)

    def frames(self) -> list[bytes]:
        found: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, about = self.sock.recvfrom(4096)
                found += [data] if about[2] != socket.PACKET_OUTGOING else []
        return found

    def hears(self, frame: bytes) -> bool:
        """Wait until the frame arrives."""
        return arrives(self.sock.fileno(), self.frames, frame)


def arrives(fd: int, frames: object, frame: bytes) -> bool:
    assert callable(frames)
    deadline = time.monotonic() + DEADLINE
    while (left := deadline - time.monotonic()) > 0:
        if frame in frames():
            return True
        select.select([fd], [], [], min(left, 0.5))
    return False
