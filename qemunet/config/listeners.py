"""Where the guests of a lab have QEMU listen on the host: no port twice."""

from __future__ import annotations

import typing

from qemunet.config import units
from qemunet.frozen import frozen
from qemunet.model.vm import VncDisplay

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.spec import LabSpec
    from qemunet.model.nic import Forward

_ANY = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared, not bound


@frozen
class _Listener:
    protocol: str
    address: str
    ports: tuple[int, int]
    path: str


def check(spec: LabSpec) -> None:
    """Raise ConfigError if a port of the host is listened on twice."""
    seen: list[_Listener] = []
    for one in _all_listeners(spec):
        for other in seen:
            if _collide(one, other):
                port = max(one.ports[0], other.ports[0])
                raise spec.error(one.path, f"{one.protocol} port {port} is also that of {other.path}")
        seen.append(one)


def _all_listeners(spec: LabSpec) -> Iterator[_Listener]:
    for vm in spec.vms:
        screen = units.display(vm.display or "none")
        if isinstance(screen, VncDisplay):
            port = units.VNC_PORT + screen.number
            yield _Listener("tcp", screen.address, (port, port), f"{vm.path}.display")
        for nic in vm.nic or ():
            for forward in nic.forward or ():
                yield _listener(forward, f"{nic.path}.forward")


def _listener(forward: Forward, path: str) -> _Listener:
    return _Listener(forward.protocol, forward.address, forward.ports, path)


def _collide(one: _Listener, other: _Listener) -> bool:
    same = one.address == other.address or one.address in _ANY or other.address in _ANY
    apart = one.ports[1] < other.ports[0] or other.ports[1] < one.ports[0]
    return one.protocol == other.protocol and same and not apart
