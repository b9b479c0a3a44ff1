"""Resolves cards: what stands behind each, its address, and what its model can do."""

from __future__ import annotations

import re
from itertools import count

from qemunet.config import cards, check, modes, units
from qemunet.config.hints import Bad
from qemunet.config.scene import Scene, absolute, first
from qemunet.config.spec import AUTO, NicMode, NicSpec, Switch, VmSpec
from qemunet.errors import ConfigError, Taken
from qemunet.later import later
from qemunet.model import mac, names
from qemunet.model.impair import Impairment
from qemunet.model.nic import (
    AsItIs,
    Backend,
    Hook,
    HostMacvlan,
    Linked,
    LinkState,
    MacvtapBackend,
    MacvtapMode,
    Nic,
    OnBridge,
    OnNetwork,
    PointToPoint,
    Rate,
    TapBackend,
    UserBackend,
)
from qemunet.model.vm import NicBus, RunAs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from qemunet.config import adopted, guards, vlans
    from qemunet.facts import LinkFact
    from qemunet.model.network import Network
else:
    adopted = later("qemunet.config.adopted")
    guards = later("qemunet.config.guards")
    vlans = later("qemunet.config.vlans")

MAX_QUEUES = 8
SHAPING = ("sch_tbf",)  # parts of the kernel
NETEM = "sch_netem"
DIVERTING = ("ifb", "sch_ingress", "cls_u32", "act_mirred")
RIGHTS = 'run it with sudo; mode = "user" needs no rights'


def nics(scene: Scene, vm: VmSpec, bus: NicBus, cpus: int, networks: Mapping[str, Network]) -> Iterator[Nic]:
    """Yield a vm's cards; raises ConfigError and Taken."""
    found = check.nics(vm)
    indices = _acpi_indices(found) if bus is not NicBus.MMIO else [None] * len(found)
    for index, spec in enumerate(found):
        if bus is NicBus.MMIO and spec.acpi_index is not None:
            problem = f"profile {vm.profile} has no PCI, and so no acpi-index"
            raise scene.spec.error(f"{spec.path}.acpi-index", problem, "leave it out")
        yield _Card(scene, vm, index, spec).nic(bus, cpus, networks, indices[index])


def check_users(scene: Scene, vm: VmSpec, found: tuple[Nic, ...], memory: int, user: RunAs | None) -> None:
    """Note what the cards of a vm need on this host for QEMU as that user."""
    for spec, nic in zip(check.nics(vm), found, strict=True):
        if not isinstance(nic.backend, Linked | UserBackend):
            from qemunet.config import hostdev, remote  # only where it is needed

            remote.check_host(scene, spec, nic.backend, hostdev.Guest(vm.path, memory, user))


def files(scene: Scene, vm: VmSpec) -> Iterator[str]:
    """Yield the files that a vm's cards name."""
    for nic in check.nics(vm):
        yield from (absolute(scene.spec, name) for name in (nic.ifup, nic.ifdown, nic.tftp) if name is not None)


def bridge(scene: Scene, path: str, name: str) -> tuple[str, int]:
    """Return name and MTU of an existing bridge, the same and the usual one if it is not there; raises ConfigError."""
    link = scene.link(name)
    if link is None:
        scene.lack(f"the bridge {name}", 'qemunet makes one itself for a network of mode "isolated" or "private"')
        return name, cards.USUAL_MTU
    if link.kind != "bridge":
        kind = f"a {link.kind}" if link.kind else "a plain interface"
        raise scene.spec.error(path, f"{name} is {kind}, not a bridge")
    return link.name, link.mtu


def _acpi_indices(nics: tuple[NicSpec, ...]) -> list[int | None]:
    """Return the index of each card: its own, or the first that is free from the one of its id on.

    net0 has 1, net1 has 2: a card keeps the name that guests make of it when another one leaves the file.
    """
    taken = {nic.acpi_index for nic in nics if nic.acpi_index is not None}
    found: list[int | None] = []
    for position, nic in enumerate(nics):
        number = re.fullmatch(r"net([0-9]{1,4})", check.nic_id(position, nic))
        first = int(number[1]) + 1 if number else position + 1
        index = nic.acpi_index or next(one for one in count(first) if one not in taken)
        taken.add(index)
        found.append(index)
    return found


