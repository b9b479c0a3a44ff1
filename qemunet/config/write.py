"""Writes a lab as TOML with every default spelled out: a valid lab file that reads back to an equal lab."""

from __future__ import annotations

import typing

from qemunet.config import units
from qemunet.config.cards import USUAL_MTU, is_virtio
from qemunet.config.hints import dotted, quoted
from qemunet.model.network import Network, OwnBridge
from qemunet.model.nic import MacvtapBackend, Nic, OnBridge, OnNetwork, PointToPoint, TapBackend, UserBackend
from qemunet.model.vm import DirectBoot, Disk, NicBus, Vm

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qemunet.model.lab import Lab

    Value = str | int | tuple[str, ...] | None
    Pairs = Iterable[tuple[str, Value]]


def lab_toml(lab: Lab, origins: Mapping[str, str] | None = None) -> str:
    """Return the whole lab. `origins` (see `qemunet.config.origins`) says in a comment where each value came from."""
    return _text(lab, lab.networks, lab.vms, origins or {})


def vm_toml(lab: Lab, vm: Vm) -> str:
    """Return one vm of a lab, with the networks that it is on."""
    attached = [nic.backend.attach for nic in vm.nics if isinstance(nic.backend, TapBackend)]
    used = {attach.network for attach in attached if isinstance(attach, OnNetwork)}
    return _text(lab, [network for network in lab.networks if network.name in used], [vm], {})


def value(one: Value) -> str:
    """Return a value as TOML has it."""
    match one:
        case bool():
            return str(one).lower()
        case str():
            return quoted(one)
        case tuple():
            return f"[{', '.join(map(quoted, one))}]"
        case _:
            return str(one)


def _text(lab: Lab, networks: Iterable[Network], vms: Iterable[Vm], origins: Mapping[str, str]) -> str:
    tables = [_table("[lab]", "lab", [("name", lab.name)], origins)]
    tables += [_table(f"[network.{one.name}]", f"network.{one.name}", _network(one), origins) for one in networks]
    for vm in vms:
        tables += _vm_tables(vm, origins)
    return "\n".join(tables)


def _table(title: str, path: str, pairs: Pairs, origins: Mapping[str, str]) -> str:
    """Return a table; values that are None are left out."""
    lines = [title]
    for key, one in pairs:
        if one is not None:
            origin = origins.get(dotted(path, key))
            lines.append(f"{key} = {value(one)}" + (f"  # {origin}" if origin else ""))
    return "\n".join(lines) + "\n"


def _vm_tables(vm: Vm, origins: Mapping[str, str]) -> Iterator[str]:
    path = f"vm.{vm.name}"
    no_cards: list[tuple[str, Value]] = [] if vm.nics else [("nic", ())]
    yield _table(f"[{path}]", path, [*_vm(vm), *no_cards], origins)
    yield _table(f"[{path}.machine]", f"{path}.machine", _machine(vm), origins)
    yield _table(f"[{path}.boot]", f"{path}.boot", _boot(vm), origins)
    for index, disk in enumerate(vm.disks):
        yield _table(f"[[{path}.disk]]", f"{path}.disk[{index}]", _disk(disk), origins)
    for index, nic in enumerate(vm.nics):
        yield _table(f"[[{path}.nic]]", f"{path}.nic[{index}]", _nic(nic), origins)


def _network(network: Network) -> Pairs:
    switch = network.switch
    yield "mode", str(network.mode)
    yield "bridge", switch.ifname
    if isinstance(switch, OwnBridge):
        yield "address", switch.addresses or None
        yield "mac", switch.mac
        yield "mtu", switch.mtu
        yield "stp", switch.stp
        yield "forward-delay", f"{switch.forward_delay}s"
        yield "ageing", f"{switch.ageing}s"
        yield "keep", network.keep


def _vm(vm: Vm) -> Pairs:
    yield "profile", vm.machine.profile
    yield "memory", units.format_size(vm.memory)
    yield "cpus", vm.cpus
    yield "accel", str(vm.accel)
    yield "hotplug-slots", vm.machine.hotplug_slots if vm.machine.nic_bus is NicBus.ROOT_PORTS else None
    yield "user", f"{vm.run_as.uid}:{vm.run_as.gid}" if vm.run_as else "auto"
    yield "display", units.format_display(vm.display)
    yield "qemu-args", vm.qemu_args


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


def _nic(nic: Nic) -> Pairs:
    yield "id", nic.id
    yield from _behind(nic)
    yield "model", nic.model
    yield "mac", nic.mac
    yield "link", str(nic.link)
    yield "mtu", _mtu(nic)
    yield "boot-index", nic.boot_index
    yield "acpi-index", nic.acpi_index
    yield "ip", nic.ips or None
    yield "gateway", nic.gateways or None


def _mtu(nic: Nic) -> int | None:
    """Return the MTU to write: what the guest is told, or what a point-to-point tap has without telling."""
    cable = isinstance(nic.backend, TapBackend) and isinstance(nic.backend.attach, PointToPoint)
    if nic.guest_mtu is None and cable and not isinstance(nic.backend, UserBackend):
        untold = is_virtio(nic.model) and nic.backend.mtu == USUAL_MTU
        return None if untold else nic.backend.mtu
    return nic.guest_mtu


def _behind(nic: Nic) -> Pairs:
    match nic.backend:
        case UserBackend() as user:
            yield "mode", "user"
            yield from _user(user)
            return
        case TapBackend(attach=attach):
            yield "mode", "tap"
            yield from _attached(attach)
        case MacvtapBackend(parent=parent, mode=mode, host=host):
            yield "mode", "macvtap"
            yield "parent", parent
            yield "macvtap", str(mode)
            yield "host-macvlan", host is not None
    yield "ifname", nic.backend.ifname
    yield "queues", nic.queues
    yield "vhost", "on" if nic.vhost else "off"
    yield "ifup", nic.hook.up
    yield "ifdown", nic.hook.down


def _attached(attach: OnNetwork | OnBridge | PointToPoint) -> Pairs:
    match attach:
        case OnNetwork(network=network):
            yield "network", network
        case OnBridge(bridge=bridge):
            yield "bridge", bridge
        case PointToPoint(addresses=addresses, routes=routes):
            yield "address", addresses or None
            yield "routes", routes or None


def _user(user: UserBackend) -> Pairs:
    yield "forward", tuple(units.format_forward(one, own=True) for one in user.forwards) or None
    yield "restrict", user.restrict
    yield "subnet", user.subnet
    yield "hostname", user.hostname
    yield "dns", user.dns
    yield "tftp", user.tftp
    yield "bootfile", user.bootfile
