"""Which keys belong together: the mode of a card, a network or a boot, and the keys that are out of place in it."""

from __future__ import annotations

from qemunet.config import keys, tables
from qemunet.config.hints import listed
from qemunet.config.spec import BootSpec, LabSpec, NetworkSpec, NicMode, NicSpec, VmSpec
from qemunet.config.tables import field_of
from qemunet.frozen import as_dict, replace
from qemunet.model import names
from qemunet.model.network import HostSide, NetworkMode
from qemunet.model.nic import MacvtapMode
from qemunet.model.vm import GuestAgent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from qemunet.config.tables import Table
    from qemunet.errors import ConfigError

_HOSTED = {tables.OWN_BRIDGE, tables.HOST_ON_IT}
_NETWORK = {
    NetworkMode.PRIVATE: {tables.PRIVATE, tables.OWN_BRIDGE},
    NetworkMode.ISOLATED: {tables.ISOLATED, *_HOSTED},
    NetworkMode.NAT: {tables.NAT, *_HOSTED},
    NetworkMode.ROUTED: {tables.ROUTED, *_HOSTED},
    NetworkMode.OPEN: {tables.OPEN, *_HOSTED},
    NetworkMode.BRIDGE: {tables.BRIDGE},
    NetworkMode.MACVTAP: {tables.MACVTAP},
}
_WITH_PORTS = {tables.PORTS, tables.OWN_BRIDGE}
_OF_ITS_LAB = ("path", "name", "external")  # what an external network may have


REMOTE = {
    NicMode.STREAM: tables.STREAM,
    NicMode.DGRAM: tables.DGRAM,
    NicMode.MCAST: tables.MCAST,
    NicMode.VDE: tables.VDE,
    NicMode.PASST: tables.PASST,
    NicMode.VHOST_USER: tables.VHOST_USER,
    NicMode.HOSTDEV: tables.HOSTDEV,
}


def nic_mode(nic: NicSpec) -> NicMode:
    """Return a card's mode; where the file leaves it out, its other keys tell."""
    if nic.mode is not None:
        return nic.mode
    if nic.parent is not None or nic.macvtap is not None:
        return NicMode.MACVTAP
    tapped = (nic.network, nic.bridge, nic.address, nic.routes, nic.adopt or None)
    return NicMode.TAP if any(one is not None for one in tapped) else NicMode.USER


def has_link(nic: NicSpec) -> bool:
    """Tell whether there is an interface of the host behind a card."""
    return nic_mode(nic) in (NicMode.TAP, NicMode.MACVTAP)


def is_point_to_point(nic: NicSpec) -> bool:
    """Tell whether a card is a cable to the host: a tap on nothing."""
    return nic_mode(nic) is NicMode.TAP and nic.network is None and nic.bridge is None and not nic.adopt


def network_mode(network: NetworkSpec) -> NetworkMode:
    """Return a network's mode."""
    return network.mode or NetworkMode.ISOLATED


def bridge_name(network: NetworkSpec) -> str:
    """Return the interface name of a network's bridge."""
    return network.bridge or names.ifname(network.name)


def switch_key(network: NetworkSpec) -> str:
    """Return what is another one for every bridge, wherever it is, as `OnSwitch.key` does."""
    return placed(network.netns, bridge_name(network))


def placed(netns: str | None, ifname: str) -> str:
    """Return what is another one for every interface, wherever it is."""
    return f"{netns}/{ifname}" if netns else ifname


def host_ifname(network: NetworkSpec) -> str:
    """Return the name of the host's end of its cable into a network."""
    return names.ifname(network.name, "host")


def port_ifname(network: NetworkSpec) -> str:
    """Return the name of the other end, which is a port of the bridge."""
    return names.ifname(network.name, "port")


def host_place(network: NetworkSpec) -> HostSide:
    """Return where the host's addresses on a network are."""
    at_end = network.dhcp is not None and network.dhcp.server is not None
    return network.host or (HostSide.VETH if at_end else HostSide.BRIDGE)


def makes_bridge(network: NetworkSpec) -> bool:
    """Tell whether the bridge of a network is ours to make."""
    return not network.external and network_mode(network) is not NetworkMode.MACVTAP and not is_foreign(network)


def is_foreign(network: NetworkSpec) -> bool:
    """Tell whether the bridge of a network is somebody else's, and used as it is."""
    return network_mode(network) is NetworkMode.BRIDGE and network.ports is None


def check_nic(spec: LabSpec, nic: NicSpec) -> None:
    """Raise ConfigError if keys of a card do not go together."""
    _check_port(spec, nic)
    _belong(spec, nic.path, nic, keys.NIC, _circumstances(nic), f"this card {_described(nic)}")
    if nic.network is not None and nic.bridge is not None:
        hint = "a network has its own bridge; keep one of the two"
        raise spec.error(f"{nic.path}.bridge", f'this card is on network "{nic.network}" already', hint)
    if nic_mode(nic) is NicMode.MACVTAP:
        _check_parent(spec, f"{nic.path}.parent", nic.parent)
    network = _macvtap_network(spec, nic)
    if nic_mode(nic) in REMOTE:
        from qemunet.config import remote

        remote.check(spec, nic, nic_mode(nic))
    if nic.adopt:
        _check_adopted(spec, nic, network)
    if nic.host_macvlan:
        _check_host_macvlan(spec, nic)
    elif network is not None:
        _check_on_macvtaps(spec, nic, network)


