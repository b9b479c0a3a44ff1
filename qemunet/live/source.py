"""From a lab file to a plan on this host: reads, photographs, resolves and plans; changes nothing."""

from __future__ import annotations

from qemunet.config import files, profiles, read, resolve
from qemunet.errors import NotFound, QemunetError
from qemunet.frozen import frozen, replace
from qemunet.later import later
from qemunet.live.agenda import QEMU
from qemunet.model.network import NetworkMode
from qemunet.model.vm import Accel, DirectBoot, Firmware, NicBus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qemunet import plan
    from qemunet.config import notes
    from qemunet.config.spec import LabSpec, Profile, VmSpec
    from qemunet.facts import Facts, Wanted
    from qemunet.host.linux import LinuxHost
    from qemunet.model.lab import Lab
    from qemunet.model.vm import Vm
    from qemunet.state import Runtime
    from qemunet.steps import Part, Plan

    Tell = Callable[[str], None]
else:
    plan = later("qemunet.plan")
    notes = later("qemunet.config.notes")

_KINDS = ("net", "cable", "netns")  # of scopes that can be brought up without a guest


@frozen
class Thought:
    """What a lab file means here and now, and what would be done for the chosen vms."""

    lab: Lab
    plan: Plan
    facts: Facts


@frozen
class Networks:
    """What networks and cables of a lab file mean here and now, and by scope all that each is made of, up or not."""

    lab: Lab
    parts: Mapping[str, tuple[Part, ...]]
    facts: Facts


