"""Which keys belong together: the mode of a card, a network or a boot, and the keys that are out of place in it."""

from __future__ import annotations

import typing

from qemunet.config import keys
from qemunet.config.hints import listed
from qemunet.config.spec import BootSpec, LabSpec, NetworkSpec, NicMode, NicSpec
from qemunet.model.network import NetworkMode
from qemunet.model.nic import MacvtapMode

if typing.TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from qemunet.config.keys import Key, Table

_NETWORK = {
    NetworkMode.PRIVATE: keys.PRIVATE,
    NetworkMode.ISOLATED: keys.ISOLATED,
    NetworkMode.BRIDGE: keys.BRIDGE,
}


def nic_mode(nic: NicSpec) -> NicMode:
    """Return a card's mode; where the file leaves it out, its other keys tell."""
    if nic.mode is not None:
        return nic.mode
    if nic.parent is not None or nic.macvtap is not None:
        return NicMode.MACVTAP
    tapped = (nic.network, nic.bridge, nic.address, nic.routes)
    return NicMode.TAP if any(one is not None for one in tapped) else NicMode.USER


def is_point_to_point(nic: NicSpec) -> bool:
    """Tell whether a card is a cable to the host: a tap on nothing."""
    return nic_mode(nic) is NicMode.TAP and nic.network is None and nic.bridge is None


def network_mode(network: NetworkSpec) -> NetworkMode:
    """Return a network's mode."""
    return network.mode or NetworkMode.ISOLATED


def check_nic(spec: LabSpec, nic: NicSpec) -> None:
    """Raise ConfigError if keys of a card do not go together."""
    _belong(spec, nic.path, nic, keys.NIC, _circumstances(nic), f"this card {_described(nic)}")
    if nic.network is not None and nic.bridge is not None:
        hint = "a network has its own bridge; keep one of the two"
        raise spec.error(f"{nic.path}.bridge", f'this card is on network "{nic.network}" already', hint)
    if nic_mode(nic) is NicMode.MACVTAP and nic.parent is None:
        raise spec.error(f"{nic.path}.parent", 'mode "macvtap" needs a parent', 'as in parent = "eth1"')
    if nic.parent == "lo":
        problem = "lo is no Ethernet interface, which a macvtap needs below it"
        raise spec.error(f"{nic.path}.parent", problem, 'as in parent = "eth1"')
    if nic.host_macvlan:
        _check_host_macvlan(spec, nic)


def _check_host_macvlan(spec: LabSpec, nic: NicSpec) -> None:
    path = f"{nic.path}.host-macvlan"
    if nic.macvtap not in (None, MacvtapMode.BRIDGE):
        problem = f'a macvtap in mode "{nic.macvtap}" does not reach a macvlan beside it'
        raise spec.error(path, problem, 'only macvtap = "bridge" joins the two; or a second card with mode = "user"')
    if not nic.ip:
        problem = "the host has to know at which addresses it finds the guest"
        raise spec.error(path, problem, 'as in ip = ["192.0.2.11/24"]')


def check_network(spec: LabSpec, network: NetworkSpec) -> None:
    """Raise ConfigError if keys of a network do not go together."""
    mode = network_mode(network)
    _belong(spec, network.path, network, keys.NETWORK, {_NETWORK[mode]}, f'this network is in mode "{mode}"')
    if mode is NetworkMode.BRIDGE and network.bridge is None:
        hint = 'as in bridge = "br0"; for a bridge of its own: mode = "private" or "isolated"'
        raise spec.error(f"{network.path}.bridge", 'mode "bridge" needs the name of the existing bridge', hint)


def check_boot(spec: LabSpec, path: str, boot: BootSpec) -> None:
    """Raise ConfigError if keys of a boot do not go together."""
    if boot.kernel is not None and boot.guest is not None:
        raise spec.error(
            f"{path}.guest", "there is a kernel already", "guest stands in place of kernel, initrd and append"
        )
    loaded = boot.kernel is not None or boot.guest is not None
    actual = {keys.DIRECT} if boot.kernel is not None else set() if loaded else {keys.FROM_FIRMWARE}
    described = "there is no kernel" if boot.kernel is None and boot.guest is None else "this one has a kernel"
    if boot.guest is not None:
        described = f'this one is guest "{boot.guest}"'
    _belong(spec, path, boot, keys.BOOT, actual, described)


def _belong(spec: LabSpec, path: str, values: object, table: Table, actual: AbstractSet[str], described: str) -> None:
    for key in table.keys.values():
        if key.belongs and getattr(values, key.field) is not None and not actual & {*key.belongs}:
            raise _misplaced(spec, path, key, described)


def _misplaced(spec: LabSpec, path: str, key: Key, described: str) -> Exception:
    problem = f"belongs to {listed(key.belongs, 'or')}, and {described}"
    return spec.error(f"{path}.{key.name}", problem)


def _circumstances(nic: NicSpec) -> set[str]:
    match nic_mode(nic):
        case NicMode.USER:
            return {keys.USER}
        case NicMode.MACVTAP:
            return {keys.MACVTAP}
        case NicMode.TAP if nic.network is not None:
            return {keys.TAP, keys.ON_NETWORK}
        case NicMode.TAP if nic.bridge is not None:
            return {keys.TAP}
        case NicMode.TAP:
            return {keys.TAP, keys.POINT_TO_POINT}


def _described(nic: NicSpec) -> str:
    if nic_mode(nic) is not NicMode.TAP:
        return f'is in mode "{nic_mode(nic)}"' + ("" if nic.mode else ", for it says no other")
    if nic.network is not None:
        return f'is on network "{nic.network}"'
    return f'is on bridge "{nic.bridge}"' if nic.bridge is not None else "is a point-to-point one"
