"""Where each value of a resolved lab came from: the file, the command line, a profile, a default, or derived."""

from __future__ import annotations

import typing

from qemunet.config import check, keys, portprofiles
from qemunet.config.hints import dotted
from qemunet.config.spec import DiskSpec, LabSpec, MachineSpec, NicSpec, Profile, VmSpec

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qemunet.config.keys import Key, Table


def origins(spec: LabSpec, profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Return the origin of every key of every table, by dotted path: ``file``, ``profile q35`` and so on."""
    return dict(_all(spec, profiles))


def _all(spec: LabSpec, profiles: Mapping[str, Profile]) -> Iterator[tuple[str, str]]:
    yield "lab.name", _origin(spec, "lab.name", spec.named, "", "derived")
    for network in spec.networks:
        yield from _table(spec, network.path, network, keys.NETWORK, None, "")
        for name in keys.NETWORK.tables:
            path, below = dotted(network.path, name), keys.sub_table(name)
            yield path, _origin(spec, path, getattr(network, name) is not None, "", "default")
            yield from _table(spec, path, getattr(network, name), below, None, "")
        for preset in network.port_profile or ():
            place = dotted(dotted(network.path, "port-profile"), preset.name)
            yield from _table(spec, place, preset, keys.PORT_PROFILE, None, "")
        for host in network.hosts or ():
            yield from _table(spec, host.path, host, keys.HOSTS, None, "")
    plain = ((spec.servers, keys.DHCP_SERVER), (spec.spaces, keys.NETNS), (spec.cables, keys.CABLE))
    for group, table in (*plain, (spec.expects, keys.EXPECT)):
        for one in group:
            yield from _table(spec, one.path, one, table, None, "")
    for vm in spec.vms:
        profile = profiles[vm.profile or "q35"]
        named = f"profile {profile.name}"
        yield from _table(spec, vm.path, vm, keys.VM, profile.vm, named)
        yield from _table(spec, dotted(vm.path, "machine"), vm.machine, keys.MACHINE, profile.machine, named)
        yield from _table(spec, dotted(vm.path, "boot"), vm.boot, keys.BOOT, None, "")
        for disk in vm.disk:
            yield from _table(spec, disk.path, disk, keys.DISK, profile.disk, named)
        yield from _table(spec, dotted(vm.path, "login"), vm.login, keys.LOGIN, None, "")
        yield from _steps(spec, vm)
        for nic in check.nics(vm):
            yield from _table(spec, nic.path, nic, keys.NIC, profile.nic, named)
            yield from _of_port_profile(spec, nic)


def _of_port_profile(spec: LabSpec, nic: NicSpec) -> Iterator[tuple[str, str]]:
    preset = portprofiles.of(spec, nic)
    if preset is not None:
        for key in keys.PORT_PROFILE.keys.values():
            if getattr(nic, key.field) is None and getattr(preset, key.field) is not None:
                yield dotted(nic.path, key.name), f"port-profile {preset.name}"


def _steps(spec: LabSpec, vm: VmSpec) -> Iterator[tuple[str, str]]:
    """Yield the origins of a script's steps, each by its place in the whole script."""
    for index, step in enumerate(vm.script):
        for path, origin in _table(spec, step.path, step, keys.SCRIPT, None, ""):
            known = f"file {step.file}" if step.file and origin == "file" else origin
            yield f"{vm.path}.script[{index}]{path.removeprefix(step.path)}", known


_Values = VmSpec | NicSpec | DiskSpec | MachineSpec


def _table(
    spec: LabSpec, path: str, values: object, table: Table, preset: _Values | None, profile: str
) -> Iterator[tuple[str, str]]:
    for key in table.keys.values():
        given = getattr(values, key.field, None) is not None
        by_profile = profile if preset is not None and getattr(preset, key.field, None) is not None else ""
        where = dotted(path, key.name)
        yield where, _origin(spec, where, given, by_profile, _default(key))


def _origin(spec: LabSpec, path: str, given: object, profile: str, default: str) -> str:
    if path in spec.overridden:
        return "--set"
    return "file" if given else profile or default


def _default(key: Key) -> str:
    return "derived" if key.derived else "default"
