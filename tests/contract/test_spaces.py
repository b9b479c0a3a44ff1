"""Namespaces of a lab: made, named, entered by steps, and gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from qemunet.errors import Gone, Taken
from qemunet.facts import Facts, Wanted
from qemunet.frozen import replace
from qemunet.steps import (
    AddAddress,
    AddLink,
    AddNetns,
    AddRoute,
    BridgeLink,
    DelLink,
    DelNetns,
    In,
    Mark,
    NameNetns,
    OpenTap,
    SetLink,
    SetMaster,
    SetSysctl,
    Step,
    UnnameNetns,
    VethLink,
)
from qemunet.testing.fake import FakeHost
from tests import namespace

from .conftest import World

GROUP = 0x4000_0009
CABLE = AddLink(
    "qn-a",
    VethLink("qn-b", "52:54:00:00:00:03", "52:54:00:00:00:04", 1400, "b", "two"),
    Mark("cable/x", "a", GROUP),
)


@pytest.fixture
def spaces(world: World) -> Iterator[World]:
    """A host with two namespaces, and a /run of its own."""
    with nullcontext() if isinstance(world.host, FakeHost) else namespace.own_run():
        for name in ("one", "two"):
            os.makedirs(world.path(f"netns/{name}"))
            world.do(AddNetns(name, f"{name}.test"))
        yield world
        for name in ("one", "two"):
            if inside(world, name) is not None:
                world.do(DelNetns(name))


def inside(world: World, name: str) -> Facts | None:
    wanted = Wanted(links=frozenset({"lo", "qn-a", "qn-b", "br0"}), places=frozenset({name}))
    return world.host.photograph(wanted).places.get(name)


def there(world: World, name: str) -> Facts:
    found = inside(world, name)
    assert found is not None
    return found


def test_a_new_namespace_has_nothing_but_its_lo_which_is_up(spaces: World) -> None:
    """And is not the host's own."""
    assert there(spaces, "one").links.keys() == {"lo"}
    assert there(spaces, "one").links["lo"].up
    with pytest.raises(Taken):
        spaces.do(AddNetns("one", "one"))


def test_a_deleted_one_is_gone_and_can_be_made_again(spaces: World) -> None:
    """Deleting it twice, or doing something in it, finds nothing."""
    spaces.do(DelNetns("one"))
    assert inside(spaces, "one") is None
    for step in (DelNetns("one"), In("one", SetLink("lo", up=False))):
        with pytest.raises(Gone):
            spaces.do(step)
    spaces.do(AddNetns("one", "again"))
    assert there(spaces, "one").links["lo"].up


def test_a_cable_reaches_from_one_into_the_other(spaces: World) -> None:
    """Its ends are nowhere else; each has its mark; the undo of one takes both."""
    step = In("one", CABLE)
    undo = step.inverse(spaces.host.photograph(Wanted(places=frozenset({"one", "two"}))))
    assert undo == In("one", DelLink("qn-a", CABLE.mark))
    spaces.do(step)
    ends = [(there(spaces, place).links.get(name)) for place, name in (("one", "qn-a"), ("two", "qn-b"))]
    assert [(end.group, end.altnames, end.mtu) for end in ends if end] == [
        (GROUP, ("qemunet.cable-x.a",), 1400),
        (GROUP, ("qemunet.cable-x.b",), 1400),
    ]
    assert ("qn-b" in there(spaces, "one").links, "qn-a" in there(spaces, "two").links) == (False, False)
    assert (spaces.link("qn-a"), spaces.link("qn-b")) == (None, None)
    with pytest.raises(Taken):
        spaces.do(step)
    spaces.do(undo)
    assert "qn-b" not in there(spaces, "two").links


def test_a_cable_of_which_the_far_name_is_taken_leaves_nothing(spaces: World) -> None:
    """Whoever has it is told of, where he is."""
    spaces.do(In("two", AddLink("qn-b", BridgeLink("02:00:00:00:00:09", 1500), Mark("net/x", "bridge", GROUP + 1))))
    with pytest.raises(Taken, match="qn-b is a bridge already"):
        spaces.do(CABLE)
    assert spaces.link("qn-a") is None