class _Card:
    """One card that is being resolved."""

    def __init__(self, scene: Scene, vm: VmSpec, index: int, spec: NicSpec) -> None:
        self.scene = scene
        self.vm = vm
        self.spec = spec
        self.preset = scene.profile(vm).nic
        self.id = check.nic_id(index, spec)
        self.ifname = check.ifname(vm, index, spec)
        self.mode = modes.nic_mode(spec)
        self.linked = modes.has_link(spec)
        self.given = self.mode is NicMode.HOSTDEV  # a device as it is

    def error(self, key: str, problem: str, hint: str = "") -> ConfigError:
        return self.scene.spec.error(f"{self.spec.path}.{key}", problem, hint)

    def nic(self, bus: NicBus, cpus: int, networks: Mapping[str, Network], acpi_index: int | None) -> Nic:
        model = self.model(bus)
        backend = self.backend(networks)
        address = self.mac(backend)
        self.free(address, backend)
        if self.spec.adopt:
            attach = backend.attach if isinstance(backend, TapBackend) else None
            bridge = attach.bridge if isinstance(attach, OnNetwork | OnBridge) else None
            adopted.check(self.scene, self.spec, self.queues(model, cpus), address, bridge)
        return Nic(
            id=self.id,
            model=model,
            mac=address,
            backend=backend,
            link=first(self.spec.link, None if self.given else self.preset.link, otherwise=LinkState.UP),
            queues=self.queues(model, cpus),
            vhost=self.vhost(model),
            guest_mtu=self.mtu(model, backend),
            boot_index=self.spec.boot_index,
            acpi_index=acpi_index,
            ips=self.spec.ip or (),
            gateways=self.spec.gateway or (),
            hook=Hook(self.program("ifup", self.spec.ifup), self.program("ifdown", self.spec.ifdown)),
            rate=self.rate(),
            impair=self.impair(),
            guard=guards.guard(self.scene, self.spec, address, backend, networks),
            port_isolation=self.isolation(backend, networks),
            vlans=None if self.spec.vlan is None else vlans.of_card(self.scene, self.spec, backend, networks),
            port_profile=self.spec.port_profile,
        )

    def model(self, bus: NicBus) -> str:
        if self.given and bus is NicBus.MMIO:
            problem = f"profile {self.vm.profile} has no PCI, which a device of the host needs"
            raise self.error("mode", problem, 'profile = "q35" has it')
        if self.given:
            return cards.VFIO
        name = first(self.spec.model, self.preset.model, otherwise="virtio")
        try:
            return cards.device(name, bus, self.vm.profile or "q35")
        except Bad as bad:
            raise self.error("model", bad.problem, bad.hint) from None

    # ---------------------------------------------------------------- what is behind it

    def backend(self, networks: Mapping[str, Network]) -> Backend:
        match self.mode:
            case NicMode.USER:
                return self.user()
            case NicMode.TAP:
                if not self.spec.adopt:
                    self.needs_rights("a tap")
                return self.tap(networks)
            case NicMode.MACVTAP:
                self.needs_rights("a macvtap")
                return self.macvtap()
            case other:
                from qemunet.config import remote  # only where it is needed

                return remote.backend(self.scene, self.spec, other)

    def needs_rights(self, what: str) -> None:
        facts = self.scene.facts
        if facts.uid != 0:
            self.scene.lack(f"the right to make {what} (you are not root)", RIGHTS)
        if not facts.tun and self.mode is NicMode.TAP:
            self.scene.lack("/dev/net/tun", "`modprobe tun` makes it; a container must be given it")

    def user(self) -> UserBackend:
        spec = self.spec
        tftp = None if spec.tftp is None else absolute(self.scene.spec, spec.tftp)
        if tftp is not None and not self.scene.file(f"{spec.path}.tftp", tftp).directory:
            raise self.error("tftp", f"{tftp} is not a directory")
        return UserBackend(
            forwards=spec.forward or (),
            restrict=bool(spec.restrict),
            subnet=spec.subnet,
            hostname=spec.hostname,
            dns=spec.dns,
            tftp=tftp,
            bootfile=spec.bootfile,
        )

    def tap(self, networks: Mapping[str, Network]) -> TapBackend:
        spec = self.spec
        is_there = bool(spec.adopt)
        if spec.network is not None:
            network = networks[spec.network]
            dhcp = network.services is not None and network.services.dhcp is not None
            if is_there and network.netns:
                problem = f"the switch of network {spec.network} is in a namespace, where the tap is not"
                raise self.error("adopt", problem, "leave out one of the two")
            attach = OnNetwork(spec.network, network.switch.ifname, dhcp, network.netns)
            return TapBackend(self.ifname, network.switch.mtu, attach, is_there)
        if spec.bridge is not None:
            name, mtu = bridge(self.scene, f"{spec.path}.bridge", spec.bridge)
            return TapBackend(self.ifname, mtu, OnBridge(name), is_there)
        if is_there:
            link = self.scene.link(self.ifname)
            return TapBackend(self.ifname, link.mtu if link else cards.USUAL_MTU, AsItIs(), is_there)
        self.routes_free(self.spec.routes or (), self.ifname, "routes")
        mtu = first(spec.mtu, self.preset.mtu, otherwise=cards.USUAL_MTU)
        return TapBackend(self.ifname, mtu, PointToPoint(spec.address or (), spec.routes or ()))

    def isolation(self, backend: Backend, networks: Mapping[str, Network]) -> bool:
        attach = backend.attach if isinstance(backend, TapBackend) else None
        usual = isinstance(attach, OnNetwork) and networks[attach.network].port_isolation
        return usual if self.spec.port_isolation is None else self.spec.port_isolation

    def routes_free(self, wanted: Collection[str], device: str, key: str) -> None:
        """Raise Taken if the host routes one of the card's networks elsewhere."""
        for one in self.scene.facts.routes if self.scene.strict else ():
            if one.destination in wanted and one.device != device:
                hint = "`ip route` lists the host's routes"
                raise Taken(f"{one.destination} is routed through {one.device}", where=self.where(key), hint=hint)

    def macvtap(self) -> MacvtapBackend:
        link = self.parent()
        mode = self.spec.macvtap or MacvtapMode.BRIDGE
        if link is None:
            name = self.spec.parent or ""
            return MacvtapBackend(self.ifname, name, mode, cards.USUAL_MTU, self.host_macvlan(name), self.spec.network)
        if link.master is not None and self.scene.strict:
            hint = f'plug the card into that instead: bridge = "{link.master}"'
            raise Taken(f"{link.name} is a port of {link.master}", where=self.where("parent"), hint=hint)
        return MacvtapBackend(self.ifname, link.name, mode, link.mtu, self.host_macvlan(link.name), self.spec.network)

    def host_macvlan(self, parent: str) -> HostMacvlan | None:
        if not self.spec.host_macvlan:
            return None
        known = self.scene.facts.addresses.get(parent, ())
        ways = tuple((units.plain(ip), self.host_address(parent, ip, known)) for ip in self.spec.ip or ())
        self.routes_free([f"{ip}/{units.bits(ip)}" for ip, _ in ways], macvlan_name(parent), "ip")
        address = mac.stable(self.scene.facts.machine_id, "macvlan", parent)
        answers = tuple(units.plain(one) for one in known if ":" in one and not one.startswith("fe80:"))
        return HostMacvlan(macvlan_name(parent), address, ways, answers)

    def host_address(self, parent: str, ip: str, known: tuple[str, ...]) -> str | None:
        """Return the parent's address that a guest at `ip` sees: one of its own subnet, or else of its family."""
        family = [one for one in known if (":" in one) == (":" in ip) and not one.startswith("fe80:")]
        near = [one for one in family if units.inside(units.plain(ip), one)]
        if not family:
            version = 6 if ":" in ip else 4
            hint = f"`ip address add … dev {parent}` gives it one; or leave out {self.spec.path}.host-macvlan"
            self.scene.lack(f"an IPv{version} address on {parent}, at which {ip} could find it", hint)
        return units.plain((near or family)[0]) if family else None

    def parent(self) -> LinkFact | None:
        assert self.spec.parent is not None, "checked with the file"
        link = self.scene.link(self.spec.parent)
        if link is None:
            self.scene.lack(
                f"the interface {self.spec.parent}", f"`ip link` lists those there are ({self.spec.path}.parent)"
            )
        return link

    # ---------------------------------------------------------------- its address

    def mac(self, backend: Backend) -> str:
        if self.given:
            return ""
        given = None if self.spec.mac == "auto" else self.spec.mac
        if isinstance(backend, MacvtapBackend) and backend.mode is MacvtapMode.PASSTHRU:
            link = self.parent()
            if link is not None and given not in (None, link.mac):
                problem = f"in mode passthru a card has the address of {link.name}, which is {link.mac}"
                raise self.error("mac", problem, "leave it out")
            if link is not None:
                return link.mac
        if given is not None:
            return given
        identity = (self.scene.facts.machine_id, self.scene.spec.name, self.vm.name, self.id)
        prefix = first(self.spec.mac_prefix, self.preset.mac_prefix, otherwise=mac.DEFAULT_PREFIX)
        return mac.stable(*identity, prefix=prefix)

    def free(self, address: str, backend: Backend) -> None:
        """Raise Taken if somebody else has the address: another vm that runs, or a host on the same bridge."""
        if not self.scene.strict or self.given:
            return
        facts = self.scene.facts
        owner = facts.claims.get(f"mac/{address}")
        if owner == f"vm/{self.vm.name}":
            return
        hint = 'give the card another one with mac = "…"'
        if owner is not None:
            problem = f"{address} is the address of a card of {owner.replace('/', ' ')}, which runs"
            raise Taken(problem, where=self.where("mac"), hint=hint)
        attach = backend.attach if isinstance(backend, TapBackend) else None
        switch = attach.bridge if isinstance(attach, OnNetwork | OnBridge) else ""
        netns = attach.netns if isinstance(attach, OnNetwork) else ""
        there = facts.places.get(netns) if netns else facts
        if there is not None and address in there.macs_on_bridge.get(switch, ()):
            raise Taken(f"somebody on {switch} has the address {address}", where=self.where("mac"), hint=hint)

    def where(self, key: str) -> str:
        return self.error(key, "").where

    # ---------------------------------------------------------------- what its model can do

    def queues(self, model: str, cpus: int) -> int:
        wanted = first(self.spec.queues, self.preset.queues, otherwise=1)
        able = cards.is_virtio(model) and (self.linked or self.mode is NicMode.VHOST_USER)
        if wanted == AUTO:
            return min(cpus, MAX_QUEUES) if able else 1
        if wanted > 1 and not able and self.spec.queues is not None:
            raise self.error("queues", f"model {model} has one queue", 'only model = "virtio" has more')
        return wanted if able else 1

    def vhost(self, model: str) -> bool:
        wanted = first(self.spec.vhost, self.preset.vhost, otherwise=Switch.AUTO)
        able = cards.is_virtio(model) and self.linked
        if wanted is Switch.ON and not able and self.spec.vhost is not None:
            raise self.error("vhost", f"model {model} cannot use vhost", 'only model = "virtio" can')
        if wanted is Switch.ON and able and not self.scene.facts.vhost_net:
            self.scene.lack("/dev/vhost-net", '`modprobe vhost_net` makes it; or vhost = "auto"')
        return able and (wanted is Switch.ON or (wanted is Switch.AUTO and self.scene.facts.vhost_net))

    def mtu(self, model: str, backend: Backend) -> int | None:
        """Return the MTU to announce to the guest: what the file has, or that of its network if it is unusual."""
        given = self.spec.mtu
        behind = backend.mtu if isinstance(backend, Linked) else cards.USUAL_MTU
        if given is not None and given > behind:
            raise self.error("mtu", f"{given} is more than the {behind} of what is behind the card")
        if not cards.is_virtio(model):
            if given not in (None, behind):
                raise self.error(
                    "mtu", f"model {model} cannot tell the guest", 'only model = "virtio" can; or set it in the guest'
                )
            return None
        wanted = first(given, self.preset.mtu, otherwise=behind)
        return None if given is None and wanted == cards.USUAL_MTU else min(wanted, behind)

    # ---------------------------------------------------------------- how much may pass it

    def rate(self) -> Rate:
        """Return its rate, and note what the kernel lacks for that: one of the two ways takes a diversion."""
        rate = self.spec.rate or Rate()
        diverted = rate.outbound if self.mode is NicMode.TAP else rate.inbound
        needed = () if rate == Rate() else SHAPING if diverted is None else (*SHAPING, *DIVERTING)
        self.needs_modules(needed, "rate", "to limit a rate")
        return rate

    def impair(self) -> Impairment | None:
        """Return what is done to its packets, and note what the kernel lacks for that: one of the ways is diverted."""
        if self.spec.impair is None or self.spec.impair == Impairment():
            return None
        self.needs_modules((NETEM, *DIVERTING), "impair", "to impair what passes a card")
        return self.spec.impair

    def needs_modules(self, needed: Collection[str], key: str, what: str) -> None:
        for module in needed:
            if module in self.scene.facts.shaping_lacks:
                hint = f"`modprobe` finds a module that is there; without it leave out {self.spec.path}.{key}"
                self.scene.lack(f"{module} in the kernel, {what}", hint)

    # ---------------------------------------------------------------- programs of the user's

    def program(self, key: str, name: str | None) -> str | None:
        if name is None:
            return None
        path = absolute(self.scene.spec, name)
        fact = self.scene.file(f"{self.spec.path}.{key}", path)
        if not fact.regular or not fact.executable:
            hint = f"chmod +x {path}" if fact.regular else ""
            raise self.error(key, f"{path} is not a program", hint)
        return path


def macvlan_name(parent: str) -> str:
    """Return the interface name of the host's own macvlan on a parent."""
    return names.ifname("host", parent)


def stable_bridge_mac(scene: Scene, network: str) -> str:
    """Return an address for a network's own bridge: the same for every lab file that declares it."""
    return mac.stable(scene.facts.machine_id, "network", network)
