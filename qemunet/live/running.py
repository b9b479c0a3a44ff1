"""What a vm that runs is, read back from its runtime directory, and how that differs from what it shall be."""

from __future__ import annotations

import contextlib
import os
import typing

from qemunet.config import check, managed, modes, profiles, read, served
from qemunet.config.resolve import resolve, wanted
from qemunet.config.spec import BootSpec, LabSpec, NetworkSpec, VmSpec
from qemunet.errors import ConfigError, NotFound
from qemunet.frozen import frozen, replace
from qemunet.live.photo import photograph
from qemunet.plan import live

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qemunet.config.spec import NetnsSpec, NicSpec
    from qemunet.facts import Facts
    from qemunet.host.linux import LinuxHost
    from qemunet.model.lab import Lab
    from qemunet.model.vm import Vm
    from qemunet.records import VmRecord
    from qemunet.state import Runtime


@frozen
class Comparison:
    """A vm that runs, and what it shall be: `lab` is that of the new one."""

    lab: Lab
    old: Vm
    new: Vm
    facts: Facts


def compare(
    runtime: Runtime, host: LinuxHost, record: VmRecord, wish: Callable[[LabSpec], LabSpec], *, strict: bool = True
) -> Comparison:
    """Return what a vm is, a lab of its own, and what a wish makes of it.

    Raises ConfigError, NotFound for a network that nobody knows, and, if `strict`, Taken and HostLacks for the cards
    that are new or other ones.
    """
    there = read_spec(runtime, record)
    target = wish(there)
    (was,), shall = modes.preset(there).vms, _vm(modes.preset(target), record.name)
    known, used = profiles.load_all(there), profiles.load_all(target)
    every = replace(target, vms=(replace(shall, nic=(*check.nics(was), *check.nics(shall))),))
    facts = photograph(runtime, wanted(every, used), host)
    old = resolve(there, known, facts, strict=False, running=True)
    new = resolve(target, used, facts, (record.name,), strict=False, running=True)
    if strict:
        fresh = tuple(nic for nic in check.nics(shall) if nic not in check.nics(was))
        others = replace(shall, nic=fresh, boot=BootSpec(), disk=())  # what it was started from may be gone
        resolve(replace(served.by_address(target), vms=(others,)), used, facts, running=True)
    names = [network.name for network in new.networks]
    networks = (*new.networks, *(network for network in old.networks if network.name not in names))
    before, after = old.vm(record.name), new.vm(record.name)
    lab = replace(new, file=record.file, networks=networks)
    return Comparison(lab, before, settled(shall, before, after), facts)


def settled(spec: VmSpec, before: Vm, after: Vm) -> Vm:
    """Return what a vm shall be by its spec, with cards that keep what that leaves open and a change would disturb."""
    kept = {nic.id: nic for nic in before.nics}
    left_open = {check.nic_id(index, nic) for index, nic in enumerate(check.nics(spec)) if nic.mtu is None}
    nics = (
        live.settled(kept[nic.id], nic, left_open=nic.id in left_open) if nic.id in kept else nic for nic in after.nics
    )
    return replace(after, nics=tuple(nics))


def read_spec(runtime: Runtime, record: VmRecord) -> LabSpec:
    """Return what a vm was resolved to when it started, with what was changed since then: a lab of its own."""
    spec = read.load(runtime.scope(f"vm/{record.name}").path("vm.toml"))
    return replace(spec, networks=tuple(_as_it_is(runtime, network) for network in spec.networks))


def _as_it_is(runtime: Runtime, network: NetworkSpec) -> NetworkSpec:
    """Return a network as it is up: it may have changed since a vm came to it."""
    path = runtime.scope(f"net/{network.name}").path("net.toml")
    if network.external or not modes.makes_bridge(network) or not os.path.exists(path):
        return network
    with contextlib.suppress(ConfigError):  # it is just going
        now = read.load(path).network(network.name)
        # Its port profiles are those that its cards have had their values from.
        return network if now is None else replace(now, port_profile=network.port_profile)
    return network


def with_cards(
    runtime: Runtime,
    record: VmRecord,
    edit: Callable[[tuple[NicSpec, ...]], tuple[NicSpec, ...]],
    profile: str | None = None,
) -> Callable[[LabSpec], LabSpec]:
    """Return a wish for other cards; networks that they name are looked up, and what port profile `profile` is."""

    def wish(there: LabSpec) -> LabSpec:
        (vm,) = there.vms
        nics = edit(check.nics(vm))
        names = dict.fromkeys(nic.network for nic in nics if nic.network is not None)
        target = replace(there, file=f"vm {record.name}", vms=(replace(vm, nic=nics),))
        for name in names:
            if target.network(name) is None:
                target = _joined(target, _with_network(runtime, record, name), name)
        return target if profile is None else _with_profile(runtime, record, target, profile)

    return wish


