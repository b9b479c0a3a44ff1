"""Writes a lab as TOML with every default spelled out: a valid lab file that reads back to an equal lab."""

from __future__ import annotations

from qemunet.config import portkeys, ready, remote, scripts, secretkinds, units, wiring
from qemunet.config.cards import USUAL_MTU, is_virtio
from qemunet.config.hints import dotted, quoted
from qemunet.frozen import replace
from qemunet.model import vlan
from qemunet.model.network import (
    Boot,
    DhcpServer,
    Dns,
    Firewall,
    KnownHost,
    Masquerade,
    Network,
    NetworkMode,
    OwnBridge,
    Parent,
    PortForward,
    Services,
)
from qemunet.model.nic import (
    Forward,
    Linked,
    MacvtapBackend,
    Nic,
    PointToPoint,
    TapBackend,
    UserBackend,
)
from qemunet.model.vm import DirectBoot, Disk, GuestAgent, NicBus, Vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from qemunet.model.cable import Cable
    from qemunet.model.lab import Lab
    from qemunet.model.netns import Netns

    Item = str | int
    Flat = Item | tuple[Item, ...]
    Value = Flat | Mapping[str, Flat] | Mapping[str, Mapping[str, Flat]] | None
    Pairs = Iterable[tuple[str, Value]]


def lab_toml(lab: Lab, origins: Mapping[str, str] | None = None) -> str:
    """Return the whole lab. `origins` (see `qemunet.config.origins`) says in a comment where each value came from."""
    return _text(lab, lab.networks, lab.vms, origins or {}, lab.cables, lab.spaces) + "".join(
        _expects(lab, origins or {})
    )


def _expects(lab: Lab, origins: Mapping[str, str]) -> Iterator[str]:
    if lab.expects:
        from qemunet.config import expects  # only where it is needed
    for index, one in enumerate(lab.expects):
        yield "\n" + _table("[[expect]]", f"expect[{index}]", expects.written(one), origins)


def vm_toml(lab: Lab, vm: Vm) -> str:
    """Return one vm of a lab, with the networks that it is on; others, which it depends on, are not in there."""
    used = {nic.network for nic in vm.nics}
    alone = replace(vm, depends=())
    networks = [network for network in lab.networks if network.name in used]
    return _text(lab, networks, [alone], {}, spaces=_spaces(lab, vm.netns, networks))


def net_toml(lab: Lab, network: Network) -> str:
    """Return one network of a lab."""
    return _text(lab, [network], [], {}, spaces=_spaces(lab, "", [network]))


def _spaces(lab: Lab, netns: str, networks: Iterable[Network]) -> list[Netns]:
    """Return the namespaces that are to be declared where something is in one, or is a network that is."""
    names = {netns, *(network.netns for network in networks if not network.external)}
    return [one for one in lab.spaces if one.name in names]


def value(one: Value) -> str:
    """Return a value as TOML has it."""
    match one:
        case bool():
            return str(one).lower()
        case str():
            return quoted(one)
        case tuple():
            return f"[{', '.join(map(value, one))}]"
        case dict():
            pairs = (f"{dotted('', key)} = {value(text)}" for key, text in one.items())
            return f"{{ {', '.join(pairs)} }}"
        case _:
            return str(one)


def _text(
    lab: Lab,
    networks: Iterable[Network],
    vms: Iterable[Vm],
    origins: Mapping[str, str],
    cables: Sequence[Cable] = (),
    spaces: Sequence[Netns] = (),
) -> str:
    tables = [_table("[lab]", "lab", [("name", lab.name)], origins)]
    known = {network.name: network for network in lab.networks}
    every = list(networks)
    for network in every:
        tables += _network_tables(network, origins)
    for server in {one.server.name: one.server for one in every if one.server is not None}.values():
        path = f"dhcp-server.{server.name}"
        tables.append(_table(f"[{path}]", path, _server(server), origins))
    for vm in vms:
        tables += _vm_tables(vm, known, origins)
    for netns in spaces:
        tables.append(_table(f"[netns.{netns.name}]", f"netns.{netns.name}", wiring.netns(netns), origins))
    for index, cable in enumerate(cables):
        tables.append(_table("[[cable]]", f"cable[{index}]", wiring.cable(cable), origins))
    return "\n".join(tables)


