"""Resolves a lab file against a photograph of the host: every default decided, every reference followed."""

from __future__ import annotations

from qemunet.config import cards, check, disks, guards, managed, modes, nics, ready, scripts, units
from qemunet.config.hints import did_you_mean, listed
from qemunet.config.scene import Scene, first
from qemunet.config.spec import CableSpec, LabSpec, NetworkSpec, NicMode, NicSpec, Profile, VmSpec
from qemunet.errors import NotFound
from qemunet.facts import Facts, Wanted
from qemunet.frozen import replace
from qemunet.later import later
from qemunet.model.lab import Lab
from qemunet.model.names import altname, digest, ifb
from qemunet.model.network import ForeignBridge, HostSide, Network, NetworkMode, OwnBridge, Parent
from qemunet.model.nic import MacvtapMode
from qemunet.model.vm import Accel, Firmware, GuestAgent, Machine, NicBus, RunAs, Vm
from qemunet.steps import sysctl_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from qemunet.config import cables, ports, spaces, vlans
    from qemunet.model.expect import Expect
    from qemunet.model.nic import Nic
else:
    cables = later("qemunet.config.cables")
    ports = later("qemunet.config.ports")
    spaces = later("qemunet.config.spaces")
    vlans = later("qemunet.config.vlans")

QEMU, QEMU_IMG = "qemu-system-x86_64", "qemu-img"
MEMORY = 512 << 20
SLOTS = 8
STP_DELAY = 2  # seconds, the least that the kernel takes with STP
AGEING = 300  # seconds, the kernel's own
FIRST_UID = 0x7000_0000  # far above what systems give to users, subordinate users and containers
UIDS = 0x1000  # that each runtime directory has for itself
USUAL_RUNTIME = "/run/qemunet"  # has the first ones
LEAST_TINY = 96 << 20  # measured: with 80M and less the built-in guest never boots; 128M is plenty with any cards
NOBODY_KNOWS = Facts("", "", 0, can_switch_user=False)


def wanted(spec: LabSpec, profiles: Mapping[str, Profile]) -> Wanted:
    """Return what a photograph must show to resolve this lab."""
    spec = modes.expanded(spec)
    scene = Scene(spec, profiles, NOBODY_KNOWS, strict=False)
    bridges = {modes.bridge_name(network) for network in spec.networks if network.parent is None}
    plugged = {name for network in spec.networks for name in network.ports or ()}
    links = bridges | {name for network in spec.networks for name in _links(network)}
    files: set[str] = {*managed.files(spec)}
    sysctls: set[str] = set()
    for vm in spec.vms:
        files |= {*disks.files(scene, vm), *nics.files(scene, vm)}
        for index, nic in enumerate(check.nics(vm)):
            bridges |= {nic.bridge} if nic.bridge else set()
            links |= {nic.parent} if nic.parent else set()
            links |= {nics.macvlan_name(nic.parent)} if nic.parent and nic.host_macvlan else set()
            if modes.has_link(nic):
                links |= {check.ifname(vm, index, nic), altname(f"vm/{vm.name}", check.nic_id(index, nic))}
            sysctls |= {f"net.ipv6.conf.{sysctl_name(nic.ifname)}.disable_ipv6"} if nic.adopt and nic.ifname else set()
            links |= {ifb(vm.name, check.nic_id(index, nic))} if nic.rate or nic.impair else set()
    every = [nic for vm in spec.vms for nic in check.nics(vm)]
    remotes = [nic for nic in every if modes.nic_mode(nic) in modes.REMOTE]
    if spec.cables:
        bridges |= {name for name, _ in cables.bridges(spec)}
    for cable in spec.cables:
        links |= {name for end in cables.ends(cable) for name in (cables.ifname(cable, end), *_marks(cable, end))}
    sockets, doors = _sockets(spec, remotes) if remotes else (frozenset[str](), frozenset[str]())
    return Wanted(
        links=frozenset(links | bridges),
        bridges=frozenset(bridges),
        files=frozenset(files),
        sysctls=frozenset(sysctls),
        sockets=sockets,
        doors=doors,
        devices=frozenset(nic.device for nic in remotes if nic.device),
        programs=frozenset({QEMU, *managed.programs(spec), *_programs_of(spec), *guards.programs(every)}),
        routes=any(network.address for network in spec.networks)
        or any(modes.is_point_to_point(nic) or nic.host_macvlan for nic in every),
        guest=any(vm.boot.guest is not None for vm in spec.vms),
        shaping=any(nic.rate or nic.impair for nic in every),
        impairing=any(nic.impair for nic in every),
        wires=bool(spec.cables),
        guards=any(map(guards.is_guarded, every)),
        vlans=_asks_for_vlans(spec, every),
        places=frozenset(netns.name for netns in spec.spaces),
        networks=managed.asks_others(spec),
        uplinks=frozenset(plugged),
        ports=managed.ports(spec),
    )