@frozen
class Source:
    """A lab file that was read, with the profiles that it names."""

    spec: LabSpec
    profiles: Mapping[str, Profile]

    @classmethod
    def read(cls, file: str, overrides: Sequence[str] = ()) -> Source:
        """Read a lab file; raises ConfigError or UsageError."""
        spec = read.load(file, overrides)
        return cls(spec, profiles.load_all(spec))

    def chosen(self, vms: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the vms that are meant, all of the file if none is named; raises NotFound."""
        known = tuple(vm.name for vm in self.spec.vms)
        for name in vms:
            if name not in known:
                raise NotFound(
                    f"no vm of the name {name} in this lab", where=self.spec.file, hint=f"it has {', '.join(known)}"
                )
        return tuple(dict.fromkeys(vms)) or known

    def wanted(self) -> Wanted:
        """Return what has to be seen of the host to think about its vms."""
        wanted = resolve.wanted(self.spec, self.profiles)
        if all(self._boots_directly(vm) for vm in self.spec.vms):
            return wanted
        return replace(wanted, files=wanted.files | plan.FIRMWARE_FILES)

    def think(self, facts: Facts, vms: Sequence[str] = (), *, strict: bool = True, tell: Tell | None = None) -> Thought:
        """Work out what to do for these vms on the host that `facts` shows.

        `strict`: for real, so what the host lacks is an error, and KVM is tried if a vm leaves that open. `tell` gets
        a line if that does not work, and one for each thing that surprises people.
        """
        names = self.chosen(vms)
        lab = resolve.resolve(self.spec, self.profiles, facts, names, strict=strict)
        if strict:
            facts = _with_kvm(facts, lab, names, tell)
            lab = _with_clock(facts, lab)
        found = plan.build(lab, facts, names, scripted=not strict)
        if tell:
            for text in (*notes.notes(lab, facts), *_obstacles(lab, facts), *_unnamed(lab, facts)):
                tell(f"note: {text}")
        return Thought(lab, found, facts)

    def think_networks(self, runtime: Runtime, scopes: Sequence[str], host: LinuxHost) -> Networks:
        """Photograph the host and work out what these networks, cables and namespaces of the file are made of."""
        from qemunet.live.photo import photograph

        facts = photograph(runtime, resolve.wanted(self.spec, self.profiles), host)
        named = {kind: [name.partition("/")[2] for name in scopes if name.startswith(f"{kind}/")] for kind in _KINDS}
        lab = resolve.resolve(
            self.spec,
            self.profiles,
            facts,
            networks_only=named["net"],
            cables_only=named["cable"],
            spaces_only=named["netns"],
        )
        plan.cables.refuse_loops(lab, facts)
        parts: dict[str, tuple[Part, ...]] = {}
        parts |= {plan.spaces.scope(one.name): (plan.spaces.part(one, facts),) for one in lab.spaces}
        parts |= {plan.links.network_scope(one): it for one, it in plan.networks(lab, named["net"], facts).items()}
        parts |= {plan.cables.scope(one): it for one, it in plan.wiring(lab, facts).items()}
        return Networks(lab, parts, facts)

    def profile(self, vm: VmSpec) -> Profile:
        """Return the profile of one of its vms."""
        return self.profiles[vm.profile or files.DEFAULT]

    def _boots_directly(self, vm: VmSpec) -> bool:
        """Tell whether a vm needs no firmware file but what QEMU itself brings."""
        firmware = vm.boot.firmware or self.profile(vm).vm.boot.firmware
        return (vm.boot.kernel or vm.boot.guest) is not None and firmware is not Firmware.UEFI


def _obstacles(lab: Lab, facts: Facts) -> list[str]:
    """Return what of the host's own rules is in the way of networks that are about to be made, or used."""
    new = [one for one in lab.networks if plan.links.network_scope(one.name) not in facts.scopes]
    asked = [one for one in new if one.mode not in (NetworkMode.PRIVATE, NetworkMode.MACVTAP) and not one.netns]
    if not asked or facts.programs.get("nft") is None:
        return []
    from qemunet.host import rulesets
    from qemunet.host.netns import Place
    from qemunet.plan import firewall, obstacles

    try:
        chains, bridged = rulesets.read(Place()), rulesets.bridged(Place())
    except QemunetError:  # who may not see the rules, as an ordinary user, cannot be told of them
        return []
    seen = (text for one in asked for text in obstacles.notes(one, chains, bridged, frozenset(facts.programs)))
    return [*dict.fromkeys(seen), *dict.fromkeys(text for one in asked for text in firewall.notes(one, facts))]


def _unnamed(lab: Lab, facts: Facts) -> Iterator[str]:
    """Yield which networks serve no names, because somebody else has the port of name servers everywhere."""
    serving = [one for one in lab.networks if one.services is not None and not one.netns]
    named = [one.name for one in serving if one.services is not None and one.services.dns is not None]
    if named:
        from qemunet.plan import dhcp

        holder = dhcp.dns_holder(facts)
        if holder:
            yield f"no names are served on {', '.join(named)}: {holder} has port 53 of all addresses; DHCP works"


def _with_clock(facts: Facts, lab: Lab) -> Lab:
    """Tell emulated microvms with the built-in guest how fast their counter is: they have nothing to measure it by."""
    return replace(lab, vms=tuple(_clocked(facts, vm) for vm in lab.vms))


def _clocked(facts: Facts, vm: Vm) -> Vm:
    tiny = isinstance(vm.boot, DirectBoot) and vm.boot.tiny
    from qemunet.plan.qemu import acceleration

    if not tiny or vm.machine.nic_bus is not NicBus.MMIO or acceleration(vm, facts)[0] is Accel.KVM:
        return vm
    from qemunet.guest.clock import kernel_word

    assert isinstance(vm.boot, DirectBoot), "tiny is one of its properties"
    return replace(vm, boot=replace(vm.boot, append=f"{vm.boot.append} {kernel_word()}".rstrip()))


def _with_kvm(facts: Facts, lab: Lab, names: Sequence[str], tell: Callable[[str], None] | None) -> Facts:
    """Find out whether KVM runs the processor models of the vms that leave that open."""
    models = {vm.machine.cpu_kvm for vm in lab.vms if vm.name in names and vm.accel is Accel.AUTO}
    if not models:
        return facts
    verdicts = {model: _verdict(facts, model) for model in models}
    for model, why in verdicts.items():
        if why and tell:
            tell(f"accel: tcg, for KVM cannot run a {model} processor: {why}")
    return replace(facts, kvm=verdicts)


def _verdict(facts: Facts, model: str) -> str:
    if model in facts.kvm:
        return facts.kvm[model]
    from qemunet.live import accel

    return accel.kvm_verdict(facts.programs[QEMU], model)
