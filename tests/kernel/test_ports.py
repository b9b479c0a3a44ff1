"""Interfaces of the host in a bridge of ours: nobody is cut off, and each is put back exactly as it was; by packets."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from tests.dump import program
from tests.kernel.lan import plugged
from tests.wires import Machine, machine, ping, tcp, wire
from tests.world import World, until
from tests.world import machine as vm

from .conftest import ip

LAN, HOST, BEYOND, LAN6, HOST6 = "192.0.2.1", "192.0.2.5", "203.0.113.1", "2001:db8::1", "2001:db8::5"
GUEST = "192.0.2.77"
PORTS = '[network.lan]\nmode = "bridge"\nports = [{}]\n{}\n'
MOVED = PORTS.format('"eth0"', "move-address = true")
# All that an uplink can carry. What is told of in seconds goes on by itself.
CARRIED = """
address add 192.0.2.5/24 broadcast 192.0.2.255 dev eth0 valid_lft 3600 preferred_lft 1800
address add 192.0.2.6/24 label eth0:1 dev eth0
address add 10.1.1.1 peer 10.1.1.2/32 dev eth0
address add 10.1.2.1/24 dev eth0 noprefixroute metric 50
address add 2001:db8::5/64 dev eth0 nodad
address add 2001:db8::6/64 dev eth0 nodad
address add 2001:db8:1::5/64 dev eth0 nodad valid_lft 3600 preferred_lft 1800
address add 2001:db8:2::5/64 dev eth0 nodad noprefixroute
address change 2001:db8::6/64 dev eth0
route add default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.5 metric 100
route add 172.31.1.1 dev eth0 scope link
route add 198.18.0.0/15 via 172.31.1.1 dev eth0 tos 0x10
route add 198.51.100.0/24 via 192.0.2.1 dev eth0 table 99
route add 198.51.101.0/24 via 203.0.113.9 dev eth0 onlink mtu 1300 advmss 1000
route add 198.51.102.0/24 nexthop via 192.0.2.1 dev eth0 weight 2 nexthop via 192.0.2.2 dev eth0
route add 198.51.103.0/24 via inet6 fe80::1 dev eth0
route add 198.51.104.0/24 dev other src 192.0.2.5
-6 route add default via fe80::1 dev eth0 proto ra metric 1024 expires 1800
-6 route add 2001:db8:8::/48 nexthop via 2001:db8::1 dev eth0 nexthop via 2001:db8::2 dev eth0
-6 route add 2001:db8:9::/48 via 2001:db8::1 dev eth0 pref high table 99
rule add iif eth0 lookup 99
"""


@pytest.fixture
def lan(world: World) -> Iterator[Machine]:
    """The router of a LAN, that the host is on by eth0 as a DHCP client is, with a default route."""
    with machine("lan") as lan:
        bare_uplink(lan)
        for words in (
            f"address add {HOST}/24 dev eth0 valid_lft 3600 preferred_lft 3600",
            f"address add {HOST6}/64 dev eth0 nodad",
            f"route add default via {LAN} dev eth0 src {HOST} metric 100",
            f"route add 198.51.100.0/24 via {LAN} dev eth0 table 99",
            f"-6 route add default via {LAN6} dev eth0",
        ):
            ip(*words.split())
        local = [f"local {address} dev eth0" for address in (HOST6, "fe80::5")]  # the kernel makes them a moment later
        until(lambda: all(one in program("ip", "-6", "route", "show", "table", "local") for one in local), "its routes")
        world.mark()
        yield lan
        for sock in lan.sockets:
            sock.close()
        found = world.left()
        ip("link", "del", program("ip", "-br", "link", "show", "type", "veth").partition("@")[0])
    world.mark()
    assert not found, found


def bare_uplink(lan: Machine) -> None:
    """Join the host to a LAN; its MAC is not one that a bridge would choose, its MTU not the usual."""
    ip("link", "add", "eth0", "address", "52:00:00:00:00:05", "mtu", "1450", "type", "veth", "peer", "name", "lan0")
    ip("link", "set", "lan0", "netns", lan.path)
    Path("/proc/sys/net/ipv6/conf/eth0/addr_gen_mode").write_text("1")
    lan.sysctl("net/ipv6/conf/lan0/accept_dad", "0")
    lan.ip("link", "set", "lan0", "up")
    ip("link", "set", "eth0", "up")
    ip("address", "add", "fe80::5/64", "dev", "eth0", "nodad", "scope", "link")
    for address in (f"{LAN}/24", f"{BEYOND}/32", f"{LAN6}/64", "fe80::1/64"):
        lan.ip("address", "add", address, "dev", "lan0", *(["nodad"] if ":" in address else []))
    until(lambda: "ff00::/8 dev eth0" in program("ip", "-6", "route", "show", "table", "all"), "eth0 has its carrier")


def picture() -> str:
    """All that ip(8) tells of interfaces, addresses, routes and rules, in its order; what counts down stands still."""
    shown = [
        program("ip", *words.split())
        for words in ("-d address", "-4 route show table all", "-6 route show table all", "rule", "-6 rule")
    ]
    text = re.sub(r"\d+sec|_timer +[\d.]+", "N sec", "".join(shown))
    return re.sub(r"link-netnsid \d+|noqueue|noop|qlen \d+", "", text)


@contextlib.contextmanager
def on_a_host_with_everything(world: World) -> Iterator[Machine]:
    with machine("lan") as lan:
        bare_uplink(lan)
        ip("link", "add", "other", "type", "veth", "peer", "name", "other-peer")
        for name in ("other", "other-peer"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            ip("link", "set", name, "up")
        for line in CARRIED.strip().splitlines():
            ip(*line.split())
        yield lan
        ip("rule", "del", "iif", "eth0")
        for name in ("eth0", "other"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("link", "del", name)


class Talk:
    """A TCP connection over which something goes all the time, and pings, until it is left."""

    def __init__(self, client: Machine, server: Machine, address: str) -> None:
        self.client, self.address = client, address
        listener = server.serve(7000, "::" if ":" in address else "0.0.0.0")
        self.out = client.open(socket.SOCK_STREAM, address)
        self.out.connect((address, 7000))
        self.back, _ = listener.accept()
        self.exchanged = self.sent = self.lost = 0
        self.over = threading.Event()
        self.error: OSError | None = None
        self.threads = [threading.Thread(target=self.chat), threading.Thread(target=self.knock)]

    def chat(self) -> None:
        for sock in (self.out, self.back):
            sock.settimeout(30)
        try:
            while not self.over.is_set():
                for one, other in ((self.out, self.back), (self.back, self.out)):
                    one.sendall(b"on")
                    assert other.recv(2, socket.MSG_WAITALL) == b"on"
                self.exchanged += 1
        except OSError as error:
            self.error = error

    def knock(self) -> None:
        while not self.over.is_set():
            self.sent += 1
            self.lost += not ping(self.client, self.address)

    def goes_on(self) -> None:
        """Wait until more has been exchanged from now on, both ways."""
        before = self.exchanged
        until(lambda: self.error or self.exchanged > before + 3, "the connection goes on")
        assert self.error is None

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()
        self.back.close()
        print(f"{self.address}: {self.exchanged} exchanges; {self.lost} of {self.sent} pings lost")


@pytest.mark.parametrize("rp_filter", ["0", "1"])
def test_a_connection_goes_on_while_the_uplink_moves_and_comes_back(world: World, lan: Machine, rp_filter: str) -> None:
    """Guests, the LAN and the host reach each other, also for a host that hears only whom it has a way to."""
    home = Machine("home")
    for name in ("eth0", "default"):
        home.sysctl(f"net/ipv4/conf/{name}/rp_filter", rp_filter)
    world.mark()
    file, before = world.write(MOVED), picture()
    server = lan.serve(80)
    with Talk(lan, home, HOST) as talk, Talk(lan, home, HOST6) as talk6:
        talk.goes_on()
        world.succeeds("net", "up", file)
        assert "qn-lan" in program("ip", "route", "get", BEYOND)
        for one in (talk, talk6):
            one.goes_on()
        assert tcp(home, BEYOND, 80, server).startswith(HOST)
        with machine("guest") as guest:
            wire(home, "tap0", guest, "eth0", "qn-lan")
            guest.ip("address", "add", f"{GUEST}/24", "dev", "eth0")
            until(lambda: ping(guest, LAN), "the guest reaches the LAN")
            assert tcp(guest, LAN, 80, server).startswith(GUEST)
            for client, address in ((lan, GUEST), (guest, HOST), (home, GUEST)):  # one of so much traffic may be lost
                until(lambda client=client, address=address: ping(client, address), f"{client.name} reaches {address}")
            ip("link", "del", "tap0")
        world.succeeds("net", "down", file)
        for one in (talk, talk6):
            one.goes_on()
        assert tcp(home, BEYOND, 80, server).startswith(HOST)
    for sock in (*home.sockets, *lan.sockets):
        sock.close()
    assert picture() == before
    for name in ("eth0", "default"):
        home.sysctl(f"net/ipv4/conf/{name}/rp_filter", "0")
    world.mark()


def test_all_that_an_uplink_carries_is_on_the_bridge_and_back_again(world: World) -> None:
    """In the same order, with every flag; a route of another interface that speaks with its address stays."""
    with on_a_host_with_everything(world):
        before, four, six = picture(), routes("-4"), routes("-6")
        assert "is lent to it" in (said := world.qemunet("net", "up", world.write(MOVED)).stderr)
        assert 'the policy rule "32765: iif eth0" stays' in said
        assert routes("-4") == sorted(line.replace("eth0", "qn-lan") for line in four)
        assert not [line for line in routes("-6") if "eth0" in line and "fe80::" not in line and "ff00::" not in line]
        assert [line for line in six if "eth0" in line and line.replace("eth0", "qn-lan") not in routes("-6")] == []
        assert "mtu 1450" in program("ip", "link", "show", "qn-lan")
        assert "52:00:00:00:00:05" in program("ip", "link", "show", "qn-lan")
        world.succeeds("net", "down", "lan")
        assert picture() == before
        script(world, before)
    world.mark()


def routes(family: str) -> list[str]:
    """All routes of all tables, a way of several in a line of its own."""
    return sorted(re.sub(r"\d+sec", "N sec", program("ip", family, "route", "show", "table", "all")).splitlines())


def script(world: World, before: str) -> None:
    """The same by what `plan --shell` prints."""
    vm = '[vm.one]\nmemory = "64M"\naccel = "tcg"\n[[vm.one.nic]]\nnetwork = "lan"\n'
    file = world.folder / "lab.sh"
    file.write_text(world.succeeds("plan", "--shell", world.write(MOVED + vm)))
    environment = {**world.environment, "run": str(world.folder / "sh")}
    said, ways = [], []
    for word in ("up", "down"):
        done = subprocess.run(["sh", file, word], env=environment, capture_output=True, text=True)
        said += [line for line in done.stderr.splitlines() if "keeps the rights of root" not in line]
        ways.append("dev qn-lan" in program("ip", "route", "get", LAN))
    assert (said, ways) == ([], [True, False])
    assert picture() == before


# ---------------------------------------------------------------- ports that carry nothing


def test_ports_get_the_networks_mtu_and_are_put_back_as_they_were(world: World) -> None:
    """One that was down, and one that was up with another MTU; LAN and LAN reach each other by the bridge."""
    home = Machine("home")
    with machine("a") as a, machine("b") as b:
        wire(home, "eth1", a, "lan")
        wire(home, "eth2", b, "lan")
        ip("link", "set", "eth1", "mtu", "1300")
        ip("link", "set", "eth2", "addrgenmode", "none", "down")
        ip("link", "property", "add", "dev", "eth1", "altname", "lan-of-a-name-that-is-long")
        Path("/proc/sys/net/ipv6/conf/eth1/disable_ipv6").write_text("1")
        for number, one in enumerate((a, b), 1):
            one.ip("address", "add", f"10.0.0.{number}/24", "dev", "lan")
        world.mark()
        before = picture()
        world.succeeds("net", "up", world.write(PORTS.format('"lan-of-a-name-that-is-long", "eth2"', "mtu = 1400")))
        until(lambda: ping(a, "10.0.0.2"), "one side reaches the other")
        assert "mtu 1400" in program("ip", "link", "show", "eth1")
        world.succeeds("net", "down", "lan")
        assert picture() == before
        assert not world.left()
        for name in ("eth1", "eth2"):
            ip("link", "del", name)
    world.mark()


# ---------------------------------------------------------------- what cannot be, is said before


WRONG = {
    "an address": ('"eth0"', "", 6, "eth0 carries the host's address 192.0.2.5/24", "network.lan.move-address = true"),
    "two uplinks": ('"eth0", "eth1"', "move-address = true", 6, "eth0 and eth1 carry addresses", "eth1"),
    "a route": ('"eth2"', "", 6, "eth2 carries a route", "network.lan.move-address = true"),
    "a macvlan": ('"eth3"', "", 6, "eth3 carries mv0", "delete that first"),
    "a port": ('"eth4"', "", 6, "eth4 is a port of br0 already", "ip link set eth4 nomaster"),
    "a bridge": ('"br0"', "", 2, "br0 is a bridge itself", 'bridge = "br0"'),
    "a cable": ('"eth5", "eth6"', "", 2, "eth5 and eth6 are the two ends of one cable: that is a loop", "one of them"),
    "two ways": ('"eth7", "eth8"', "", 2, "eth7 and eth8 both lead to br0: that is a loop", "stp = true"),
    "nothing": ('"eth9"', "", 3, "the interface eth9", "of this network namespace"),
}


def test_what_cannot_be_a_port_is_refused_before_anything_is_done(world: World) -> None:
    """With the way to do it all the same, where there is one."""
    ends = {"eth0": "e0", "eth1": "e1", "eth2": "e2", "eth3": "e3", "eth4": "e4", "eth5": "eth6", "eth7": "e7"}
    ip("link", "add", "br0", "type", "bridge")
    for name, peer in (ends | {"eth8": "e8"}).items():
        ip("link", "add", name, "type", "veth", "peer", "name", peer)
        for one in (name, peer):
            Path(f"/proc/sys/net/ipv6/conf/{one}/disable_ipv6").write_text("1")
    for name in ("eth4", "e7", "e8"):
        ip("link", "set", name, "master", "br0")
    for words in (
        "link set eth2 up",
        "link add mv0 link eth3 type macvlan",
        "address add 192.0.2.5/24 dev eth0",
        "address add 192.0.3.5/24 dev eth1",
        "route add 10.9.0.0/24 dev eth2",
    ):
        ip(*words.split())
    world.mark()
    for ports, more, status, problem, hint in WRONG.values():
        said = world.fails(status, "net", "up", world.write(PORTS.format(ports, more)))
        assert problem in said
        assert hint in said
        assert not world.left()


# ---------------------------------------------------------------- what happens to it meanwhile


def test_what_was_moved_is_given_back_whatever_became_of_the_bridge_and_the_port(world: World, lan: Machine) -> None:
    """A bridge that somebody has deleted is made again, with all that it had; or there is only the way back."""
    file, before = world.write(MOVED), picture()
    world.succeeds("net", "up", file)
    moved = picture()
    ip("link", "del", "qn-lan")
    assert not ping(lan, HOST)
    world.succeeds("net", "up", file)
    assert plain(picture()) == plain(moved)
    assert ping(lan, HOST, 5)
    ip("link", "del", "qn-lan")
    world.succeeds("net", "down", file)
    assert picture() == before
    assert ping(lan, HOST, 5)


def plain(text: str) -> list[str]:
    """Without the numbers of interfaces, in no order."""
    return sorted(re.sub(r"^\d+: ", "", line) for line in text.splitlines())


def test_a_port_that_was_renamed_gets_its_own_back(world: World, lan: Machine) -> None:
    """It is known by its number. One that was taken away altogether is nobody's to put right."""
    file, before = world.write(MOVED), picture()
    world.succeeds("net", "up", file)
    for words in ("eth0 down", "eth0 name wan0", "wan0 up"):
        ip("link", "set", *words.split())
    world.succeeds("net", "down", file)
    assert picture().replace("wan0", "eth0").count(HOST) == before.count(HOST)
    assert ping(lan, HOST, 5)
    assert tcp(Machine("home"), BEYOND, 80, lan.serve(80)).startswith(HOST)
    ip("-6", "route", "del", "default")
    ip("address", "flush", "dev", "wan0", "scope", "global")
    world.succeeds("net", "up", world.write(PORTS.format('"wan0"', "")))
    ip("link", "del", "wan0")
    world.succeeds("net", "down", "lan")
    assert "qn-lan" not in program("ip", "link")
    ip("link", "add", "eth0", "type", "veth")  # for the LAN to take away
    for sock in lan.sockets:
        sock.close()
    world.mark()