def _asks_for_vlans(spec: LabSpec, nics: list[NicSpec]) -> bool:
    ends = (vlan for cable in spec.cables for vlan in (cable.a_vlan, cable.b_vlan))
    return any(network.vlan_filtering for network in spec.networks) or any((*ends, *(nic.vlan for nic in nics)))


def _sockets(spec: LabSpec, nics: list[NicSpec]) -> tuple[frozenset[str], frozenset[str]]:
    from qemunet.config import remote  # only where it is needed

    return remote.sockets(spec, nics), remote.doors(spec, nics)


def _programs_of(spec: LabSpec) -> list[str]:
    helped = any(nic.mode is NicMode.PASST for vm in spec.vms for nic in check.nics(vm))
    return [*([QEMU_IMG] if any(map(_needs_images, spec.vms)) else []), *([NicMode.PASST.value] if helped else [])]


def _links(network: NetworkSpec) -> set[str]:
    """Return the interfaces that matter for a network besides its bridge."""
    found = {altname(f"net/{network.name}", "bridge"), *(network.ports or ())}
    if modes.host_place(network) is HostSide.VETH:
        found |= {modes.host_ifname(network), modes.port_ifname(network)}
    return found | {name for name in (network.uplink, network.parent) if name is not None}


def _marks(cable: CableSpec, end: cables.EndKeys) -> tuple[str]:
    return (altname(f"cable/{cables.name(cable)}", end.side),)


def resolve(
    spec: LabSpec,
    profiles: Mapping[str, Profile],
    facts: Facts,
    vms: Sequence[str] = (),
    *,
    strict: bool = True,
    running: bool = False,
    networks_only: Collection[str] | None = None,
    cables_only: Collection[str] = (),
    spaces_only: Collection[str] = (),
) -> Lab:
    """Return the lab with the vms of these names and what they need; with all of the file if none is named.

    `running`: they run already, and what they were started from may be gone. `networks_only`: these, and no vm,
    and of the cables `cables_only`, of the namespaces `spaces_only`, and what these need.

    Raises ConfigError, NotFound for an unknown vm, and, if it is `strict` because the lab is to be run, Taken and
    HostLacks with everything that is lacking at once.
    """
    check.check(spec)
    spec = modes.expanded(spec)
    spec = spaces.expanded(spec) if spec.spaces else spec
    scene = Scene(spec, profiles, facts, strict=strict, running=running)
    chosen = [vm for vm in spec.vms if vm.name in vms] if vms else list(spec.vms)
    _all_known(spec, vms)
    used = {nic.network for vm in chosen for nic in check.nics(vm)}
    used.update(cables.networks(spec) if spec.cables else ())
    every = len(chosen) == len(spec.vms)
    if networks_only is not None:
        spec = replace(spec, cables=tuple(one for one in spec.cables if cables.name(one) in cables_only))
        chosen, used, every = [], {*networks_only, *cables.networks(spec)}, False
        inhabited = {*spaces_only, *spaces.used(spec, used)}
        spec = replace(spec, spaces=tuple(one for one in spec.spaces if one.name in inhabited))
    used |= {one.name for net in spec.networks if net.name in used for one in managed.fellows(spec, net)}
    found = {one.name: _profiled(scene, one) for one in spec.networks if every or one.name in used}
    networks = managed.with_servers(spec, found)
    _programs(scene, chosen)
    wired = tuple(cables.resolve(scene, one, networks) for one in spec.cables)
    made = tuple(spaces.resolve(scene, one) for one in spec.spaces)
    guests = tuple(_vm(scene, vm, networks) for vm in chosen)
    lab = Lab(spec.name, spec.path, guests, tuple(networks.values()), wired, made, _expects(spec))
    _distinct(spec, lab)
    scene.settle()
    return lab


