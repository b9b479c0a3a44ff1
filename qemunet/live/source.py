"""From a lab file to a plan on this host: reads, photographs, resolves and plans; changes nothing."""

from __future__ import annotations

from qemunet import plan
from qemunet.config import files, notes, profiles, read, resolve
from qemunet.errors import NotFound, QemunetError
from qemunet.facts import GuestFact, Wanted
from qemunet.frozen import frozen, replace
from qemunet.host.linux import LinuxHost
from qemunet.model.network import NetworkMode
from qemunet.model.vm import Accel, DirectBoot, Firmware, NicBus
from qemunet.plan.qemu import acceleration
from qemunet.state import Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qemunet.config.spec import LabSpec, Profile, VmSpec
    from qemunet.facts import Facts
    from qemunet.model.lab import Lab
    from qemunet.model.vm import Vm
    from qemunet.steps import Part, Plan

_QEMU = "qemu-system-x86_64"
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

    def think(
        self,
        runtime: Runtime,
        vms: Sequence[str] = (),
        *,
        strict: bool = True,
        host: LinuxHost | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Thought:
        """Photograph the host and work out what to do for these vms.

        `strict`: for real, so what the host lacks is an error, and KVM is tried if a vm leaves that open. `tell` gets
        a line if that does not work, and one for each thing that surprises people.
        """
        names = self.chosen(vms)
        wanted = resolve.wanted(self.spec, self.profiles)
        if not all(self._boots_directly(vm) for vm in self.spec.vms):
            wanted = replace(wanted, files=wanted.files | plan.FIRMWARE_FILES)
        facts = photograph(runtime, wanted, host or LinuxHost(runtime.path))
        lab = resolve.resolve(self.spec, self.profiles, facts, names, strict=strict)
        if strict:
            facts = _with_kvm(facts, lab, names, tell)
            lab = _with_clock(facts, lab)
        found = plan.build(lab, facts, names, scripted=not strict)
        if tell:
            for text in (*notes.notes(lab, facts), *_obstacles(lab, facts, host), *_unnamed(lab, facts)):
                tell(f"note: {text}")
        return Thought(lab, found, facts)

    def secrets(self, lab: Lab, vms: Sequence[str], environ: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        """Return the values of what the scripts of these vms type in secret, by vm and name; raises ConfigError."""
        scripted = [vm for vm in map(lab.vm, self.chosen(vms)) if vm.script and vm.secrets]
        if not scripted:
            return {}
        from qemunet.live import secrets

        return secrets.gather(self.spec, scripted, environ)

    def think_networks(self, runtime: Runtime, scopes: Sequence[str], host: LinuxHost) -> Networks:
        """Photograph the host and work out what these networks, cables and namespaces of the file are made of."""
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

    def try_kvm(self, host: LinuxHost) -> None:
        """Find out now whether KVM works, if a vm leaves that open: it may take seconds, and is remembered."""
        models = {self._kvm_model(vm) for vm in self.spec.vms if self._accel(vm) is Accel.AUTO}
        if not models:
            return
        found = host.photograph(Wanted(programs=frozenset({_QEMU}))).programs.get(_QEMU)
        if found is None:
            return
        from qemunet.live import accel

        for model in models:
            accel.kvm_verdict(found, model)

    def _accel(self, vm: VmSpec) -> Accel:
        return vm.accel or self._profile(vm).vm.accel or Accel.AUTO

    def _kvm_model(self, vm: VmSpec) -> str:
        return vm.machine.cpu_kvm or self._profile(vm).machine.cpu_kvm or ""

    def _profile(self, vm: VmSpec) -> Profile:
        return self.profiles[vm.profile or files.DEFAULT]

    def _boots_directly(self, vm: VmSpec) -> bool:
        """Tell whether a vm needs no firmware file but what QEMU itself brings."""
        firmware = vm.boot.firmware or self._profile(vm).vm.boot.firmware
        return (vm.boot.kernel or vm.boot.guest) is not None and firmware is not Firmware.UEFI


def photograph(runtime: Runtime, wanted: Wanted, host: LinuxHost) -> Facts:
    """Return what the host shows and what the runtime directory and the cache know."""
    facts = host.photograph(wanted)
    guest = _guest() if wanted.guest else None
    networks = runtime.networks() if wanted.networks else {}
    return replace(facts, claims=runtime.claims(), scopes=runtime.shared(), networks=networks, guest=guest)


def _obstacles(lab: Lab, facts: Facts, host: LinuxHost | None) -> list[str]:
    """Return what of the host's own rules is in the way of networks that are about to be made, or used."""
    new = [one for one in lab.networks if plan.links.network_scope(one.name) not in facts.scopes]
    asked = [one for one in new if one.mode not in (NetworkMode.PRIVATE, NetworkMode.MACVTAP) and not one.netns]
    if not asked or host is None or facts.programs.get("nft") is None:
        return []
    from qemunet.host import rulesets
    from qemunet.plan import firewall, obstacles

    try:
        chains, bridged = rulesets.read(host.place), rulesets.bridged(host.place)
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


def _guest() -> GuestFact | None:
    from qemunet.guest import image

    found = image.find()
    if found is None:
        return None
    public = image.is_public(found.kernel) and image.is_public(found.initrd)
    return GuestFact(found.kernel, found.initrd, found.append, public)


def _with_clock(facts: Facts, lab: Lab) -> Lab:
    """Tell emulated microvms with the built-in guest how fast their counter is: they have nothing to measure it by."""
    return replace(lab, vms=tuple(_clocked(facts, vm) for vm in lab.vms))


def _clocked(facts: Facts, vm: Vm) -> Vm:
    tiny = isinstance(vm.boot, DirectBoot) and vm.boot.tiny
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
    from qemunet.live import accel

    qemu = facts.programs[_QEMU]
    verdicts = {model: accel.kvm_verdict(qemu, model) for model in models}
    for model, why in verdicts.items():
        if why and tell:
            tell(f"accel: tcg, for KVM cannot run a {model} processor: {why}")
    return replace(facts, kvm=verdicts)
