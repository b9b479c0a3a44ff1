"""Opens what a command line of QEMU needs, becomes that QEMU, and has its monitor end it: run by test_golden.py."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

TUNSETIFF = 0x400454CA
TAP = 0x0002 | 0x1000 | 0x4000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
MULTI_QUEUE = 0x0100
MEGABYTE = 1 << 20
# What QEMU looks for in a kernel; this one is never run.
LINUX = {0x1F1: b"\x01", 0x202: b"HdrS\x03\x02", 0x211: b"\x01", 0x22C: b"\xff\xff\xff\x37"}


def opened(name: str, what: dict[str, Any], folder: Path) -> list[int]:
    match what["kind"]:
        case "socket":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{folder}/{name}")
            listener.listen()
            return [listener.detach()]
        case "tap":
            return taps(name.partition(":")[2], what["queues"])
        case "overlay":
            image = folder / f"{name}.overlay"
            create(image, "qcow2")
            return [os.open(image, os.O_RDWR)]
        case _:
            return [os.open(what["path"], os.O_RDWR if what["writable"] else os.O_RDONLY)]


def taps(name: str, queues: int) -> list[int]:
    found = [os.open("/dev/net/tun", os.O_RDWR) for _ in range(queues)]
    flags = TAP | (MULTI_QUEUE if queues > 1 else 0)
    for fd in found:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return found


def create(path: Path, kind: str) -> None:
    if not path.exists():
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, path, str(MEGABYTE)], check=True)


def create_files(order: dict[str, Any], folder: Path) -> None:
    for name in order["files"]:
        if name.startswith(str(folder)):
            create(Path(name), "qcow2" if name.endswith("qcow2") else "raw")
    create(folder / "new.qcow2", "qcow2")
    (folder / "tiny").mkdir(exist_ok=True)
    for name in ("tiny/vmlinuz", "vmlinux", "tiny/initrd.gz"):
        data = bytearray(64 << 10)
        for offset, value in LINUX.items():
            data[offset : offset + len(value)] = value
        (folder / name).write_bytes(data)


def main() -> None:
    order = json.load(sys.stdin)
    folder = Path(order["folder"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    create_files(order, folder)
    vhost = os.path.exists("/dev/vhost-net")
    handles = {name: what for name, what in order["handles"].items() if vhost or ".vhost" not in name}
    numbers = {name: opened(name, what, folder) for name, what in handles.items()}
    for number in (one for several in numbers.values() for one in several):
        os.set_inheritable(number, True)
    argv = ["".join(part if isinstance(part, str) else shown(part, numbers) for part in one) for one in order["argv"]]
    argv = argv if vhost else [without_vhost(one) for one in argv]
    (folder / "quit.in").write_text("quit\n")
    (folder / "quit.out").touch()
    argv += ["-chardev", f"pipe,id=quit,path={folder}/quit", "-mon", "chardev=quit,mode=readline"]
    os.execvp("qemu-system-x86_64", argv)


def without_vhost(argument: str) -> str:
    if "vhost" not in argument:
        return argument
    return json.dumps({key: value for key, value in json.loads(argument).items() if not key.startswith("vhost")})


def shown(part: dict[str, str], numbers: dict[str, list[int]]) -> str:
    return ":".join(map(str, numbers.get(part["handle"], [0])))


if __name__ == "__main__":
    main()
