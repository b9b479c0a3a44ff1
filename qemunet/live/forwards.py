"""Lets the forwards of networks lead to where a card is now: to its other address, or on another network."""

from __future__ import annotations

import typing

from qemunet.config import read, units
from qemunet.errors import QemunetError
from qemunet.frozen import replace
from qemunet.live import netchange, session
from qemunet.model.nic import OnNetwork, TapBackend
from qemunet.plan import live
from qemunet.plan.links import network_scope

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qemunet.config.spec import NetworkSpec
    from qemunet.host.linux import LinuxHost
    from qemunet.model.nic import Forward, Nic
    from qemunet.records import VmRecord
    from qemunet.state import Runtime

    Forwards = tuple[Forward, ...]


def follow(runtime: Runtime, host: LinuxHost, vm: VmRecord, old: Nic, new: Nic) -> None:
    """Let the forwards to a card lead to what it has become.

    A network that it has left has none to it any more; one that it has come to gets those that the lab file of its vm
    has there. Raises any QemunetError; then each network is as it was, or as it shall be.
    """
    was, now = network_of(old), network_of(new)
    if was == now:
        moved = live.readdressed(old, new)
        if now is not None and moved:
            _change(runtime, host, now, lambda known: _led(known.forward or (), moved))
        return
    if was is not None:
        gone = set(_plain(old)) - _others(runtime, was, vm.name, old.id)
        _change(runtime, host, was, lambda known: tuple(one for one in known.forward or () if one.vm not in gone))
    if now is not None:
        told = _declared(vm, now)
        _change(runtime, host, now, lambda known: _with(known, _to(new, vm.name, told, known), told))


def network_of(nic: Nic) -> str | None:
    """Return the network that a card is plugged into."""
    attach = nic.backend.attach if isinstance(nic.backend, TapBackend) else None
    return attach.network if isinstance(attach, OnNetwork) else None


def _change(runtime: Runtime, host: LinuxHost, name: str, wanted: Callable[[NetworkSpec], Forwards]) -> None:
    scope = runtime.scope(network_scope(name))
    with netchange.reaped(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        if scope.fingerprint() is None or not scope.in_use():
            return
        spec = read.load(scope.path("net.toml"))
        known = spec.network(name)
        forwards = wanted(known) if known is not None else ()
        if known is not None and forwards != (known.forward or ()):
            other = replace(known, forward=forwards or None)
            netchange.applied(runtime, host, replace(spec, networks=(other,)), other, scope, dry=False)


def _led(forwards: Forwards, moved: dict[str, str]) -> Forwards:
    return tuple(replace(one, vm=moved.get(one.vm, one.vm)) for one in forwards)


def _with(known: NetworkSpec, more: Iterator[Forward], told: Forwards) -> Forwards:
    """Return the forwards of a network with some more, in the order in which its file has them."""
    order = {_port(one): index for index, one in enumerate(told)}
    every = tuple(dict.fromkeys((*(known.forward or ()), *more)))
    return tuple(sorted(every, key=lambda one: order.get(_port(one), len(order))))


def _port(one: Forward) -> tuple[object, ...]:
    return one.protocol, one.address, one.ports


def _declared(vm: VmRecord, network: str) -> Forwards:
    """Return what a vm's lab file forwards on a network; nothing if that cannot be read any more."""
    try:
        spec = read.load(vm.file)
    except (QemunetError, OSError):
        return ()
    known = spec.network(network)
    return known.forward or () if known is not None else ()


def _to(nic: Nic, vm: str, forwards: Forwards, network: NetworkSpec) -> Iterator[Forward]:
    """Yield those of the forwards that lead to the card of that vm, to the first of its addresses of each kind."""
    inside = [ip for ip in _plain(nic) if any(units.inside(ip, one) for one in network.address or ())]
    for one in forwards:
        if one.vm in inside:
            yield one
        elif one.vm == vm:
            kinds = {units.bits(ip): ip for ip in reversed(inside)}
            listens = units.bits(one.address) if one.address else None
            yield from (replace(one, vm=ip) for bits, ip in kinds.items() if listens in (None, bits))


def _plain(nic: Nic) -> list[str]:
    return [units.plain(one) for one in nic.ips]


def _others(runtime: Runtime, network: str, vm: str, nic: str) -> set[str]:
    """Return the addresses that other cards have on a network by their records."""
    cards = ((one.name, card) for one in runtime.vms() for card in one.nics if card.network == network)
    return {units.plain(ip) for name, card in cards if (name, card.id) != (vm, nic) for ip in card.ips}
