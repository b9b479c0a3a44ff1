"""What every host promises about buckets and diversions."""

from __future__ import annotations

import json

import pytest

from qemunet.errors import Gone, Taken
from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.host import qdiscs
from qemunet.steps import (
    AddLink,
    Bucket,
    DelLink,
    Divert,
    IfbLink,
    Limit,
    Mark,
    OpenTap,
    SetLink,
    SetSysctl,
    Step,
    Undivert,
    Unlimit,
)
from qemunet.testing.fake import FakeHost
from tests.dump import program

from .conftest import World

GROUP = 0x4000_0007
TAP = OpenTap("a:net0", "qn-a", Mark("vm/a", "net0", GROUP), "fe:54:00:00:00:01", 1500, "br0")
IFB = AddLink("qn-a.ifb", IfbLink("fe:54:00:00:00:01", 1500), Mark("vm/a", "net0.ifb", GROUP))
QUIET = SetSysctl("net.ipv6.conf.qn-a/ifb.disable_ipv6", "1")
UP = SetLink("qn-a.ifb", up=True)
SLOW, FAST = Bucket(8_000_000, 20_000, 100_000), Bucket(40 * 10**9, 60_000_000, 90_000_000)
LIMIT, DIVERT = Limit("qn-a", SLOW), Divert("qn-a", "qn-a.ifb")


@pytest.fixture(autouse=True)
def able(world: World) -> None:
    """Skip what this kernel cannot do."""
    if not isinstance(world.host, FakeHost) and (lacks := ", ".join(sorted(qdiscs.lacking()))):
        pytest.skip(f"this kernel has no {lacks}")


def buckets(world: World, name: str) -> list[int]:
    """The rates of the buckets on a link."""
    if isinstance(world.host, FakeHost):
        return [world.host.buckets[name].rate] if name in world.host.buckets else []
    shown = json.loads(program("tc", "-j", "qdisc", "show", "dev", name))
    return [8 * one["options"]["rate"] for one in shown if one["kind"] == "tbf"]


def diverted(world: World) -> str:
    """Through what that is led which arrives by the tap."""
    if isinstance(world.host, FakeHost):
        return world.host.diverted.get("qn-a", "")
    shown = program("tc", "filter", "show", "dev", "qn-a", "ingress")
    return shown.partition("Egress Redirect to device ")[2].partition(")")[0]


def undo(world: World, step: Step) -> Step:
    """The inverse of a step that is about to be done."""
    found = step.inverse(world.host.photograph(Wanted(links=frozenset({"qn-a", "qn-a.ifb"}))))
    assert found is not None
    return found


def test_a_link_has_one_bucket_which_changes(world: World) -> None:
    """Whether it counts its rate in 32 bits or more."""
    world.do(TAP, LIMIT)
    assert buckets(world, "qn-a") == [SLOW.rate]
    world.do(Limit("qn-a", FAST, SLOW))
    assert buckets(world, "qn-a") == [FAST.rate]
    world.do(Unlimit("qn-a", FAST))
    assert buckets(world, "qn-a") == []


def test_what_arrives_is_led_through_an_ifb(world: World) -> None:
    world.do(TAP, IFB, QUIET, UP, DIVERT)
    assert diverted(world) == "qn-a.ifb"
    world.do(Undivert("qn-a", "qn-a.ifb"))
    assert diverted(world) == ""


@pytest.mark.parametrize("step", [LIMIT, DIVERT], ids=lambda step: type(step).__name__)
def test_the_inverse_leaves_nothing(world: World, step: Step) -> None:
    """And a second time it finds nothing."""
    world.do(TAP, IFB, QUIET)
    back = undo(world, step)
    world.do(step, back)
    assert (buckets(world, "qn-a"), diverted(world)) == ([], "")
    with pytest.raises(Gone):
        world.do(back)


def test_the_inverse_of_a_change_is_what_there_was(world: World) -> None:
    world.do(TAP, LIMIT)
    faster = Limit("qn-a", FAST, SLOW)
    back = undo(world, faster)
    world.do(faster, back)
    assert buckets(world, "qn-a") == [SLOW.rate]


def test_a_bucket_and_a_diversion_go_with_their_link(world: World) -> None:
    """Nothing is owed for what is put on a link that was not there before."""
    before = world.host.photograph(Wanted(links=frozenset({"qn-a"})))
    assert [step.inverse(before) for step in (LIMIT, DIVERT)] == [None, None]
    world.do(TAP, IFB, QUIET, LIMIT, DIVERT, DelLink("qn-a", TAP.mark))
    assert world.link("qn-a") is None
    with pytest.raises(Gone):
        world.do(Unlimit("qn-a", SLOW))


def test_only_what_is_there_can_be_limited_and_led(world: World) -> None:
    """On the way back that is as good as done."""
    with pytest.raises(Gone):
        world.do(LIMIT)
    world.do(TAP)
    with pytest.raises(Gone):
        world.do(DIVERT)


@pytest.mark.parametrize("step", [LIMIT, DIVERT, Unlimit("qn-a", SLOW), Undivert("qn-a", "qn-a.ifb")])
def test_nothing_of_somebody_elses_is_limited_or_led(world: World, step: Step) -> None:
    """A tap's name may be another's when the tap has gone."""
    world.do(IFB, QUIET)
    with pytest.raises(Gone):
        world.do(replace(step, name="eth1"))


def test_what_is_led_somewhere_already_is_taken(world: World) -> None:
    """And goes on to be led there."""
    world.do(TAP, IFB, QUIET, DIVERT)
    with pytest.raises(Taken):
        world.do(DIVERT)
    assert diverted(world) == "qn-a.ifb"


def test_an_ifb_is_marked_as_every_link_is(world: World) -> None:
    world.do(IFB, QUIET)
    link = world.there("qn-a.ifb")
    assert (link.kind, link.mac, link.mtu, link.up) == ("ifb", "fe:54:00:00:00:01", 1500, False)
    assert (link.group, link.altnames) == (GROUP, ("qemunet.vm-a.net0.ifb",))
