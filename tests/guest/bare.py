"""Starts QEMUs without a system, whose firmware speaks on the serial line, and becomes their keeper."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from qemunet import runner
from qemunet.facts import Facts
from qemunet.host.linux import LinuxHost
from qemunet.live import starter
from qemunet.locks import Lock
from qemunet.records import VmRecord
from qemunet.state import Runtime
from qemunet.steps import AwaitQemu, Handle, Resume, StartQemu, Word

# Says "hi\n", then echoes what it hears, except: F writes LINES lines of eight hexadecimal digits, counting from 0;
# Q ends QEMU with QUIT by isa-debug-exit; R resets the machine, which ends a QEMU with -no-reboot; H halts for ever.
LINES = 40_000
QUIT = ord("Q") << 1 & 0xFF | 1
_CODE = bytes.fromhex(
    "fa31c08ed0bc0070b068e86800b069e86300b00ae85e00bafd03eca80174f8baf803ec3c46741c3c5174103c52740e3c4874"
    "05e83f00ebdff4ebfde6f4b0fee664ebd46631dbb908006689d866c1c0046650240f04303c3976020427e816006658e2e9b0"
    "0ae80d0066436681fb"
)
_REST = bytes.fromhex("72d3eba288c4bafd03eca82074fb88e0baf803eec3")


def firmware() -> bytes:
    code = _CODE + LINES.to_bytes(4, "little") + _REST
    return code.ljust(65520, b"\xf4") + bytes.fromhex("ea000000f0").ljust(16, b"\xf4")


def flood() -> bytes:
    return b"".join(b"%08x\n" % number for number in range(LINES))


def qemu(vm: str, directory: str, bios: str) -> StartQemu:
    texts = (
        *("qemu-system-x86_64", "-S", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", "tcg", "-machine", "pc", "-m", "16M", "-bios", bios),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    )
    argv = [Word((text,)) for text in texts]
    for name in ("qmp", "monitor", "serial"):
        argv += [Word(("-chardev",))]
        argv += [Word((f"socket,id={name},fd=", Handle(f"{vm}:{name}.sock"), ",server=on,wait=off"))]
    more = ("-mon", "chardev=qmp,mode=control", "-mon", "chardev=monitor,mode=control", "-serial", "chardev:serial")
    return StartQemu(vm, directory, (*argv, *(Word((text,)) for text in more)), ())


def start(runtime: Runtime, host: LinuxHost, vm: str, lab: str, bios: str, *, tethered: bool) -> None:
    """Do what a session does for a vm, as far as a keeper can tell."""
    scope = runtime.scope(f"vm/{vm}")
    scope.create()
    lock = Lock.take(scope.path("lock"), create=True)
    assert lock is not None
    host.handles[f"{vm}:lock"] = [lock.fd]
    journal = scope.journal()
    runner.apply(
        (qemu(vm, scope.directory, bios), AwaitQemu(vm), Resume(vm)),
        Facts(runtime.path, "", os.getuid(), can_switch_user=False),
        host,
        journal,
    )
    journal.close()
    guest = host.guests[vm]
    record = VmRecord(vm, lab, "/lab.toml", "pc", "tcg", (), guest.pid, guest.start_time, tethered, started=True)
    scope.save(record)


def main(path: str, lab: str, names: str, tether: str) -> None:
    runtime = Runtime(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    scope = runtime.lab(lab)
    scope.create()
    keeper = Lock.take(scope.path("lock"), create=True)
    assert keeper is not None
    bios = Path(path, f"bios-{os.getpid()}")
    bios.write_bytes(firmware())
    host = LinuxHost(path)
    for name in names.split(","):
        start(runtime, host, name, lab, str(bios), tethered=bool(tether))
    bios.unlink()
    sock = socket.socket(fileno=int(tether)) if tether else None
    argv = starter.keeper_argv(runtime, lab, host, keeper, sock)
    os.execv(sys.executable, argv)


def handover(path: str, lab: str) -> str:
    """Return the argument of a keeper that adopts what it finds."""
    return json.dumps({"runtime": path, "lab": lab, "guests": [], "adopt": True})


if __name__ == "__main__":
    main(*sys.argv[1:])
