"""Changes what a lab says of a card: other keys, another place, and what of the old ones then fits no more."""

from __future__ import annotations

import typing

from qemunet.config import check, keys, modes, read, units
from qemunet.config.remote import absolute_end
from qemunet.config.scene import absolute
from qemunet.errors import UsageError
from qemunet.frozen import as_dict, replace
from qemunet.model.impair import Impairment
from qemunet.model.nic import Rate
from qemunet.model.vlan import Vlans

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qemunet.config.spec import LabSpec, NicSpec

# What says where a card is plugged in: with one of them in a change, the old ones are over.
_ENDS = ("listen", "connect", "group", "local", "socket", "device")
_PLACE = (*_ENDS, "mode", "network", "bridge", "parent", "macvtap", "host_macvlan", "address", "routes")
_CABLE = ("address", "routes")
_NOTHING = {"rate": Rate(), "impair": Impairment(), "vlan": Vlans(), "port_profile": ""}
_OF_PORT_PROFILES = ("rate", "impair", "guard", "port_isolation", "vlan")
_FILES = ("ifup", "ifdown", "tftp", "socket")


def given(keys: Mapping[str, object], file: str, path: str) -> NicSpec:
    """Return what keys of a ``[[vm.NAME.nic]]`` say in a change, where an empty table is none; raises ConfigError."""
    nic = read.nic({key: value for key, value in keys.items() if value != {}}, file, path)
    return replace(nic, **{key: one for key, one in _NOTHING.items() if keys.get(key.replace("_", "-")) == {}})


def changed(old: NicSpec, given: NicSpec) -> NicSpec:
    """Return a card with the keys that are given; in another place, what is of no use there is left out.

    With a port profile it has nothing of its own that such a one could say but what is given with that. Raises
    UsageError for a card that would lose what it has from its profile.
    """
    wanted = {key: value for key, value in as_dict(given).items() if value is not None and key != "path"}
    base = replace(old, **dict.fromkeys(_PLACE)) if _moves(old, given) else old
    base = replace(base, **dict.fromkeys(_OF_PORT_PROFILES)) if given.port_profile else base
    nic = replace(base, **wanted)
    misfits = [field for field in (*modes.misfits(nic), *_lost(nic)) if field not in wanted]
    if "port_profile" in misfits and modes.has_link(nic):
        hint = "--port-profile none leaves that behind; --guard, --rate, --vlan and so on are what the card has instead"
        raise UsageError(f'port-profile "{nic.port_profile}" is of its network, which it would leave', hint=hint)
    nic = replace(nic, **dict.fromkeys(misfits))
    return _without_nothing(nic)


def _without_nothing(nic: NicSpec) -> NicSpec:
    """Return a card without what says that there is none of it, where its port profile is to say it then."""
    fields = _NOTHING if nic.port_profile else ("port_profile",)
    return replace(nic, **{key: None for key in fields if getattr(nic, key) == _NOTHING[key]})


def changed_live(old: NicSpec, given: NicSpec) -> NicSpec:
    """Return what becomes of a card that runs; how large its packets may be was worked out for its old place."""
    return changed(replace(old, mtu=None) if _moves(old, given) else old, given)


def _moves(old: NicSpec, given: NicSpec) -> bool:
    """Tell whether a change says where a card is plugged in: no address there, or no macvlan, does not.

    Nor do other addresses or routes of a card that is a cable to the host.
    """
    said = {key for key in _PLACE if getattr(given, key)}
    is_cable = any(getattr(old, key) is not None for key in _CABLE)
    return bool(said) and not (is_cable and said <= {*_CABLE})


def _lost(nic: NicSpec) -> list[str]:
    """Return the fields that are of no use without an address of the guest, of any of their kinds."""
    kinds = {units.bits(one) for one in nic.ip or ()}
    return ["gateway"] if nic.gateway and not any(units.bits(one) in kinds for one in nic.gateway) else []


def removed_keys(text: str, vm: str, nic: str, values: dict[str, object], file: str) -> tuple[str, ...]:
    """Return the keys of a card in a lab file that other values take away; raises ConfigError.

    Empty if the file does not have the card: whoever changes it says so.
    """
    spec = read.loads(text, file)
    cards = next((check.nics(one) for one in spec.vms if one.name == vm), ())
    old = next((one for index, one in enumerate(cards) if check.nic_id(index, one) == nic), None)
    if old is None:
        return ()
    result = changed(old, given(values, file, f"vm.{vm}.nic {nic}"))
    gone = [field for field, value in as_dict(old).items() if value is not None and getattr(result, field) is None]
    return tuple(key.name for key in keys.NIC.keys.values() if key.field in gone)


def free_id(taken: Iterable[str]) -> str:
    """Return the first of net0, net1 … that is free."""
    known = set(taken)
    return next(name for number in range(len(known) + 1) if (name := f"net{number}") not in known)


def with_absolute_paths(spec: LabSpec, nic: NicSpec) -> NicSpec:
    """Return a card of a file, whose paths are relative to that, for use in another one."""
    named = {key: getattr(nic, key) for key in _FILES if getattr(nic, key) is not None}
    ends = {key: absolute_end(spec, one) for key in ("listen", "connect") if (one := getattr(nic, key)) is not None}
    return replace(nic, **{key: absolute(spec, name) for key, name in named.items()}, **ends)
