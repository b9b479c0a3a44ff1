"""Where the guests of a lab have QEMU listen on the host: no port twice."""

from __future__ import annotations

from qemunet.config import units
from qemunet.frozen import frozen, replace
from qemunet.model.remote import InetAddress
from qemunet.model.vm import VncDisplay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.spec import LabSpec, NetworkSpec
    from qemunet.model.nic import Forward

_ANY = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


@frozen
class Listener:
    """Ports on which a lab listens, first and last; `path` is where its file says so."""

    protocol: str
    address: str
    ports: tuple[int, int]
    path: str
    family: int = 0  # length of its addresses, 0 for both
    netns: str = ""  # the namespace of the lab that it is in


def check(spec: LabSpec) -> None:
    """Raise ConfigError if a port of the host is listened on twice."""
    seen: list[Listener] = []
    for one in _all_listeners(spec):
        for other in seen:
            if collide(one, other):
                port = max(one.ports[0], other.ports[0])
                raise spec.duplicate(one.path, f"{one.protocol} port {port} is also that of {other.path}")
        seen.append(one)


def _all_listeners(spec: LabSpec) -> Iterator[Listener]:
    for network in spec.networks:
        yield from of_network(network)
    for vm in spec.vms:
        screen = units.display(vm.display or "none")
        if isinstance(screen, VncDisplay):
            port = units.VNC_PORT + screen.number
            yield Listener("tcp", screen.address, (port, port), f"{vm.path}.display", netns=vm.netns or "")
        for nic in vm.nic or ():
            if isinstance(nic.listen, InetAddress):
                protocol, port = ("tcp" if nic.mode == "stream" else "udp"), nic.listen.port
                yield Listener(protocol, nic.listen.host, (port, port), f"{nic.path}.listen")
            for forward in nic.forward or ():
                yield replace(_listener(forward, f"{nic.path}.forward"), netns=vm.netns or "")


def of_network(network: NetworkSpec) -> Iterator[Listener]:
    """Yield what a network forwards."""
    for forward in network.forward or ():
        target = forward.vm if units.is_address(forward.vm) else ""
        address = forward.address or target
        yield replace(_listener(forward, f"{network.path}.forward"), family=units.bits(address) if address else 0)


def _listener(forward: Forward, path: str) -> Listener:
    return Listener(forward.protocol, forward.address, forward.ports, path)


def collide(one: Listener, other: Listener) -> bool:
    """Tell whether two have a port in common; of IPv4 and IPv6, each has its own."""
    if one.family and other.family and one.family != other.family:
        return False
    same = one.address == other.address or one.address in _ANY or other.address in _ANY
    apart = one.ports[1] < other.ports[0] or other.ports[1] < one.ports[0]
    return one.protocol == other.protocol and one.netns == other.netns and same and not apart