def _table(title: str, path: str, pairs: Pairs, origins: Mapping[str, str]) -> str:
    """Return a table; values that are None are left out."""
    lines = [title]
    for key, one in pairs:
        if one is not None:
            origin = origins.get(dotted(path, key))
            lines.append(f"{key} = {value(one)}" + (f"  # {origin}" if origin else ""))
    return "\n".join(lines) + "\n"


def netns_toml(lab: Lab, netns: Netns) -> str:
    """Return one namespace of a lab."""
    return _text(lab, [], [], {}, spaces=[netns])


def cable_toml(lab: Lab, cable: Cable) -> str:
    """Return one cable of a lab, with the networks that it is plugged into."""
    used = [network for network in lab.networks if network.name in cable.networks]
    return _text(lab, used, [], {}, [cable], [netns for netns in lab.spaces if netns.name in cable.namespaces])


def _vm_tables(vm: Vm, networks: Mapping[str, Network], origins: Mapping[str, str]) -> Iterator[str]:
    path = f"vm.{vm.name}"
    no_cards: list[tuple[str, Value]] = [] if vm.nics else [("nic", ())]
    yield _table(f"[{path}]", path, [*_vm(vm), *no_cards], origins)
    yield _table(f"[{path}.machine]", f"{path}.machine", _machine(vm), origins)
    yield _table(f"[{path}.boot]", f"{path}.boot", _boot(vm), origins)
    for index, disk in enumerate(vm.disks):
        yield _table(f"[[{path}.disk]]", f"{path}.disk[{index}]", _disk(disk), origins)
    for index, nic in enumerate(vm.nics):
        pairs = _nic(nic, networks.get(nic.network or ""), whole=bool(origins))
        yield _table(f"[[{path}.nic]]", f"{path}.nic[{index}]", pairs, origins)
    for kind in ("secret", "login"):
        hidden = list(_hidden(vm, kind))
        if hidden:
            yield _table(f"[{path}.{kind}]", f"{path}.{kind}", hidden, origins)
    for index, step in enumerate(vm.script):
        yield _table(f"[[{path}.script]]", f"{path}.script[{index}]", scripts.written(step), origins)


def _hidden(vm: Vm, kind: str) -> Pairs:
    """Yield where the secrets of a vm come from that a script names by this kind."""
    for secret in vm.secrets:
        if secret.name.startswith(f"{kind}."):
            yield secret.name.partition(".")[2], secretkinds.written(secret.source)


def _network_tables(network: Network, origins: Mapping[str, str]) -> Iterator[str]:
    path = f"network.{network.name}"
    if network.external:
        yield _table(f"[{path}]", path, [("external", True)], origins)
        return
    yield _table(f"[{path}]", path, _network(network), origins)
    tables: dict[str, Pairs] = {}
    if network.firewall is not None and network.firewall.masquerade is not None:
        tables["nat"] = _nat(network.firewall.masquerade)
    if network.services is not None and _gives_addresses(network.services):
        tables["dhcp"] = _dhcp(network.services, network.server)
    if network.services is not None and network.services.dns is not None and network.server is None:
        tables["dns"] = _dns(network.services.dns)
    for name, pairs in tables.items():
        yield _table(f"[{path}.{name}]", f"{path}.{name}", pairs, origins)
    for profile in network.port_profiles:
        below = f"{path}.port-profile.{profile.name}"
        yield _table(f"[{below}]", below, portkeys.of_profile(profile), origins)
    for index, host in enumerate(network.services.hosts if network.services is not None else ()):
        yield _table(f"[[{path}.hosts]]", f"{path}.hosts[{index}]", _host(host), origins)


