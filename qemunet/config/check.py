"""What must be right in a lab file whatever the host is: references, and that nothing is given away twice."""

from __future__ import annotations

from qemunet.config import listeners, modes, ready, scripts, units
from qemunet.config.hints import did_you_mean, listed
from qemunet.config.spec import DiskSpec, LabSpec, NetworkSpec, NicMode, NicSpec, VmSpec
from qemunet.later import later
from qemunet.model import names
from qemunet.model.network import HostSide, NetworkMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config import cables, ports, served, spaces, vlans
else:
    cables = later("qemunet.config.cables")
    ports = later("qemunet.config.ports")
    served = later("qemunet.config.served")
    spaces = later("qemunet.config.spaces")
    vlans = later("qemunet.config.vlans")

SLIRP_SUBNET = "10.0.2.0/24"


def check(spec: LabSpec) -> None:
    """Raise ConfigError for the first thing in the file that cannot be."""
    _names(spec)
    if modes.has_port_profiles(spec):
        from qemunet.config import portprofiles  # only where there is any

        portprofiles.check(spec)
    spec = modes.preset(spec)
    spec = spaces.expanded(spec) if spec.spaces else spec
    for network in spec.networks:
        modes.check_network(spec, network)
        _network(spec, network)
        ports.check(spec, network)
        served.check(spec, network)
        vlans.check_network(spec, network)
    if any((*(network.netns for network in spec.networks), *(vm.netns for vm in spec.vms))):
        spaces.check(spec)
    for vm in spec.vms:
        modes.check_boot(spec, f"{vm.path}.boot", vm.boot)
        modes.check_agent(spec, vm)
        _cards(spec, vm)
        for disk in vm.disk:
            _disk(spec, disk)
        scripts.check(spec, vm)
    ready.check(spec)
    if spec.cables:
        cables.check(spec)
    spec = modes.expanded(spec)
    _macs(spec)
    _devices(spec)
    _interfaces(spec)
    _addresses(spec)
    _subnets(spec)
    listeners.check(spec)
    if spec.expects:
        from qemunet.config import expects  # only where it is needed

        expects.all_of(spec)


def nics(vm: VmSpec) -> tuple[NicSpec, ...]:
    """Return a vm's cards: the one in user mode, if its file says nothing of cards."""
    return (NicSpec(f"{vm.path}.nic[0]"),) if vm.nic is None else vm.nic


def nic_id(index: int, nic: NicSpec) -> str:
    """Return a card's id."""
    return nic.id or f"net{index}"


def ifname(vm: VmSpec, index: int, nic: NicSpec) -> str:
    """Return the name of a card's host side."""
    return nic.ifname or names.ifname(vm.name, nic_id(index, nic))


# ---------------------------------------------------------------- one thing at a time


class _Once:
    """Things that only one may have."""

    def __init__(self, spec: LabSpec, what: str) -> None:
        self.spec = spec
        self.what = what
        self.owners: dict[object, str] = {}

    def take(self, key: object, path: str, owner: str, hint: str = "") -> None:
        """Note the owner; raise ConfigError at `path` if there is one already."""
        if key in self.owners:
            raise self.spec.duplicate(path, f'{self.what} "{key}" is also that of {self.owners[key]}', hint)
        self.owners[key] = owner


def _names(spec: LabSpec) -> None:
    hint = "vms, networks, namespaces and the lab share one set of names"
    once = _Once(spec, "the name")
    if spec.named:
        once.take(spec.name, "lab.name", "the lab")
    for name, path in [(one.name, one.path) for group in (spec.vms, spec.networks, spec.spaces) for one in group]:
        once.take(name, path, path, hint)


