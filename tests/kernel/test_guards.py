"""What gets past a guard and what does not, by frames that the test sends as the guest would."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.frozen import replace
from qemunet.host import nft
from qemunet.host.linux import LinuxHost
from qemunet.live.guards import dropped
from qemunet.live.record import nic_record
from qemunet.model.guard import Guard, GuardLevel
from qemunet.model.nic import Backend, MacvtapBackend, MacvtapMode, OnBridge, PointToPoint, Rate, TapBackend
from qemunet.steps import AddLink, BridgeLink, DelLink, DropTable, LoadTable, Mark, OpenTap, SetLink, Step
from tests.dump import program
from tests.frames import DEADLINE, Ear, Player, address, ethernet
from tests.kernel.conftest import ip
from tests.spoofs import (
    HOST_IP,
    HOST_IP6,
    HOST_LOCAL,
    IP,
    IP6,
    LEVELS,
    LLDP,
    ME,
    OTHER,
    OTHER_IP,
    OTHER_LOCAL,
    Case,
    arp,
    dishonest,
    honest,
    icmp6,
    ipv4,
    ipv6,
    mark,
    udp,
)
from tests.world import World, machine

TAP = TapBackend("qn-a-net0", 1500, OnBridge("br0"))
CABLE = TapBackend("qn-a-net0", 1500, PointToPoint(("192.0.2.1/24", "fd77::1/64"), ("198.51.100.0/24",)))
MACVTAPS = {mode: MacvtapBackend("qn-a-net0", "eth1", mode, 1500) for mode in MacvtapMode}
FOREIGN = (HOST_IP, HOST_IP6, HOST_LOCAL)
BEHIND = "198.51.100.7"
CASES = [*honest(), *dishonest()]


@pytest.fixture(autouse=True)
def passes_all(fresh: Path) -> None:
    """The bridge alone drops nothing: not what listeners report, which it would keep for itself."""
    ip("link", "set", "br0", "type", "bridge", "mcast_snooping", "0")


def guard(level: GuardLevel, *addresses: str, behind: tuple[str, ...] = ()) -> Guard:
    return Guard(level, addresses, behind, () if level is GuardLevel.STRICT else FOREIGN)


@contextlib.contextmanager
def card(host: LinuxHost, backend: Backend, **more: object) -> Iterator[Player]:
    player = Player(host, "a", ME, backend, **more)
    try:
        yield player
    finally:
        player.take_back()


def counted(player: Player) -> dict[str, int]:
    """What the guard says that it has dropped."""
    row = nic_record(player.nic)
    return {kind: number for kind, number in dropped(player.host.runtime, "a", [row])["net0"].items() if number}


def heard(player: Player, ear: Ear, cases: list[Case]) -> list[str]:
    """The names of those that arrive; the last one is honest, and whatever comes at all comes before that."""
    for case in cases:
        player.send(case.frame)
    fence = ipv4(IP, 17, udp(mark("fence"), 5000, 5001))
    player.send(fence)
    found: list[bytes] = []
    ear_fd, frames = ear.sock, ear.frames
    ear_fd.settimeout(DEADLINE)
    while not any(mark("fence") in one for one in found):
        found.append(ear_fd.recv(4096))
    ear_fd.setblocking(False)
    assert not frames()
    return [case.name for case in cases if any(mark(case.name) in one for one in found)]


def expected(level: GuardLevel) -> tuple[list[str], dict[str, int]]:
    kinds = Counter(case.kind for case in CASES if not case.passes(level))
    return [case.name for case in CASES if case.passes(level)], dict(kinds)


@pytest.mark.parametrize("level", LEVELS)
def test_what_passes_from_a_tap_on_a_bridge(host: LinuxHost, level: GuardLevel) -> None:
    """And as what the rest is counted."""
    ear = Ear("br0")
    with contextlib.closing(ear), card(host, TAP, guard=guard(level, IP, IP6)) as player:
        passed, dropped = expected(level)
        assert heard(player, ear, CASES) == passed
        assert level is GuardLevel.OFF or counted(player) == dropped


@pytest.mark.parametrize("level", LEVELS)
def test_what_passes_from_a_macvtap(host: LinuxHost, level: GuardLevel) -> None:
    """The same, by its egress."""
    ear = Ear("eth1-peer")
    with contextlib.closing(ear), card(host, MACVTAPS[MacvtapMode.BRIDGE], guard=guard(level, IP, IP6)) as player:
        passed, dropped = expected(level)
        assert heard(player, ear, CASES) == passed
        assert level is GuardLevel.OFF or counted(player) == dropped


@pytest.mark.parametrize("mode", [MacvtapMode.VEPA, MacvtapMode.PRIVATE])
def test_a_macvtap_is_guarded_in_every_mode(host: LinuxHost, mode: MacvtapMode) -> None:
    ear = Ear("eth1-peer")
    with contextlib.closing(ear), card(host, MACVTAPS[mode], guard=guard(GuardLevel.CLEAN, IP, IP6)) as player:
        assert heard(player, ear, CASES) == expected(GuardLevel.CLEAN)[0]


@pytest.mark.parametrize("rate", [Rate(None, 10**9), Rate(10**9, None), Rate(10**9, 10**9)])
@pytest.mark.parametrize("backend", [TAP, MACVTAPS[MacvtapMode.BRIDGE]])
def test_no_rate_leads_around_a_guard(host: LinuxHost, backend: Backend, rate: Rate) -> None:
    """Whichever way it limits, and by an ifb or not."""
    ear = Ear("br0" if backend is TAP else "eth1-peer")
    with contextlib.closing(ear), card(host, backend, guard=guard(GuardLevel.CLEAN, IP, IP6), rate=rate) as player:
        assert heard(player, ear, CASES) == expected(GuardLevel.CLEAN)[0]


def test_what_is_sent_to_a_guest_is_nobodys_business(host: LinuxHost) -> None:
    """A guard looks one way: another guest's frames arrive, whoever they say they are."""
    other = Player(host, "b", OTHER, replace(TAP, ifname="qn-b-net0"))
    with contextlib.ExitStack() as stack, card(host, TAP, guard=guard(GuardLevel.STRICT, IP)) as player:
        stack.callback(other.take_back)
        for case in dishonest():
            other.send(case.frame)
        found = player.frames()
        assert [case.name for case in dishonest() if any(mark(case.name) in one for one in found)] == [
            case.name for case in dishonest()
        ]