def _network(network: Network) -> Pairs:
    switch = network.switch
    yield "mode", str(network.mode)
    if isinstance(switch, Parent):
        yield "parent", switch.ifname
        yield "macvtap", str(switch.mode)
        yield "host-macvlan", switch.host_macvlan
        return
    yield "bridge", switch.ifname
    if isinstance(switch, OwnBridge):
        yield "address", switch.addresses or None
        if network.mode is not NetworkMode.PRIVATE:
            yield "host", str(switch.host)
        if switch.ports:
            yield "ports", switch.ports
            yield "port-vlan", {name: vlan.table(one) for name, one in switch.port_vlans} or None
            yield "move-address", switch.move_address
        elif network.mode is not NetworkMode.PRIVATE:
            yield from _unserved(network.services)
        yield from _rules(network.firewall)
        yield "mac", None if switch.move_address else switch.mac
        yield "mtu", switch.mtu
        yield "stp", switch.stp
        yield "forward-delay", f"{switch.forward_delay}s"
        yield "ageing", f"{switch.ageing}s"
        yield "keep", network.keep
        yield "vlan-filtering", switch.vlan_filtering or None
        yield "host-vlan", switch.host_vlan
        yield "netns", network.netns or None
    yield "port-isolation", network.port_isolation or None


def _unserved(services: Services | None) -> Pairs:
    if services is None or not _gives_addresses(services):
        yield "dhcp", False
    if services is None or services.dns is None:
        yield "dns", False


def _gives_addresses(services: Services) -> bool:
    return services.dhcp is not None or services.dhcp6 is not None


def _rules(firewall: Firewall | None) -> Pairs:
    if firewall is not None:
        yield "uplink", firewall.uplink
        yield "forward", tuple(map(_forward, firewall.forwards)) or None
        yield "host-services", firewall.host_services


def _forward(one: PortForward) -> str:
    return units.format_forward(Forward(one.protocol, one.address, one.ports, one.to, one.to_ports))


def _nat(masquerade: Masquerade) -> Pairs:
    yield "ports", units.format_ports(masquerade.ports)
    yield "source", masquerade.source


def _server(server: DhcpServer) -> Pairs:
    told = next((one.services.dns for one in server.networks if one.services and one.services.dns), None)
    if told is not None:
        yield "domain", told.domain
        yield "forwarders", told.forwarders or None
        yield "local-only", told.local_only


def _dhcp(services: Services, server: DhcpServer | None) -> Pairs:
    yield "server", None if server is None else server.name
    dhcp, dhcp6 = services.dhcp, services.dhcp6
    given = (dhcp.first, dhcp.last) if dhcp is not None else ()
    if dhcp6 is not None and dhcp6.first is not None and dhcp6.last is not None:
        given = (*given, dhcp6.first, dhcp6.last)
    yield "range", given or None
    if dhcp is not None:
        yield "lease", f"{dhcp.lease}s"
        yield "gateway", dhcp.gateway
        yield "options", dict(dhcp.options) or None
        yield "boot", None if dhcp.boot is None else _network_boot(dhcp.boot)


def _network_boot(boot: Boot) -> dict[str, str]:
    known = {"file": boot.file, "server": boot.server, "tftp": boot.root}
    return {key: one for key, one in known.items() if one is not None}


def _dns(dns: Dns) -> Pairs:
    yield "domain", dns.domain
    yield "forwarders", dns.forwarders or None
    names: dict[str, tuple[str, ...]] = {}
    for name, address in dns.hosts:
        names[name] = (*names.get(name, ()), address)
    yield "hosts", names or None
    yield "local-only", dns.local_only


def _host(host: KnownHost) -> Pairs:
    yield "mac", host.mac
    yield "ip", host.ip
    yield "name", host.name or None


_AGENTS: dict[GuestAgent, bool | str | None] = {
    GuestAgent.NONE: None,
    GuestAgent.OURS: True,
    GuestAgent.QEMU: "qemu",
}


