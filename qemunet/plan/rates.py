"""Rates and impairments of cards: what is done to which direction, at the start and while a guest runs.

The kernel limits what it sends by a link, and the two kinds of cards look at it from different ends. By a tap it sends
what the guest receives; by a macvtap it sends what the guest sends. The other direction is diverted through an ifb.
"""

from __future__ import annotations

from collections.abc import Iterator

from qemunet import steps
from qemunet.facts import Facts
from qemunet.frozen import frozen, replace
from qemunet.model import mac, names
from qemunet.model.nic import Linked, MacvtapBackend, Nic, Rate, TapBackend
from qemunet.model.vm import Vm
from qemunet.steps import AddLink, DelLink, IfbLink, Mark, SetLink, sysctl_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.steps import Step

_HEADER = 18  # bytes of Ethernet around a packet: addresses, type, and a VLAN's tag
_FRAMES = 10 * (1500 + _HEADER)
_PER_SECOND = 100  # a bucket is filled so often: more would be seen as a burst, less costs throughput
_WAIT = 20  # of a second: how long a packet may wait; more is delay, and less lets TCP lose too many


def limit(vm: Vm, nic: Nic, facts: Facts) -> tuple[Step, ...]:
    """Return what limits and impairs a card whose host side is there; nothing for one that has nothing of that."""
    return change(replace(nic, rate=Rate(), impair=None), nic, vm, facts)


def change(old: Nic, new: Nic, vm: Vm, facts: Facts) -> tuple[Step, ...]:
    """Return what takes a card of a vm that may run from its old rate and impairment to its new ones.

    Its host side is the same.

    The photograph from before, that makes their inverses, has to show the links of `links_of`. When an ifb is deleted
    that is the last step: nothing would bring it back, so it waits until the change is final.
    """
    if not isinstance(new.backend, Linked):
        return ()
    was, now = _shape(old), _shape(new)
    return (
        *_queued(new.backend.ifname, was.direct, now.direct),
        *_diverted(new, vm, facts, was.diverted, now.diverted),
    )


def links_of(vm: Vm, nic: Nic) -> frozenset[str]:
    """Return the names of the links that a card's rate may change."""
    return frozenset({nic.backend.ifname, _ifb(vm, nic)}) if isinstance(nic.backend, Linked) else frozenset()


@frozen
class _Queue:
    """What is done to packets before a link sends them: first they are impaired, then limited."""

    bucket: steps.Bucket | None = None
    impairment: steps.Impairment | None = None


@frozen
class _Shape:
    """What is on a card's link itself, and what is on the ifb beside it."""

    direct: _Queue
    diverted: _Queue


def _shape(nic: Nic) -> _Shape:
    def queue(rate: int | None, mtu: int) -> _Queue:
        return _Queue(bucket(rate, mtu), nic.impair)

    match nic.backend:
        case TapBackend(mtu=mtu):
            return _Shape(queue(nic.rate.inbound, mtu), queue(nic.rate.outbound, mtu))
        case MacvtapBackend(mtu=mtu):
            return _Shape(queue(nic.rate.outbound, mtu), queue(nic.rate.inbound, mtu))
        case _:
            return _Shape(_Queue(), _Queue())


def bucket(rate: int | None, mtu: int) -> steps.Bucket | None:
    """Return a bucket for bits per second, in which a few of the largest packets of a link have room."""
    if rate is None:
        return None
    burst = max(rate // 8 // _PER_SECOND, _FRAMES, 2 * (mtu + _HEADER))
    return steps.Bucket(rate, burst, burst + rate // 8 // _WAIT)


def _queued(name: str, was: _Queue, now: _Queue) -> Iterator[Step]:
    """Yield what takes a link from one queue to another; a bucket that comes below an impairment is another one."""
    under, below = was.impairment is not None, now.impairment is not None
    old = was.bucket
    if old is not None and (now.bucket is None or under != below):
        yield steps.Unlimit(name, old, under)
        old = None
    if now.impairment is not None and now.impairment != was.impairment:
        yield steps.Impair(name, now.impairment, was.impairment)
    elif was.impairment is not None and now.impairment is None:
        yield steps.Unimpair(name, was.impairment)
    if now.bucket is not None and now.bucket != old:
        yield steps.Limit(name, now.bucket, old, below)


def _diverted(nic: Nic, vm: Vm, facts: Facts, was: _Queue, now: _Queue) -> Iterator[Step]:
    assert isinstance(nic.backend, Linked), "it has no link"
    name, mark = _ifb(vm, nic), _mark(vm, nic, facts)
    if was != _Queue() and now == _Queue():
        yield steps.Undivert(nic.backend.ifname, name)
        yield DelLink(name, mark)
    elif was != _Queue():
        yield from _queued(name, was, now)
    elif now != _Queue():
        yield AddLink(name, IfbLink(mac.host_twin(nic.mac), nic.backend.mtu), mark)
        yield steps.SetSysctl(f"net.ipv6.conf.{sysctl_name(name)}.disable_ipv6", "1")
        yield from _queued(name, was, now)
        yield SetLink(name, up=True)
        yield steps.Divert(nic.backend.ifname, name)


def _ifb(vm: Vm, nic: Nic) -> str:
    return names.ifb(vm.name, nic.id)


def _mark(vm: Vm, nic: Nic, facts: Facts) -> Mark:
    scope = f"vm/{vm.name}"
    return Mark(scope, f"{nic.id}.ifb", names.group(facts.runtime, scope))