def _expects(spec: LabSpec) -> tuple[Expect, ...]:
    if not spec.expects:
        return ()
    from qemunet.config import expects

    return expects.all_of(spec)


def _all_known(spec: LabSpec, vms: Sequence[str]) -> None:
    known = [vm.name for vm in spec.vms]
    for name in vms:
        if name not in known:
            hint = did_you_mean(name, known, f"it has {listed(known)}" if known else "it has no vm")
            raise NotFound(f'there is no vm "{name}" in this lab', where=spec.file, hint=hint)


def _programs(scene: Scene, vms: Sequence[VmSpec]) -> None:
    if vms and QEMU not in scene.facts.programs:
        scene.lack(QEMU, "Debian has it in qemu-system-x86")
    if any(map(_needs_images, vms)) and QEMU_IMG not in scene.facts.programs:
        scene.lack(QEMU_IMG, "Debian has it in qemu-utils")


def _needs_images(vm: VmSpec) -> bool:
    return any(disk.size is not None or disk.snapshot for disk in vm.disk)


# ---------------------------------------------------------------- networks


def _profiled(scene: Scene, spec: NetworkSpec) -> Network:
    network = _network(scene, spec)
    return replace(network, port_profiles=spec.port_profile) if spec.port_profile else network


def _network(scene: Scene, spec: NetworkSpec) -> Network:
    spec = managed.settled(scene, spec)
    mode = modes.network_mode(spec)
    external = bool(spec.external)
    if modes.is_foreign(spec):
        assert spec.bridge is not None, "checked with the file"
        switch = ForeignBridge(*nics.bridge(scene, f"{spec.path}.bridge", spec.bridge))
        return Network(spec.name, mode, switch, port_isolation=bool(spec.port_isolation))
    if mode is NetworkMode.MACVTAP:
        return Network(spec.name, mode, _parent(scene, spec))
    if scene.facts.uid != 0:
        scene.lack("the right to make a bridge (you are not root)", nics.RIGHTS)
    own = _own_bridge(scene, spec)
    services, rules = managed.services(scene, spec, own.mtu), managed.firewall(scene, spec)
    isolated, netns = bool(spec.port_isolation), spec.netns or ""
    found = Network(spec.name, mode, own, bool(spec.keep), services, rules, external, port_isolation=isolated)
    return replace(found, netns=netns)


def _parent(scene: Scene, spec: NetworkSpec) -> Parent:
    assert spec.parent is not None, "checked with the file"
    link = scene.link(spec.parent)
    if link is None:
        scene.lack(f"the interface {spec.parent}", f"`ip link` lists those there are ({spec.path}.parent)")
    name, mtu = (spec.parent, cards.USUAL_MTU) if link is None else (link.name, link.mtu)
    return Parent(name, mtu, spec.macvtap or MacvtapMode.BRIDGE, bool(spec.host_macvlan))


