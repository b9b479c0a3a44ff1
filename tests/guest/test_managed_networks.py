"""Networks that qemunet manages, with guests that live on them: how they get out, who gets in, and what serves them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.host import daemons
from tests.guest.cards import until
from tests.guest.managed import (
    BEYOND,
    EXAMPLES,
    HOST,
    REFUSED,
    Site,
    Turns,
    answers,
    between,
    emulated,
    example,
    hears_nothing,
    knock,
    leased,
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


@contextlib.contextmanager
def behind_the_host(folder: Path) -> Iterator[Site]:
    """The example, and a network more, that nobody is on yet."""
    with site(folder) as here:
        file = here.stage.scene.write((EXAMPLES / "nat.toml").read_text() + OFFICE)
        with here.lab([str(file), *emulated("web", "desk")]):
            yield here


@pytest.fixture
def nat(turns: Turns) -> Site:
    return turns.at(behind_the_host)


def test_guests_get_addresses_by_dhcp_and_the_reserved_one_at_that(nat: Site) -> None:
    """Those of the range, which is what `net leases` and `status` say as well."""
    web, desk = (nat.stage.guest(name) for name in ("web", "desk"))
    assert "192.168.122" not in web.succeeds("cat /proc/cmdline")
    assert leased(web) == WEB
    address = leased(desk)
    assert between(address, "192.168.122.101", "192.168.122.254")
    cards = {name: nat.stage.cards(name)["net0"] for name in ("web", "desk")}
    rows = {(one["network"], one["vm"], one["nic"], one["mac"], one["hostname"], one["ip"]) for one in nat.leases()}
    given = {"web": WEB, "desk": address}
    assert rows == {("lab", name, "net0", cards[name]["mac"], name, given[name]) for name in cards}
    assert all(one["expires"] > 0 for one in nat.leases("lab"))
    told = {name: [(one["address"], one["source"]) for one in cards[name]["ip"]] for name in cards}
    assert told == {name: [(f"{given[name]}/24", "guest")] for name in cards}
    assert address in nat.stage.succeeds("status", "desk").stdout


def test_a_server_beyond_the_host_sees_the_host_and_a_port_in_range(nat: Site) -> None:
    """Also where the guest's own port is not in it."""
    desk, server = nat.stage.guest("desk"), nat.beyond.serve(80)
    nat.stage.reaches("desk", BEYOND)
    for own_port in (0, 700):
        host, port = seen(desk, BEYOND, server, own_port=own_port)
        assert host == HOST
        assert 1024 <= port <= 65535


def test_the_beyond_gets_in_by_the_forwarded_port_and_by_nothing_else(nat: Site) -> None:
    """Even if it knows a way to the network."""
    nat.stage.guest("web")
    nat.beyond.ip("route", "add", "192.168.122.0/24", "via", HOST)
    assert knock(nat.beyond, WEB, 80) in REFUSED
    assert knock(nat.beyond, WEB, 8080) in REFUSED
    assert not answers(nat.beyond, WEB)
    nat.beyond.ip("route", "del", "192.168.122.0/24")
    assert page(nat.beyond, HOST, 8080) == "web"


def test_the_forwarded_port_works_from_the_host_and_from_another_guest(nat: Site) -> None:
    """By each address of the host."""
    desk = nat.stage.guest("desk")
    nat.stage.guest("web")
    for address in ("127.0.0.1", HOST, "192.168.122.1"):
        assert page(nat.home, address, 8080) == "web"
    for address in (HOST, "192.168.122.1", "198.51.100.1"):
        assert page_for(desk, address, 8080) == "web"


def test_a_card_that_comes_later_gets_a_lease_and_it_is_told_of(nat: Site) -> None:
    desk = nat.stage.guest("desk")
    with nat.stage.heard("desk", event="lease", what="new", network="lab"):
        added = nat.stage.add("desk", "--network", "lab")
        name = nat.stage.ifname("desk", added["mac"])
        address = leased(desk, name)
    assert between(address, "192.168.122.101", "192.168.122.254")
    assert (added["mac"], address, added["id"]) in {(one["mac"], one["ip"], one["nic"]) for one in nat.leases("lab")}
    nat.stage.remove("desk", added["id"])


def test_a_card_that_moves_gets_an_address_of_where_it_is(nat: Site) -> None:
    """There and back; the network to which it moves comes up for it, with what serves it."""
    desk = nat.stage.guest("desk")
    added = nat.stage.add("desk", "--network", "lab")
    name = nat.stage.ifname("desk", added["mac"])
    before = leased(desk, name)
    nat.stage.set("desk", added["id"], "--network", "office")
    desk.wait_until(f"grep -q 192.168.50. /run/{name}.addresses")
    assert between(leased(desk, name), "192.168.50.128", "192.168.50.254")
    assert {one["mac"] for one in nat.leases("office")} == {added["mac"]}
    nat.stage.set("desk", added["id"], "--network", "lab")
    desk.wait_until(f"grep -qx {before} /run/{name}.addresses")
    nat.stage.remove("desk", added["id"])
    until(lambda: not daemons.alive(str(nat.stage.scene.runtime / "net" / "office"), "dnsmasq"), "office is gone")


