"""Compares a vm that runs with what it should be: which cards come, go, move or change, and what that disturbs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from qemunet.frozen import as_dict, frozen, replace
from qemunet.model.guard import Guard
from qemunet.model.nic import (
    AsItIs,
    Forward,
    Hook,
    Linked,
    LinkState,
    MacvtapBackend,
    Nic,
    OnBridge,
    OnNetwork,
    Rate,
    TapBackend,
    UserBackend,
)
from qemunet.model.remote import (
    DgramBackend,
    HostdevBackend,
    McastBackend,
    PasstBackend,
    Remote,
    StreamBackend,
    VdeBackend,
    VhostUserBackend,
)
from qemunet.model.vm import NicBus, Vm

_USUAL_MTU = 1500  # of a guest that was told nothing
_NAMED = {
    "ips": "ip",
    "gateways": "gateway",
    "hook": "ifup, ifdown",
    "port_isolation": "port-isolation",
    "vlans": "vlan",
    "port_profile": "port-profile",
}  # what a field is called in a file


class Disruption(StrEnum):
    """What a change costs the guest."""

    LIVE = "live"  # nothing, or a cable that is pulled for a moment
    REPLUG = "replug"  # a card that is taken out and put in
    RESTART = "restart"  # nothing of it can be done while it runs


@frozen
class Add:
    """A card that is to be plugged in."""

    vm: str
    nic: Nic

    disruption = Disruption.LIVE

    def describe(self) -> str:
        return f"plug in {self.nic.id} ({', '.join(filter(None, (self.nic.model, behind(self.nic), self.nic.mac)))})"


@frozen
class Remove:
    """A card that is to be unplugged."""

    vm: str
    nic: Nic

    disruption = Disruption.LIVE

    def describe(self) -> str:
        return f"unplug {self.nic.id} ({', '.join(filter(None, (behind(self.nic), self.nic.mac)))})"


@frozen
class Replug:
    """A card that is to be another one in the same slot: a property that a card in place cannot change."""

    vm: str
    old: Nic
    new: Nic

    disruption = Disruption.REPLUG

    def describe(self) -> str:
        what = ", ".join(key for key in as_dict(self.old) if getattr(self.old, key) != getattr(self.new, key))
        if type(self.old.backend) is not type(self.new.backend) or self.old.netns != self.new.netns:
            what = f"{behind(self.old)} to {behind(self.new)}"
        return f"unplug {self.new.id} and plug it in again ({what.replace('_', '-')})"


@frozen
class Change:
    """A card that changes in its slot: its network, its cable, its forwards, its rate, what is noted of it."""

    vm: str
    old: Nic
    new: Nic

    disruption = Disruption.LIVE

    def describe(self) -> str:
        return f"{self.new.id}: {'; '.join(_differences(self.old, self.new))}"


@frozen
class Restart:
    """Something that only a restart changes; `nic`: of which card, if it is about one."""

    vm: str
    what: str
    nic: str = ""

    disruption = Disruption.RESTART

    def describe(self) -> str:
        return self.what


Difference = Add | Remove | Replug | Change | Restart


def differences(old: Vm, new: Vm) -> tuple[Difference, ...]:
    """Return what it takes to make a vm that runs be like another one: first what goes, then what comes."""
    found = list(_cards(old, new))
    if old.machine.nic_bus is NicBus.MMIO:
        found = [_fixed(one) for one in found]
    elif new.shared_memory and not old.shared_memory:
        found = [_unshared(one) for one in found]
    found.sort(key=lambda one: not isinstance(one, Remove))
    return (*found, *_restarts(old, new))


def behind(nic: Nic) -> str:
    """Say in a few words what is behind a card."""
    match nic.backend:
        case UserBackend():
            return "user"
        case TapBackend(ifname=ifname, attach=AsItIs()):
            return f"tap {ifname} of somebody else"
        case TapBackend(attach=OnNetwork(network=network)):
            return f"network {network}"
        case TapBackend(attach=OnBridge(bridge=bridge)):
            return f"bridge {bridge}"
        case TapBackend():
            return "point to point"
        case MacvtapBackend(parent=parent, mode=mode):
            return f"macvtap {mode} on {parent}"
        case _:
            return _behind_remote(nic.backend)


def _behind_remote(backend: Remote) -> str:
    match backend:
        case StreamBackend(address=address, listen=listen):
            return f"stream {'at' if listen else 'to'} {address}"
        case DgramBackend(local=local, remote=remote):
            return f"dgram from {local} to {remote}"
        case McastBackend(group=group):
            return f"mcast {group}"
        case VdeBackend(path=path):
            return f"vde {path}"
        case PasstBackend():
            return "passt"
        case VhostUserBackend(path=path):
            return f"vhost-user {path}"
        case HostdevBackend(device=device):
            return f"hostdev {device}"


def settled(old: Nic, new: Nic, *, left_open: bool) -> Nic:
    """Return a card with what it keeps while it stays in its slot: the MTU that its guest was told.

    `left_open`: nobody has chosen one for it. On a network with more room it need not use that.
    """
    used = old.guest_mtu or _USUAL_MTU
    behind = _largest(new) or _USUAL_MTU
    if used != (new.guest_mtu or _USUAL_MTU) and not (left_open and used <= behind):
        return new
    kept = replace(new, guest_mtu=old.guest_mtu if behind == used or old.backend == new.backend else used)
    return kept if _in_place(old) == _in_place(kept) else new


def moves(old: Nic, new: Nic) -> bool:
    """Tell whether a card goes to another network or bridge, with all else in place: a tap stays where it was made."""
    before, after = _plugged_into(old), _plugged_into(new)
    return None not in (before, after) and before != after and old.netns == new.netns


def readdressed(old: Nic, new: Nic) -> dict[str, str]:
    """Return the addresses that a card had, each with that of its kind which it has instead; none if it has moved."""
    plain = [[text.partition("/")[0] for text in nic.ips] for nic in (old, new)]
    if moves(old, new) or plain[0] == plain[1]:
        return {}
    first = {":" in one: one for one in reversed(plain[1])}
    return {was: first[":" in was] for was in plain[0] if was not in plain[1] and (":" in was) in first}


def _plugged_into(nic: Nic) -> OnNetwork | OnBridge | None:
    attach = nic.backend.attach if isinstance(nic.backend, TapBackend) and not nic.backend.adopted else None
    return attach if isinstance(attach, OnNetwork | OnBridge) else None


def _cards(old: Vm, new: Vm) -> Iterator[Difference]:
    there = {nic.id: nic for nic in old.nics}
    wanted = {nic.id: nic for nic in new.nics}
    yield from (Remove(old.name, nic) for name, nic in there.items() if name not in wanted)
    for name, nic in wanted.items():
        if name not in there:
            yield Add(old.name, nic)
        elif there[name] != nic:
            yield _changed(old.name, there[name], nic)


def _changed(vm: str, old: Nic, new: Nic) -> Difference:
    same = _in_place(old) == _in_place(new) and (moves(old, new) or _largest(old) == _largest(new))
    return Change(vm, old, new) if same else Replug(vm, old, new)


def _largest(nic: Nic) -> int | None:
    """Return the largest packet that the host side of a card takes; it goes by the bridge, and changes with that."""
    return nic.backend.mtu if isinstance(nic.backend, Linked) else None


def _in_place(nic: Nic) -> Nic:
    """Return a card without what can change while it stays in its slot."""
    backend = nic.backend
    match backend:
        case UserBackend():
            backend = replace(backend, forwards=())
        case TapBackend(attach=OnNetwork() | OnBridge(), adopted=False):
            backend = replace(backend, attach=OnNetwork("", "", netns=nic.netns), mtu=0)
        case _:
            pass
    used = nic.guest_mtu or _USUAL_MTU
    plain = replace(nic, link=LinkState.UP, ips=(), gateways=(), hook=Hook(), rate=Rate(), impair=None, guard=Guard())
    return replace(plain, backend=backend, guest_mtu=used, port_isolation=False, vlans=None, port_profile=None)


def _fixed(one: Difference) -> Difference:
    """Return the difference on a machine whose cards neither come nor go."""
    match one:
        case Add(nic=nic) | Remove(nic=nic) | Replug(new=nic):
            return Restart(one.vm, f"{one.describe()}: the cards of this machine are fixed while it runs", nic.id)
    return one


def _unshared(one: Difference) -> Difference:
    """Return the difference on a machine whose memory no backend of vhost-user can see."""
    match one:
        case Add(nic=nic) | Replug(new=nic) if isinstance(nic.backend, VhostUserBackend):
            return Restart(one.vm, f"{one.describe()}: its memory was not shared when it started", nic.id)
    return one


def _differences(old: Nic, new: Nic) -> Iterator[str]:
    if moves(old, new):
        yield f"from {behind(old)} to {behind(new)}"
    if old.link is not new.link:
        yield f"cable {'in' if new.link is LinkState.UP else 'out'}"
    if _forwards(old) != _forwards(new):
        yield "forwards"
    if old.guard.level is not new.guard.level:
        yield "guard"
    for key in ("port_profile", "rate", "impair", "port_isolation", "vlans", "ips", "gateways", "hook"):
        if getattr(old, key) != getattr(new, key):
            yield _NAMED.get(key, key)


def _forwards(nic: Nic) -> tuple[Forward, ...]:
    return nic.backend.forwards if isinstance(nic.backend, UserBackend) else ()


def _restarts(old: Vm, new: Vm) -> Iterator[Restart]:
    for key in as_dict(old):
        if key in _NOT_OF_THE_MACHINE:
            continue
        was, wanted = getattr(old, key), getattr(new, key)
        if was != wanted:
            yield Restart(old.name, f"{key.replace('_', '-')}: {_said(was)} to {_said(wanted)}")


_NOT_OF_THE_MACHINE = ("name", "nics", "depends", "ready")  # those two are about starts that will be


def _said(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, StrEnum | str | int):
        return str(value) or "none"
    return "other settings" if value else "none"
