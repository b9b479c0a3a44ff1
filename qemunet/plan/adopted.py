"""The tap of somebody else behind a card: opened as it is, and plugged in only if the lab says where."""

from __future__ import annotations

from collections.abc import Iterator

from qemunet.facts import Facts, LinkFact
from qemunet.model.nic import Nic, OnBridge, OnNetwork, TapBackend
from qemunet.model.vm import Vm
from qemunet.plan.ways import Passed
from qemunet.steps import AdoptTap, SetPort, Step


def steps(vm: Vm, nic: Nic, tap: TapBackend, facts: Facts) -> Iterator[Step]:
    """Yield what opens a tap of somebody else's, and plugs it in only if it is to be somewhere."""
    link = facts.links.get(tap.ifname) or LinkFact(0, tap.ifname, "tun", "", tap.mtu, up=True)
    yield AdoptTap(Passed(vm).handle(nic.id).name, tap.ifname, link.index, nic.queues)
    if isinstance(tap.attach, OnNetwork | OnBridge) and link.master != tap.attach.bridge:
        from qemunet.plan import ports

        yield from ports.plug(link, tap.attach.bridge, tap.mtu)
    if nic.port_isolation:
        yield SetPort(tap.ifname, isolated=True, was=False)
