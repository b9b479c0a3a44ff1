"""Writes what is of the port of a card, its own and that of its port profile, as TOML has it: guard, rate, VLANs."""

from __future__ import annotations

from qemunet.config import remote
from qemunet.model import impair, vlan
from qemunet.model.nic import rate_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qemunet.model.network import Network, PortProfile
    from qemunet.model.nic import Nic, Rate

    Item = str | int
    Value = Item | Mapping[str, Item | tuple[Item, ...]] | None


def of_profile(profile: PortProfile) -> Iterator[tuple[str, Value]]:
    """Yield the keys of a port profile; values that are None are left out."""
    yield "guard", None if profile.guard is None else str(profile.guard)
    yield "rate", None if profile.rate is None else _rate(profile.rate)
    yield "impair", None if profile.impair is None else impair.words(profile.impair)
    yield "port-isolation", profile.port_isolation
    yield "vlan", None if profile.vlan is None else vlan.table(profile.vlan)


def of_card(nic: Nic, network: Network | None, *, whole: bool) -> Iterator[tuple[str, Value]]:
    """Yield those of a card, likewise; `whole`: with what its port profile has, too.

    A key that is not there is the profile's, so a card that has not all of that is written without its profile.
    """
    own = dict(_own(nic, network))
    profile = None if network is None else network.port_profile(nic.port_profile)
    preset = {} if profile is None else {key: one for key, one in of_profile(profile) if one is not None}
    if "port-isolation" in preset:
        own["port-isolation"] = nic.port_isolation
    if profile is not None and preset.keys() <= {key for key, one in own.items() if one is not None}:
        yield "port-profile", profile.name
        own = own if whole else {key: one for key, one in own.items() if preset.get(key) != one}
    yield from own.items()


def _own(nic: Nic, network: Network | None) -> Iterator[tuple[str, Value]]:
    isolating = network is not None and network.port_isolation
    yield "rate", _rate(nic.rate) or None
    yield "impair", None if nic.impair is None else impair.words(nic.impair)
    yield "guard", str(nic.guard.level) if remote.is_guardable(nic) else None
    # What is its network's is left to that: the card may go to another one.
    yield "port-isolation", nic.port_isolation if nic.port_isolation != isolating else None
    yield "vlan", None if nic.vlans is None else vlan.table(nic.vlans)


def _rate(rate: Rate) -> dict[str, str]:
    ways = {"in": rate.inbound, "out": rate.outbound}
    return {way: rate_text(one) for way, one in ways.items() if one is not None}