NAT = '[network.lab]\nmode = "nat"\naddress = ["192.168.50.1/24"]\n{}\n'


@pytest.mark.parametrize("uplink", ["", 'uplink = "eth0"', 'uplink = "qn-lan"'])
def test_guests_of_another_network_get_out_by_the_bridge_that_has_what_their_uplink_had(
    world: World, lan: Machine, uplink: str
) -> None:
    """Whether they are bound to the uplink, or to the bridge, or to nothing. It passes packets on as long as that."""
    world.succeeds("net", "up", world.write(MOVED, "lan.toml"))
    switch = Path("/proc/sys/net/ipv4/conf/qn-lan/forwarding")
    was = switch.read_text()
    world.succeeds("net", "up", world.write(NAT.format(uplink)))
    with plugged(world.folder, "a", "52:54:00:00:00:0a", "qn-lab") as guest:
        guest.run("ip", "address", "add", "192.168.50.9/24", "dev", "eth0", check=True)
        guest.run("ip", "route", "add", "default", "via", "192.168.50.1", check=True)
        until(lambda: not guest.run("busybox", "ping", "-c1", "-W1", BEYOND).returncode, "the way out")
    world.succeeds("net", "down", "lab")
    assert switch.read_text() == was
    world.succeeds("net", "down", "lan")


