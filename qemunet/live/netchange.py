"""Changes networks that are up while guests are on them: all of a network's changes come true, or none of them.

Theory of operation. The networks of a lab file that are up are compared with the file one by one, under the runtime
directory's lock (the thinking: `qemunet.plan.netlive`). A change is an operation of the network's journal, as a change
of a vm is one of the vm's (`qemunet.live.change`): its steps are done, ``net.toml`` and ``fingerprint`` are written
beside the old ones, one line makes it final, and the new files take the old ones' place. Before that line, whatever
happens leads back to the old state; after it, what is still to be undone of the old state is undone by whoever comes
next. A file `changing` in the network's scope tells that somebody is at it, or was killed.

An address of the host that guests have leases by stays when the network gets another one, with the rules that belong
to it: they would have no way out until they ask again. A third file, `leaving`, says which and until when. When nobody
needs one any more, the network becomes what it is without it, by the same way: the keeper of a guest on it sees to
that, or the next `gc` or `apply`; and it goes with the network in any case.
"""

from __future__ import annotations

import contextlib
import os
import time
import typing

from qemunet import interrupts, plan, runner
from qemunet.config import modes, profiles, read, resolve
from qemunet.errors import NotTakenBack
from qemunet.frozen import frozen, replace
from qemunet.host import leases
from qemunet.live import session
from qemunet.live.photo import photograph
from qemunet.live.sheets import of_shared
from qemunet.live.taken import refuse_taken_networks
from qemunet.model.network import Network, OwnBridge
from qemunet.plan import leaving, netlive
from qemunet.plan.links import network_fingerprint, network_scope
from qemunet.plan.live import Disruption
from qemunet.state import write_private
from qemunet.steps import Plan, Reconfigure

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qemunet.config.spec import LabSpec, NetworkSpec
    from qemunet.facts import Facts
    from qemunet.host.linux import LinuxHost
    from qemunet.journal import Journal, Owed
    from qemunet.model.lab import Lab
    from qemunet.state import Runtime, Scope
    from qemunet.steps import Part, Step

_CHANGING = "changing"


@frozen
class Row:
    """One line of what there was to do about a network, and whether it was done; a `note` is only to be known.

    With a `cable` it is about that.
    """

    network: str
    what: str
    disruption: str
    done: bool
    note: bool = False
    cable: str = ""


@frozen
class _Thought:
    """A network that is up, what it becomes, and how."""

    lab: Lab
    target: netlive.Target
    old: Network
    facts: Facts
    ways: tuple[Part, ...]
    change: netlive.Change
    leaving: tuple[leaving.Leaving, ...]