def _own_bridge(scene: Scene, spec: NetworkSpec) -> OwnBridge:
    stp = bool(spec.stp)
    side, host_ifname, port_ifname = managed.host_side(spec)
    return OwnBridge(
        ifname=modes.bridge_name(spec),
        mac=_bridge_mac(scene, spec),
        mtu=ports.mtu(scene, spec),
        stp=stp,
        forward_delay=first(spec.forward_delay, otherwise=STP_DELAY if stp else 0),
        ageing=first(spec.ageing, otherwise=AGEING),
        addresses=spec.address or (),
        host=side,
        host_ifname=host_ifname,
        port_ifname=port_ifname,
        ports=ports.names(scene, spec) if spec.ports else (),
        port_vlans=ports.vlans(scene, spec) if spec.port_vlan else (),
        move_address=bool(spec.move_address),
        vlan_filtering=vlans.of_network(scene, spec),
        host_vlan=spec.host_vlan,
    )


def _bridge_mac(scene: Scene, spec: NetworkSpec) -> str:
    if spec.mac not in (None, "auto"):
        return spec.mac
    return ports.mac(scene, spec) or nics.stable_bridge_mac(scene, spec.name)


# ---------------------------------------------------------------- vms


def _vm(scene: Scene, spec: VmSpec, networks: Mapping[str, Network]) -> Vm:
    preset = scene.profile(spec).vm
    machine = _machine(scene, spec)
    cpus = first(spec.cpus, preset.cpus, otherwise=1)
    accel = first(spec.accel, preset.accel, otherwise=Accel.AUTO)
    if accel is Accel.KVM and (why := scene.facts.kvm.get(machine.cpu_kvm)):
        scene.lack(f"a KVM that runs {spec.path} ({why})", 'accel = "auto" takes tcg where KVM does not work')
    cards = tuple(nics.nics(scene, spec, machine.nic_bus, cpus, networks))
    run_as = _run_as(scene, spec)
    memory = _memory(scene, spec)
    nics.check_users(scene, spec, cards, memory, run_as)
    return Vm(
        name=spec.name,
        machine=machine,
        memory=memory,
        cpus=cpus,
        accel=accel,
        boot=disks.boot(scene, spec),
        firmware=spec.boot.firmware or Firmware.BIOS,
        disks=tuple(disks.disk(scene, spec, one, machine.nic_bus) for one in spec.disk),
        nics=cards,
        display=units.display(first(spec.display, preset.display, otherwise="none")),
        run_as=run_as,
        qemu_args=first(spec.qemu_args, preset.qemu_args, otherwise=()),
        agent=first(spec.agent, preset.agent, otherwise=GuestAgent.NONE),
        depends=spec.depends or (),
        ready=ready.of(spec),
        script=tuple(scripts.steps(scene, spec, cards)),
        secrets=tuple(scripts.secrets(scene.spec, spec)),
        netns=spec.netns or "",
        shared_memory=_shared_memory(scene, spec, cards),
    )


def _shared_memory(scene: Scene, spec: VmSpec, cards: Iterable[Nic]) -> bool:
    wanted = spec.shared_memory if spec.shared_memory is not None else scene.profile(spec).vm.shared_memory
    if all(nic.mode is not NicMode.VHOST_USER for nic in check.nics(spec)):
        return bool(wanted)
    from qemunet.config import remote  # only where it is needed

    return remote.shared_memory(scene, spec, zip(check.nics(spec), cards, strict=True), wanted)


def _memory(scene: Scene, spec: VmSpec) -> int:
    memory = first(spec.memory, scene.profile(spec).vm.memory, otherwise=MEMORY)
    if spec.boot.guest is not None and memory < LEAST_TINY:
        problem = f'{units.format_size(memory)} is too little for guest "{spec.boot.guest}"'
        raise scene.spec.error(f"{spec.path}.memory", problem, f"it needs {units.format_size(LEAST_TINY)} or more")
    return memory