def _check_adopted(spec: LabSpec, nic: NicSpec, network: NetworkSpec | None) -> None:
    if nic.ifname is None:
        raise spec.error(f"{nic.path}.ifname", "a tap that is there has a name", 'as in ifname = "tap7"')
    if network is not None:
        raise spec.error(f"{nic.path}.adopt", f'the cards of network "{network.name}" are macvtaps, which we make')
    for key, given in (("rate", nic.rate), ("impair", nic.impair)):
        if given is not None:
            problem = f"{key} would change the tap, which is somebody else's"
            raise spec.error(f"{nic.path}.{key}", problem, f"leave out one of {key} and adopt")
    if nic.vlan:
        problem = "the VLANs of a tap that is there (adopt = true) are with whoever has made it"
        raise spec.error(f"{nic.path}.vlan", problem, f"`bridge vlan add dev {nic.ifname} vid …`; or leave out adopt")


def has_port_profiles(spec: LabSpec) -> bool:
    """Tell whether a lab has port profiles, or a card that names one."""
    return any(one.port_profile for one in spec.networks) or any(
        nic.port_profile for vm in spec.vms for nic in vm.nic or ()
    )


def preset(spec: LabSpec) -> LabSpec:
    """Return a lab in which each card says itself what it has from a port profile."""
    if not has_port_profiles(spec):
        return spec
    from qemunet.config import portprofiles  # only where there is any

    return portprofiles.expanded(spec)


def expanded(spec: LabSpec) -> LabSpec:
    """Return a lab in which each card on a network of macvtaps says itself what it is, and has its port profile."""
    spec = preset(spec)
    vms = spec.vms
    if any(network.mode is NetworkMode.MACVTAP for network in spec.networks):
        vms = tuple(replace(vm, nic=vm.nic and tuple(_expanded(spec, nic) for nic in vm.nic)) for vm in vms)
    return replace(spec, vms=vms)


def _expanded(spec: LabSpec, nic: NicSpec) -> NicSpec:
    network = _macvtap_network(spec, nic)
    if network is None:
        return nic
    on = {"parent": network.parent, "macvtap": network.macvtap, "host_macvlan": network.host_macvlan}
    return replace(nic, mode=NicMode.MACVTAP, **on)


def _macvtap_network(spec: LabSpec, nic: NicSpec) -> NetworkSpec | None:
    """Return the network of macvtaps that a card is on."""
    network = spec.network(nic.network) if nic.network is not None else None
    return network if network is not None and network.mode is NetworkMode.MACVTAP else None


def _check_on_macvtaps(spec: LabSpec, nic: NicSpec, network: NetworkSpec) -> None:
    if nic.mode is NicMode.TAP:
        problem = f'the cards of network "{network.name}" are macvtaps'
        raise spec.error(f"{nic.path}.mode", problem, "leave it out")
    if network.host_macvlan and not nic.ip:
        problem = f'network "{network.name}" has host-macvlan, and the host has to know where it finds the guest'
        raise spec.error(f"{nic.path}.ip", problem, 'as in ip = ["192.0.2.11/24"]')


def _check_port(spec: LabSpec, nic: NicSpec) -> None:
    """Raise ConfigError if a card that is no port of a bridge has what only such a port has."""
    if nic_mode(nic) is NicMode.MACVTAP or _macvtap_network(spec, nic) is not None:
        given = [key for key, one in (("port-isolation", nic.port_isolation), ("vlan", nic.vlan)) if one is not None]
        hint = {"port-isolation": 'macvtap = "private" keeps those of one parent apart'}
        for key in given:
            problem = "a macvtap is not a port of a bridge"
            raise spec.error(f"{nic.path}.{key}", problem, hint.get(key, "its parent may be a VLAN's interface"))


def _check_parent(spec: LabSpec, path: str, parent: str | None) -> None:
    if parent is None:
        raise spec.error(path, 'mode "macvtap" needs a parent', 'as in parent = "eth1"')
    if parent == "lo":
        raise spec.error(path, "lo is no Ethernet interface, which a macvtap needs below it", 'as in parent = "eth1"')


def misfits(nic: NicSpec) -> list[str]:
    """Return the fields of a card that have a value and are of no use where it is plugged in."""
    actual = _circumstances(nic)
    placed = [key for key in keys.NIC.keys.values() if key.belongs and not actual & {*key.belongs}]
    found = [key.field for key in placed if getattr(nic, key.field) is not None]
    if nic_mode(nic) is NicMode.HOSTDEV:
        from qemunet.config import hostdev  # only where it is needed

        found += hostdev.misfits(nic)
    return found


