"""A host with a network of ours, its guests, and the world beyond two uplinks: all of them network namespaces."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.model.network import Firewall, HostSide, Masquerade, Network, NetworkMode, OwnBridge, PortForward
from qemunet.plan import links
from qemunet.steps import Claim, LoadTable, Step
from tests import namespace
from tests.wires import Machine, machine, wire

A, B, GATE = "192.168.50.12", "192.168.50.13", "192.168.50.1"
A6, B6, GATE6 = "fd77::12", "fd77::13", "fd77::1"
OUTSIDE, HOST = "203.0.113.2", "203.0.113.1"
OUTSIDE6, HOST6 = "2001:db8:1::2", "2001:db8:1::1"
ELSEWHERE, HOST_ELSEWHERE = "198.51.100.2", "198.51.100.1"
SERVICES = ("dhcp", "dns", "icmp")
NAT = Firewall(None, Masquerade(), (), SERVICES)
SHUT = Firewall(None, None, (), SERVICES)


@dataclass
class Scene:
    """A host with a network of ours; `a` and `b` are guests, `outside` and `elsewhere` lie beyond two uplinks."""

    home: Machine
    a: Machine
    b: Machine
    outside: Machine
    elsewhere: Machine
    linux: LinuxHost

    def build(self, network: Network, *, bridged: bool = True) -> LoadTable:
        """Make a network, load its rules, and plug the guests; `bridged`: br_netfilter sees what is bridged."""
        for key in ("iptables", "ip6tables"):
            self.home.sysctl(f"net/bridge/bridge-nf-call-{key}", str(int(bridged)))
        steps = self.make(network)
        for name, guest in (("pa", self.a), ("pb", self.b)):
            wire(self.home, name, guest, "eth0", "virbr4")
        for guest, address, address6 in ((self.a, A, A6), (self.b, B, B6)):
            guest.ip("address", "add", f"{address}/24", "dev", "eth0")
            guest.ip("address", "add", f"{address6}/64", "dev", "eth0", "nodad")
            if network.mode is not NetworkMode.ISOLATED:
                guest.ip("route", "add", "default", "via", GATE)
                guest.ip("route", "add", "default", "via", GATE6)
        return next(step for step in steps if isinstance(step, LoadTable))

    def make(self, network: Network) -> list[Step]:
        """Make the host's side of a network, as a plan would; return the steps that were done."""
        switch = network.switch
        assert isinstance(switch, OwnBridge)
        facts = self.linux.photograph(Wanted(routes=True, links=frozenset({"eth0", "eth1"})))
        own = [step for step in links.bridge(network, switch, facts).steps if not isinstance(step, Claim)]
        steps = [*(step for way in links.ways(network, facts) for step in way.steps), *own]
        for step in steps:
            self.linux.perform(step)
        return steps


@contextlib.contextmanager
def fresh_scene(folder: Path) -> Iterator[Scene]:
    """A host with two uplinks, in namespaces that go with everything that is in them."""
    with namespace.fresh_namespace(), contextlib.ExitStack() as stack:
        home = Machine("home")
        a, b, outside, elsewhere = (stack.enter_context(machine(name)) for name in ("a", "b", "outside", "elsewhere"))
        for one in (home, a, b, outside, elsewhere):
            one.sysctl("net/ipv6/conf/default/accept_dad", "0")  # an address is used at once
        for number, (name, other, own, there) in enumerate(
            (("eth0", outside, HOST, OUTSIDE), ("eth1", elsewhere, HOST_ELSEWHERE, ELSEWHERE)), 1
        ):
            wire(home, name, other, "eth0")
            home.ip("address", "add", f"{own}/24", "dev", name)
            other.ip("address", "add", f"{there}/24", "dev", "eth0")
            home.ip("address", "add", f"2001:db8:{number}::1/64", "dev", name, "nodad")
            other.ip("address", "add", f"2001:db8:{number}::2/64", "dev", "eth0", "nodad")
            other.ip("route", "add", "192.168.50.0/24", "via", own)
            other.ip("route", "add", "fd77::/64", "via", f"2001:db8:{number}::1")
        linux = LinuxHost(str(folder))
        yield Scene(home, a, b, outside, elsewhere, linux)
        linux.close()
        home.close()


def bridge(host: HostSide = HostSide.BRIDGE, *addresses: str) -> OwnBridge:
    ends = ("vmh2", "vmh1") if host is HostSide.VETH else ("", "")
    own = addresses or (f"{GATE}/24", f"{GATE6}/64")
    return OwnBridge("virbr4", "02:00:00:00:00:04", 1500, False, 0, 300, own, host, *ends)


def network(mode: NetworkMode, rules: Firewall, host: HostSide = HostSide.BRIDGE) -> Network:
    return Network("lab", mode, bridge(host), firewall=rules)


def forwarded(*forwards: PortForward, rules: Firewall = NAT) -> Firewall:
    return replace(rules, forwards=forwards)


def to_web(address: str = "", protocol: str = "tcp") -> PortForward:
    return PortForward(protocol, address, (8080, 8080), A, (80, 80))


def load_text(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