def apply(runtime: Runtime, host: LinuxHost, spec: LabSpec, *, dry: bool) -> list[Row]:
    """Make the networks of a lab that are up what it says, as far as that can be; return what there was to do.

    Those that are external, or not up, are none of its business. Raises any QemunetError; then the network that it is
    about is as it was.
    """
    rows: list[Row] = []
    with reaped(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        for network in spec.networks:
            scope = runtime.scope(network_scope(network.name))
            if modes.makes_bridge(network) and scope.fingerprint() is not None:
                rows += applied(runtime, host, spec, network, scope, dry=dry)
    return rows


def see_off(runtime: Runtime, host: LinuxHost) -> list[Row]:
    """Take the old addresses from networks by which nobody has a lease any more; return what was done."""
    rows: list[Row] = []
    with reaped(runtime, host), runtime.exclusive():
        session.drop_half_made(runtime, host)
        for name in overdue(runtime):
            scope = runtime.scope(network_scope(name))
            spec = read.load(scope.path("net.toml"))
            known = spec.network(name)
            if known is not None:
                rows += applied(runtime, host, replace(spec, networks=(known,)), known, scope, dry=False)
    return rows


def overdue(runtime: Runtime) -> list[str]:
    """Return the networks with old addresses that nobody has a lease by any more."""
    return [scope.name.partition("/")[2] for scope in runtime.scopes("net") if overdue_addresses(scope)]


def overdue_addresses(scope: Scope) -> list[str]:
    """Return the old addresses of a network that nobody has a lease by any more."""
    known = scope.leaving()
    if not known or scope.fingerprint() is None:
        return []
    lent, now = leases.read(scope.directory), time.time()
    return [address for address, until in known.items() if leaving.is_over(address, until, lent, now)]


def finish(runtime: Runtime, host: LinuxHost) -> None:
    """Finish changes at which somebody was killed; the runtime directory's lock must be held. Raises NotTakenBack."""
    failures = []
    for scope in runtime.scopes("net"):
        if scope.is_changing():
            with session.working(scope) as journal:
                failures += _recovered(scope, journal, host)
    if failures:
        raise NotTakenBack(failures)


# ---------------------------------------------------------------- one network


def applied(
    runtime: Runtime, host: LinuxHost, spec: LabSpec, network: NetworkSpec, scope: Scope, *, dry: bool
) -> list[Row]:
    """Make one network that is up what it is in a lab, as far as that can be; return what there was to do.

    The runtime directory's lock must be held. Raises any QemunetError; then the network is as it was.
    """
    thought = _think(runtime, host, spec, network, scope)
    lines = thought.target.lines
    if not lines:
        return []
    possible = any(one.disruption is Disruption.LIVE for one in lines)
    notes = list(_notes(runtime, scope, thought, spec)) if possible else []
    if possible and not dry:
        _do(runtime, host, scope, thought)
    done = [not dry and one.disruption is Disruption.LIVE for one in lines]
    rows = [Row(network.name, one.describe(), one.disruption.value, was) for one, was in zip(lines, done, strict=True)]
    return rows + notes


def _think(runtime: Runtime, host: LinuxHost, spec: LabSpec, network: NetworkSpec, scope: Scope) -> _Thought:
    """Resolve and plan the network as it is and as it shall be, both as if it were not up."""
    there = read.load(scope.path("net.toml"))
    known, used = profiles.load_all(there), profiles.load_all(spec)
    facts = photograph(runtime, resolve.wanted(spec, used), host)
    scopes = {name: mark for name, mark in facts.scopes.items() if name != scope.name}
    facts = replace(facts, scopes=scopes)
    name = network.name
    old = resolve.resolve(there, known, facts, strict=False, running=True, networks_only=[name]).network(name)
    old = with_leaving(old, scope)
    lab = resolve.resolve(spec, used, _without(facts, old), networks_only=[name])
    stays = _staying(old, lab.network(name), scope)
    target = netlive.target(old, lab.network(name), tuple(one.address for one in stays))
    was, now = _part(old, facts), _part(target.network, facts)
    cards = _cards(runtime, old, target.network)
    change = netlive.change(was, now, old, target.network, cards)
    facts = _closer(host, facts, change, cards)
    steps = tuple(_with_what_was(step) for step in change.steps)
    lab = replace(lab, networks=tuple(target.network if one.name == name else one for one in lab.networks))
    ways = plan.links.ways(target.network, facts)
    return _Thought(lab, target, old, facts, ways, replace(change, steps=steps), stays)


def with_leaving(network: Network, scope: Scope) -> Network:
    """Return a network that is up with the addresses of before that it still has."""
    known = tuple(scope.leaving())
    if not known or not isinstance(network.switch, OwnBridge):
        return network
    return replace(network, switch=replace(network.switch, leaving=known))


def _staying(old: Network, new: Network, scope: Scope) -> tuple[leaving.Leaving, ...]:
    if not isinstance(old.switch, OwnBridge) or not isinstance(new.switch, OwnBridge):
        return ()
    return leaving.leaving(old, new, leases.read(scope.directory), scope.leaving(), time.time())


def _without(facts: Facts, network: Network) -> Facts:
    """Return the photograph without what the network has of the host's addresses, which are in nobody's way."""
    switch = network.switch
    assert isinstance(switch, OwnBridge), "others are not ours to change"
    own = (switch.ifname, switch.host_ifname)
    addresses = {name: several for name, several in facts.addresses.items() if name not in own}
    return replace(facts, addresses=addresses, routes=tuple(one for one in facts.routes if one.device not in own))


def _part(network: Network, facts: Facts) -> Part:
    assert isinstance(network.switch, OwnBridge), "others are not ours to change"
    return plan.links.bridge(network, network.switch, facts)


def _closer(host: LinuxHost, facts: Facts, change: netlive.Change, cards: Sequence[netlive.Card]) -> Facts:
    """Return the photograph with what a way back has to know: values of switches, and the cards' interfaces."""
    from qemunet.facts import Wanted

    names = frozenset(card.ifname for card in cards if card.ifname is not None)
    near = host.photograph(Wanted(links=names, sysctls=netlive.wanted_sysctls(change)))
    return replace(facts, links={**facts.links, **near.links}, sysctls={**facts.sysctls, **near.sysctls})


def _with_what_was(step: Step) -> Step:
    """Return a step that changes files of a program with what these have in them."""
    if not isinstance(step, Reconfigure):
        return step
    found = []
    for path, _ in step.files:
        with open(os.path.join(step.directory, step.name, path)) as file:
            found.append((path, file.read()))
    return replace(step, was=tuple(found))


def _cards(runtime: Runtime, old: Network, new: Network) -> list[netlive.Card]:
    """Return the cards that are on the network, with what its server is told of them."""
    from qemunet.plan import dhcp

    found = []
    for vm in runtime.vms():
        nics = [nic for nic in vm.nics if nic.network == old.name and vm.state != "dead"]
        for nic in nics:
            name = vm.name if nic is nics[0] else f"{vm.name}-{nic.id}"
            was, now = (dhcp.told(name, nic.mac, nic.ips, one) for one in (old, new))
            found.append(netlive.Card(vm.name, nic.id, nic.ifname, f"{dhcp.HOSTS}/{vm.name}.{nic.id}", was, now))
    return found


def _do(runtime: Runtime, host: LinuxHost, scope: Scope, thought: _Thought) -> None:
    """Change the network, whose difference is not only on paper; an exception takes back what was done."""
    new = [part for part in thought.ways if not plan.is_up(part, thought.facts)]
    refuse_taken_networks(runtime, Plan(shared=tuple(new)))
    for part in new:
        session.make_shared(runtime, host, part, thought.facts, of_shared(thought.lab, part.scope))
    with session.working(scope) as journal:
        _change(scope, journal, host, thought)


@contextlib.contextmanager
def reaped(runtime: Runtime, host: LinuxHost) -> Iterator[None]:
    """Take down at the end what is shared and not used any more, or not yet; an exception goes on."""
    try:
        yield
    except BaseException as error:
        with interrupts.deferred():
            failures = session.reap(runtime, host)
        if failures:
            raise NotTakenBack([str(error), *failures]) from error
        raise
    failures = session.reap(runtime, host)
    if failures:
        raise NotTakenBack(failures)


def _change(scope: Scope, journal: Journal, host: LinuxHost, thought: _Thought) -> None:
    from qemunet.config.write import net_toml

    operation = journal.begin()
    write_private(scope.path(_CHANGING), "")
    try:
        runner.apply(thought.change.steps, thought.facts, host, journal, operation=operation)
        gone = {step.describe() for step in thought.change.gone}
        owed = journal.owed(started=True)
        journal.prepare(operation)
        scope.draft_text("net.toml", net_toml(thought.lab, thought.target.network))
        scope.draft_text("fingerprint", network_fingerprint(thought.target.network))
        scope.draft_text("leaving", "".join(f"{one.address} {one.until or 'never'}\n" for one in thought.leaving))
        journal.commit(
            operation,
            kept=[one.number for one in owed if one.operation == operation and _is_way_back(one)],
            over=[one.number for one in owed if _is_over(one, operation, gone)],
        )
    except BaseException as error:
        failures = _recovered(scope, journal, host)
        if failures:
            raise NotTakenBack([str(error), *failures]) from error
        raise
    failures = _recovered(scope, journal, host)
    _keep(scope, thought.target.network)
    if failures:
        raise NotTakenBack(failures)


def _is_way_back(owed: Owed) -> bool:
    return isinstance(owed.undo, netlive.WAYS_BACK) and not netlive.is_passing(owed.undo)


def _is_over(owed: Owed, operation: int, gone: set[str]) -> bool:
    return netlive.is_passing(owed.undo) if owed.operation == operation else owed.what in gone


def _recovered(scope: Scope, journal: Journal, host: LinuxHost) -> list[str]:
    """Bring a change to one of its ends: the files that belong to that, and nothing that belongs to the other."""
    if journal.is_committed():
        scope.publish()
    else:
        scope.drop_drafts()
    overdue = {one.number for one in journal.overdue()}
    failures = runner.unwind(journal, host, started=True, which=lambda one: one.number in overdue)
    if not failures:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scope.path(_CHANGING))
    return [str(one) for one in failures]


