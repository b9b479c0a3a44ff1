"""DHCP and names on networks of ours: a real dnsmasq, and real packets from namespaces that play guests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet import runner
from qemunet.errors import Failed, Taken
from qemunet.frozen import replace
from qemunet.host import daemons, leases, offload, processes
from qemunet.journal import Journal
from qemunet.model.network import Boot, Dhcp6, Dns, KnownHost, NetworkMode
from qemunet.steps import EndDaemon, Reserve, StartDaemon, Unreserve
from tests import namespace
from tests.dump import dump, left_behind
from tests.kernel.lan import BRIDGE, NAMES, POOL, Lan, fresh_lan, ip, network
from tests.world import kill, status, until

ALICE, BOB = "52:54:00:00:00:0a", "52:54:00:00:00:0b"


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    if why := namespace.lack():
        pytest.skip(why)
    with namespace.fresh_namespace(), fresh_lan(tmp_path) as lan:
        yield lan


# ---------------------------------------------------------------- addresses


def test_a_guest_gets_an_address_of_the_range(lan: Lan) -> None:
    """With the way out, the name server, the domain and the MTU."""
    lan.up(network(mtu=1400))
    said = lan.guest("a", ALICE).lease("-O", "mtu")
    assert said["ip"] in {f"192.168.50.{number}" for number in range(100, 110)}
    assert (said["router"], said["dns"], said["domain"]) == ("192.168.50.1", "192.168.50.1", "lab.test")
    assert (said["lease"], said["mask"], said["mtu"]) == ("3600", "24", "1400")


def test_a_reservation_is_kept(lan: Lan) -> None:
    """By MAC, also outside the range; whoever asks gets the name with it, and nobody else gets the address."""
    pool = replace(POOL, first="192.168.50.12", last="192.168.50.13")
    lan.up(network(dhcp=pool, hosts=(KnownHost(ALICE, "192.168.50.12", "alice"),)))
    assert lan.guest("b", BOB).lease()["ip"] == "192.168.50.13"
    said = lan.guest("a", ALICE).lease("-O", "hostname")
    assert (said["ip"], said["hostname"]) == ("192.168.50.12", "alice")


def test_a_card_that_comes_later_has_its_reservation(lan: Lan) -> None:
    """At once, and when it goes it is forgotten."""
    lan.up(network())
    told = Reserve("dnsmasq", str(lan.scope()), "hosts/alice.net0", f"{ALICE},192.168.50.13,alice\n")
    other = Reserve("dnsmasq", str(lan.scope()), "hosts/bob.net0", f"{BOB},192.168.50.14,bob\n")
    for step in (told, other):
        lan.host.perform(step)
    assert lan.guest("a", ALICE).lease()["ip"] == "192.168.50.13"
    back = other.inverse(lan.facts)
    assert isinstance(back, Unreserve)
    lan.host.perform(back)
    assert lan.guest("b", BOB).lease()["ip"] != "192.168.50.14"


def test_a_reservation_that_is_another_one_now_is_heard_of(lan: Lan) -> None:
    """The address that it was about is free for others."""
    lan.up(network())
    for address in ("192.168.50.13", "192.168.50.14"):
        text = f"{ALICE},{address},alice\n"
        lan.host.perform(Reserve("dnsmasq", str(lan.scope()), "hosts/alice.net0", text))
    assert lan.guest("a", ALICE).lease()["ip"] == "192.168.50.14"
    other = Reserve("dnsmasq", str(lan.scope()), "hosts/bob.net0", f"{BOB},192.168.50.13,bob\n")
    lan.host.perform(other)
    assert lan.guest("b", BOB).lease()["ip"] == "192.168.50.13"


def test_leases_are_read_with_whose_they_are(lan: Lan) -> None:
    lan.up(network(hosts=(KnownHost(ALICE, "192.168.50.12", "alice"),)))
    lan.guest("a", ALICE).lease()
    (lease,) = leases.read(str(lan.scope()))
    assert (lease.mac, lease.ip, lease.hostname) == (ALICE, "192.168.50.12", "alice")
    assert lease.expires is not None
    assert 3500 < lease.expires - time.time() <= 3600


def test_without_a_gateway_nobody_is_told_of_one(lan: Lan) -> None:
    lan.up(network(dhcp=replace(POOL, gateway=False)))
    assert "router" not in lan.guest("a", ALICE).lease()


def test_options_by_number_and_by_name(lan: Lan) -> None:
    options = (("ntp-server", "192.0.2.1,192.0.2.2"), ("17", 'a "b", #c'))
    lan.up(network(dhcp=replace(POOL, options=options), dns=None))
    said = lan.guest("a", ALICE).lease("-O", "ntpsrv", "-O", "rootpath")
    assert (said["ntpsrv"], said["rootpath"]) == ("192.0.2.1 192.0.2.2", 'a "b", #c')


def test_a_guest_can_boot_from_the_network(lan: Lan, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The file comes by TFTP from a directory that others can read."""
    root = Path("/tmp") / f"qemunet-tftp-{os.getpid()}"
    root.mkdir()
    try:
        (root / "pxe linux.0").write_text("a kernel\n")
        lan.up(network(dhcp=replace(POOL, boot=Boot("pxe linux.0", root=str(root)))))
        guest = lan.guest("a", ALICE)
        assert guest.lease()["boot_file"] == "pxe linux.0"
        fetched = guest.run("busybox", "tftp", "-g", "-r", "pxe linux.0", "-l", "/dev/stdout", "192.168.50.1")
        assert fetched.stdout == "a kernel\n", fetched
    finally:
        shutil.rmtree(root)