def test_a_guest_of_unknown_addresses_may_not_be_its_network_s_host(host: LinuxHost) -> None:
    """It may be anybody else."""
    allowed = {"arp-ip", "ip", "na-other", "dad-other", "ip6", "ip-nobody"}
    ear = Ear("br0")
    with contextlib.closing(ear), card(host, TAP, guard=guard(GuardLevel.CLEAN)) as player:
        passed = expected(GuardLevel.CLEAN)[0]
        assert heard(player, ear, CASES) == [one.name for one in CASES if one.name in {*passed, *allowed}]


def test_strict_closes_the_version_of_ip_that_has_no_address(host: LinuxHost) -> None:
    """But for what makes IPv6's link work; of ARP, the probe alone."""
    ear = Ear("br0")
    with contextlib.closing(ear), card(host, TAP, guard=guard(GuardLevel.STRICT, IP)) as player:
        found = heard(player, ear, CASES)
        assert "udp" in found
        assert not {"udp6", "ns", "na", "dad"} & {*found}
        assert {"dad-local", "rs", "mld", "na-local", "dhcp6"} <= {*found}
    with contextlib.closing(Ear("br0")) as other, card(host, TAP, guard=guard(GuardLevel.STRICT, IP6)) as player:
        for case in honest():
            player.send(case.frame)
        last = ipv6(IP6, icmp6("last", 128))
        player.send(last)
        assert other.hears(last)
        assert counted(player) == {"arp": 3, "ip": 3}


def test_a_guard_changes_while_a_card_is_used(host: LinuxHost) -> None:
    """Each time in one step, without a moment in which there is none; other addresses are another guard."""
    ear = Ear("br0")
    spoof = next(case for case in CASES if case.name == "ip")
    with contextlib.closing(ear), card(host, TAP) as player:
        assert heard(player, ear, [spoof]) == ["ip"]
        (load,) = player.change(guard=guard(GuardLevel.CLEAN, IP))
        assert isinstance(load, LoadTable)
        assert heard(player, ear, [spoof]) == []
        (again,) = player.change(guard=guard(GuardLevel.CLEAN, IP, OTHER_IP))
        assert isinstance(again, LoadTable)
        assert again.was == load.rules
        assert heard(player, ear, [spoof]) == ["ip"]
        host.perform(player.undo.pop())
        assert heard(player, ear, [spoof]) == []
        player.nic = replace(player.nic, guard=guard(GuardLevel.CLEAN, IP))
        (drop,) = player.change(guard=Guard())
        assert isinstance(drop, DropTable)
        assert heard(player, ear, [spoof]) == ["ip"]
        host.perform(player.undo.pop())
        assert heard(player, ear, [spoof]) == []