def _machine(scene: Scene, spec: VmSpec) -> Machine:
    profile = scene.profile(spec)
    own, preset = spec.machine, profile.machine
    bus = first(own.nic_bus, preset.nic_bus, otherwise=NicBus.ROOT_PORTS)
    if spec.hotplug_slots and bus is not NicBus.ROOT_PORTS:
        problem = f"profile {profile.name} has no root ports"
        free = bus is NicBus.PCI
        hint = "its cards sit on the PCI bus, where any free slot takes one" if free else "its cards are fixed"
        raise scene.spec.error(f"{spec.path}.hotplug-slots", problem, f"leave it out: {hint}")
    slots = first(spec.hotplug_slots, profile.vm.hotplug_slots, otherwise=SLOTS)
    return Machine(
        profile=profile.reference,
        type=first(own.type, preset.type, otherwise="q35"),
        nic_bus=bus,
        hotplug_slots=slots if bus is NicBus.ROOT_PORTS else 0,
        cpu_kvm=first(own.cpu_kvm, preset.cpu_kvm, otherwise="host"),
        cpu_tcg=first(own.cpu_tcg, preset.cpu_tcg, otherwise=""),
    )


def _run_as(scene: Scene, spec: VmSpec) -> RunAs | None:
    """Return whom QEMU runs as; None: as the calling user, whom nobody but root can leave."""
    name = first(spec.user, scene.profile(spec).vm.user, otherwise="auto")
    facts = scene.facts
    if name == "auto":
        return _own_user(scene, spec) if facts.can_switch_user else None
    if name[0].isdecimal():
        uid, _, gid = name.partition(":")
        user = RunAs(int(uid), int(gid or uid))
    elif name in facts.users:
        user = RunAs(*facts.users[name])
    else:
        known = did_you_mean(name, facts.users, '"auto" gives QEMU a number of its own, which needs no user')
        raise scene.spec.error(f"{spec.path}.user", f'there is no user "{name}" on this host', known)
    if user.uid == 0:
        raise scene.spec.error(f"{spec.path}.user", "QEMU is not run as root", '"auto" gives it a number of its own')
    if facts.can_switch_user:
        return user
    if user.uid != facts.uid:
        scene.lack(
            f"the right to run QEMU as {name} (you are not root)", f'run it with sudo, or {spec.path}.user = "auto"'
        )
    return None


def _own_user(scene: Scene, spec: VmSpec) -> RunAs:
    claims = scene.facts.claims
    mine = (key for key, owner in claims.items() if key.startswith("uid/") and owner == f"vm/{spec.name}")
    uid = next((int(key.removeprefix("uid/")) for key in mine), _first_uid(scene.facts.runtime))
    while uid in scene.uids or claims.get(f"uid/{uid}") not in (None, f"vm/{spec.name}"):
        uid += 1
    scene.uids.add(uid)
    return RunAs(uid, uid)


def _first_uid(runtime: str) -> int:
    """Return where a runtime directory's users begin: directories know nothing of each other's claims."""
    block = 0 if runtime == USUAL_RUNTIME else 1 + int(digest(runtime, 4), 16) % 0xFFFF
    return FIRST_UID + block * UIDS


# ---------------------------------------------------------------- the lab as a whole


def _distinct(spec: LabSpec, lab: Lab) -> None:
    """Refuse equal addresses that were made, and images that two would write."""
    owners: dict[str, str] = {}
    writers: dict[str, tuple[str, bool]] = {}
    for vm in lab.vms:
        for index, nic in enumerate(vm.nics):
            path = f"vm.{vm.name}.nic[{index}]"
            if nic.mac and nic.mac in owners:
                problem = f"the address {nic.mac} is also that of {owners[nic.mac]}"
                raise spec.duplicate(f"{path}.mac", problem, 'give one of them another by mac = "…"')
            owners[nic.mac] = path
        for index, disk in enumerate(vm.disks):
            path = f"vm.{vm.name}.disk[{index}]"
            writes = not (disk.readonly or disk.snapshot)
            other, other_writes = writers.setdefault(disk.image.path, (path, writes))
            if other != path and (writes or other_writes):
                hint = "both need readonly = true or snapshot = true"
                raise spec.error(f"{path}.file", f"{disk.image.path} is also {other}, and one would write it", hint)
