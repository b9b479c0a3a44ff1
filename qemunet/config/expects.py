"""Checks and resolves what a lab expects: that its ends are there, and that one thing is tried which can be."""

from __future__ import annotations

import typing

from qemunet.config import units
from qemunet.config.hints import Bad, did_you_mean, listed
from qemunet.config.scene import first
from qemunet.model.expect import (
    AtNetns,
    AtVm,
    Check,
    Dhcp,
    Elsewhere,
    Expect,
    Family,
    OnHost,
    Ping,
    Source,
    Target,
    Tcp,
    Udp,
    word,
)

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.config.expectkeys import ExpectSpec
    from qemunet.config.spec import LabSpec

HOST = "host"
PATIENCE, SILENCE = 10, 3  # seconds: until it gets through, and in which nothing may
_WAYS = "ping = true, tcp = PORT, udp = PORT or dhcp = true"


def all_of(spec: LabSpec) -> tuple[Expect, ...]:
    """Return what a lab expects, in the order of its file; raises ConfigError."""
    return tuple(_expect(spec, one) for one in spec.expects)


def written(one: Expect) -> Iterator[tuple[str, str | int | None]]:
    """Yield the keys of an expectation as a file has them; what is None is left out."""
    yield "name", one.name
    yield "from", word(one.source)
    yield "to", word(one.target) or None
    match one.check:
        case Ping():
            yield "ping", True
        case Tcp(port):
            yield "tcp", port
        case Udp(port):
            yield "udp", port
        case Dhcp():
            yield "dhcp", True
    yield "allow", one.allow
    yield "network", one.network
    yield "family", None if one.family is None else str(one.family)
    yield "listen", one.check.listen if isinstance(one.check, Tcp) else None
    yield "timeout", f"{one.timeout}s"


def _expect(spec: LabSpec, one: ExpectSpec) -> Expect:
    allow = first(one.allow, otherwise=True)
    check = _check(spec, one, allow=allow)
    source, target = _source(spec, one), _target(spec, one, check)
    _check_network(spec, one)
    _check_family(spec, one, target)
    timeout = first(one.timeout, otherwise=PATIENCE if allow else SILENCE)
    if not timeout:
        raise spec.error(f"{one.path}.timeout", "nothing can be told in no time", 'as in timeout = "10s"')
    return Expect(one.path, source, target, check, allow, timeout, one.network, one.family, one.name)


def _check(spec: LabSpec, one: ExpectSpec, *, allow: bool) -> Check:
    for key, value in (("ping", one.ping), ("dhcp", one.dhcp)):
        if value is False:
            hint = f"{key} = true with allow = false demands that it does not get through"
            raise spec.error(f"{one.path}.{key}", "false asks for nothing", hint)
    given = [key for key in ("ping", "tcp", "udp", "dhcp") if getattr(one, key) is not None]
    if not given:
        raise spec.error(one.path, "it does not say what is to be tried", f"one of {_WAYS}")
    if len(given) > 1:
        hint = "an [[expect]] for each of them"
        raise spec.error(f"{one.path}.{given[1]}", f"{listed(given)} are {len(given)} expectations", hint)
    if one.listen is not None and one.tcp is None:
        raise spec.error(f"{one.path}.listen", f"{given[0]} needs nobody who listens", "it belongs to tcp")
    if one.tcp is not None:
        return Tcp(one.tcp, first(one.listen, otherwise=not allow))
    if one.udp is not None:
        return Udp(one.udp)
    return Ping() if one.ping else Dhcp()


def _source(spec: LabSpec, one: ExpectSpec) -> Source:
    found = _within(spec, one.source or "")
    if one.source is None:
        raise spec.error(f"{one.path}.from", "it does not say from where it is tried", _ends(spec))
    if found is None:
        hint = did_you_mean(one.source, _known(spec), _ends(spec))
        raise spec.error(f"{one.path}.from", f'there is no vm and no namespace "{one.source}"', hint)
    return found


def _target(spec: LabSpec, one: ExpectSpec, check: Check) -> Target | None:
    if isinstance(check, Dhcp):
        if one.to is not None:
            problem = "DHCP asks whoever answers"
            raise spec.error(f"{one.path}.to", problem, 'network = "…" says on which network')
        if one.source == HOST and _within(spec, HOST) == OnHost():
            raise spec.error(f"{one.path}.from", "the host's cards are not asked for DHCP", "a vm or a namespace is")
        return None
    if one.to is None:
        raise spec.error(f"{one.path}.to", "it does not say what is to be reached", _ends(spec))
    return _within(spec, one.to) or _beyond(spec, one)


def _beyond(spec: LabSpec, one: ExpectSpec) -> Elsewhere:
    """Return what is none of the lab. A single word that nobody has is a mistake, not the name of a host."""
    text = one.to or ""
    if one.network is not None:
        problem = f'"{text}" is none of the lab, so nothing is known of its cards'
        raise spec.error(f"{one.path}.network", problem, "leave it out")
    if _is_address(text):
        try:
            return Elsewhere(units.ip(text))
        except Bad as bad:
            raise spec.error(f"{one.path}.to", bad.problem, bad.hint) from None
    from qemunet.config import kinds

    try:
        name = kinds.hostname(text)
    except Bad as bad:
        raise spec.error(f"{one.path}.to", bad.problem, bad.hint) from None
    if "." not in name and name not in _named(spec):
        hint = did_you_mean(name, [*_known(spec), *_named(spec)], _ends(spec, "an address, or a name with a dot"))
        raise spec.error(f"{one.path}.to", f'there is no vm and no namespace "{name}"', hint)
    return Elsewhere(name)


def _named(spec: LabSpec) -> list[str]:
    """Return the hosts that networks of the lab know by name."""
    hosts = [host.name for network in spec.networks for host in network.hosts or () if host.name]
    return hosts + [name for net in spec.networks if net.dns is not None for name, _ in net.dns.hosts or ()]


def _check_network(spec: LabSpec, one: ExpectSpec) -> None:
    known = [network.name for network in spec.networks]
    if one.network is not None and one.network not in known:
        every = f"networks are {listed(known)}" if known else "there is none in this file"
        hint = did_you_mean(one.network, known, every)
        raise spec.error(f"{one.path}.network", f'unknown network "{one.network}"', hint)


def _check_family(spec: LabSpec, one: ExpectSpec, target: Target | None) -> None:
    if one.family is None:
        return
    if target is None:
        raise spec.error(f"{one.path}.family", "DHCP is asked for IPv4 only", "leave it out")
    literal = target.name if isinstance(target, Elsewhere) else ""
    if _is_address(literal) and (":" in literal) != (one.family is Family.IPV6):
        raise spec.error(f"{one.path}.family", f"{literal} is an address of the other kind", "leave it out")


def _is_address(text: str) -> bool:
    """Tell whether a text is meant to be an address, and no name."""
    return ":" in text or text.replace(".", "").isdecimal()


def _within(spec: LabSpec, name: str) -> Source | None:
    if any(vm.name == name for vm in spec.vms):
        return AtVm(name)
    if spec.netns(name) is not None:
        return AtNetns(name)
    return OnHost() if name == HOST else None


def _known(spec: LabSpec) -> list[str]:
    return [*(one.name for group in (spec.vms, spec.spaces) for one in group), HOST]


def _ends(spec: LabSpec, more: str = "") -> str:
    return f"it is one of {listed(filter(None, [*_known(spec), more]), 'or')}"
