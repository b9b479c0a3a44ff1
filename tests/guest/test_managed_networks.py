"""Networks that qemunet manages, with guests that live on them: how they get out, who gets in, and what serves them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.host import daemons
from qemunet.testing.bench import Bench, Room
from tests.guest.around import emulated, emulated_with_room, ping
from tests.guest.cards import until
from tests.guest.managed import (
    BEYOND,
    EXAMPLES,
    HOST,
    REFUSED,
    Site,
    answers,
    between,
    heard,
    hears_nothing,
    knock,
    leased,
    leases,
    page,
    page_for,
    refused,
    seen,
    site,
)

pytestmark = [pytest.mark.root, pytest.mark.guest]

OFFICE = """
[network.office]
mode = "isolated"
address = ["192.168.50.1/24"]
dhcp.range = ["192.168.50.128", "192.168.50.254"]
"""
WEB = "192.168.122.80"


# ---------------------------------------------------------------- behind the host's address


# The example, and a network more, that nobody is on yet.
behind_the_host = pytest.mark.qemunet_lab(
    (EXAMPLES / "nat.toml").read_text() + OFFICE, set=emulated_with_room("web", "desk"), around=site
)


@behind_the_host
def test_guests_get_addresses_by_dhcp_and_the_reserved_one_at_that(lab: Bench) -> None:
    """Those of the range, which is what `net leases` and `status` say as well."""
    web, desk = lab
    assert "192.168.122" not in web.succeeds("cat /proc/cmdline")
    assert leased(web) == WEB
    address = leased(desk)
    assert between(address, "192.168.122.101", "192.168.122.254")
    cards = {one.name: one.nics["net0"] for one in lab}
    rows = {(one["network"], one["vm"], one["nic"], one["mac"], one["hostname"], one["ip"]) for one in leases(lab)}
    given = {"web": WEB, "desk": address}
    assert rows == {("lab", name, "net0", cards[name].mac, name, given[name]) for name in cards}
    assert all(one["expires"] > 0 for one in leases(lab, "lab"))
    told = {name: [(one.address, one.source) for one in cards[name].addresses] for name in cards}
    assert told == {name: [(f"{given[name]}/24", "guest")] for name in cards}
    assert address in lab.qemunet("status", "desk")


@behind_the_host
def test_a_server_beyond_the_host_sees_the_host_and_a_port_in_range(lab: Bench) -> None:
    """Also where the guest's own port is not in it."""
    desk, server = lab.guest("desk"), lab.around.beyond.serve(80)
    desk.wait_until(ping(BEYOND))
    for own_port in (0, 700):
        host, port = seen(desk, BEYOND, server, own_port=own_port)
        assert host == HOST
        assert 1024 <= port <= 65535


@behind_the_host
def test_the_beyond_gets_in_by_the_forwarded_port_and_by_nothing_else(lab: Bench) -> None:
    """Even if it knows a way to the network."""
    lab.around.beyond.ip("route", "add", "192.168.122.0/24", "via", HOST)
    assert knock(lab.around.beyond, WEB, 80) in REFUSED
    assert knock(lab.around.beyond, WEB, 8080) in REFUSED
    assert not answers(lab.around.beyond, WEB)
    lab.around.beyond.ip("route", "del", "192.168.122.0/24")
    assert page(lab.around.beyond, HOST, 8080) == "web"


@behind_the_host
def test_the_forwarded_port_works_from_the_host_and_from_another_guest(lab: Bench) -> None:
    """By each address of the host."""
    desk = lab.guest("desk")
    for address in ("127.0.0.1", HOST, "192.168.122.1"):
        assert page(lab.around.home, address, 8080) == "web"
    for address in (HOST, "192.168.122.1", "198.51.100.1"):
        assert page_for(desk, address, 8080) == "web"


@behind_the_host
def test_a_card_that_comes_later_gets_a_lease_and_it_is_told_of(lab: Bench) -> None:
    desk = lab.guest("desk")
    with heard(lab, event="lease", what="new", network="lab"):
        added = desk.vm.add_nic(network="lab")
        name = str(added.guest_ifname)
        address = leased(desk, name)
    assert between(address, "192.168.122.101", "192.168.122.254")
    assert (added.mac, address, added.id) in {(one["mac"], one["ip"], one["nic"]) for one in leases(lab, "lab")}
    desk.vm.remove_nic(added)


@behind_the_host
def test_a_card_that_moves_gets_an_address_of_where_it_is(lab: Bench) -> None:
    """There and back; the network to which it moves comes up for it, with what serves it."""
    desk = lab.guest("desk")
    added = desk.vm.add_nic(network="lab")
    name = str(added.guest_ifname)
    before = leased(desk, name)
    desk.vm.move_nic(added, "office")
    desk.wait_until(f"grep -q 192.168.50. /run/{name}.addresses")
    assert between(leased(desk, name), "192.168.50.128", "192.168.50.254")
    assert {one["mac"] for one in leases(lab, "office")} == {added.mac}
    desk.vm.move_nic(added, "lab")
    desk.wait_until(f"grep -qx {before} /run/{name}.addresses")
    desk.vm.remove_nic(added)
    until(lambda: not daemons.alive(f"{lab.runtime.path}/net/office", "dnsmasq"), "office is gone")


