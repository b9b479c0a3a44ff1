"""What may be behind a card without any interface of the host: a socket, a switch of programs, a device."""

from __future__ import annotations

from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.model.nic import Forward


@frozen
class InetAddress:
    """A host, by address or name, and a port of TCP or UDP. `host` is empty for all addresses."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@frozen
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = InetAddress | UnixAddress


@frozen
class StreamBackend:
    """A connection to another QEMU: one of the two listens."""

    address: Address
    listen: bool


@frozen
class DgramBackend:
    """UDP between two addresses, a frame in each datagram."""

    local: InetAddress
    remote: InetAddress


@frozen
class McastBackend:
    """A multicast group of IPv4, which is like a hub; `local` is an address of the interface by which it is reached."""

    group: InetAddress
    local: str | None = None


@frozen
class VdeBackend:
    """A port of a vde_switch, whose control directory is at `path`."""

    path: str


@frozen
class PasstBackend:
    """A passt of its own, by which the guest is on the network with the host's address, without any rights."""

    forwards: tuple[Forward, ...] = ()
    dns: str | None = None  # the name server that its DHCP tells, else the host's own


@frozen
class VhostUserBackend:
    """A program that serves the card itself, in the guest's memory; it listens at the socket `path`."""

    path: str


@frozen
class HostdevBackend:
    """A PCI device of the host, ``0000:03:00.1``, that the guest gets itself, by VFIO: no backend of QEMU's."""

    device: str


Remote = StreamBackend | DgramBackend | McastBackend | VdeBackend | PasstBackend | VhostUserBackend | HostdevBackend
