"""How what a guest needs reaches its QEMU: as open descriptors under a run, by name in a shell script."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.model.nic import MacvtapBackend, Nic, TapBackend
from qemunet.model.remote import Address, InetAddress, UnixAddress
from qemunet.model.vm import Vm
from qemunet.plan.words import Json, word
from qemunet.steps import Handle, OpenFile, Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from qemunet.steps import Step

    class Way(Protocol):
        """Where QEMU finds its sockets, its cards' host side and its files."""

        def socket(self, name: str) -> Word:
            """Return the property of a socket character device that says where it is."""

        def card(self, nic: Nic, backend: TapBackend | MacvtapBackend) -> Mapping[str, Json]:
            """Return the properties of a tap netdev that say which tap it is."""

        def end(self, nic: Nic, address: Address) -> Mapping[str, Json]:
            """Return where a card's stream is, as a SocketAddress of QEMU."""

        def helper(self, nic: Nic) -> Mapping[str, Json]:
            """Return where the program is that a card has for itself, as a SocketAddress of QEMU."""

        def ends(self, nic: Nic, local: InetAddress, remote: InetAddress) -> Mapping[str, Json]:
            """Return the properties of a dgram netdev that say between which two addresses it is."""

        def kernel(self, name: str, path: str, *, public: bool) -> Word:
            """Return a file name for a kernel or initrd; `public` if every user may read it."""

        def image(self, layer: Layer, number: int) -> str | Word:
            """Return a file name for a layer of a drive; `number` is its own among all of the guest's."""


SHELL_DESCRIPTORS = range(3, 10)  # POSIX promises a shell's redirections one digit only
VHOST_DEVICE = "/dev/vhost-net"
ALL = "0.0.0.0"  # noqa: S104 - what a user asks for who names no address


@frozen
class Layer:
    """One file below a drive: `path` is the image, or for an overlay the image that it hides and spares."""

    node: str  # its node name in QEMU
    path: str
    format: str
    writable: bool
    overlay: bool = False


@frozen
class Passed:
    """A run: sockets and cards are open already, and files too if QEMU is not the calling user."""

    vm: Vm

    def socket(self, name: str) -> Word:
        return word("fd=", self.handle(name))

    def card(self, nic: Nic, backend: TapBackend | MacvtapBackend) -> Mapping[str, Json]:
        many = nic.queues > 1
        found: dict[str, Json] = {"fds" if many else "fd": self.handle(nic.id)}
        if nic.vhost:
            opened = [self.handle(name) for name in vhost_handles(nic)]
            numbers = word(opened[0], *(part for one in opened[1:] for part in (":", one)))
            found |= {"vhost": True, "vhostfds" if many else "vhostfd": numbers}
        return found

    def end(self, nic: Nic, address: Address) -> Mapping[str, Json]:
        return {"type": "fd", "str": self.handle(nic.id)}

    def helper(self, nic: Nic) -> Mapping[str, Json]:
        return {"type": "fd", "str": self.handle(nic.id)}

    def ends(self, nic: Nic, local: InetAddress, remote: InetAddress) -> Mapping[str, Json]:
        return {"local": {"type": "fd", "str": self.handle(nic.id)}}

    def kernel(self, name: str, path: str, *, public: bool) -> Word:
        return word("/proc/self/fd/", self.handle(name)) if self.vm.run_as and not public else word(path)

    def image(self, layer: Layer, number: int) -> str | Word:
        return f"/dev/fdset/{number}" if self.opens(layer) else layer.path

    def opens(self, layer: Layer) -> bool:
        """Tell whether a layer reaches QEMU open: an overlay has no name, another user's QEMU no permission."""
        return layer.overlay or self.vm.run_as is not None

    def handle(self, name: str) -> Handle:
        """Return the handle of something of this guest's; nic ids have no dots, all other names here do."""
        return Handle(f"{self.vm.name}:{name}")


@frozen
class Named:
    """A script: everything by name, below the variable `run`; only macvtaps and vhost by redirection."""

    vm: Vm

    @property
    def directory(self) -> Word:
        """The guest's own directory."""
        return word(self.variable("run"), f"/{self.vm.name}")

    def variable(self, name: str) -> Handle:
        """Return a variable of the script."""
        return Handle(name)

    def socket(self, name: str) -> Word:
        return word("path=", self.directory, f"/{name}")

    def card(self, nic: Nic, backend: TapBackend | MacvtapBackend) -> Mapping[str, Json]:
        many = nic.queues > 1
        numbers = dict(self.redirections())
        found: dict[str, Json]
        if isinstance(backend, TapBackend):
            found = {"ifname": backend.ifname, "script": "no", "downscript": "no"}
            found |= {"queues": nic.queues} if many else {}
        else:
            found = {"fds" if many else "fd": numbers[nic.id]}
        if nic.vhost:
            found |= {"vhost": True, "vhostfds" if many else "vhostfd": numbers[f"{nic.id}.vhost"]}
        return found

    def end(self, nic: Nic, address: Address) -> Mapping[str, Json]:
        if isinstance(address, UnixAddress):
            return {"type": "unix", "path": address.path}
        return {"type": "inet", "host": address.host or ALL, "port": str(address.port)}

    def helper(self, nic: Nic) -> Mapping[str, Json]:
        return {"type": "unix", "path": word(self.variable("run"), f"/{self.vm.name}.passt-{nic.id}/socket")}

    def ends(self, nic: Nic, local: InetAddress, remote: InetAddress) -> Mapping[str, Json]:
        return {"local": self.end(nic, local), "remote": self.end(nic, remote)}

    def kernel(self, name: str, path: str, *, public: bool) -> Word:
        return word(path)

    def image(self, layer: Layer, number: int) -> str | Word:
        return word(self.directory, f"/{layer.node}") if layer.overlay else layer.path

    def redirections(self) -> tuple[tuple[str, str], ...]:
        """Return what has to be opened for QEMU, with the numbers it gets, several joined by colons."""
        wanted = [nic.id for nic in self.vm.nics if isinstance(nic.backend, MacvtapBackend)]
        wanted += [f"{nic.id}.vhost" for nic in self.vm.nics if nic.vhost]
        queues = {nic.id: nic.queues for nic in self.vm.nics}
        found, first = [], SHELL_DESCRIPTORS.start
        for name in wanted:
            after = first + queues[name.removesuffix(".vhost")]
            found.append((name, ":".join(str(number) for number in range(first, after))))
            first = after
        return tuple(found)


def vhost_handles(nic: Nic) -> tuple[str, ...]:
    """Return the names of a card's vhost descriptors, one per queue."""
    return tuple(f"{nic.id}.vhost{number}" for number in range(nic.queues if nic.vhost else 0))


def vhost_steps(vm: Vm, nic: Nic) -> tuple[Step, ...]:
    """Return what opens them: QEMU must not do it itself, since it aborts where it may not."""
    way = Passed(vm)
    return tuple(OpenFile(way.handle(name).name, VHOST_DEVICE, writable=True) for name in vhost_handles(nic))