def test_a_guard_is_there_before_its_card_is_up(host: LinuxHost) -> None:
    """And after it: nothing is undone before."""
    for backend in (TAP, CABLE, *MACVTAPS.values()):
        with card(host, backend, guard=guard(GuardLevel.CLEAN, IP)) as player:
            done = [step.describe().split()[0] for step in player.done]
            first_up = next(at for at, step in enumerate(player.done) if is_up(step))
            assert "load" in done[:first_up]
            assert "load" not in done[first_up:]


def is_up(step: Step) -> bool:
    return isinstance(step, OpenTap) or (isinstance(step, SetLink) and step.up is True)


def test_a_bridge_of_ours_learns_no_address_from_what_passes_no_table(host: LinuxHost) -> None:
    """Switches' own messages, which any other bridge would believe."""
    made = AddLink("br1", BridgeLink("02:00:00:00:00:0a", 1500), Mark("net/lab", "bridge", 0x4000_0001))
    host.perform(made)
    host.perform(SetLink("br1", up=True))
    with card(host, replace(TAP, attach=OnBridge("br1")), guard=guard(GuardLevel.MAC)) as player:
        for frame in (ethernet(OTHER, mark("lldp"), 0x88CC, LLDP), ethernet(OTHER, mark("any")), ethernet(ME, b"")):
            player.send(frame)
        learned = program("bridge", "fdb", "show", "br", "br1", "dynamic")
        assert (ME in learned, OTHER in learned) == (True, False)
    host.perform(DelLink("br1", made.mark))


@pytest.mark.parametrize("rate", [Rate(), Rate(None, 10**9)])
def test_what_reaches_the_host_from_a_point_to_point_tap(host: LinuxHost, rate: Rate) -> None:
    """The guest's own addresses and those that are routed through it; its ARP teaches the host no others."""
    clean = guard(GuardLevel.CLEAN, IP, IP6, behind=("198.51.100.0/24",))
    with card(host, CABLE, guard=clean, rate=rate) as player, contextlib.closing(server()) as sock:
        for source, text in ((IP, IP), (OTHER_IP, ""), (BEHIND, BEHIND), ("203.0.113.7", ""), (IP, "end")):
            frame = ipv4(source, 17, udp(text.encode(), 5000, 5001), to=HOST_IP)
            player.send(address(player.host_mac()) + frame[6:])
        found = [sock.recv(100)]
        while found[-1] != b"end":
            found.append(sock.recv(100))
        assert found == [IP.encode(), BEHIND.encode(), b"end"]
        player.send(arp("", 1, OTHER_IP, HOST_IP))
        player.send(ipv6(OTHER_LOCAL, icmp6("", 134)))
        assert counted(player) == {"ip": 2, "arp": 1, "ra": 1}


def server() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST_IP, 5001))
    sock.settimeout(DEADLINE)
    return sock


def test_this_kernel_is_asked_for_what_it_has_and_nothing_stays(host: LinuxHost) -> None:
    """All that the tests above need is there, so nothing is lacking; and the question leaves no table."""
    before = program("nft", "list", "ruleset")
    assert nft.guard_lacks() == frozenset()
    assert program("nft", "list", "ruleset") == before


def test_a_guard_is_put_on_a_guest_that_runs_and_goes_with_it(world: World) -> None:
    """From the command line, by way of the plan of a live change; a card on somebody else's bridge."""
    ip("link", "add", "br7", "type", "bridge")
    file = world.write(machine("a", card='bridge = "br7"\nguard = "mac"'))
    world.succeeds("run", file, "-d")
    assert program("nft", "list", "tables").startswith("table bridge qemunet-a-net0-")
    world.succeeds("nic", "set", "a", "net0", "--guard", "clean", "--ip", "192.0.2.9/24")
    assert "192.0.2.9" in program("nft", "list", "ruleset")
    world.succeeds("nic", "set", "a", "net0", "--ip", "192.0.2.10/24", "--port-isolation", "on")
    (card,) = json.loads(world.succeeds("nic", "list", "a", "--json"))
    assert (card["guard"], card["port_isolation"], card["dropped"]["ip"]) == ("clean", True, 0)
    assert "192.0.2.10" in program("nft", "list", "ruleset")
    assert "isolated on" in program("bridge", "-d", "link", "show", "dev", "qn-a-net0")
    world.succeeds("nic", "set", "a", "net0", "--guard", "off", "--port-isolation", "off")
    assert program("nft", "list", "tables") == ""
    world.succeeds("nic", "set", "a", "net0", "--guard", "strict")
    world.succeeds("stop", "a", "--force")
    assert program("nft", "list", "tables") == ""
    ip("link", "del", "br7")
