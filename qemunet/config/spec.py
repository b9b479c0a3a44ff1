"""A lab as its file has it: typed and checked one by one, None for what the file leaves open."""

from __future__ import annotations

from enum import StrEnum

from qemunet.errors import ConfigError, Duplicate
from qemunet.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config.expectkeys import ExpectSpec
    from qemunet.model.cable import Route
    from qemunet.model.guard import GuardLevel
    from qemunet.model.impair import Impairment
    from qemunet.model.network import Boot, HostSide, NetworkMode, PortProfile
    from qemunet.model.nic import Forward, LinkState, MacvtapMode, Rate
    from qemunet.model.remote import Address, InetAddress
    from qemunet.model.script import Source
    from qemunet.model.vlan import Vlans
    from qemunet.model.vm import Accel, Firmware, GuestAgent, NicBus

AUTO = 0  # in place of a number: to be worked out


class NicMode(StrEnum):
    """What stands behind a card."""

    USER = "user"
    TAP = "tap"
    MACVTAP = "macvtap"
    STREAM = "stream"
    DGRAM = "dgram"
    MCAST = "mcast"
    VDE = "vde"
    PASST = "passt"
    VHOST_USER = "vhost-user"
    HOSTDEV = "hostdev"


class Switch(StrEnum):
    """On, off, or as the host can."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@frozen
class MachineSpec:
    """The hardware itself; a profile has one, a vm may override parts of it."""

    type: str | None = None
    nic_bus: NicBus | None = None
    cpu_kvm: str | None = None
    cpu_tcg: str | None = None


@frozen
class BootSpec:
    """``[vm.NAME.boot]``."""

    kernel: str | None = None
    initrd: str | None = None
    append: str | None = None
    guest: str | None = None
    order: tuple[str, ...] | None = None
    firmware: Firmware | None = None


@frozen
class DiskSpec:
    """``[[vm.NAME.disk]]``. `path` is where it stands in the file."""

    path: str = ""
    file: str | None = None
    format: str | None = None
    backing: tuple[str, ...] | None = None
    size: int | None = None
    bus: str | None = None
    snapshot: bool | None = None
    cdrom: bool | None = None
    readonly: bool | None = None


@frozen
class NicSpec:
    """``[[vm.NAME.nic]]``. `mac` may be ``auto``, `queues` may be AUTO."""

    path: str = ""
    id: str | None = None
    mode: NicMode | None = None
    network: str | None = None
    bridge: str | None = None
    address: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    parent: str | None = None
    macvtap: MacvtapMode | None = None
    host_macvlan: bool | None = None
    model: str | None = None
    mac: str | None = None
    mac_prefix: str | None = None
    link: LinkState | None = None
    queues: int | None = None
    vhost: Switch | None = None
    mtu: int | None = None
    boot_index: int | None = None
    acpi_index: int | None = None
    ip: tuple[str, ...] | None = None
    gateway: tuple[str, ...] | None = None
    rate: Rate | None = None
    impair: Impairment | None = None
    guard: GuardLevel | None = None
    port_isolation: bool | None = None
    vlan: Vlans | None = None
    port_profile: str | None = None
    ifname: str | None = None
    adopt: bool | None = None
    listen: Address | None = None
    connect: Address | None = None
    group: InetAddress | None = None
    local: str | None = None
    socket: str | None = None  # written `path`
    device: str | None = None
    ifup: str | None = None
    ifdown: str | None = None
    forward: tuple[Forward, ...] | None = None
    restrict: bool | None = None
    subnet: str | None = None
    hostname: str | None = None
    dns: str | None = None
    tftp: str | None = None
    bootfile: str | None = None


@frozen
class ScriptSpec:
    """``[[vm.NAME.script]]``, or ``[[script]]`` of a file of its own: that `file`, for errors."""

    path: str
    expect: str | None = None
    fail: str | None = None
    send: str | None = None
    enter: bool | None = None
    timeout: int | None = None
    file: str = ""


@frozen
class LoginSpec:
    """``[vm.NAME.login]``."""

    recipe: str | None = None
    user: str | None = None
    password: Source | None = None


@frozen
class VmSpec:
    """``[vm.NAME]``. `nic` None: none was written, so the vm gets one in user mode."""

    path: str = ""
    name: str = ""
    profile: str | None = None
    memory: int | None = None
    cpus: int | None = None
    accel: Accel | None = None
    hotplug_slots: int | None = None
    shared_memory: bool | None = None
    user: str | None = None
    display: str | None = None
    qemu_args: tuple[str, ...] | None = None
    agent: GuestAgent | None = None
    depends: tuple[str, ...] | None = None
    ready: str | None = None
    netns: str | None = None
    script_file: str | None = None
    secret: tuple[tuple[str, Source], ...] | None = None
    machine: MachineSpec = MachineSpec()
    boot: BootSpec = BootSpec()
    login: LoginSpec = LoginSpec()
    disk: tuple[DiskSpec, ...] = ()
    nic: tuple[NicSpec, ...] | None = None
    script: tuple[ScriptSpec, ...] = ()


@frozen
class NatSpec:
    """``[network.NAME.nat]``."""

    ports: tuple[int, int] | None = None
    source: str | None = None


@frozen
class DhcpSpec:
    """``[network.NAME.dhcp]``, or whether there is to be any. `range`: first and last address, for each family."""

    on: bool = True
    range: tuple[str, ...] | None = None
    lease: int | None = None
    gateway: bool | None = None
    options: tuple[tuple[str, str], ...] | None = None
    boot: Boot | None = None
    server: str | None = None


@frozen
class DnsSpec:
    """``[network.NAME.dns]``, or whether there is to be any."""

    on: bool = True
    domain: str | None = None
    forwarders: tuple[str, ...] | None = None
    hosts: tuple[tuple[str, str], ...] | None = None
    local_only: bool | None = None


@frozen
class KnownHostSpec:
    """``[[network.NAME.hosts]]``."""

    path: str = ""
    mac: str | None = None
    ip: str | None = None
    name: str | None = None


@frozen
class NetworkSpec:
    """``[network.NAME]``. An `address` may be ``auto``."""

    path: str = ""
    name: str = ""
    mode: NetworkMode | None = None
    bridge: str | None = None
    address: tuple[str, ...] | None = None
    host: HostSide | None = None
    ports: tuple[str, ...] | None = None
    port_vlan: tuple[tuple[str, Vlans], ...] | None = None
    move_address: bool | None = None
    uplink: str | None = None
    parent: str | None = None
    macvtap: MacvtapMode | None = None
    host_macvlan: bool | None = None
    stp: bool | None = None
    forward_delay: int | None = None
    ageing: int | None = None
    mtu: int | None = None
    port_isolation: bool | None = None
    vlan_filtering: bool | None = None
    host_vlan: int | None = None
    mac: str | None = None
    forward: tuple[Forward, ...] | None = None
    host_services: tuple[str, ...] | None = None
    external: bool | None = None
    keep: bool | None = None
    netns: str | None = None
    nat: NatSpec | None = None
    dhcp: DhcpSpec | None = None
    dns: DnsSpec | None = None
    hosts: tuple[KnownHostSpec, ...] | None = None
    port_profile: tuple[PortProfile, ...] | None = None


class EndKind(StrEnum):
    """What an end of a cable is plugged into."""

    NETWORK = "network"
    BRIDGE = "bridge"
    NETNS = "netns"
    HOST = "host"
    FREE = "free"


@frozen
class EndSpec:
    """An end of a cable, ``network:lab``. `name` is empty for ``host`` and ``free``."""

    kind: EndKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)


@frozen
class CableSpec:
    """``[[cable]]``."""

    path: str = ""
    name: str | None = None
    a: EndSpec | None = None
    b: EndSpec | None = None
    a_name: str | None = None
    b_name: str | None = None
    a_address: tuple[str, ...] | None = None
    b_address: tuple[str, ...] | None = None
    a_routes: tuple[Route, ...] | None = None
    b_routes: tuple[Route, ...] | None = None
    a_mac: str | None = None
    b_mac: str | None = None
    a_vlan: Vlans | None = None
    b_vlan: Vlans | None = None
    mtu: int | None = None


@frozen
class DhcpServerSpec:
    """``[dhcp-server.NAME]``."""

    path: str = ""
    name: str = ""
    domain: str | None = None
    forwarders: tuple[str, ...] | None = None
    local_only: bool | None = None


@frozen
class NetnsSpec:
    """``[netns.NAME]``. `address` is by interface."""

    path: str = ""
    name: str = ""
    hostname: str | None = None
    named: bool | None = None
    address: tuple[tuple[str, tuple[str, ...]], ...] | None = None
    routes: tuple[Route, ...] | None = None
    sysctls: tuple[tuple[str, str], ...] | None = None


@frozen
class LabSpec:
    """A lab file. `file` is for messages, `path` is absolute, `overridden` are the paths that ``--set`` gave.

    `preset` are paths of cards whose values are from port profiles, each with the name of that.
    """

    file: str
    path: str
    name: str
    named: bool  # in the file; else after the file
    vms: tuple[VmSpec, ...]
    networks: tuple[NetworkSpec, ...]
    cables: tuple[CableSpec, ...] = ()
    spaces: tuple[NetnsSpec, ...] = ()
    overridden: frozenset[str] = frozenset()
    servers: tuple[DhcpServerSpec, ...] = ()
    expects: tuple[ExpectSpec, ...] = ()
    preset: tuple[tuple[str, str], ...] = ()

    def error(self, path: str, problem: str, hint: str = "") -> ConfigError:
        """Return the error for something at a dotted path of this lab."""
        problem += next((f' (by port-profile "{name}")' for preset, name in self.preset if preset == path), "")
        return ConfigError("--set" if path in self.overridden else self.file, path, problem, hint=hint)

    def duplicate(self, path: str, problem: str, hint: str = "") -> Duplicate:
        """Return the error for something that another thing of this lab has already."""
        return Duplicate("--set" if path in self.overridden else self.file, path, problem, hint=hint)

    def network(self, name: str) -> NetworkSpec | None:
        """Return the network of that name."""
        return next((network for network in self.networks if network.name == name), None)

    def server(self, name: str | None) -> DhcpServerSpec | None:
        """Return the DHCP server of that name."""
        return next((server for server in self.servers if server.name == name), None)

    def netns(self, name: str) -> NetnsSpec | None:
        """Return the namespace of that name."""
        return next((netns for netns in self.spaces if netns.name == name), None)


@frozen
class Profile:
    """A reusable hardware description. `reference` is a name or path by which it is found from anywhere."""

    name: str
    reference: str
    machine: MachineSpec
    vm: VmSpec = VmSpec()
    nic: NicSpec = NicSpec()
    disk: DiskSpec = DiskSpec()
    doc: str = ""
