"""Turns a lab and a photograph of the host into the ordered list of steps that bring its guests up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qemunet import steps
from qemunet.errors import NotFound, Taken
from qemunet.facts import Facts
from qemunet.later import later
from qemunet.model.lab import Lab
from qemunet.model.network import Network, OwnBridge
from qemunet.model.nic import LinkState, Nic, OnNetwork, TapBackend
from qemunet.model.remote import HostdevBackend, StreamBackend
from qemunet.model.vm import Accel, DirectBoot, Vm
from qemunet.plan import disks, links, qemu, spaces
from qemunet.plan.ways import Passed
from qemunet.steps import AwaitQemu, Claim, LoadFile, Part, Plan, Resume, StartQemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.plan import cables
    from qemunet.steps import Step
else:
    cables = later("qemunet.plan.cables")


FIRMWARE_FILES = qemu.FIRMWARE_FILES


def build(lab: Lab, facts: Facts, vms: Sequence[str] = (), *, scripted: bool = True) -> Plan:
    """Return what it takes to run these vms of a lab, all of them if none is named.

    `scripted`: its steps can be printed as a script, which a run does not need.

    Raises NotFound, and Taken if something that the plan needs is in use otherwise, ConfigError or HostLacks if
    a guest cannot be like that here.
    """
    chosen = [_vm(lab, name) for name in vms] or list(lab.vms)
    if lab.cables:
        cables.refuse_loops(lab, facts)
    every = [part for vm in chosen for nic in vm.nics for part in shared(lab, nic, facts)]
    every = [*(spaces.part(netns, facts) for netns in lab.spaces), *every]
    every += [part for parts in wiring(lab, facts).values() for part in parts]
    shared_parts = {part.scope: part for part in every}
    return Plan(
        shared=tuple(part for part in shared_parts.values() if not is_up(part, facts)),
        own=tuple(part for vm in chosen for part in _own(lab, vm, facts) if part.steps),
        start=(
            *(part for vm in chosen for part in _unhurried(lab, vm, facts) if part.steps),
            *(Part(scope(vm), (_start(lab, vm, facts, scripted=scripted),)) for vm in sorted(chosen, key=_calls)),
            *(Part(scope(vm), tuple(_release(vm))) for vm in chosen),
        ),
    )


def _calls(vm: Vm) -> bool:
    """Tell whether a vm connects to others: a script starts first those whose QEMUs listen."""
    return any(isinstance(nic.backend, StreamBackend) and not nic.backend.listen for nic in vm.nics)


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


def shared(lab: Lab, nic: Nic, facts: Facts) -> tuple[Part, ...]:
    """Return all that a card shares with others, up or not, in the order in which it is made."""
    attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
    below = _below(lab, lab.network(attach.network), facts) if isinstance(attach, OnNetwork) else ()
    return (*below, *uses(lab, nic, facts))


def uses(lab: Lab, nic: Nic, facts: Facts) -> tuple[Part, ...]:
    """Return what of it lasts as long as a card needs it; what a network needs lasts as long as that does."""
    attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
    network = _network(lab, attach.network, facts) if isinstance(attach, OnNetwork) else ()
    return (*network, *links.host_macvlan(nic, facts), *links.forwarding(nic, facts))


def networks(lab: Lab, names: Sequence[str], facts: Facts) -> dict[str, tuple[Part, ...]]:
    """Return by network what it takes to have it, up or not, in the order in which it is made: its own part last.

    Nothing for a network that is used as it is, such as an existing bridge.
    """
    return {name: (*_below(lab, lab.network(name), facts), *_network(lab, name, facts)) for name in names}


def _below(lab: Lab, network: Network, facts: Facts) -> Iterator[Part]:
    """Yield what a network needs that others may share: the namespace that it is in, switches of the host."""
    if not network.external:
        yield from (spaces.part(netns, facts) for netns in lab.spaces if netns.name == network.netns)
    yield from links.ways(network, facts)


def wiring(lab: Lab, facts: Facts) -> dict[str, tuple[Part, ...]]:
    """Return by cable what it takes to have it, up or not, in the order in which it is made: its own part last."""
    return {
        cable.name: (
            *(spaces.part(netns, facts) for netns in lab.spaces if netns.name in cable.namespaces),
            *(part for parts in networks(lab, cable.networks, facts).values() for part in parts),
            cables.part(cable, facts),
        )
        for cable in lab.cables
    }


def _network(lab: Lab, name: str, facts: Facts) -> Iterator[Part]:
    network = lab.network(name)
    if not isinstance(network.switch, OwnBridge):
        return
    if network.external:  # somebody else's to make, whatever it is like
        yield Part(links.network_scope(name), (), facts.scopes.get(links.network_scope(name), ""))
    elif links.network_scope(name) in facts.scopes:
        yield Part(links.network_scope(name), (), links.network_fingerprint(network))
    else:
        yield links.bridge(network, network.switch, facts)


def is_up(part: Part, facts: Facts) -> bool:
    """Tell whether others have made a shared part already; raises Taken if they made it otherwise."""
    there = facts.scopes.get(part.scope)
    if there not in (None, part.fingerprint):
        kind, _, name = part.scope.partition("/")
        if kind == "host":
            name = name.replace("dhcp-", "dhcp-server ", 1) if name.startswith("dhcp-") else name
            hint = "stop the vms that use it, and start them together with this one"
            raise Taken(f"what {name} stands for has changed since it was set up", where=part.scope, hint=hint)
        what = {"cable": "cable", "netns": "namespace"}.get(kind, "network")
        where = f"cable {name}" if kind == "cable" else f"{'netns' if kind == 'netns' else 'network'}.{name}"
        raise Taken(
            f'{what} "{name}" is up with other settings',
            where=where,
            hint="stop the vms that use it, or give it here the settings that it has, or another name",
        )
    return there is not None


def _own(lab: Lab, vm: Vm, facts: Facts) -> Iterator[Part]:
    """Yield what makes ready a vm's place: first all that may be somebody else's, at the end all links together."""
    yield Part(scope(vm), (*_uid(vm, facts), *_surroundings(lab, vm, facts)))
    for nic in vm.nics:
        yield Part(scope(vm), tuple(claims(lab, vm, nic, facts)), about=nic.id)
    yield Part(scope(vm), tuple(links.pins(vm.nics, facts)))
    for nic in vm.nics:
        yield Part(scope(vm), links.card(vm, nic, facts), about=nic.id)


def _unhurried(lab: Lab, vm: Vm, facts: Facts) -> Iterator[Part]:
    """Yield what may take its time, and may call qemunet itself: nobody else is to wait for it."""
    yield Part(scope(vm), (*disks.steps(vm, facts), *_kernel_files(vm)))
    for nic in vm.nics:
        yield Part(scope(vm), (*links.hook(lab.name, vm, nic), *links.connected(vm, nic, facts)), about=nic.id)


def claims(lab: Lab, vm: Vm, nic: Nic, facts: Facts) -> Iterator[Step]:
    """Yield what makes a card's address, or device, its own, and tells what it shares of it; raises Taken."""
    device = nic.backend.device if isinstance(nic.backend, HostdevBackend) else None
    yield _claim(vm, f"mac/{nic.mac}" if device is None else f"pci/{device}", facts)
    yield from users(lab, vm, nic, facts)