def _with_profile(runtime: Runtime, record: VmRecord, target: LabSpec, name: str) -> LabSpec:
    """Return a lab with what the networks of the vm's file, or those that are up, say of a port profile by now."""
    up = _of_runtime(runtime)
    known = up | _of_file(record, up)
    found = []
    for network in target.networks:
        there = known[network.name].network(network.name) if network.name in known else None
        now = [one for one in (there.port_profile if there is not None else None) or () if one.name == name]
        others = [one for one in network.port_profile or () if one.name != name]
        found.append(replace(network, port_profile=(*others, *now)) if now else network)
    return replace(target, networks=tuple(found))


def as_in(spec: LabSpec, name: str) -> Callable[[LabSpec], LabSpec]:
    """Return the wish that a vm be as a lab file has it.

    Its cards have the ids that they have there by their place, and keep an ACPI index that the file leaves open.
    """
    vm = _vm(spec, name)

    def wish(there: LabSpec) -> LabSpec:
        indices = {nic.id: nic.acpi_index for nic in check.nics(there.vms[0])}
        named = (replace(nic, id=check.nic_id(index, nic)) for index, nic in enumerate(check.nics(vm)))
        nics = tuple(replace(nic, acpi_index=nic.acpi_index or indices.get(nic.id)) for nic in named)
        return replace(spec, vms=tuple(replace(one, nic=nics) if one is vm else one for one in spec.vms))

    return wish


def _vm(spec: LabSpec, name: str) -> VmSpec:
    return next(vm for vm in spec.vms if vm.name == name)


def _joined(spec: LabSpec, other: LabSpec, name: str) -> LabSpec:
    """Return a lab with a network of another one, and with those that its server serves as well."""
    network = other.network(name)
    assert network is not None, "it was found there"
    every = {one.name: one for one in (network, *managed.fellows(other, network)) if spec.network(one.name) is None}
    servers = (one for one in other.servers if spec.server(one.name) is None)
    spaces = (one for one in other.spaces if one.name == network.netns and spec.netns(one.name) is None)
    joined = replace(spec, spaces=(*spec.spaces, *spaces), servers=(*spec.servers, *servers))
    return replace(joined, networks=(*spec.networks, *every.values()))


def _with_network(runtime: Runtime, record: VmRecord, name: str) -> LabSpec:
    """Return the lab of a network that the vm is not on yet: its own lab's file, or what says of one that is up."""
    up = _of_runtime(runtime)
    known = up | _of_file(record, up)
    if name not in known:
        every = ", ".join(sorted(known)) or "none"
        hint = f"declared in {record.file}, or up: {every}"
        raise NotFound(f'there is no network "{name}"', where=f"vm.{record.name}", hint=hint)
    return known[name]


def _of_file(record: VmRecord, up: Mapping[str, LabSpec]) -> dict[str, LabSpec]:
    """Return the networks of a vm's lab file, with what those that are up forward now: that goes with the cards."""
    try:
        spec = read.load(record.file)
        spaces = tuple(_named(space, record, up) for space in spec.spaces)
        spec = replace(spec, networks=tuple(_forwarding(network, up) for network in spec.networks), spaces=spaces)
        spec = served.by_address(spec)
        return {network.name: spec for network in spec.networks}
    except ConfigError:  # it has changed, or is gone; what runs does not need it
        return {}


def _forwarding(network: NetworkSpec, up: Mapping[str, LabSpec]) -> NetworkSpec:
    there = up[network.name].network(network.name) if network.name in up else None
    return network if there is None or network.external else replace(network, forward=there.forward)


def _named(space: NetnsSpec, record: VmRecord, up: Mapping[str, LabSpec]) -> NetnsSpec:
    """Return a namespace that is visible or not as it is by now, which may have been set beside the file."""
    there = (other.netns(space.name) for other in up.values() if other.name == record.lab)
    return next((replace(space, named=one.named) for one in there if one is not None), space)


def _of_runtime(runtime: Runtime) -> dict[str, LabSpec]:
    found: dict[str, LabSpec] = {}
    for scope in runtime.scopes("net"):
        try:
            spec = read.load(scope.path("net.toml"))
            found |= {network.name: spec for network in spec.networks}
        except ConfigError:  # it is being made, or taken down
            continue
    return found
