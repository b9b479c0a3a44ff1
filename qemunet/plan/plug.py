"""The steps of live changes: what plugs a card into a guest that runs, and what changes one in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qemunet.facts import Facts
from qemunet.frozen import frozen, replace
from qemunet.model.lab import Lab
from qemunet.model.nic import LinkState, Nic, OnBridge, OnNetwork, TapBackend, UserBackend
from qemunet.model.remote import PasstBackend, StreamBackend, VhostUserBackend
from qemunet.model.vm import Vm
from qemunet.plan import claims, is_up, links, live, qemu, rates, scope, shared, spaces, users
from qemunet.plan.ways import Passed
from qemunet.plan.words import Json, as_json
from qemunet.steps import (
    AddCard,
    AddChardev,
    AddNetdev,
    DelLink,
    Part,
    Reserve,
    SetForwards,
    SetGuestLink,
    SetLink,
    SetMaster,
    SetPort,
    SetVlans,
    Step,
    bare,
)

_TOLD, _POLLED = 0.2, 3.0  # seconds for drivers that are interrupted, and for those that look every two seconds
_POLLING = ("e1000", "e1000-82544gc", "e1000-82545em", "pcnet")


@frozen
class Live:
    """What a live change does: `shared` and `own` under the runtime directory's lock, `guest` after it.

    `over` is what takes back that a card uses what it does not use any more, once the change is final. `hook`: what the
    user's program for the end of the card is by then, if that is another one, or is told something else.
    """

    shared: tuple[Part, ...] = ()
    own: tuple[Part, ...] = ()
    guest: tuple[Part, ...] = ()
    over: tuple[Step, ...] = ()
    hook: Hook | None = None


@frozen
class Hook:
    """What is to be run before the host's side of a card goes, instead of what was; None: nothing."""

    what: str
    down: Step | None


def add(lab: Lab, vm: Vm, nic: Nic, seat: Mapping[str, Json], facts: Facts) -> Live:
    """Return what plugs a card in at a place that is free: ``bus`` and ``addr`` as `device_add` wants them.

    Raises Taken if something that it needs is in use.
    """
    needed = shared(lab, nic, facts)
    own = (*claims(lab, vm, nic, facts), *links.pins((nic,), facts), *links.card(vm, nic, facts))
    at_last = (*links.hook(lab.name, vm, nic), *links.connected(vm, nic, facts))
    return Live(
        shared=tuple(part for part in needed if not is_up(part, facts)),
        own=(Part(scope(vm), own, about=nic.id),),
        guest=(Part(scope(vm), (*at_last, *_plugged(vm, nic, seat, facts)), about=nic.id),),
    )


def change(lab: Lab, vm: Vm, old: Nic, new: Nic, facts: Facts) -> Live:
    """Return what makes a card that stays in its slot another one; raises Taken."""
    moved = live.moves(old, new)
    needed = shared(lab, new, facts) if moved else ()
    used, uses = (tuple(users(lab, vm, nic, facts)) for nic in (old, new)) if moved else ((), ())
    pins = links.pins((new,), facts) if moved else ()
    told = () if moved or old.ips == new.ips else _told(lab, vm, old, new, facts)
    known = {_file(one): one for one in used if isinstance(one, Reserve)}
    uses = tuple(_in_place_of(known.get(_file(one)), one) if isinstance(one, Reserve) else one for one in uses)
    used = tuple(one for one in used if not isinstance(one, Reserve) or _file(one) not in map(_file, uses))
    steps = tuple(_changed(vm, old, new, facts, moved=moved))
    gone = tuple(one for one in steps if isinstance(bare(one), DelLink))  # nothing would bring it back
    return Live(
        shared=tuple(part for part in needed if not is_up(part, facts)),
        own=(Part(scope(vm), (*(one for one in uses if one not in used), *pins, *told), about=new.id),),
        guest=(Part(scope(vm), tuple(one for one in steps if one not in gone), about=new.id),),
        over=(*(undo for one in used if one not in uses and (undo := one.inverse(facts)) is not None), *gone),
        hook=_hook(lab, vm, old, new, facts),
    )


def _hook(lab: Lab, vm: Vm, old: Nic, new: Nic, facts: Facts) -> Hook | None:
    """Return the program for the end of a card that is another one; that for its beginning was run long ago."""
    was, now = ([one.inverse(facts) for one in links.hook(lab.name, vm, nic)] for nic in (old, new))
    if [one for one in was if one] == [one for one in now if one]:
        return None
    return Hook(f"have another ifdown for {new.id}", next(iter(now), None))


def _file(step: Step) -> tuple[str, str] | None:
    """Return which file a step is about that tells a network of a card; both may have one server."""
    return (step.directory, step.path) if isinstance(step, Reserve) else None


def _in_place_of(was: Reserve | None, step: Reserve) -> Reserve:
    return step if was is None else replace(step, was=was.text)