def test_two_networks_have_a_server_each(lan: Lan) -> None:
    lan.up(network())
    other = replace(BRIDGE, ifname="qn-other", mac="52:54:00:aa:bb:02")
    pool = replace(POOL, first="10.7.0.5", last="10.7.0.9")
    lan.up(network("other", addresses=("10.7.0.1/24",), switch=other, dhcp=pool))
    assert lan.guest("a", ALICE).lease()["ip"].startswith("192.168.50.")
    assert lan.guest("b", BOB, "qn-other").lease()["ip"].startswith("10.7.0.")


def test_answers_have_whole_checksums(lan: Lan) -> None:
    """Or a DHCP client that reads raw frames would throw them away."""
    lan.up(network())
    assert not offload.sends_unfinished("qn-lab")


# ---------------------------------------------------------------- IPv6


def test_guests_make_their_own_ipv6_addresses(lan: Lan) -> None:
    """By router advertisements; in a network without a way out the host is nobody's router."""
    lan.up(network(addresses=("192.168.50.1/24", "fd77::1/64"), dhcp6=Dhcp6(slaac=True)))
    guest = lan.guest("a", ALICE)
    until(lambda: "fd77::5054:ff:fe00:a" in guest.run("ip", "-6", "address").stdout, "an address", 30)
    assert "default" not in guest.run("ip", "-6", "route").stdout


def test_a_host_with_a_way_out_is_a_router(lan: Lan) -> None:
    addresses = ("192.168.50.1/24", "fd77::1/64")
    lan.up(network(mode=NetworkMode.ROUTED, addresses=addresses, dhcp6=Dhcp6(slaac=True)))
    guest = lan.guest("a", ALICE)
    until(lambda: "default via fe80::" in guest.run("ip", "-6", "route").stdout, "a route", 30)


def test_ipv6_addresses_of_a_range(lan: Lan) -> None:
    """The advertisement says that guests make none; whose MAC has a reservation gets that, and the lease is his."""
    pool = Dhcp6(slaac=False, first="fd77::100", last="fd77::10f")
    hosts = (KnownHost(ALICE, "fd77::12", "alice"),)
    lan.up(network(addresses=("192.168.50.1/24", "fd77::1/64"), dhcp6=pool, hosts=hosts))
    alice, bob = lan.guest("a", ALICE), lan.guest("b", BOB)
    until(lambda: "fd77::/64" in bob.run("ip", "-6", "route").stdout, "the prefix", 30)
    assert "fd77::" not in bob.run("ip", "-6", "address").stdout
    assert alice.address6() == "fd77::12"
    assert bob.address6() in {f"fd77::{number:x}" for number in range(0x100, 0x110)}
    known = leases.Lease(ALICE, "fd77::12", "alice", None)
    until(lambda: known in [replace(one, expires=None) for one in leases.read(str(lan.scope()))], "the lease", 30)


# ---------------------------------------------------------------- names


def test_guests_know_each_other_by_name(lan: Lan) -> None:
    """With the domain and without; also who has no lease, but an address in the file."""
    hosts = (KnownHost(ALICE, "192.168.50.12", "alice"), KnownHost(BOB, "", "bob"))
    dns = replace(NAMES, hosts=(("db", "192.168.50.20"),))
    lan.up(network(hosts=hosts, dns=dns))
    alice, bob = lan.guest("a", ALICE), lan.guest("b", BOB)
    alice.lease()
    leased = bob.lease()["ip"]
    known = {name: alice.address(name) for name in ("bob", "bob.lab.test", "alice.lab.test", "db", "db.lab.test")}
    assert known == {
        "bob": leased,
        "bob.lab.test": leased,
        "alice.lab.test": "192.168.50.12",
        "db": "192.168.50.20",
        "db.lab.test": "192.168.50.20",
    }


