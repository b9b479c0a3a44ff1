"""The host keeps an address of before on a network as long as guests have leases by it, and no longer."""

from __future__ import annotations

import pytest

from qemunet.frozen import replace
from qemunet.host.leases import Lease
from qemunet.model.network import Dhcp, Dhcp6, Firewall, KnownHost, Network, NetworkMode, OwnBridge, Services
from qemunet.plan.leaving import Leaving, is_over, leaving
from qemunet.plan.links import network_fingerprint

NOW = 1000.0
BRIDGE = OwnBridge("qn-lab", "52:54:00:aa:bb:01", 1500, stp=False, forward_delay=0, ageing=300, addresses=())
RULES = Firewall(uplink=None, masquerade=None, forwards=(), host_services=("dns",))


def network(*addresses: str, first: str = "10.0.9.10", last: str = "10.0.9.20", **services: object) -> Network:
    base: dict[str, object] = {"dhcp6": None, "dns": None, "hosts": (), "mtu": 1500}
    dhcp = Dhcp(first, last, 3600, gateway=True)
    given = Services(dhcp=dhcp, **(base | services))  # type: ignore[arg-type]
    return Network("lab", NetworkMode.NAT, replace(BRIDGE, addresses=addresses), services=given, firewall=RULES)


def lease(ip: str, expires: int | None = 2000) -> Lease:
    return Lease("52:54:00:00:00:0a", ip, None, expires)


OLD, NEW = network("10.0.1.1/24", "fd01::1/64"), network("10.0.9.1/24")


def test_it_stays_until_the_last_lease_of_its_subnet_ends() -> None:
    found = leaving(OLD, NEW, [lease("10.0.1.5", 1500), lease("10.0.1.6", 1700), lease("10.0.9.5", 1800)], {}, NOW)
    assert found == (Leaving("10.0.1.1/24", 1700),)


def test_addresses_of_both_kinds_stay() -> None:
    found = leaving(OLD, NEW, [lease("10.0.1.5"), lease("fd01::5", 1500)], {}, NOW)
    assert found == (Leaving("10.0.1.1/24", 2000), Leaving("fd01::1/64", 1500))


@pytest.mark.parametrize("lent", [[], [lease("10.0.9.5")], [lease("10.0.1.5", 999)]])
def test_without_leases_that_hold_it_goes_at_once(lent: list[Lease]) -> None:
    """None at all, one of another subnet, one that has ended."""
    assert leaving(OLD, NEW, lent, {}, NOW) == ()


def test_a_lease_for_ever_keeps_it_until_its_guest_asks_again() -> None:
    assert leaving(OLD, NEW, [lease("10.0.1.5", None)], {}, NOW) == (Leaving("10.0.1.1/24", None),)
    assert is_over("10.0.1.1/24", None, [lease("10.0.9.5", None)], NOW)


def test_what_stays_already_stays_no_longer_than_was_said() -> None:
    """In the subnet of now, where a guest may have its lease for longer."""
    new = network("10.0.1.254/24", first="10.0.1.10", last="10.0.1.20")
    (first,) = leaving(network("10.0.1.1/24"), new, [lease("10.0.1.10", 1500)], {}, NOW)
    assert first == Leaving("10.0.1.1/24", 1500)
    there = replace(new, switch=replace(new.switch, leaving=("10.0.1.1/24",)))
    longer, known = [lease("10.0.1.10", 5100)], {"10.0.1.1/24": 1500}
    assert leaving(there, new, longer, known, 1499) == (first,)
    assert leaving(there, new, longer, known, 1500) == ()


@pytest.mark.parametrize(
    "new",
    [
        network("10.0.1.254/24", first="10.0.1.1", last="10.0.1.20"),
        network("10.0.1.254/24", hosts=(KnownHost("52:54:00:00:00:0b", "10.0.1.1", ""),)),
        network("10.0.1.1/16"),
    ],
)
def test_one_that_a_guest_may_get_and_one_that_is_there_anyway_do_not_stay(new: Network) -> None:
    assert leaving(network("10.0.1.1/24"), new, [lease("10.0.1.5")], {}, NOW) == ()


def test_a_range_of_ipv6_is_looked_at_too() -> None:
    new = network("fd01::fe/64", dhcp6=Dhcp6(slaac=False, first="fd01::1", last="fd01::f"))
    assert leaving(network("fd01::1/64"), new, [lease("fd01::5")], {}, NOW) == ()


def test_what_stays_makes_no_other_network_of_it() -> None:
    """Whoever comes with the settings of now may share it."""
    assert network_fingerprint(replace(NEW, switch=replace(NEW.switch, leaving=("10.0.1.1/24",)))) == (
        network_fingerprint(NEW)
    )