@behind_the_host
def test_another_address_is_reserved_for_a_card_while_it_runs(lab: Bench) -> None:
    """Where it is, and where it moves to; the guest has it when it asks the next time."""
    desk = lab.guest("desk")
    added = desk.vm.add_nic(network="lab", ip="192.168.122.90/24")
    name = str(added.guest_ifname)
    desk.wait_until(f"grep -qx 192.168.122.90 /run/{name}.addresses")
    desk.vm.set_nic(added, ip="192.168.122.91/24")
    for link in ("down", "up"):
        desk.vm.set_link(added, link)
    desk.wait_until(f"grep -qx 192.168.122.91 /run/{name}.addresses")
    desk.vm.set_nic(added, network="office", ip="192.168.50.20/24")
    desk.wait_until(f"grep -qx 192.168.50.20 /run/{name}.addresses")
    desk.vm.remove_nic(added)


@behind_the_host
def test_a_server_that_is_killed_serves_the_next_guest(lab: Bench) -> None:
    """The keeper brings it back, and it knows what it has lent."""
    desk, folder = lab.guest("desk"), f"{lab.runtime.path}/net/lab"
    lent = {(one["mac"], one["ip"]) for one in leases(lab, "lab")}
    first = daemons.find(folder, "dnsmasq")
    assert first is not None
    with heard(lab, event="network", what="dhcp restarted", network="lab"):
        os.kill(first, signal.SIGKILL)
    assert daemons.find(folder, "dnsmasq") not in (None, first)
    added = desk.vm.add_nic(network="lab")
    kept = {(mac, ip) for mac, ip in lent if mac != added.mac}  # a card before it may have had this one

    def now() -> set[tuple[str, str]]:
        return {(one["mac"], one["ip"]) for one in leases(lab, "lab")}

    name = str(added.guest_ifname)  # what the card before it had may be known there for another moment
    until(lambda: now() == kept | {(added.mac, leased(desk, name))}, f"it knows {kept}, and lends to {added.mac}")
    desk.vm.remove_nic(added)


# ---------------------------------------------------------------- a closed network with names


@contextlib.contextmanager
def passing_on(host: Room) -> Iterator[Site]:
    """A host that passes packets on from anybody to anybody."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with site(host) as here:
        yield here


closed = pytest.mark.qemunet_lab(EXAMPLES / "names.toml", set=emulated("desk", "db"), around=passing_on)


@closed
def test_guests_of_a_closed_network_know_each_other_by_name(lab: Bench) -> None:
    """With and without the domain, whether the address is reserved or of the range."""
    desk, db = lab
    assert leased(db) == "192.168.20.10"
    address = leased(desk)
    assert between(address, "192.168.20.101", "192.168.20.200")
    for name in ("db", "db.lab.test"):
        desk.succeeds(ping(name))
        assert "192.168.20.10" in desk.succeeds(f"nslookup {name}")
    db.succeeds(ping("desk.lab.test"))
    assert address in db.succeeds("nslookup desk.lab.test")


@closed
def test_there_is_no_way_out_of_a_closed_network(lab: Bench) -> None:
    """Not even for a guest that sends its packets to the host, to somebody who knows the way back."""
    desk, server = lab.guest("desk"), lab.around.beyond.serve(80)
    lab.around.beyond.ip("route", "add", "192.168.20.0/24", "via", HOST)
    assert "default" not in desk.succeeds("ip route")
    assert "unreachable" in refused(desk, BEYOND, 80)
    desk.succeeds("ip route add default via 192.168.20.1")
    assert "No route to host" in refused(desk, BEYOND, 80)
    desk.fails(ping(BEYOND, 2))
    assert hears_nothing(server)
    desk.succeeds("ip route del default")
    assert knock(lab.around.beyond, "192.168.20.10", 80) in REFUSED
    assert not answers(lab.around.beyond, "192.168.20.10")
    lab.around.beyond.ip("route", "del", "192.168.20.0/24")


@closed
def test_guests_reach_on_the_host_what_the_file_says(lab: Bench) -> None:
    """A proxy on its port; not what listens on another one, and by no other address of the host either."""
    desk = lab.guest("desk")
    address = leased(desk)
    proxy, other = lab.around.home.serve(3128), lab.around.home.serve(3129)
    assert seen(desk, "192.168.20.1", proxy)[0] == address
    desk.succeeds(ping("192.168.20.1"))
    desk.succeeds(f"ip route add {HOST} via 192.168.20.1")
    for host in ("192.168.20.1", HOST):
        assert "refused" in refused(desk, host, 3129)
    desk.succeeds(f"ip route del {HOST}")
    assert hears_nothing(other)
    for server in (proxy, other):
        server.close()


# ---------------------------------------------------------------- one server for several networks


@pytest.mark.qemunet_lab(EXAMPLES / "central-dhcp.toml", set=emulated("kali2", "kali3"), around=site)
def test_guests_of_several_networks_have_their_addresses_from_one_server(lab: Bench) -> None:
    """Each from the pool of its network, by name or not; both know each other's names, and no bridge has an address."""
    kali2, kali3 = lab
    assert leased(kali2) == "192.168.50.12"
    assert between(leased(kali3), "192.168.60.100", "192.168.60.200")
    rows = {one["vm"]: (one["network"], one["ip"]) for one in leases(lab)}
    assert rows["kali2"] == ("lab", "192.168.50.12")
    assert rows["kali3"][0] == "office"
    kali3.wait_until("nslookup kali2.lab.test 192.168.60.1 | grep -q 192.168.50.12")
    assert "inet" not in lab.around.home.run("ip", "address", "show", "dev", "virbr4").stdout
