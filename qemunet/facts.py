"""A photograph of the host: what was there before a plan, and what of it a plan has to know.

`Wanted` says what to look at, a host takes the picture (`Facts`), everything that thinks reads it. A thing
that was asked for and is missing in a mapping is not there. Paths are absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from qemunet.model.routing import Carried

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@frozen
class TunFact:
    """How a tun device was made (tuntap(4)): `tap` frames with Ethernet headers, `pi` more before them.

    `many`: for several queues, of which `used` are open, where the kernel tells. `owner`: who may open it beside root.
    """

    tap: bool
    pi: bool = False
    vnet_hdr: bool = True
    many: bool = False
    used: int = 0
    owner: int | None = None
    group: int | None = None


@frozen
class LinkFact:
    """One interface, as RTM_GETLINK tells it (rtnetlink(7))."""

    index: int
    name: str
    kind: str  # IFLA_INFO_KIND: bridge, tun, veth, macvtap ...; empty for a physical one
    mac: str
    mtu: int
    up: bool
    master: str | None = None
    group: int = 0
    altnames: tuple[str, ...] = ()
    vlan_filtering: bool = False  # of a bridge: it tells VLANs apart
    tun: TunFact | None = None

    def describe(self, name: str) -> str:
        """Say what has a name: ``qn-lab is a bridge already, of qemunet.net-lab.bridge``."""
        whose = [alias for alias in self.altnames if alias.startswith("qemunet.")]
        kind = {"": "an interface", "tun": "a tap"}.get(self.kind, f"a {self.kind}")
        other = "" if self.name == name else f" ({self.name})"
        return f"{name} is {kind} already{other}{', of ' + whose[0] if whose else ''}"


@frozen
class RouteFact:
    """One route of the main table."""

    destination: str  # CIDR, or "default"
    device: str
    gateway: str | None = None


@frozen
class WireFact:
    """A veth pair between two bridges: these, its two ends, and whose it is by the mark it carries, if any."""

    bridges: tuple[str, str]
    ends: tuple[str, str]
    whose: str = ""


@frozen
class FileFact:
    """One file that the lab names. `qcow2`: its first bytes are that format's magic.

    `readable` is for the calling user himself: behind ``sudo`` the one who called it, and for root alone
    what everybody may read, because QEMU does not run as root. `backing` is what the qcow2 header names, absolute.
    """

    path: str
    size: int
    regular: bool
    readable: bool
    qcow2: bool = False
    backing: str | None = None
    backing_format: str | None = None
    directory: bool = False
    executable: bool = True  # some execute bit is set
    data_elsewhere: bool = False  # the qcow2 header names another file that has the data


@frozen
class SocketFact:
    """A socket in the file system: whose it is, and whether somebody is at it.

    `passable`: everybody may go through all directories above it.
    """

    path: str
    answered: bool
    uid: int = 0
    gid: int = 0
    mode: int = 0o777
    passable: bool = True

    def lets_in(self, uid: int, gid: int) -> bool:
        """Tell whether a user without any rights of root may connect to it."""
        bits = 0o200 if uid == self.uid else 0o020 if gid == self.gid else 0o002
        return self.passable and bool(self.mode & bits)


@frozen
class NodeFact:
    """A device node: whose it is, and whether the calling user may read and write it."""

    uid: int
    gid: int
    mode: int
    opened: bool

    def lets_in(self, uid: int, gid: int) -> bool:
        """Tell whether a user without any rights of root may read and write it."""
        bits = 0o600 if uid == self.uid else 0o060 if gid == self.gid else 0o006
        return self.mode & bits == bits


@frozen
class PciFact:
    """A PCI device of the host with its driver, empty for none, and its IOMMU group, if there is an IOMMU.

    `beside`: the others of that group that are no bridges, with their drivers. `node`: the group's own in /dev/vfio;
    `vfio`: the one for all is there.
    """

    address: str
    driver: str = ""
    group: int | None = None
    beside: tuple[tuple[str, str], ...] = ()
    network: bool = True
    node: NodeFact | None = None
    vfio: bool = True


@frozen
class GuestFact:
    """Where the built-in guest lies, the kernel arguments it always wants, and whether every user may read it."""

    kernel: str
    initrd: str
    append: str
    public: bool = False


@frozen
class Wanted:
    """What a photograph shall show; names of interfaces and sysctls, paths of files, names of programs."""

    links: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()  # namespaces of labs, of which all interfaces, addresses and routes matter
    bridges: frozenset[str] = frozenset()  # whose forwarding databases matter
    sysctls: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()  # backing files that headers name are followed
    sockets: frozenset[str] = frozenset()
    doors: frozenset[str] = frozenset()  # sockets as well, at which nobody knocks
    devices: frozenset[str] = frozenset()  # PCI addresses
    programs: frozenset[str] = frozenset()
    routes: bool = False  # all routes, and all interfaces that carry addresses, with their forwarding
    guest: bool = False
    wires: bool = False  # what joins bridges, and which of them have a spanning tree
    shaping: bool = False  # whether the kernel can limit rates
    impairing: bool = False  # whether it can impair what is sent, as well
    guards: bool = False  # whether the kernel can look at what guests send
    vlans: bool = False  # whether bridges of the kernel can tell VLANs apart
    networks: bool = False  # what the networks that are up were made from
    uplinks: frozenset[str] = frozenset()  # interfaces that are to become ports of a bridge
    ports: frozenset[tuple[str, str, int, int]] = frozenset()  # who listens: protocol, address, first and last port


@frozen
class Facts:
    """The photograph. `claims`: what runs already, key (``mac/52:54:…``) to the scope that has it."""

    runtime: str
    machine_id: str
    uid: int  # effective, 0 for root
    can_switch_user: bool  # root, in a user namespace that has room for other users
    links: Mapping[str, LinkFact] = _NOTHING
    addresses: Mapping[str, tuple[str, ...]] = _NOTHING  # interface to CIDRs
    routes: tuple[RouteFact, ...] = ()
    sysctls: Mapping[str, str] = _NOTHING
    macs_on_bridge: Mapping[str, frozenset[str]] = _NOTHING
    wires: tuple[WireFact, ...] = ()
    stp: frozenset[str] = frozenset()  # bridges that take part in a spanning tree
    ports: Mapping[str, frozenset[str]] = _NOTHING  # bridge to the addresses of its ports
    files: Mapping[str, FileFact] = _NOTHING
    sockets: Mapping[str, SocketFact] = _NOTHING
    devices: Mapping[str, PciFact] = _NOTHING
    memlock: int | None = None  # bytes that the calling user's processes may lock, if that is limited
    programs: Mapping[str, str] = _NOTHING  # name to path
    users: Mapping[str, tuple[int, int]] = _NOTHING  # name to uid, gid
    kvm_gid: int | None = None
    tun: bool = True  # /dev/net/tun can be opened
    vhost_net: bool = False  # /dev/vhost-net can be opened
    shaping_lacks: frozenset[str] = frozenset()  # what of it the kernel lacks: ifb, act_mirred …
    guard_lacks: frozenset[str] = frozenset()  # likewise for guards: bridge, egress, inet
    vlans: bool = True  # bridges of the kernel can tell VLANs apart
    kvm: Mapping[str, str] = _NOTHING  # cpu model to why KVM cannot run it, "" if it can
    guest: GuestFact | None = None
    claims: Mapping[str, str] = _NOTHING
    scopes: Mapping[str, str] = _NOTHING  # shared scopes that are up, to their fingerprint
    networks: Mapping[str, str] = _NOTHING  # networks that are up, to the lab file that each was made from
    places: Mapping[str, Facts] = _NOTHING  # namespaces of labs to what is in them: links, addresses, routes, wires
    netns: frozenset[str] = frozenset()  # what `ip netns` shows, of the names that were asked for
    carried: Mapping[str, Carried] = _NOTHING  # by the name of an interface that is to become a port
    listeners: Mapping[str, str] = _NOTHING  # "tcp/8080" to the program that listens there