def test_what_is_done_in_a_namespace_is_seen_there_alone(spaces: World) -> None:
    """Addresses, routes, sysctls and ports; the host's bridge of the same name has nothing of it."""
    bridge = AddLink("br0", BridgeLink("02:00:00:00:00:08", 1500), Mark("net/x", "bridge", GROUP + 1))
    steps: list[Step] = [
        CABLE,
        bridge,
        SetMaster("qn-b", "br0"),
        AddAddress("br0", "10.3.0.1/24"),
        SetLink("br0", up=True),
    ]
    steps += [AddRoute("10.4.0.0/16", "br0", "10.3.0.2"), SetSysctl("net.ipv4.conf.br0.forwarding", "1")]
    spaces.do(steps[0], *(In("two", step) for step in steps[1:]))
    found = there(spaces, "two")
    assert (found.links["qn-b"].master, found.addresses["br0"][0]) == ("br0", "10.3.0.1/24")
    assert [(route.destination, route.gateway) for route in found.routes if route.gateway] == [
        ("10.4.0.0/16", "10.3.0.2")
    ]
    own = spaces.host.photograph(Wanted(routes=True))
    assert "br0" not in own.addresses or "10.3.0.1/24" not in own.addresses["br0"]
    assert spaces.sysctl("net.ipv4.conf.br0.forwarding") == "0"
    spaces.do(DelLink("qn-a", CABLE.mark))
    assert "qn-b" not in there(spaces, "two").links


def test_a_tap_in_a_namespace_is_held_by_whoever_opened_it(spaces: World) -> None:
    """It is nowhere else, on the bridge there, and gone with its descriptor, or when it is deleted."""
    bridge = AddLink("br0", BridgeLink("02:00:00:00:00:08", 1500), Mark("net/x", "bridge", GROUP + 1))
    tap = OpenTap("vm:net0", "qn-a", Mark("vm/vm", "net0", GROUP), "fe:54:00:00:00:05", 1400, master="br0")
    spaces.do(In("two", bridge), In("two", tap))
    found = there(spaces, "two").links["qn-a"]
    assert (found.kind, found.master, found.mac, found.mtu, found.group) == (
        "tun",
        "br0",
        "fe:54:00:00:00:05",
        1400,
        GROUP,
    )
    assert (spaces.link("qn-a"), there(spaces, "one").links.get("qn-a")) == (None, None)
    with pytest.raises(Taken):
        spaces.do(In("two", replace(tap, handle="vm:net1")))
    spaces.host.close()
    assert "qn-a" not in there(spaces, "two").links
    spaces.do(In("two", tap))
    undo = In("two", tap).inverse(spaces.host.photograph(Wanted(places=frozenset({"two"}))))
    assert undo == In("two", DelLink("qn-a", tap.mark))
    spaces.do(undo)
    assert "qn-a" not in there(spaces, "two").links
    spaces.host.close()


def test_a_cable_goes_with_a_namespace(spaces: World) -> None:
    """The end that is left has nothing to hold on to."""
    spaces.do(CABLE, DelNetns("two"))
    deadline = time.monotonic() + 20  # the kernel takes a namespace down when it has time
    while spaces.link("qn-a") is not None:
        assert time.monotonic() < deadline
    with pytest.raises(Gone):
        spaces.do(DelLink("qn-a", CABLE.mark))


def test_a_name_is_for_one(spaces: World) -> None:
    """It is taken back once, and of somebody else's namespace never."""
    spaces.do(NameNetns("one"))
    assert spaces.host.photograph(Wanted(places=frozenset({"one", "two"}))).netns == {"one"}
    with pytest.raises(Taken):
        spaces.do(NameNetns("one"))
    spaces.do(UnnameNetns("one"))
    with pytest.raises(Gone):
        spaces.do(UnnameNetns("one"))
    assert spaces.host.photograph(Wanted(places=frozenset({"one", "two"}))).netns == frozenset()