def _network(spec: LabSpec, network: NetworkSpec) -> None:
    if modes.makes_bridge(network) and not names.is_ifname(modes.bridge_name(network)):
        problem = f'"{network.bridge}" is longer than the {names.IFNAMSIZ} bytes of an interface name'
        raise spec.error(f"{network.path}.bridge", problem)
    delay = network.forward_delay
    if delay is not None and not (2 if network.stp else 0) <= delay <= 30:
        low = "2s, the least with stp," if network.stp else "0"
        raise spec.error(f"{network.path}.forward-delay", f"{delay}s is not between {low} and 30s")


def _cards(spec: LabSpec, vm: VmSpec) -> None:
    ids, boot, acpi = (_Once(spec, what) for what in ("the id", "boot-index", "acpi-index"))
    for index, nic in enumerate(nics(vm)):
        modes.check_nic(spec, nic)
        if nic.vlan is not None:
            vlans.check_card(spec, nic)
        ids.take(nic_id(index, nic), f"{nic.path}.id", nic.path)
        if nic.boot_index is not None:
            boot.take(nic.boot_index, f"{nic.path}.boot-index", nic.path)
        if nic.acpi_index is not None:
            acpi.take(nic.acpi_index, f"{nic.path}.acpi-index", nic.path)
        if nic.network is not None and spec.network(nic.network) is None:
            known = [network.name for network in spec.networks]
            every = f"networks are {listed(known)}" if known else f"there is no [network.{nic.network}] in this file"
            hint = did_you_mean(nic.network, known, every)
            raise spec.error(f"{nic.path}.network", f'unknown network "{nic.network}"', hint)
        _gateways(spec, nic)
        _routes(spec, nic)
        _user(spec, nic)


def _gateways(spec: LabSpec, nic: NicSpec) -> None:
    families = [units.bits(gateway) for gateway in nic.gateway or ()]
    if len(families) != len({*families}):
        raise spec.error(
            f"{nic.path}.gateway", "more than one gateway of a kind", "at most one for IPv4 and one for IPv6"
        )
    if nic.gateway and not nic.ip:
        problem = "a gateway without an address of the guest"
        hint = 'as in ip = ["10.0.0.2/24"]; a guest without ip asks for both by DHCP'
        raise spec.error(f"{nic.path}.gateway", problem, hint)
    own = {units.bits(address) for address in nic.ip or ()}
    for gateway in nic.gateway or ():
        if units.bits(gateway) not in own:
            kind = "IPv6" if ":" in gateway else "IPv4"
            raise spec.error(f"{nic.path}.gateway", f"{gateway} is an {kind} address, and ip has none of that kind")


def _routes(spec: LabSpec, nic: NicSpec) -> None:
    for route in nic.routes or ():
        if route.endswith("/0"):
            problem = f"{route} through a guest would take the host's own default route"
            raise spec.error(f"{nic.path}.routes", problem, "name the networks that are behind the guest")


def _user(spec: LabSpec, nic: NicSpec) -> None:
    """Refuse what QEMU's user mode cannot do, and forwards of other vms."""
    for forward in nic.forward or ():
        text = units.format_forward(forward, own=not forward.vm)
        if forward.vm:
            hint = f'here it is "{units.format_forward(forward, own=True)}"'
            raise spec.error(
                f"{nic.path}.forward", f'"{text}" names a vm; in a card\'s own list that is left out', hint
            )
        if ":" in forward.address and modes.nic_mode(nic) is NicMode.USER:
            hint = "an IPv4 address, or none for all of them"
            problem = f'"{text}" listens on IPv6, which QEMU\'s user mode cannot'
            raise spec.error(f"{nic.path}.forward", problem, hint)
    subnet = nic.subnet or SLIRP_SUBNET
    if nic.dns is not None and modes.nic_mode(nic) is NicMode.USER and not units.inside(nic.dns, subnet):
        problem = f"{nic.dns} is not in the card's subnet {subnet}, as QEMU's user mode wants"
        raise spec.error(
            f"{nic.path}.dns", problem, "it is an address inside QEMU that passes questions on to the host's servers"
        )


