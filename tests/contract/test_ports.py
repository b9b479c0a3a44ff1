"""What every host promises about interfaces that become ports, and about what moves from them."""

from __future__ import annotations

import pytest

from qemunet.errors import Gone, Taken
from qemunet.facts import Wanted
from qemunet.model.routing import Carried
from qemunet.steps import (
    ChangePort,
    IpAddress,
    IpRoute,
    PlugPort,
    PutAddress,
    PutRoute,
    SetLink,
    Step,
    TakeAddress,
    TakeRoute,
    UnplugPort,
    Way,
)

from .conftest import World

NOBODY = 4000  # an index that no interface has
ADDRESS = IpAddress("10.7.0.1/24", broadcast="10.7.0.255", metric=50)


def index(world: World) -> int:
    return world.there("eth1").index


def carried(world: World) -> Carried:
    return world.host.photograph(Wanted(links=frozenset({"eth1"}), uplinks=frozenset({"eth1"}))).carried["eth1"]


def undo(world: World, step: Step) -> Step:
    inverse = step.inverse(world.host.photograph(Wanted(links=frozenset({"eth1"}))))
    assert inverse is not None
    return inverse


def test_a_port_is_plugged_in_and_out(world: World) -> None:
    """Out only of the bridge that it was plugged into."""
    plug = PlugPort("eth1", index(world), "br0")
    world.do(plug)
    assert world.there("eth1").master == "br0"
    with pytest.raises(Gone):
        world.do(UnplugPort("eth1", index(world), "br9"))
    assert world.there("eth1").master == "br0"
    world.do(undo(world, plug))
    assert world.there("eth1").master is None
    with pytest.raises(Gone):
        world.do(undo(world, plug))


def test_what_cannot_be_a_port_is_not_plugged_in(world: World) -> None:
    """And nothing was done, so nobody takes it back."""
    for name in ("lo", "br0"):
        with pytest.raises(Taken, match="does not take"):
            world.do(PlugPort(name, world.there(name).index, "br0"))


def test_a_port_is_set_and_set_back(world: World) -> None:
    change = ChangePort("eth1", index(world), up=False, was_up=True, mtu=1400, was_mtu=1500)
    world.do(change)
    assert (world.there("eth1").up, world.there("eth1").mtu) == (False, 1400)
    world.do(undo(world, change))
    assert (world.there("eth1").up, world.there("eth1").mtu) == (True, 1500)


def test_an_address_is_put_with_all_that_belongs_to_it(world: World) -> None:
    """It is no error if it is there; taking one that is not is one that counts as done."""
    put = PutAddress("eth1", index(world), ADDRESS)
    world.do(put, put)
    assert carried(world).addresses == (ADDRESS,)
    world.do(undo(world, put))
    assert carried(world).addresses == ()
    with pytest.raises(Gone):
        world.do(undo(world, put))


def test_a_route_is_put_with_all_that_belongs_to_it(world: World) -> None:
    """By the number of its interface."""
    route = IpRoute("10.99.0.0/24", (Way("eth1", index(world)),), table=99, scope=253, metric=7, options=((2, 1400),))
    put = PutRoute(route)
    world.do(SetLink("eth1", up=True), put, put)
    assert carried(world).routes == (route,)
    assert not carried(world).is_bare
    world.do(undo(world, put))
    assert carried(world).is_bare
    with pytest.raises(Gone):
        world.do(undo(world, put))


@pytest.mark.parametrize(
    "step",
    [
        PlugPort("eth1", NOBODY, "br0"),
        UnplugPort("eth1", NOBODY, "br0"),
        ChangePort("eth1", NOBODY, up=True),
        PutAddress("eth1", NOBODY, ADDRESS),
        TakeAddress("eth1", NOBODY, ADDRESS),
        PutRoute(IpRoute("10.99.0.0/24", (Way("eth1", NOBODY),))),
        TakeRoute(IpRoute("10.99.0.0/24", (Way("eth1", NOBODY),))),
    ],
    ids=lambda step: type(step).__name__,
)
def test_another_interface_of_the_same_name_is_left_alone(world: World, step: Step) -> None:
    with pytest.raises(Gone):
        world.do(step)