@pytest.fixture
def elsewhere(lan: Lan) -> Iterator[list[bytes]]:
    """A name server on the host that knows one answer; gives the questions that it was asked."""
    asked: list[bytes] = []
    ip("link", "set", "lo", "up")
    ip("address", "add", "192.0.2.53/32", "dev", "lo")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("192.0.2.53", 53))

    def serve() -> None:
        while True:
            data, whom = sock.recvfrom(4096)
            if data == b"enough":
                return
            asked.append(data)
            question = data[12:].split(b"\0", 1)[0] + data[12:][data[12:].index(b"\0") :][:5]
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\xc6\x33\x64\x07"
            sock.sendto(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + answer, whom)

    thread = threading.Thread(target=serve)
    thread.start()
    yield asked
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.sendto(b"enough", ("192.0.2.53", 53))
    thread.join()
    sock.close()


def test_other_names_are_asked_for_elsewhere(lan: Lan, elsewhere: list[bytes]) -> None:
    dns = Dns("lab.test", ("192.0.2.53",), (), local_only=False)
    lan.up(network(mode=NetworkMode.NAT, dns=dns))
    guest = lan.guest("a", ALICE)
    guest.lease()
    assert guest.address("far.example") == "198.51.100.7"
    assert guest.address("nobody.lab.test") == ""
    assert guest.address("nobody") == ""
    assert not any(b"nobody" in question for question in elsewhere)


def test_where_only_local_names_are_known_nothing_leaks(lan: Lan, elsewhere: list[bytes]) -> None:
    lan.up(network(dns=Dns(None, ("192.0.2.53",), (), local_only=True)))
    guest = lan.guest("a", ALICE)
    guest.lease()
    assert guest.address("far.example") == ""
    assert elsewhere == []


def test_without_names_there_are_addresses(lan: Lan) -> None:
    lan.up(network(dns=None))
    said = lan.guest("a", ALICE).lease()
    assert said["ip"]
    assert "dns" not in said
    assert not _listens(lan, 53)


def test_without_addresses_there_are_names(lan: Lan) -> None:
    lan.up(network(dhcp=None, dns=replace(NAMES, hosts=(("db", "192.168.50.20"),))))
    guest = lan.guest("a", ALICE)
    assert guest.lease() == {}
    guest.run("ip", "address", "add", "192.168.50.7/24", "dev", "eth0")
    assert guest.address("db") == "192.168.50.20"
    assert not _listens(lan, 67)


def test_nobody_elsewhere_is_answered(lan: Lan) -> None:
    """Not on the host's other interfaces, and not on loopback."""
    lan.up(network())
    told = subprocess.run(["ss", "-Hlnu", "sport", "=", ":53"], capture_output=True, text=True).stdout
    assert [line.split()[3] for line in told.splitlines()] == ["192.168.50.1:53"]


def _listens(lan: Lan, port: int) -> bool:
    told = subprocess.run(["ss", "-Hlnu", "sport", "=", f":{port}"], capture_output=True, text=True, check=True)
    return bool(told.stdout)


# ---------------------------------------------------------------- ports of others