def _disk(spec: LabSpec, disk: DiskSpec) -> None:
    if disk.file is None:
        raise spec.error(
            f"{disk.path}.file", "a disk needs a file", 'as in file = "disk.qcow2"; with size = "10G" it is made'
        )
    if disk.cdrom:
        for name, value in (("size", disk.size), ("backing", disk.backing)):
            if value is not None:
                raise spec.error(f"{disk.path}.{name}", f"a cdrom has no {name}")
        if disk.bus == "virtio":
            raise spec.error(
                f"{disk.path}.bus", 'a cdrom cannot be on bus "virtio"', "buses for it are ide, sata and scsi"
            )
    if disk.backing is not None and disk.size is not None:
        hint = f"make it once: qemu-img create -f qcow2 -F FORMAT -b {disk.backing[0]} {disk.file} SIZE"
        raise spec.error(f"{disk.path}.size", "an image with a backing file is not made here", hint)


# ---------------------------------------------------------------- the file as a whole


def _macs(spec: LabSpec) -> None:
    once = _Once(spec, "the address")
    given = [(network.mac, network.path) for network in spec.networks]
    given += [(end.mac, f"{end.path}.{end.side}") for cable in spec.cables for end in cables.ends(cable)]
    given += [(nic.mac, nic.path) for vm in spec.vms for nic in nics(vm)]
    for mac, path in given:
        if mac not in (None, "auto"):
            once.take(mac, f"{path}.mac", path)


def _devices(spec: LabSpec) -> None:
    once = _Once(spec, "the device")
    for nic in (nic for vm in spec.vms for nic in nics(vm)):
        if nic.device is not None:
            once.take(nic.device, f"{nic.path}.device", nic.path)


def _interfaces(spec: LabSpec) -> None:
    """No interface is made twice, and none is made that is expected to be there."""
    made = _Once(spec, "the interface")
    plugged = _Once(spec, "the port")
    used: dict[str, str] = {}
    _network_interfaces(spec, made, used)
    for network in spec.networks:
        for port in network.ports or ():
            plugged.take(port, f"{network.path}.ports", network.path, "an interface is a port of one bridge only")
            used.setdefault(port, f"{network.path}.ports")
    for vm in spec.vms:
        for index, nic in enumerate(nics(vm)):
            if modes.has_link(nic):
                plugged_into = spec.network(nic.network or "")
                netns = plugged_into.netns if plugged_into is not None else None
                made.take(modes.placed(netns, ifname(vm, index, nic)), f"{nic.path}.ifname", nic.path)
            if nic.bridge is not None:
                used.setdefault(nic.bridge, f"{nic.path}.bridge")
            if nic.parent is not None:
                used.setdefault(nic.parent, f"{nic.path}.parent")
    if spec.cables:
        _cable_interfaces(spec, made, used)
    _only_used(spec, made, used)
    _parents(spec)
    _no_ports(spec, plugged)


def _cable_interfaces(spec: LabSpec, made: _Once, used: dict[str, str]) -> None:
    for name, path, cable in cables.interfaces(spec):
        made.take(name, path, cable)
    for name, path in cables.bridges(spec):
        used.setdefault(name, path)


def _network_interfaces(spec: LabSpec, made: _Once, used: dict[str, str]) -> None:
    for network in spec.networks:
        if modes.makes_bridge(network):
            made.take(modes.switch_key(network), f"{network.path}.bridge", network.path)
            if modes.host_place(network) is HostSide.VETH:
                made.take(modes.host_ifname(network), f"{network.path}.host", network.path)
                made.take(modes.port_ifname(network), f"{network.path}.host", network.path)
        elif network.bridge is not None:
            used.setdefault(network.bridge, f"{network.path}.bridge")
        if network.parent is not None:
            used.setdefault(network.parent, f"{network.path}.parent")