def _check_host_macvlan(spec: LabSpec, nic: NicSpec) -> None:
    path = f"{nic.path}.host-macvlan"
    if nic.macvtap not in (None, MacvtapMode.BRIDGE):
        raise _no_macvlan(spec, path, nic.macvtap)
    if not nic.ip:
        problem = "the host has to know at which addresses it finds the guest"
        raise spec.error(path, problem, 'as in ip = ["192.0.2.11/24"]')


def _no_macvlan(spec: LabSpec, path: str, mode: MacvtapMode) -> ConfigError:
    problem = f'a macvtap in mode "{mode}" does not reach a macvlan beside it'
    return spec.error(path, problem, 'only macvtap = "bridge" joins the two; or a second card with mode = "user"')


def check_network(spec: LabSpec, network: NetworkSpec) -> None:
    """Raise ConfigError if keys of a network do not go together."""
    if network.external:
        _check_external(spec, network)
    mode = network_mode(network)
    actual = _NETWORK[mode] | (_WITH_PORTS if mode is NetworkMode.BRIDGE and network.ports is not None else set())
    _belong(spec, network.path, network, keys.NETWORK, actual, f'this network is in mode "{mode}"')
    if mode is NetworkMode.MACVTAP:
        _check_parent(spec, f"{network.path}.parent", network.parent)
        if network.host_macvlan and network.macvtap not in (None, MacvtapMode.BRIDGE):
            raise _no_macvlan(spec, f"{network.path}.host-macvlan", network.macvtap)
    if is_foreign(network) and network.bridge is None:
        hint = 'as in bridge = "br0"; for a bridge of its own: ports = ["eth1"], or mode = "private" or "isolated"'
        raise spec.error(f"{network.path}.bridge", 'mode "bridge" needs the name of the existing bridge', hint)


def _check_external(spec: LabSpec, network: NetworkSpec) -> None:
    for field, value in as_dict(network).items():
        if value is not None and field not in _OF_ITS_LAB:
            problem = "belongs to the lab that makes this network, and here it is external"
            raise spec.error(f"{network.path}.{field.replace('_', '-')}", problem, "leave out one of the two")


def check_boot(spec: LabSpec, path: str, boot: BootSpec) -> None:
    """Raise ConfigError if keys of a boot do not go together."""
    if boot.kernel is not None and boot.guest is not None:
        raise spec.error(
            f"{path}.guest", "there is a kernel already", "guest stands in place of kernel, initrd and append"
        )
    loaded = boot.kernel is not None or boot.guest is not None
    actual = {tables.DIRECT} if boot.kernel is not None else set() if loaded else {tables.FROM_FIRMWARE}
    described = "there is no kernel" if boot.kernel is None and boot.guest is None else "this one has a kernel"
    if boot.guest is not None:
        described = f'this one is guest "{boot.guest}"'
    _belong(spec, path, boot, keys.BOOT, actual, described)


def check_agent(spec: LabSpec, vm: VmSpec) -> None:
    """Raise ConfigError if the built-in guest is to have what is not in it."""
    if vm.agent is GuestAgent.QEMU and vm.boot.guest is not None:
        problem = f'guest "{vm.boot.guest}" has an agent of its own, and not that of QEMU'
        raise spec.error(f"{vm.path}.agent", problem, "leave it out: `exec` and `cp` need no key for this guest")


def _belong(spec: LabSpec, path: str, values: object, table: Table, actual: AbstractSet[str], described: str) -> None:
    belongs = {name: key.belongs for name, key in table.keys.items()}
    belongs |= {name: keys.sub_table(name).belongs for name in (*table.tables, *table.lists)}
    for name, places in belongs.items():
        given = places and getattr(values, field_of(name)) is not None
        if given and not actual & {*places}:
            raise spec.error(f"{path}.{name}", f"belongs to {listed(places, 'or')}, and {described}")


def _circumstances(nic: NicSpec) -> set[str]:
    match nic_mode(nic):
        case NicMode.USER:
            return {tables.USER}
        case NicMode.MACVTAP:
            return {tables.MACVTAP}
        case NicMode.TAP if nic.network is not None:
            return {tables.TAP, tables.ON_NETWORK, tables.ON_BRIDGE}
        case NicMode.TAP if nic.bridge is not None:
            return {tables.TAP, tables.ON_BRIDGE}
        case NicMode.TAP if nic.adopt:
            return {tables.ADOPTED}
        case NicMode.TAP:
            return {tables.TAP, tables.POINT_TO_POINT}
        case other:
            return {REMOTE[other]}


def _described(nic: NicSpec) -> str:
    if nic_mode(nic) is not NicMode.TAP:
        return f'is in mode "{nic_mode(nic)}"' + ("" if nic.mode else ", for it says no other")
    if nic.network is not None:
        return f'is on network "{nic.network}"'
    if nic.adopt:
        return "has the tap of somebody else"
    return f'is on bridge "{nic.bridge}"' if nic.bridge is not None else "is a point-to-point one"
