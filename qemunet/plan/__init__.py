"""Turns a lab and a photograph of the host into the ordered list of steps that bring its guests up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qemunet.errors import NotFound, Taken
from qemunet.facts import Facts
from qemunet.model.lab import Lab
from qemunet.model.network import OwnBridge
from qemunet.model.nic import LinkState, OnNetwork, TapBackend
from qemunet.model.vm import Accel, DirectBoot, Vm
from qemunet.plan import disks, links, qemu, shell
from qemunet.plan.ways import Passed
from qemunet.steps import AwaitQemu, Claim, LoadFile, Part, Plan, Resume, SetGuestLink, StartQemu, Step

FIRMWARE_FILES = qemu.FIRMWARE_FILES


def build(lab: Lab, facts: Facts, vms: Sequence[str] = ()) -> Plan:
    """Return what it takes to run these vms of a lab, all of them if none is named.

    Raises NotFound, and Taken if something that the plan needs is in use otherwise, ConfigError or HostLacks if
    a guest cannot be like that here.
    """
    chosen = [_vm(lab, name) for name in vms] or list(lab.vms)
    needed = {vm.name: _shared(lab, vm, facts) for vm in chosen}
    shared = {part.scope: part for parts in needed.values() for part in parts}
    return Plan(
        shared=tuple(part for part in shared.values() if not _is_up(part, facts)),
        own=tuple(_own(vm, needed[vm.name], facts) for vm in chosen),
        start=(
            *(part for vm in chosen if (part := _unhurried(lab, vm, facts)).steps),
            *(Part(scope(vm), (_start(lab, vm, facts),)) for vm in chosen),
            *(Part(scope(vm), tuple(_release(vm))) for vm in chosen),
        ),
    )


def scope(vm: Vm) -> str:
    """Return the scope of a vm."""
    return f"vm/{vm.name}"


def directory(vm: Vm, facts: Facts) -> str:
    """Return the directory of a running vm."""
    return f"{facts.runtime}/{scope(vm)}"


def _vm(lab: Lab, name: str) -> Vm:
    try:
        return lab.vm(name)
    except KeyError:
        known = ", ".join(vm.name for vm in lab.vms) or "none"
        raise NotFound(f'no vm "{name}" in this file', where=lab.file, hint=f"it has {known}") from None


def _shared(lab: Lab, vm: Vm, facts: Facts) -> tuple[Part, ...]:
    """Return all that this vm shares with others, up or not."""
    backends = [nic.backend for nic in vm.nics]
    attached = [backend.attach for backend in backends if isinstance(backend, TapBackend)]
    wanted = dict.fromkeys(attach.network for attach in attached if isinstance(attach, OnNetwork))
    networks = (part for name in wanted for part in _network(lab, name, facts))
    return (*networks, *links.host_macvlans(vm, facts), *links.forwarding(vm, facts))


def _network(lab: Lab, name: str, facts: Facts) -> Iterator[Part]:
    network = lab.network(name)
    if not isinstance(network.switch, OwnBridge):
        return
    if links.network_scope(name) in facts.scopes:
        yield Part(links.network_scope(name), (), links.network_fingerprint(network))
    else:
        yield links.bridge(network, network.switch, facts)


def _is_up(part: Part, facts: Facts) -> bool:
    """Tell whether others have made a shared part already; raises Taken if they made it otherwise."""
    there = facts.scopes.get(part.scope)
    if there not in (None, part.fingerprint):
        kind, _, name = part.scope.partition("/")
        if kind == "host":
            hint = "stop the vms that use it, and start them together with this one"
            raise Taken(f"what {name} stands for has changed since it was set up", where=part.scope, hint=hint)
        raise Taken(
            f'network "{name}" is up with other settings',
            where=f"network.{name}",
            hint="stop the vms that use it, or give it here the settings that it has, or another name",
        )
    return there is not None


def _own(vm: Vm, shared: Sequence[Part], facts: Facts) -> Part:
    cards = (step for nic in vm.nics for step in links.card(vm, nic, facts))
    return Part(scope(vm), (*_claims(vm, shared, facts), *links.pins(vm, facts), *cards))


def _unhurried(lab: Lab, vm: Vm, facts: Facts) -> Part:
    """Return what may take its time, and may call qemunet itself: nobody else is to wait for it."""
    hooks = (step for nic in vm.nics for step in links.hook(lab.name, vm, nic))
    return Part(scope(vm), (*disks.steps(vm, facts), *_kernel_files(vm), *hooks))


def _claims(vm: Vm, shared: Sequence[Part], facts: Facts) -> Iterator[Claim]:
    unique = [f"mac/{nic.mac}" for nic in vm.nics]
    unique += [f"uid/{vm.run_as.uid}"] if vm.run_as else []
    for key in unique:
        holder = facts.claims.get(key)
        if holder not in (None, scope(vm)):
            raise Taken(f"{key.replace('/', ' ')} is in use by {holder}", where=f"vm.{vm.name}")
        yield Claim(f"{facts.runtime}/claims/{key}", scope(vm))
    for part in shared:
        yield Claim(f"{facts.runtime}/{part.scope}/users/{vm.name}", scope(vm))


def _kernel_files(vm: Vm) -> Iterator[Step]:
    if not isinstance(vm.boot, DirectBoot) or vm.run_as is None or vm.boot.public:
        return
    way = Passed(vm)
    yield LoadFile(way.handle("boot.kernel").name, vm.boot.kernel)
    if vm.boot.initrd is not None:
        yield LoadFile(way.handle("boot.initrd").name, vm.boot.initrd)


def _start(lab: Lab, vm: Vm, facts: Facts) -> StartQemu:
    return StartQemu(
        vm=vm.name,
        directory=directory(vm, facts),
        argv=qemu.argv(lab.file, vm, facts),
        script=tuple(shell.start(lab.file, vm, facts)),
        run_as=vm.run_as,
        groups=_groups(vm, facts),
    )


def _groups(vm: Vm, facts: Facts) -> tuple[int, ...]:
    """Another user's QEMU is in no group but the one that may open /dev/kvm, and that only if it will."""
    needed = vm.run_as is not None and qemu.acceleration(vm, facts)[0] is not Accel.TCG
    return (facts.kvm_gid,) if needed and facts.kvm_gid is not None else ()


def _release(vm: Vm) -> Iterator[Step]:
    yield AwaitQemu(vm.name)
    for nic in vm.nics:
        if nic.link is LinkState.DOWN:
            yield SetGuestLink(vm.name, nic.id, up=False)
    yield Resume(vm.name)
