"""A network of qemunet with its dnsmasq, and guests on it that are no more than the end of a veth in a namespace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.host import processes
from qemunet.host.linux import LinuxHost
from qemunet.model import names
from qemunet.model.network import Dhcp, Dns, Network, NetworkMode, OwnBridge, Services
from qemunet.plan import dhcp
from qemunet.steps import AddAddress, AddLink, BridgeLink, Mark, SetLink, SetSysctl, Step
from tests.world import until

BRIDGE = OwnBridge("qn-lab", "52:54:00:aa:bb:01", 1500, stp=False, forward_delay=0, ageing=300, addresses=())
POOL = Dhcp("192.168.50.100", "192.168.50.109", 3600, gateway=True)
NAMES = Dns("lab.test", (), (), local_only=True)
UDHCPC = """#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
env >"$OUT"
ip address flush dev "$interface" scope global
ip address add "$ip/$mask" dev "$interface"
"""


def network(
    name: str = "lab",
    *,
    mode: NetworkMode = NetworkMode.ISOLATED,
    addresses: tuple[str, ...] = ("192.168.50.1/24",),
    switch: OwnBridge = BRIDGE,
    **services: object,
) -> Network:
    """A network that serves DHCP and names, if `services` do not say otherwise."""
    base: dict[str, object] = {"dhcp": POOL, "dhcp6": None, "dns": NAMES, "hosts": (), "mtu": 1500}
    given = Services(**(base | services))  # type: ignore[arg-type]
    return Network(name, mode, replace(switch, addresses=addresses), services=given)


@dataclass
class Guest:
    """The end of a veth in a namespace, which a process holds."""

    name: str
    mac: str
    folder: Path
    holder: subprocess.Popen[bytes]

    def run(self, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
        argv = ["nsenter", "--net", "--mount", "--target", str(self.holder.pid), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, **options)  # type: ignore[call-overload,no-any-return]

    def lease(self, *more: str) -> dict[str, str]:
        """Ask for an address; return what the server said, nothing if it did not answer."""
        out, script = self.folder / f"{self.name}.lease", self.folder / "udhcpc.sh"
        out.unlink(missing_ok=True)
        script.write_text(UDHCPC)
        script.chmod(0o755)
        argv = ["busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "3", "-T", "1", "-s", str(script), *more]
        self.run(*argv, env={**os.environ, "OUT": str(out)})
        if not out.exists():
            return {}
        pairs = (line.partition("=") for line in out.read_text().splitlines())
        return {key: value for key, _, value in pairs}

    def address6(self) -> str:
        """Ask for an IPv6 address."""
        script = Path(__file__).with_name("dhcp6.py")
        return self.run(sys.executable, str(script), "eth0", self.mac, check=True).stdout.strip()

    def address(self, name: str, server: str = "192.168.50.1") -> str:
        """What a name server says of a name: its first address, empty if it knows none."""
        done = self.run("busybox", "nslookup", name, server)
        _, _, answer = done.stdout.partition("\n\n")
        found = [line.split()[-1] for line in answer.splitlines() if line.startswith("Address")]
        return found[0] if found else ""


@dataclass
class Lan:
    """A namespace that plays the host."""

    folder: Path
    host: LinuxHost
    facts: Facts
    guests: list[Guest] = field(default_factory=list)

    @property
    def runtime(self) -> Path:
        return Path(self.host.runtime)

    def scope(self, name: str = "lab") -> Path:
        return self.runtime / "net" / name

    def steps(self, network: Network) -> list[Step]:
        """What makes the network: its bridge as simple as can be, and its dnsmasq."""
        switch = network.switch
        assert isinstance(switch, OwnBridge)
        mark = Mark(f"net/{network.name}", "bridge", names.group(self.host.runtime, f"net/{network.name}"))
        sixth = any(":" in one for one in switch.addresses)
        return [
            AddLink(switch.ifname, BridgeLink(switch.mac, switch.mtu), mark),
            SetSysctl(f"net.ipv6.conf.{switch.ifname}.disable_ipv6", "0" if sixth else "1"),
            *(AddAddress(switch.ifname, one) for one in switch.addresses),
            SetLink(switch.ifname, up=True),
            *dhcp.steps(network, switch, self.facts),
        ]

    def up(self, network: Network) -> Network:
        self.scope(network.name).mkdir(parents=True)
        for step in self.steps(network):
            self.host.perform(step)
        return network

    def pid(self, name: str = "lab") -> int:
        return int((self.scope(name) / "dnsmasq.pid").read_text())

    def log(self, name: str = "lab") -> str:
        return (self.scope(name) / "dnsmasq.log").read_text()

    def guest(self, name: str, mac: str, bridge: str = "qn-lab") -> Guest:
        """Plug a guest into a bridge."""
        guest = plug(self.folder, name, mac, bridge)
        self.guests.append(guest)
        return guest

    def close(self) -> None:
        """End what a failed test has left, and the guests."""
        for log in self.runtime.glob("net/*/dnsmasq.log"):
            for pid in processes.holders(str(log)):
                os.kill(pid, signal.SIGKILL)
        for guest in self.guests:
            guest.holder.kill()
            guest.holder.wait()


def plug(folder: Path, name: str, mac: str, bridge: str) -> Guest:
    """Plug a guest into a bridge of the caller's namespace; whoever ends its holder ends it."""
    holder = subprocess.Popen(["unshare", "--net", "--mount", "sleep", "infinity"])
    here = os.stat("/proc/self/ns/net").st_ino
    until(lambda: os.stat(f"/proc/{holder.pid}/ns/net").st_ino != here, "the guest's namespace")
    guest = Guest(name, mac, folder, holder)
    peer = ("peer", "name", "eth0", "address", mac, "netns", str(holder.pid))
    ip("link", "add", f"p-{name}", "type", "veth", *peer)
    ip("link", "set", f"p-{name}", "addrgenmode", "none", "master", bridge, "up")
    guest.run("ip", "link", "set", "lo", "up", check=True)
    guest.run("ip", "link", "set", "eth0", "up", check=True)
    return guest


@contextlib.contextmanager
def plugged(folder: Path, name: str, mac: str, bridge: str) -> Iterator[Guest]:
    """A guest on a bridge, which is unplugged and gone at the end."""
    guest = plug(folder, name, mac, bridge)
    try:
        yield guest
    finally:
        ip("link", "del", f"p-{name}")
        guest.holder.kill()
        guest.holder.wait()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def fresh_lan(folder: Path) -> Iterator[Lan]:
    """A host in the namespace of this thread, with a runtime directory that nobody else may enter."""
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    host = LinuxHost(str(runtime))
    facts = Facts(str(runtime), "machine", os.geteuid(), can_switch_user=True)
    lan = Lan(folder, host, facts)
    try:
        yield lan
    finally:
        lan.close()
        host.close()
