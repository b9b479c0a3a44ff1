"""Cards that reach other programs without an interface of the host: their sockets, and their backends in QEMU."""

from __future__ import annotations

from collections.abc import Iterator

from qemunet.facts import Facts
from qemunet.model.nic import Nic
from qemunet.model.remote import (
    DgramBackend,
    HostdevBackend,
    McastBackend,
    PasstBackend,
    Remote,
    StreamBackend,
    VdeBackend,
    VhostUserBackend,
)
from qemunet.model.vm import Vm
from qemunet.plan.ways import Passed
from qemunet.plan.words import Json, option
from qemunet.steps import OpenSocket, Step, Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.plan.ways import Way


def opened(vm: Vm, nic: Nic) -> Iterator[Step]:
    """Yield what takes an address of the host for a card: all of these are taken before anybody connects."""
    match nic.backend:
        case StreamBackend(address=address, listen=True):
            yield OpenSocket(_handle(vm, nic), _where(vm, nic), listen=str(address))
        case DgramBackend(local=local, remote=remote):
            yield OpenSocket(_handle(vm, nic), _where(vm, nic), str(local), str(remote), datagram=True)
        case _:
            pass


def connected(vm: Vm, nic: Nic, facts: Facts) -> Iterator[Step]:
    """Yield what connects a card to somebody who listens, who may have to be started for it."""
    match nic.backend:
        case StreamBackend(address=address, listen=False):
            yield OpenSocket(_handle(vm, nic), _where(vm, nic), connect=str(address))
        case PasstBackend() as backend:
            from qemunet.plan import passt

            yield from passt.steps(vm, nic, backend, facts, _handle(vm, nic))
        case _:
            pass


def netdev(nic: Nic, backend: Remote, way: Way) -> dict[str, Json]:
    """Return a card's backend without its id."""
    match backend:
        case StreamBackend(address=address, listen=listen):
            return {"type": "stream", "server": listen, "addr": way.end(nic, address)}
        case DgramBackend(local=local, remote=remote):
            return {"type": "dgram", **way.ends(nic, local, remote)}
        case McastBackend(group=group, local=local):
            here: dict[str, Json] = {} if local is None else {"local": {"type": "inet", "host": local, "port": "0"}}
            return {"type": "dgram", "remote": {"type": "inet", "host": group.host, "port": str(group.port)}, **here}
        case VdeBackend(path=path):
            return {"type": "vde", "sock": path}
        case VhostUserBackend():
            more: dict[str, Json] = {"queues": nic.queues} if nic.queues > 1 else {}
            return {"type": "vhost-user", "chardev": nic.netdev, **more}
        case PasstBackend():
            return {"type": "stream", "server": False, "addr": way.helper(nic)}
        case HostdevBackend():
            raise AssertionError("a device of the host has no backend")


def connection(nic: Nic) -> tuple[Word, ...]:
    """Return the character device of a card whose backend has one; it has the id of the backend."""
    if not isinstance(nic.backend, VhostUserBackend):
        return ()
    return option("-chardev", f"socket,id={nic.netdev},path={nic.backend.path.replace(',', ',,')}")


def _handle(vm: Vm, nic: Nic) -> str:
    return Passed(vm).handle(nic.id).name


def _where(vm: Vm, nic: Nic) -> str:
    return f"vm.{vm.name}.nic {nic.id}"