def test_an_uplink_that_is_a_port_without_addresses_of_the_host_is_none(world: World) -> None:
    """What comes there is the bridge's, which the host is not on."""
    with machine("lan") as lan:
        bare_uplink(lan)
        ip("address", "flush", "dev", "eth0")
        world.succeeds("net", "up", world.write(PORTS.format('"eth0"', ""), "lan.toml"))
        said = world.fails(6, "net", "up", world.write(NAT.format('uplink = "eth0"')))
        assert 'network.lab.uplink: "eth0" is a port of the bridge qn-lan' in said
        world.succeeds("net", "down", "lan")
        ip("link", "del", "eth0")


def test_the_keeper_gives_the_host_back_what_went_with_a_bridge_that_somebody_deletes(
    world: World, lan: Machine
) -> None:
    """Nobody has to be at the machine, which would be hard to reach; twice as well as once, and then back."""
    guest = vm("one", card='network = "lan"')
    before = picture()
    world.succeeds("run", "-d", world.write(f'[lab]\nname = "home"\n{MOVED}{guest}'))
    moved = plain(picture())
    for _ in range(2):
        deleted = socket.if_nametoindex("qn-lan")
        ip("link", "del", "qn-lan")
        until(partial(is_another, "qn-lan", deleted), "there is another bridge")
        until(lambda: ping(lan, HOST), "the host is there again")
        until(lambda: ping(lan, HOST6), "by IPv6 too")
        until(lambda: plain(picture()) == moved, "all of it, and the guest's tap")
        until(lambda: ping(Machine("host"), BEYOND), "its default route leads out")
    world.succeeds("stop", "--force", "one")
    assert picture() == before
    assert ping(lan, HOST, 5)


def is_another(name: str, index: int) -> bool:
    """Whether there is an interface of that name which has not this index."""
    try:
        return socket.if_nametoindex(name) != index
    except OSError:
        return False


JOINED = """
[network.lab]
mode = "bridge"
ports = [{}]
[network.lan]
mode = "bridge"
ports = ["x"]
[[cable]]
name = "second"
a = "network:lab"
b = "network:lan"
"""


@pytest.mark.parametrize("other", ["", '"y"'])
def test_a_cable_between_networks_that_a_port_joins_already_is_a_loop(world: World, other: str) -> None:
    """Its other end is in the bridge of one of them, or a port of that."""
    ip("link", "add", "x", "type", "veth", "peer", "name", "y")
    file = world.write(JOINED.format(other) if other else JOINED.format("").replace('mode = "bridge"\nports = []', ""))
    if not other:
        world.succeeds("net", "up", file, "lab")
        ip("link", "set", "y", "master", "qn-lab")
    said = world.fails(6, "net", "up", file)
    assert "it closes a loop: second (qn-lab to qn-lan), port x (qn-lan to qn-lab)" in said.replace("network ", "")
    if not other:
        world.succeeds("net", "down", "lab")
    ip("link", "del", "x")
    assert not world.left()