def test_another_address_is_reserved_for_a_card_while_it_runs(nat: Site) -> None:
    """Where it is, and where it moves to; the guest has it when it asks the next time."""
    desk = nat.stage.guest("desk")
    added = nat.stage.add("desk", "--network", "lab", "--ip", "192.168.122.90/24")
    name = nat.stage.ifname("desk", added["mac"])
    assert leased(desk, name) == "192.168.122.90"
    nat.stage.set("desk", added["id"], "--ip", "192.168.122.91/24")
    for link in ("down", "up"):
        nat.stage.set("desk", added["id"], "--link", link)
    desk.wait_until(f"grep -qx 192.168.122.91 /run/{name}.addresses")
    nat.stage.set("desk", added["id"], "--network", "office", "--ip", "192.168.50.20/24")
    desk.wait_until(f"grep -qx 192.168.50.20 /run/{name}.addresses")
    nat.stage.remove("desk", added["id"])


def test_a_server_that_is_killed_serves_the_next_guest(nat: Site) -> None:
    """The keeper brings it back, and it knows what it has lent."""
    desk, folder = nat.stage.guest("desk"), str(nat.stage.scene.runtime / "net" / "lab")
    lent = {(one["mac"], one["ip"]) for one in nat.leases("lab")}
    first = daemons.find(folder, "dnsmasq")
    assert first is not None
    with nat.stage.heard("desk", event="network", what="dhcp restarted", network="lab"):
        os.kill(first, signal.SIGKILL)
    assert daemons.find(folder, "dnsmasq") not in (None, first)
    added = nat.stage.add("desk", "--network", "lab")
    address = leased(desk, nat.stage.ifname("desk", added["mac"]))
    kept = {(mac, ip) for mac, ip in lent if mac != added["mac"]}  # a card before it may have had this one
    assert {(one["mac"], one["ip"]) for one in nat.leases("lab")} == kept | {(added["mac"], address)}
    nat.stage.remove("desk", added["id"])


# ---------------------------------------------------------------- a closed network with names


@contextlib.contextmanager
def shut(folder: Path) -> Iterator[Site]:
    """The example, on a host that passes packets on from anybody to anybody."""
    with site(folder) as here:
        here.home.sysctl("net/ipv4/ip_forward", "1")
        with here.lab(example("names", "desk", "db")):
            yield here
        here.home.sysctl("net/ipv4/ip_forward", "0")


@pytest.fixture
def closed(turns: Turns) -> Site:
    return turns.at(shut)


def test_guests_of_a_closed_network_know_each_other_by_name(closed: Site) -> None:
    """With and without the domain, whether the address is reserved or of the range."""
    desk, db = (closed.stage.guest(name) for name in ("desk", "db"))
    assert leased(db) == "192.168.20.10"
    address = leased(desk)
    assert between(address, "192.168.20.101", "192.168.20.200")
    for name in ("db", "db.lab.test"):
        desk.pings(name)
        assert "192.168.20.10" in desk.succeeds(f"nslookup {name}")
    db.pings("desk.lab.test")
    assert address in db.succeeds("nslookup desk.lab.test")


def test_there_is_no_way_out_of_a_closed_network(closed: Site) -> None:
    """Not even for a guest that sends its packets to the host, to somebody who knows the way back."""
    desk, server = closed.stage.guest("desk"), closed.beyond.serve(80)
    closed.beyond.ip("route", "add", "192.168.20.0/24", "via", HOST)
    assert "default" not in desk.succeeds("ip route")
    assert "unreachable" in refused(desk, BEYOND, 80)
    desk.succeeds("ip route add default via 192.168.20.1")
    assert "No route to host" in refused(desk, BEYOND, 80)
    desk.cannot_ping(BEYOND)
    assert hears_nothing(server)
    desk.succeeds("ip route del default")
    assert knock(closed.beyond, "192.168.20.10", 80) in REFUSED
    assert not answers(closed.beyond, "192.168.20.10")
    closed.beyond.ip("route", "del", "192.168.20.0/24")


def test_guests_reach_on_the_host_what_the_file_says(closed: Site) -> None:
    """A proxy on its port; not what listens on another one, and by no other address of the host either."""
    desk = closed.stage.guest("desk")
    address = leased(desk)
    proxy, other = closed.home.serve(3128), closed.home.serve(3129)
    assert seen(desk, "192.168.20.1", proxy)[0] == address
    desk.pings("192.168.20.1")
    desk.succeeds(f"ip route add {HOST} via 192.168.20.1")
    for host in ("192.168.20.1", HOST):
        assert "refused" in refused(desk, host, 3129)
    desk.succeeds(f"ip route del {HOST}")
    assert hears_nothing(other)
    for server in (proxy, other):
        server.close()


# ---------------------------------------------------------------- one server for several networks


@contextlib.contextmanager
def central(folder: Path) -> Iterator[Site]:
    with site(folder) as here, here.lab(example("central-dhcp", "kali2", "kali3")):
        yield here


def test_guests_of_several_networks_have_their_addresses_from_one_server(turns: Turns) -> None:
    """Each from the pool of its network, by name or not; both know each other's names, and no bridge has an address."""
    here = turns.at(central)
    kali2, kali3 = here.stage.guest("kali2"), here.stage.guest("kali3")
    assert leased(kali2) == "192.168.50.12"
    assert between(leased(kali3), "192.168.60.100", "192.168.60.200")
    rows = {one["vm"]: (one["network"], one["ip"]) for one in here.leases()}
    assert rows["kali2"] == ("lab", "192.168.50.12")
    assert rows["kali3"][0] == "office"
    kali3.wait_until("nslookup kali2.lab.test 192.168.60.1 | grep -q 192.168.50.12")
    assert "inet" not in here.home.run("ip", "address", "show", "dev", "virbr4").stdout