def users(lab: Lab, vm: Vm, nic: Nic, facts: Facts) -> Iterator[Step]:
    """Yield what notes that a card uses what it shares, and what its network has to know of it."""
    for part in uses(lab, nic, facts):
        yield Claim(f"{facts.runtime}/{part.scope}/users/{vm.name}.{nic.id}", scope(vm))
    attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
    if isinstance(attach, OnNetwork) and lab.network(attach.network).services is not None:
        from qemunet.plan import dhcp  # only where it is needed: it takes as long as a tap

        yield from dhcp.reserve(vm, nic, lab.network(attach.network), facts)


def _uid(vm: Vm, facts: Facts) -> Iterator[Claim]:
    if vm.run_as is not None:
        yield _claim(vm, f"uid/{vm.run_as.uid}", facts)


def _surroundings(lab: Lab, vm: Vm, facts: Facts) -> Iterator[Claim]:
    """Yield what notes that the cables and namespaces of a lab are there for a vm as well."""
    for one in (
        *(cables.scope(cable.name) for cable in lab.cables),
        *(spaces.scope(netns.name) for netns in lab.spaces),
    ):
        yield Claim(f"{facts.runtime}/{one}/users/{vm.name}.lab", scope(vm))


def _claim(vm: Vm, key: str, facts: Facts) -> Claim:
    holder = facts.claims.get(key)
    if holder not in (None, scope(vm)):
        raise Taken(f"{key.replace('/', ' ')} is in use by {holder}", where=f"vm.{vm.name}")
    return Claim(f"{facts.runtime}/claims/{key}", scope(vm))


def _kernel_files(vm: Vm) -> Iterator[Step]:
    if not isinstance(vm.boot, DirectBoot) or vm.run_as is None or vm.boot.public:
        return
    way = Passed(vm)
    yield LoadFile(way.handle("boot.kernel").name, vm.boot.kernel)
    if vm.boot.initrd is not None:
        yield LoadFile(way.handle("boot.initrd").name, vm.boot.initrd)


def _start(lab: Lab, vm: Vm, facts: Facts, *, scripted: bool) -> StartQemu:
    return StartQemu(
        vm=vm.name,
        directory=directory(vm, facts),
        argv=qemu.argv(lab.file, vm, facts),
        script=_script(lab, vm, facts) if scripted else (),
        run_as=vm.run_as,
        groups=_groups(vm, facts),
        netns=vm.netns,
    )


def _script(lab: Lab, vm: Vm, facts: Facts) -> tuple[str, ...]:
    from qemunet.plan import shell

    return tuple(shell.start(lab.file, vm, facts))


def _groups(vm: Vm, facts: Facts) -> tuple[int, ...]:
    """Another user's QEMU is in no group but the one that may open /dev/kvm, and that only if it will."""
    needed = vm.run_as is not None and qemu.acceleration(vm, facts)[0] is not Accel.TCG
    return (facts.kvm_gid,) if needed and facts.kvm_gid is not None else ()


def _release(vm: Vm) -> Iterator[Step]:
    yield AwaitQemu(vm.name)
    for nic in vm.nics:
        if nic.link is LinkState.DOWN:
            yield steps.SetGuestLink(vm.name, nic.id, up=False)
            yield from links.cable(nic, on=False)
    if not qemu.stays_stopped(vm):
        yield Resume(vm.name)