def _vm(vm: Vm) -> Pairs:
    yield "profile", vm.machine.profile
    yield "memory", units.format_size(vm.memory)
    yield "cpus", vm.cpus
    yield "accel", str(vm.accel)
    yield "hotplug-slots", vm.machine.hotplug_slots if vm.machine.nic_bus is NicBus.ROOT_PORTS else None
    yield "shared-memory", vm.shared_memory
    yield "user", f"{vm.run_as.uid}:{vm.run_as.gid}" if vm.run_as else "auto"
    yield "display", units.format_display(vm.display)
    yield "qemu-args", vm.qemu_args
    yield "agent", _AGENTS[vm.agent]
    yield "depends", vm.depends or None
    yield "ready", ready.write(vm.ready) if vm.ready else None
    yield "netns", vm.netns or None


def _machine(vm: Vm) -> Pairs:
    yield "type", vm.machine.type
    yield "nic-bus", str(vm.machine.nic_bus)
    yield "cpu-kvm", vm.machine.cpu_kvm
    yield "cpu-tcg", vm.machine.cpu_tcg


def _boot(vm: Vm) -> Pairs:
    match vm.boot:
        case DirectBoot(tiny=True):
            yield "guest", "tiny"
        case DirectBoot(kernel=kernel, initrd=initrd, append=append):
            yield "kernel", kernel
            yield "initrd", initrd
            yield "append", append
        case boot:
            yield "order", boot.order
    yield "firmware", str(vm.firmware)


def _disk(disk: Disk) -> Pairs:
    yield "file", disk.image.path
    yield "format", disk.image.format
    yield "backing", tuple(layer.path for layer in disk.backing) or None
    yield "size", None if disk.create is None else units.format_size(disk.create)
    yield "bus", disk.bus
    yield "snapshot", disk.snapshot
    yield "cdrom", disk.cdrom
    yield "readonly", disk.readonly


def _nic(nic: Nic, network: Network | None, *, whole: bool) -> Pairs:
    """Yield the keys of a card; `whole`: those that its port profile has, too."""
    yield "id", nic.id
    yield from _behind(nic)
    if nic.mac:  # what of a device of the host is its own
        yield "model", nic.model
        yield "mac", nic.mac
        yield "link", str(nic.link)
    yield "mtu", _mtu(nic)
    yield "boot-index", nic.boot_index
    yield "acpi-index", nic.acpi_index
    yield "ip", nic.ips or None
    yield "gateway", nic.gateways or None
    yield from portkeys.of_card(nic, network, whole=whole)


def _mtu(nic: Nic) -> int | None:
    """Return the MTU to write: what the guest is told, or what a point-to-point tap has without telling."""
    cable = isinstance(nic.backend, TapBackend) and isinstance(nic.backend.attach, PointToPoint)
    if nic.guest_mtu is None and cable and isinstance(nic.backend, Linked):
        untold = is_virtio(nic.model) and nic.backend.mtu == USUAL_MTU
        return None if untold else nic.backend.mtu
    return nic.guest_mtu


def _behind(nic: Nic) -> Pairs:
    match nic.backend:
        case UserBackend() as user:
            yield "mode", "user"
            yield from remote.user(user)
            return
        case TapBackend(attach=attach, adopted=adopted):
            yield "mode", "tap"
            yield from remote.attached(attach)
            yield "adopt", adopted or None
        case MacvtapBackend(network=str(network)):
            yield "network", network
        case MacvtapBackend(parent=parent, mode=mode, host=host):
            yield "mode", "macvtap"
            yield "parent", parent
            yield "macvtap", str(mode)
            yield "host-macvlan", host is not None
        case other:
            yield from remote.written(other)
            return
    yield "ifname", nic.backend.ifname
    yield "queues", nic.queues
    yield "vhost", "on" if nic.vhost else "off"
    yield "ifup", nic.hook.up
    yield "ifdown", nic.hook.down
