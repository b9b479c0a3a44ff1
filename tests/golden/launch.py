"""Has the installed QEMU try a command line, or a shell a script, in a network namespace: run by test_golden.py."""

from __future__ import annotations

import fcntl
import json
import os
import select
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
HOST_DEVICE = '"driver":"vfio-pci"'
# What QEMU looks for in a kernel; this one is never run.
LINUX = {0x1F1: b"\x01", 0x202: b"HdrS\x03\x02", 0x211: b"\x01", 0x22C: b"\xff\xff\xff\x37"}


def opened(name: str, what: dict[str, Any], folder: Path) -> list[int]:
    match what["kind"]:
        case "socket":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{folder}/{name}")
            listener.listen()
            return [listener.detach()]
        case "listening":
            return [listening().detach()]
        case "connected":
            return [socket.create_connection(listening().getsockname()[:2]).detach()]
        case "datagram":
            both = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            both.bind(("127.0.0.1", 0))
            both.connect(both.getsockname())
            return [both.detach()]
        case "tap":
            return taps(name.partition(":")[2], what["queues"])
        case "overlay":
            image = folder / f"{name}.overlay"
            create(image, "qcow2")
            return [os.open(image, os.O_RDWR)]
        case _:
            return [os.open(what["path"], os.O_RDWR if what["writable"] else os.O_RDONLY)]


LISTENERS: list[socket.socket] = []  # they stay open


def listening() -> socket.socket:
    LISTENERS.append(socket.create_server(("127.0.0.1", 0)))
    return LISTENERS[-1]


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
    for name in ("route-guest", "unroute-guest"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    create(folder / "new.qcow2", "qcow2")
    (folder / "tiny").mkdir(exist_ok=True)
    for name in ("tiny/vmlinuz", "vmlinux", "tiny/initrd.gz"):
        if (folder / name).exists():
            continue
        data = bytearray(64 << 10)
        for offset, value in LINUX.items():
            data[offset : offset + len(value)] = value
        (folder / name).write_bytes(data)


def main() -> None:
    order = json.load(sys.stdin)
    folder = Path(order["folder"])
    ip("link", "set", "lo", "up")
    create_files(order, folder)
    for path in order["switches"]:
        switch(Path(path))
    for path in order["backends"]:
        backend(Path(path))
    if "script" in order:
        scripted(order, folder)
    else:
        execute(order, folder)


def backend(path: Path) -> None:
    """Start what serves a card of vhost-user, which ends with us, or with the QEMU that we become."""
    path.parent.mkdir(parents=True)
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    program = Path(__file__).parents[1] / "vhost_user.py"
    process = subprocess.Popen([sys.executable, program, path], stdin=reading, stdout=subprocess.PIPE)
    os.close(reading)
    assert process.stdout is not None
    process.stdout.readline()


def switch(path: Path) -> None:
    """Start a switch that ends with us, or with the QEMU that we become: it reads from a pipe as from a keyboard."""
    quiet = subprocess.DEVNULL
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    subprocess.Popen(["vde_switch", "-s", path, "-m", "666"], stdin=reading, stdout=quiet, stderr=quiet)
    os.close(reading)
    while not (path / "ctl").is_socket():
        select.select([], [], [], 0.01)


def execute(order: dict[str, Any], folder: Path) -> None:
    """Become the QEMU of the command line, which ends when its monitor reads so."""
    vhost = os.path.exists("/dev/vhost-net")
    handles = {name: what for name, what in order["handles"].items() if vhost or ".vhost" not in name}
    numbers = {name: opened(name, what, folder) for name, what in handles.items()}
    for number in (one for several in numbers.values() for one in several):
        os.set_inheritable(number, True)
    argv = ["".join(part if isinstance(part, str) else shown(part, numbers) for part in one) for one in order["argv"]]
    argv = without_devices(argv if vhost else [without_vhost(one) for one in argv])
    (folder / "quit.in").write_text("quit\n")
    (folder / "quit.out").touch()
    argv += ["-chardev", f"pipe,id=quit,path={folder}/quit", "-mon", "chardev=quit,mode=readline"]
    os.execvp("qemu-system-x86_64", argv)


def scripted(order: dict[str, Any], folder: Path) -> None:
    """Run a script up and down; print which interfaces and tables were there before, between and after."""
    for number, (name, kind, mac) in enumerate(order["links"]):
        peer = ["bridge"] if kind == "bridge" else ["veth", "peer", "name", f"peer{number}"]
        if kind == "tun":
            ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr")
        else:
            ip("link", "add", name, "address", mac, "type", *peer)
        ip("link", "set", name, "up")
        for address in order["addresses"].get(name, ()):
            ip("address", "replace", address, "dev", name, *(["nodad"] if ":" in address else []))
    for words in order["carried"]:
        ip(*words)
    for words in order["routes"]:
        ip(*words)
    script = "".join(one for one in order["script"].splitlines(keepends=True) if HOST_DEVICE not in one)
    (folder / "lab.sh").write_text(script)
    seen = [interfaces()]
    for word in ("up", "down"):
        done = subprocess.run(["sh", folder / "lab.sh", word], env={**os.environ, "run": f"{folder}/run"}, check=False)
        seen.append(interfaces())
        if done.returncode:
            sys.exit(done.returncode)
    seen.append({name: [] for name in os.listdir(folder) if name == "run"})
    print(json.dumps(seen))


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def interfaces() -> dict[str, list[str]]:
    """Return the marks of interfaces, and of tables of rules, which have no such thing in JSON, the place of one."""
    listed = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    links = {link["ifname"]: link.get("altnames", []) for link in json.loads(ip("-j", "link"))}
    return links | {name: [] for name in listed.splitlines()}


def without_devices(argv: list[str]) -> list[str]:
    """Leave out the devices of a host that is not this one."""
    gone = [number for number, one in enumerate(argv) if HOST_DEVICE in one]
    return [one for number, one in enumerate(argv) if number not in gone and number + 1 not in gone]


def without_vhost(argument: str) -> str:
    if "vhost" not in argument:
        return argument
    return json.dumps({key: value for key, value in json.loads(argument).items() if not key.startswith("vhost")})


def shown(part: dict[str, str], numbers: dict[str, list[int]]) -> str:
    return ":".join(map(str, numbers.get(part["handle"], [0])))


if __name__ == "__main__":
    main()
