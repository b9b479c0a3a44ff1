"""A host between two networks of others, and what guests and others have of each other."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from qemunet.testing.bench import Bench, Room
from tests.guest.around import as_before, emulated
from tests.guest.scene import TREE
from tests.wires import SILENCE, Machine, machine, why, wire

EXAMPLES = TREE / "examples"
PATIENCE = 30.0  # seconds that a guest may take to say something under emulation on a busy machine
HOST, BEYOND = "203.0.113.1", "203.0.113.2"
HOST_ELSEWHERE, ELSEWHERE = "198.51.100.1", "198.51.100.2"
REFUSED = {"EHOSTUNREACH", "EACCES"}  # what is told of a packet that is prohibited


@dataclass
class Site:
    """A host: ``eth0`` is 203.0.113.1 and leads to `beyond`, ``eth1`` is 198.51.100.1 and leads to `elsewhere`."""

    home: Machine
    beyond: Machine
    elsewhere: Machine


@contextlib.contextmanager
def empty_site() -> Iterator[Site]:
    """A host in the namespace of the caller, and its surroundings, which are gone with it."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    home = Machine("home", here)
    with machine("beyond") as beyond, machine("elsewhere") as elsewhere:
        uplink(home, "eth0", HOST, beyond, BEYOND)
        uplink(home, "eth1", HOST_ELSEWHERE, elsewhere, ELSEWHERE)
        try:
            yield Site(home, beyond, elsewhere)
        finally:
            for name in ("eth0", "eth1"):
                home.ip("link", "del", name)
            home.close()


@contextlib.contextmanager
def kept(host: Room, *machines: Machine) -> Iterator[None]:
    """What is there before a lab is the same after it, without what tests have opened on some machines."""
    with as_before(host):
        yield
        for one in machines:
            for sock in one.sockets:
                sock.close()


@contextlib.contextmanager
def site(host: Room) -> Iterator[Site]:
    """The surroundings of a lab."""
    with empty_site() as here, kept(host, here.home, here.beyond, here.elsewhere):
        yield here


def leases(lab: Bench, *networks: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.qemunet("net", "leases", "--json", *networks))
    return found


@contextlib.contextmanager
def heard(lab: Bench, **wanted: object) -> Iterator[None]:
    """Check that an event with these details is told, from now to some time after."""
    with lab.lab.events() as events:
        yield
        next(event for event in events if wanted.items() <= {"event": event.kind, **event.details}.items())


def uplink(home: Machine, name: str, own: str, other: Machine, there: str) -> None:
    """Join the host to another one, by IPv4."""
    wire(home, name, other, "eth0")
    for where, card in ((home, name), (other, "eth0")):  # its addresses, and what is sent for them, come at any time
        where.sysctl(f"net/ipv6/conf/{card}/disable_ipv6", "1")
    home.ip("address", "add", f"{own}/24", "dev", name)
    other.ip("address", "add", f"{there}/24", "dev", "eth0")


def example(name: str, *vms: str) -> list[str]:
    """The words that run an example, with guests that are emulated."""
    return [str(EXAMPLES / f"{name}.toml"), *(word for key in emulated(*vms) for word in ("--set", key))]


# ---------------------------------------------------------------- what guests and others have of each other


class Shell(Protocol):
    """A guest, at its console or in a lab of the pytest plugin."""

    def succeeds(self, command: str, /) -> str: ...
    def fails(self, command: str, /) -> str: ...
    def wait_until(self, command: str, /) -> str: ...


def leased(guest: Shell, card: str = "eth0") -> str:
    """The address that a guest has got on a card, once it has one."""
    return guest.wait_until(f"cat /run/{card}.addresses").strip()


def between(address: str, first: str, last: str) -> bool:
    low, it, high = map(ipaddress.IPv4Address, (first, address, last))
    return low <= it <= high


def seen(guest: Shell, address: str, server: socket.socket, *, own_port: int = 0) -> tuple[str, int]:
    """Whom a server sees when a guest talks to it at an address; both hear each other."""
    source = f"-p {own_port} " if own_port else ""
    port = server.getsockname()[1]
    guest.succeeds(f"rm -f /run/heard; (echo hello | nc -w 20 {source}{address} {port} >/run/heard 2>&1 &)")
    server.settimeout(PATIENCE)
    client, (host, its_port) = server.accept()
    with contextlib.closing(client):
        client.settimeout(PATIENCE)
        assert client.recv(100) == b"hello\n"
        client.sendall(b"welcome\n")
    guest.wait_until("grep -q welcome /run/heard")
    return host, its_port


def page(who: Machine, address: str, port: int) -> str:
    """What a web server says to a machine; empty if nobody answers."""
    argv = ("timeout", "20", "busybox", "wget", "-q", "-O", "-", f"http://{address}:{port}/")
    return who.run(*argv, check=False).stdout.strip()


def page_for(guest: Shell, address: str, port: int) -> str:
    """What a web server says to a guest."""
    return guest.succeeds(f"timeout 20 wget -q -O - http://{address}:{port}/").strip()


def knock(who: Machine, address: str, port: int) -> str:
    """Why a machine cannot connect to an address; empty if it can."""
    sock = who.open(socket.SOCK_STREAM, address)
    with contextlib.closing(sock):
        try:
            sock.connect((address, port))
        except OSError as error:
            return why(error)
    return ""


def answers(who: Machine, address: str) -> bool:
    """Whether a machine gets an answer to one of some pings."""
    return who.run("busybox", "ping", "-c", "2", "-W", "1", address, check=False).returncode == 0


def refused(guest: Shell, address: str, port: int) -> str:
    """What a guest is told of an address with which it cannot connect."""
    return guest.fails(f"nc -w 5 {address} {port} </dev/null")


def hears_nothing(server: socket.socket) -> bool:
    """Whether nobody has connected to a server."""
    server.settimeout(SILENCE)
    try:
        server.accept()[0].close()
    except TimeoutError:
        return True
    return False


@contextlib.contextmanager
def dhcp_server(where: Machine, card: str, first: str, last: str) -> Iterator[None]:
    """A DHCP server of somebody else's, who has no idea of qemunet."""
    argv = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", f"--interface={card}", "--bind-interfaces"]
    argv += [f"--dhcp-range={first},{last},1h", "--no-ping", "--dhcp-authoritative", "--user=root"]
    argv += ["--dhcp-leasefile=/dev/null", "--pid-file="]
    server = where.inside(lambda: subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        yield
    finally:
        server.kill()
        server.wait()