def test_a_taken_port_of_names_is_taken_by_somebody(lan: Lan) -> None:
    """Who found out before leaves names alone, and there are addresses; else the error says who has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 53))
        net = network()
        lan.scope().mkdir(parents=True)
        *before, start = lan.steps(net)
        for step in before:
            lan.host.perform(step)
        with pytest.raises(Taken, match=rf"port 53 is in use by \S+ \(pid {os.getpid()}\)"):
            lan.host.perform(start)
        assert not daemons.alive(str(lan.scope()), "dnsmasq")
        lan.facts = replace(lan.facts, listeners={"udp/53": "python (pid 1)"})
        for step in lan.steps(net)[-4:]:
            lan.host.perform(step)
        assert lan.guest("a", ALICE).lease()["ip"]


def test_a_taken_port_of_dhcp_is_taken_by_somebody(lan: Lan) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 67))
        with pytest.raises(Taken, match=rf"port 67 is in use by \S+ \(pid {os.getpid()}\)"):
            lan.up(network())


def test_its_last_words_are_told(lan: Lan) -> None:
    """With the command line, so that it can be tried by hand."""
    with pytest.raises(
        Failed, match=r"(?s)died at start \(exit status 1\).*bad dhcp-option.*line.*--conf-file=/.*/net/lab/dnsmasq/"
    ):
        lan.up(network(dhcp=replace(POOL, options=(("no-such", "1"),))))


# ---------------------------------------------------------------- the process


def test_it_has_few_rights(lan: Lan) -> None:
    """A user of its own without groups, three rights over networks, and no way to more."""
    net = lan.up(network())
    said = status(lan.pid())
    user = dhcp_user(lan, net)
    assert said["Uid"] == said["Gid"] == [str(user)] * 4
    assert said["Groups"] == []
    assert {said[key][0] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0000000000003400"}
    assert said["NoNewPrivs"] == ["1"]
    assert os.getsid(lan.pid()) == lan.pid()


def dhcp_user(lan: Lan, net: object) -> int:
    start = next(step for step in lan.steps(net) if isinstance(step, StartDaemon))  # type: ignore[arg-type]
    assert start.uid is not None
    return start.uid


def test_only_its_leases_are_its_own(lan: Lan) -> None:
    net = lan.up(network())
    folder = lan.scope() / "dnsmasq"
    owners = {str(path.relative_to(folder)): path.stat().st_uid for path in [folder, *folder.rglob("*")]}
    assert owners.pop("leases") == dhcp_user(lan, net)
    assert set(owners.values()) == {0}
    assert lan.runtime.stat().st_mode & 0o777 == 0o700


def test_where_it_cannot_have_rights_of_its_own_it_is_the_caller(lan: Lan) -> None:
    lan.facts = replace(lan.facts, can_switch_user=False)
    lan.up(network(hosts=(KnownHost(ALICE, "192.168.50.12", "alice"),)))
    assert status(lan.pid())["Uid"] == [str(os.geteuid())] * 4
    assert lan.guest("a", ALICE).lease()["ip"] == "192.168.50.12"


def test_it_is_found_without_its_number(lan: Lan) -> None:
    """Whoever started it may have been killed before it was written down."""
    lan.up(network())
    pid = lan.pid()
    (lan.scope() / "dnsmasq.pid").unlink()
    assert daemons.find(str(lan.scope()), "dnsmasq") == pid
    (lan.scope() / "dnsmasq.pid").write_text(f"{os.getpid()}\n")
    assert daemons.find(str(lan.scope()), "dnsmasq") == pid


def test_one_that_does_not_want_to_end_is_made_to(lan: Lan) -> None:
    lan.up(network())
    pid = lan.pid()
    os.kill(pid, signal.SIGSTOP)
    lan.host.perform(EndDaemon("dnsmasq", str(lan.scope())))
    assert processes.start_time(pid) is None


def test_one_that_died_is_started_again_with_its_leases(lan: Lan) -> None:
    lan.up(network())
    guest = lan.guest("a", ALICE)
    address = guest.lease()["ip"]
    kill(lan.pid())
    assert not daemons.alive(str(lan.scope()), "dnsmasq")
    assert daemons.again(str(lan.scope()), "dnsmasq") == (lan.pid(), True)
    assert daemons.again(str(lan.scope()), "dnsmasq") == (lan.pid(), False)
    assert guest.lease()["ip"] == address


@pytest.mark.parametrize("ended", [False, True])
def test_what_it_has_begun_goes_with_it(lan: Lan, ended: bool) -> None:
    """A connection to the name server has a process of its own, which a guest could keep for minutes."""
    lan.up(network())
    first = lan.pid()
    with socket.create_connection(("192.168.50.1", 53)) as connection:
        connection.sendall(b"\0")
        log = str(lan.scope() / "dnsmasq.log")
        until(lambda: len(list(processes.holders(log))) == 2, "a process for the connection")
        child = next(pid for pid in processes.holders(log) if pid != first)
        if ended:
            lan.host.perform(EndDaemon("dnsmasq", str(lan.scope())))
        else:
            kill(first)
            assert daemons.again(str(lan.scope()), "dnsmasq") == (lan.pid(), True)
            assert lan.guest("a", ALICE).lease()["ip"]
        assert processes.start_time(child) is None


# ---------------------------------------------------------------- nothing is left


@pytest.mark.parametrize("killed", [False, True])
def test_after_every_step_all_can_be_taken_back(lan: Lan, killed: bool) -> None:
    """Whether the step said that it was done or whoever did it was killed."""
    before = dump(lan.folder)
    net = network()
    steps = lan.steps(net)
    for number in range(1, len(steps) + 1):
        lan.scope().mkdir(parents=True)
        journal = Journal(str(lan.scope() / "journal.jsonl"))
        for step in steps[:number]:
            intent = journal.intent(step, step.inverse(lan.facts))
            lan.host.perform(step)
            if not killed:
                journal.mark(intent, "done")
        if killed:
            (lan.scope() / "dnsmasq.pid").unlink(missing_ok=True)
        assert runner.unwind(journal, lan.host) == []
        journal.close()
        lan.host.close()
        shutil.rmtree(lan.runtime / "net")
        found = left_behind(before, lan.folder)
        assert not found, f"after step {number}: {found}"
