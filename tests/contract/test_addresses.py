"""What every host promises about addresses, routes and sysctls."""

from __future__ import annotations

import errno

import pytest

from qemunet.errors import Gone, Taken
from qemunet.facts import Wanted
from qemunet.steps import (
    AddAddress,
    AddNeighbour,
    AddRoute,
    DelAddress,
    DelNeighbour,
    DelRoute,
    SetLink,
    SetSysctl,
)

from .conftest import World, refused

NONE = "qn-none"
ADDRESS = AddAddress("eth1", "10.7.0.1/24")


@pytest.mark.parametrize("address", ["10.7.0.1/24", "10.7.0.2/32", "fd77::1/64"])
def test_an_address_is_usable_at_once_and_its_inverse_takes_it_away(world: World, address: str) -> None:
    before = world.host.photograph(Wanted(links=frozenset({"eth1"}), routes=True))
    step = AddAddress("eth1", address)
    world.do(step)
    assert address in world.addresses("eth1")
    undo = step.inverse(before)
    assert undo == DelAddress("eth1", address)
    world.do(undo)
    assert address not in world.addresses("eth1")
    with pytest.raises(Gone):
        world.do(undo)


def test_an_address_that_is_there_is_taken(world: World) -> None:
    world.do(ADDRESS)
    with pytest.raises(Taken, match=r"eth1 has the address 10.7.0.1/24 already"):
        world.do(ADDRESS)
    assert world.addresses("eth1") == ("10.7.0.1/24",)


def test_ipv6_needs_ipv6(world: World) -> None:
    world.do(SetSysctl("net.ipv6.conf.eth1.disable_ipv6", "1"))
    with refused(errno.EACCES):
        world.do(AddAddress("eth1", "fd77::1/64"))
    world.do(SetSysctl("net.ipv6.conf.eth1.disable_ipv6", "0"))


@pytest.mark.parametrize(
    "step",
    [
        AddAddress(NONE, "10.7.0.1/24"),
        DelAddress(NONE, "10.7.0.1/24"),
        AddRoute("10.99.0.0/24", NONE),
        DelRoute("10.99.0.0/24", NONE),
        AddNeighbour(NONE, "10.7.0.9", "52:54:00:00:00:01"),
        DelNeighbour(NONE, "10.7.0.9"),
    ],
)
def test_without_the_interface_it_is_an_error_forwards_and_done_backwards(
    world: World, step: AddAddress | DelAddress | AddRoute | DelRoute | AddNeighbour | DelNeighbour
) -> None:
    with pytest.raises(Gone) as caught:
        world.do(step)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    "route",
    [
        AddRoute("10.99.0.0/24", "eth1"),
        AddRoute("10.99.0.0/24", "eth1", "10.7.0.9"),
        AddRoute("fd99::/64", "eth1"),
        AddRoute("10.7.0.9/32", "br0", source="10.7.0.1"),
    ],
)
def test_a_route_goes_where_it_should_and_its_inverse_takes_it_away(world: World, route: AddRoute) -> None:
    world.do(ADDRESS)
    before = world.host.photograph(Wanted(links=frozenset({"eth1"}), routes=True))
    world.do(route)
    assert (route.destination, route.name, route.gateway) in world.routes()
    undo = route.inverse(before)
    assert undo is not None
    world.do(undo)
    assert route.destination not in {destination for destination, _, _ in world.routes()}
    with pytest.raises(Gone):
        world.do(undo)


def test_a_destination_that_has_a_route_is_taken(world: World) -> None:
    world.do(AddRoute("10.99.0.0/24", "eth1"))
    with pytest.raises(Taken, match=r"there is a route to 10.99.0.0/24 already"):
        world.do(AddRoute("10.99.0.0/24", "eth1"))
    world.do(DelRoute("10.99.0.0/24", "eth1"))


def test_a_route_through_an_interface_that_is_down_is_refused(world: World) -> None:
    world.do(SetLink("eth1", up=False))
    with refused(errno.ENETDOWN):
        world.do(AddRoute("10.99.0.0/24", "eth1"))
    world.do(SetLink("eth1", up=True))


def test_the_host_goes_by_an_address_that_it_has(world: World) -> None:
    with refused(errno.EINVAL):
        world.do(AddRoute("10.99.0.0/24", "eth1", source="10.7.0.1"))


@pytest.mark.parametrize(
    ("address", "mac"), [("10.7.0.9", "52:54:00:00:00:01"), ("fd77::9", "52:54:00:00:00:01"), ("fd77::1", None)]
)
def test_a_neighbour_is_known_until_its_inverse(world: World, address: str, mac: str | None) -> None:
    step = AddNeighbour("eth1", address, mac)
    undo = step.inverse(world.host.photograph(Wanted()))
    assert undo is not None
    world.do(step, step)
    assert world.neighbours() == {("eth1", address, mac)}
    world.do(undo)
    assert world.neighbours() == set()
    with pytest.raises(Gone):
        world.do(undo)


def test_a_gateway_must_be_near(world: World) -> None:
    world.do(ADDRESS)
    with refused(errno.ENETUNREACH):
        world.do(AddRoute("10.99.0.0/24", "eth1", "10.8.0.1"))


def test_a_sysctl_is_set_and_its_inverse_restores_it(world: World) -> None:
    key = "net.ipv4.conf.eth1.forwarding"
    step = SetSysctl(key, "1")
    undo = step.inverse(world.host.photograph(Wanted(sysctls=frozenset({key}))))
    world.do(step)
    assert world.sysctl(key) == "1"
    assert undo is not None
    world.do(undo)
    assert world.sysctl(key) == "0"


def test_a_sysctl_that_somebody_else_changed_stays(world: World) -> None:
    key = "net.ipv4.conf.eth1.forwarding"
    with pytest.raises(Gone):
        world.do(SetSysctl(key, "1", only_if="7"))
    assert world.sysctl(key) == "0"


def test_a_sysctl_that_is_not_there_is_an_error_forwards_and_done_backwards(world: World) -> None:
    assert world.sysctl("net.ipv4.conf.qn-none.forwarding") is None
    with pytest.raises(Gone) as caught:
        world.do(SetSysctl("net.ipv4.conf.qn-none.forwarding", "1"))
    assert isinstance(caught.value, OSError)
