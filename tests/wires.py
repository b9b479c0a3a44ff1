"""Machines made of network namespaces, and sockets of theirs between which real packets go."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from qemunet.host.netns import Namespace, in_fresh_namespace

PATIENCE = 5.0  # seconds that a packet may take which has to arrive
SILENCE = 0.4  # seconds after which one counts as dropped
REPEATED = 1.5  # seconds after which TCP has sent its first packet twice, and a datagram has found its way

T = TypeVar("T")


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@dataclass
class Machine:
    """A network namespace, or the calling thread's own if it has no `fd`."""

    name: str
    fd: int = -1
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def inside(self, action: Callable[[], T]) -> T:
        return action() if self.fd < 0 else Namespace(self.path).inside(action)

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.inside(lambda: subprocess.run(argv, check=check, capture_output=True, text=True))

    def ip(self, *words: str) -> None:
        done = self.run("ip", *words, check=False)
        assert done.returncode == 0, f"{self.name}: ip {' '.join(words)}: {done.stderr}"

    def sysctl(self, key: str, value: str) -> None:
        """Set a sysctl; the key's parts are joined by slashes."""

        def write() -> None:
            with open(f"/proc/sys/{key}", "w") as file:
                file.write(value)

        self.inside(write)

    def open(self, kind: socket.SocketKind, address: str, port: int = 0) -> socket.socket:
        """A socket of this machine, bound if a port is given; closed with the machine."""
        sock = self.inside(lambda: socket.socket(family(address), kind))
        self.sockets.append(sock)
        sock.settimeout(PATIENCE)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
        return sock

    def serve(self, port: int, address: str = "0.0.0.0") -> socket.socket:
        """A TCP server."""
        sock = self.open(socket.SOCK_STREAM, address, port)
        sock.listen(64)
        return sock

    def serve_udp(self, port: int, address: str = "0.0.0.0") -> socket.socket:
        return self.open(socket.SOCK_DGRAM, address, port)

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        if self.fd >= 0:
            os.close(self.fd)


@contextlib.contextmanager
def machine(name: str) -> Iterator[Machine]:
    """A machine of its own, with lo up; it goes with everything that is in it."""
    fd = in_fresh_namespace(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    found = Machine(name, fd)
    try:
        found.ip("link", "set", "lo", "up")
        yield found
    finally:
        found.close()


def why(error: OSError) -> str:
    """The name of an error: EHOSTUNREACH; "silence" if nobody said anything."""
    if isinstance(error, TimeoutError):
        return "silence"
    return errno.errorcode[error.errno or 0]


def tcp(client: Machine, address: str, port: int, server: socket.socket, source: tuple[str, int] | None = None) -> str:
    """Whom the server sees when a machine connects to an address, or why it cannot; data goes both ways."""
    sock = client.open(socket.SOCK_STREAM, address)
    if source is not None:
        sock.bind(source)
    # A refusal that comes back before connect() has let go of the socket is passed over, until the packet is repeated.
    sock.settimeout(REPEATED)
    with contextlib.closing(sock):
        try:
            sock.connect((address, port))
        except OSError as error:
            return why(error)
        sock.settimeout(PATIENCE)
        there, peer = server.accept()
        with contextlib.closing(there):
            there.settimeout(PATIENCE)
            for sender, receiver in ((sock, there), (there, sock)):
                sender.sendall(b"hello")
                assert receiver.recv(5) == b"hello"
            # Who closes first has to remember the connection for a while, and its port is one that tests use again.
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return f"{peer[0]}:{peer[1]}"


def host_of(seen: str) -> str:
    """The address of a "address:port"."""
    return seen.rpartition(":")[0]


def udp(client: Machine, address: str, port: int, server: socket.socket, source: tuple[str, int] | None = None) -> str:
    """Whom the server sees when a machine sends a datagram, or why nobody answers; its answer comes back."""
    sock = client.open(socket.SOCK_DGRAM, address)
    server.settimeout(REPEATED)
    if source is not None:
        sock.bind(source)
    with contextlib.closing(sock):
        sock.settimeout(SILENCE)
        try:
            sock.connect((address, port))
            sock.send(b"hello")
            data, peer = server.recvfrom(100)
        except OSError as error:
            if not isinstance(error, TimeoutError):
                return why(error)
            try:
                sock.recv(100)  # an error that came as a packet waits here
            except OSError as told:
                return why(told)
            raise
        assert data == b"hello"
        server.sendto(b"hi", peer)
        sock.settimeout(PATIENCE)
        assert sock.recv(100) == b"hi"
        return f"{peer[0]}:{peer[1]}"


def ping(client: Machine, address: str, seconds: float = SILENCE) -> bool:
    """Whether a machine gets an answer to a ping."""
    request, answer, protocol = (128, 129, "ipv6-icmp") if ":" in address else (8, 0, "icmp")
    number = socket.getprotobyname(protocol)
    sock = client.inside(lambda: socket.socket(family(address), socket.SOCK_RAW, number))
    with contextlib.closing(sock):
        sock.settimeout(seconds)
        header = struct.pack("!BBHHH", request, 0, 0, os.getpid() & 0xFFFF, 1)
        with contextlib.suppress(OSError):
            sock.sendto(_summed(header), (address, 0))
            while True:
                data, sender = sock.recvfrom(2048)
                data = data if ":" in address else data[4 * (data[0] & 0xF) :]
                if data[0] == answer and data[4:8] == header[4:8] and sender[0] == address:
                    return True
    return False


def _summed(header: bytes) -> bytes:
    """An ICMP message with its checksum; that of IPv6 is made by the kernel."""
    total = sum(struct.unpack("!4H", header))
    return header[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + header[4:]


def reset(source: str, target: str, from_port: int, to_port: int) -> bytes:
    """A TCP segment that ends a connection."""
    segment = struct.pack("!HHIIBBHHH", from_port, to_port, 1, 1, 5 << 4, 0x14, 0, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20)
    total = sum(struct.unpack("!16H", pseudo + segment))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return segment[:16] + struct.pack("!H", checksum) + segment[18:]


def wire(one: Machine, name: str, other: Machine, there: str, master: str = "") -> None:
    """Join two machines by a cable; both ends are up, the first in a bridge if one is named."""
    one.ip("link", "add", name, "type", "veth", "peer", "name", there, "netns", other.path)
    if master:
        one.sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
        one.ip("link", "set", name, "master", master)
    one.ip("link", "set", name, "up")
    other.ip("link", "set", there, "up")