def _told(lab: Lab, vm: Vm, old: Nic, new: Nic, facts: Facts) -> Iterator[Step]:
    """Yield what tells the network of a card that stays there of the addresses that it is to have."""
    for was, now in zip(users(lab, vm, old, facts), users(lab, vm, new, facts), strict=True):
        if isinstance(was, Reserve) and isinstance(now, Reserve) and now != was:
            yield replace(now, was=was.text)


def _plugged(vm: Vm, nic: Nic, seat: Mapping[str, Json], facts: Facts) -> Iterator[Step]:
    """The cable is pulled before the guest could look: QEMU answers both commands before it lets it go on."""
    if isinstance(nic.backend, VhostUserBackend):
        yield AddChardev(vm.name, nic.netdev, nic.backend.path)
    if qemu.has_netdev(nic):
        numbered = isinstance(nic.backend, StreamBackend | PasstBackend)
        yield AddNetdev(vm.name, nic.netdev, as_json(qemu.netdev(nic, Passed(vm))), numbered)
    yield AddCard(vm.name, nic.id, as_json(qemu.hotplugged(vm, nic, seat, facts)))
    if nic.link is LinkState.DOWN:
        yield SetGuestLink(vm.name, nic.id, up=False)
        yield from links.cable(nic, on=False)


def _changed(vm: Vm, old: Nic, new: Nic, facts: Facts, *, moved: bool) -> Iterator[Step]:
    was, wanted = old.link is LinkState.UP, new.link is LinkState.UP
    if moved:
        yield from _moved(vm, old, new, was=was)
        was = False
    if old.guard != new.guard:
        from qemunet.plan import guards  # only where it is needed

        yield from spaces.all_at(new.netns, guards.change(old, new, vm, facts))
    if was != wanted:
        yield SetGuestLink(vm.name, new.id, up=wanted, was=was)
        yield from links.cable(new, on=wanted, was=was)
    if isinstance(old.backend, UserBackend) and isinstance(new.backend, UserBackend):
        yield from _forwards(vm, new, old.backend, new.backend)
    if not moved and isinstance(new.backend, TapBackend) and old.port_isolation != new.port_isolation:
        yield spaces.at(new.netns, SetPort(new.backend.ifname, new.port_isolation, was=old.port_isolation))
    if not moved and isinstance(new.backend, TapBackend) and old.vlans != new.vlans:
        yield spaces.at(new.netns, SetVlans(new.backend.ifname, new.vlans, was=old.vlans))
    yield from spaces.all_at(new.netns, rates.change(old, new, vm, facts))


def _moved(vm: Vm, old: Nic, new: Nic, *, was: bool) -> Iterator[Step]:
    """Pull the cable, plug the tap into the other bridge, and leave the cable out.

    A port's isolation and its VLANs do not go with it from bridge to bridge, on the way there or back.
    """
    assert isinstance(old.backend, TapBackend), "only taps are plugged into bridges"
    assert isinstance(new.backend, TapBackend), "only taps are plugged into bridges"
    attach = new.backend.attach
    assert isinstance(attach, OnNetwork | OnBridge), "a cable to the host is another kind of card"
    if was:
        yield SetGuestLink(vm.name, new.id, up=False, was=True, hold=_notice(new))
        yield from links.cable(new, on=False, was=True)
    yield from spaces.all_at(new.netns, _replugged(old, new, old.backend, new.backend, attach.bridge))


def _replugged(old: Nic, new: Nic, was: TapBackend, now: TapBackend, bridge: str) -> Iterator[Step]:
    if old.port_isolation:
        yield SetPort(was.ifname, isolated=False, was=True)
    if old.vlans is not None:
        yield SetVlans(was.ifname, None, was=old.vlans)
    if now.mtu != was.mtu:  # out first, or one of the bridges would follow it
        yield SetMaster(now.ifname, None)
        yield SetLink(now.ifname, mtu=now.mtu)
    yield SetMaster(now.ifname, bridge)
    if new.port_isolation:
        yield SetPort(now.ifname, isolated=True, was=False)
    if new.vlans is not None:
        yield SetVlans(now.ifname, new.vlans)


def _forwards(vm: Vm, nic: Nic, old: UserBackend, new: UserBackend) -> Iterator[Step]:
    before = [rule for one in old.forwards for rule in qemu.forward(one)]
    after = [rule for one in new.forwards for rule in qemu.forward(one)]
    gone = tuple(rule for rule in before if rule not in after)
    come = tuple(rule for rule in after if rule not in before)
    if gone or come:
        yield SetForwards(vm.name, nic.netdev, add=come, remove=gone)


def _notice(nic: Nic) -> float:
    """Return how long a cable has to be out until the guest's driver sees it; some only look now and then."""
    return _POLLED if nic.model in _POLLING else _TOLD