def _only_used(spec: LabSpec, made: _Once, used: dict[str, str]) -> None:
    for name, path in used.items():
        if name in made.owners:
            owner = made.owners[name]
            network = owner.removeprefix("network.")
            hint = f'to plug into it: network = "{network}"' if owner.startswith("network.") and ".nic[" in path else ""
            if owner.startswith("network.") and path.startswith("cable["):
                hint = f'to plug into it: "network:{network}"'
            raise spec.error(path, f'"{name}" is the interface that {owner} makes, not an existing one', hint)


def _no_ports(spec: LabSpec, plugged: _Once) -> None:
    """Refuse to use a port for anything else: all that arrives there is the bridge's."""
    others = [(network.parent, f"{network.path}.parent", "macvtaps on it see nothing") for network in spec.networks]
    others += [
        (nic.parent, f"{nic.path}.parent", "a macvtap on it sees nothing") for vm in spec.vms for nic in nics(vm)
    ]
    others += [(one.bridge, f"{one.path}.bridge", "it is no bridge") for one in spec.networks if modes.is_foreign(one)]
    others += [(one.uplink, f"{one.path}.uplink", "packets come and go by that bridge") for one in spec.networks]
    for name, path, consequence in others:
        if name in plugged.owners:
            raise spec.error(path, f'"{name}" is a port of the bridge of {plugged.owners[name]}: {consequence}')


def _parents(spec: LabSpec) -> None:
    """A parent with a macvtap in mode passthru has no other."""
    by_parent: dict[str, list[NicSpec]] = {}
    for vm in spec.vms:
        for nic in nics(vm):
            if nic.parent is not None:
                by_parent.setdefault(nic.parent, []).append(nic)
    for parent, several in by_parent.items():
        exclusive = [nic for nic in several if nic.macvtap == "passthru"]
        if exclusive and len(several) > 1:
            other = next(nic for nic in several if nic is not exclusive[0])
            problem = f"passthru takes {parent} for itself, and {other.path} is on it too"
            raise spec.error(f"{exclusive[0].path}.macvtap", problem)


def _addresses(spec: LabSpec) -> None:
    """No IP address is there twice on one switch."""
    switches: dict[str, _Once] = {}

    def take(switch: str, address: str, path: str, owner: str) -> None:
        once = switches.setdefault(switch, _Once(spec, "the address"))
        once.take(units.plain(address), path, owner)

    for network in spec.networks:
        for address in _literal(network):
            take(modes.switch_key(network), address, f"{network.path}.address", network.path)
    for vm in spec.vms:
        for index, nic in enumerate(nics(vm)):
            for address in nic.address or ():
                take(ifname(vm, index, nic), address, f"{nic.path}.address", f"the host on {nic.path}")
            for address in nic.ip or ():
                take(_switch(spec, vm, index, nic), address, f"{nic.path}.ip", nic.path)


def _subnets(spec: LabSpec) -> None:
    """Refuse networks that overlap: the host would send what is for one to the other. Link-local ones always do."""
    seen: list[tuple[str, NetworkSpec]] = []
    for network in spec.networks:
        for address in _literal(network):
            for other, owner in seen:
                if owner is not network and owner.netns == network.netns and units.overlap(address, other):
                    problem = f"{address} overlaps with {other} of {owner.path}"
                    raise spec.error(
                        f"{network.path}.address", problem, "the host can have a subnet on one network only"
                    )
            if not units.inside(units.plain(address), "fe80::/10"):
                seen.append((address, network))


def _literal(network: NetworkSpec) -> list[str]:
    """Return the addresses of the host that its file gives."""
    return [address for address in network.address or () if address != "auto"]


def _switch(spec: LabSpec, vm: VmSpec, index: int, nic: NicSpec) -> str:
    """Return what is the same for cards that see each other."""
    network = spec.network(nic.network) if nic.network is not None else None
    if network is not None and modes.network_mode(network) is not NetworkMode.MACVTAP:
        return modes.switch_key(network)
    return nic.bridge or nic.parent or ifname(vm, index, nic)