def _keep(scope: Scope, network: Network) -> None:
    if network.keep:
        write_private(scope.path("keep"), "")
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(scope.path("keep"))


# ---------------------------------------------------------------- what is to be known


def _notes(runtime: Runtime, scope: Scope, thought: _Thought, spec: LabSpec) -> Iterator[Row]:
    """Yield what such a change means to guests, and to whom else."""
    old, new = thought.old, thought.target.network
    own = {vm.name for vm in spec.vms}
    others = [
        f"{vm.name} of the lab {vm.lab}" for vm in runtime.vms() if vm.name in scope.users() and vm.name not in own
    ]
    if others:
        yield _note(old, f"it is also used by {', '.join(others)}")
    assert isinstance(old.switch, OwnBridge), "others are not ours to change"
    assert isinstance(new.switch, OwnBridge), "others are not ours to change"
    outside = [one for one in leases.read(scope.directory) if _is_outside(one.ip, new)]
    if outside and (old.services != new.services or old.switch != new.switch):
        who = ", ".join(f"{one.ip} ({one.hostname or one.mac})" for one in outside)
        yield _note(old, f"lent, and outside of what is given out now: {who}; they go when their guests ask again")
    for one in thought.leaving:
        if one.address in old.switch.addresses:
            end = "" if one.until is None else f"{leases.when(one.until)}, or until "
            yield _note(old, f"its address {one.address} stays until {end}nobody has a lease by it")
    if new.switch.mtu > old.switch.mtu:
        names = [f"{vm.name}.{nic.id}" for vm in runtime.vms() for nic in vm.nics if nic.network == old.name]
        if names:
            what = f"{', '.join(names)}: packets of up to {new.switch.mtu} when plugged in again, or the guest sets it"
            yield replace(_note(old, what), disruption=Disruption.REPLUG.value)


def _note(network: Network, what: str) -> Row:
    return Row(network.name, what, Disruption.LIVE.value, done=False, note=True)


def _is_outside(address: str, network: Network) -> bool:
    """Tell whether an address that was lent is none that would be lent now; a reserved one may be anywhere inside."""
    import ipaddress

    from qemunet.plan import dhcp

    ip = ipaddress.ip_address(address)
    if not any(ip in subnet for subnet in dhcp.subnets_of(network)):
        return True
    services = network.services
    if services is None or services.dhcp is None:
        return True
    if ip.version == 6 or address in {host.ip for host in services.hosts}:
        return False
    low, high = (int(ipaddress.ip_address(one)) for one in (services.dhcp.first, services.dhcp.last))
    return not low <= int(ip) <= high
