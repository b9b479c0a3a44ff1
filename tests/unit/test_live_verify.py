"""What counts as reached, as blocked, and as nothing that anybody could tell; reports; and a guest's own counters."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from qemunet.cli import junit
from qemunet.config import check, expects, read
from qemunet.config.write import lab_toml
from qemunet.host import attempts, dhcpask
from qemunet.host.attempts import Attempt, Reach
from qemunet.host.netns import Place
from qemunet.live import guestspot, verify
from qemunet.live.inside import Outcome
from qemunet.live.spots import Spot, Unproven, family
from qemunet.live.verify import Result, Verdict, judge_all
from qemunet.model.expect import AtVm, Check, Dhcp, Elsewhere, Expect, Family, Ping, Source, Target, Tcp, Udp
from qemunet.state import Runtime
from tests.unit.config_host import lab

THROUGH, SILENT, REFUSED, UNABLE = Reach.THROUGH, Reach.SILENT, Reach.REFUSED, Reach.UNABLE
THERE = "192.0.2.2"


class Fake(Spot):
    """A place with addresses; `reaches` says how far it comes, by address."""

    def __init__(self, name: str, *addresses: str, reaches: dict[str, Reach] | None = None, dark: bool = False) -> None:
        self.name = name
        self.own = addresses
        self.reaches = reaches or {}
        self.dark = dark
        self.tried: list[str] = []

    def addresses(self, network: str | None = None) -> list[str]:
        return list(self.own)

    def families(self) -> set[Family]:
        return {family(one) for one in self.own}

    def ping(self, address: str, seconds: float) -> Attempt:
        self.tried.append(address)
        found = self.reaches.get(address, SILENT if self.dark or address not in self.own else THROUGH)
        return Attempt(found, f"{address}: {found}")

    def connect(self, address: str, port: int, seconds: float) -> Attempt:
        return self.ping(address, seconds)

    def send(self, address: str, port: int, token: bytes, seconds: float) -> Attempt:
        return self.ping(address, seconds)

    def ask_dhcp(self, network: str | None, seconds: float) -> Attempt:
        return self.ping(self.own[0], seconds)

    @contextlib.contextmanager
    def listening(self, address: str, port: int, *, may_listen: bool) -> Iterator[None]:
        if not may_listen:
            raise Unproven("nobody listens")
        yield

    @contextlib.contextmanager
    def receiving(self, address: str, port: int, token: bytes) -> Iterator[Callable[[], bool]]:
        yield lambda: not self.dark


def wanted(check: Check = Ping(), *, allow: bool = True, beyond: str = "") -> Expect:  # noqa: B008 - it is frozen
    target: Target = Elsewhere(beyond) if beyond else AtVm("db")
    return Expect("expect[0]", AtVm("web"), None if isinstance(check, Dhcp) else target, check, allow, timeout=1)


def judged(expect: Expect, web: Fake, db: Fake | None) -> Verdict:
    def find(end: Source | Target) -> Spot | None:
        return web if end == AtVm("web") else db

    return judge_all([expect], find)[0].verdict


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LEAST", "_ATTEMPT", "_SETTLE", "_GLANCE"):
        monkeypatch.setattr(verify, name, 0.01)


@pytest.mark.parametrize(
    ("reach", "allowed", "blocked"),
    [
        (THROUGH, Verdict.HOLDS, Verdict.FAILS),
        (SILENT, Verdict.FAILS, Verdict.HOLDS),
        (Reach.NO_WAY, Verdict.FAILS, Verdict.HOLDS),
        (REFUSED, Verdict.FAILS, Verdict.HOLDS),  # the target takes connections, so it was somebody on the way
        (UNABLE, Verdict.UNCLEAR, Verdict.UNCLEAR),
    ],
)
def test_what_counts_for_a_target_of_the_lab(reach: Reach, allowed: Verdict, blocked: Verdict) -> None:
    found = [
        judged(
            wanted(Tcp(80, listen=True), allow=allow),
            Fake("web", "192.0.2.1", reaches={THERE: reach}),
            Fake("db", THERE),
        )
        for allow in (True, False)
    ]
    assert found == [allowed, blocked]


def test_a_refusal_of_somebody_beyond_the_lab_is_an_answer() -> None:
    """Nobody knows who has given it."""
    found = {
        reach: judged(
            wanted(Tcp(80), allow=False, beyond=THERE), Fake("web", "192.0.2.1", reaches={THERE: reach}), None
        )
        for reach in (REFUSED, SILENT, UNABLE)
    }
    assert found == {REFUSED: Verdict.FAILS, SILENT: Verdict.HOLDS, UNABLE: Verdict.UNCLEAR}


def test_one_way_is_enough_to_get_through_and_none_may_be_left_to_be_blocked() -> None:
    """Of the addresses that a target has."""
    web, db = Fake("web", "192.0.2.1", reaches={THERE: SILENT, "192.0.2.3": THROUGH}), Fake("db", THERE, "192.0.2.3")
    assert [judged(wanted(allow=allow), web, db) for allow in (True, False)] == [Verdict.HOLDS, Verdict.FAILS]


@pytest.mark.parametrize(
    ("expect", "web", "db"),
    [
        (wanted(allow=False), Fake("web", "192.0.2.1"), Fake("db", THERE, dark=True)),
        (wanted(Udp(53), allow=False), Fake("web", "192.0.2.1"), Fake("db", THERE, dark=True)),
        (wanted(Tcp(80, listen=False), allow=False), Fake("web", "192.0.2.1"), Fake("db", THERE)),
        (wanted(allow=False), Fake("web"), Fake("db", THERE)),
        (wanted(allow=False), Fake("web", "fd05::1"), Fake("db", THERE)),
        (wanted(allow=False), Fake("web", "192.0.2.1"), Fake("db")),
    ],
    ids=["deaf to itself", "no datagrams", "nobody listens", "no source", "source of another kind", "no target"],
)
def test_nothing_is_shown_by_silence_where_no_answer_could_have_come(expect: Expect, web: Fake, db: Fake) -> None:
    assert judged(expect, web, db) is Verdict.UNCLEAR


def test_dhcp_is_answered_or_not() -> None:
    web, deaf = Fake("web", THERE), Fake("web", THERE, dark=True)
    found = [judged(wanted(Dhcp(), allow=allow), one, None) for one in (web, deaf) for allow in (True, False)]
    assert found == [Verdict.HOLDS, Verdict.FAILS, Verdict.FAILS, Verdict.HOLDS]


def test_a_lab_is_written_with_what_it_expects_and_reads_back() -> None:
    text = '[vm.a]\n[netns.b]\n[[expect]]\nfrom = "a"\nto = "b"\ntcp = 80\nallow = false\nfamily = "ipv6"\n'
    text += (
        '[[expect]]\nfrom = "b"\nto = "a"\nudp = 53\n[[expect]]\nname = "out"\nfrom = "a"\nto = "host"\nping = true\n'
    )
    found = lab(text)
    assert [one.title for one in found.expects] == ["a b tcp 80", "b a udp 53", "out"]
    assert found.expects[0].timeout < found.expects[1].timeout
    assert lab(lab_toml(found)).expects == found.expects


def test_hosts_that_a_network_knows_by_name_are_targets() -> None:
    """As names with a dot, which are looked up where it is tried."""
    network = '[network.lan]\nmode = "nat"\naddress = "192.0.2.1/24"\n'
    text = network + '[[network.lan.hosts]]\nmac = "52:54:00:00:00:07"\nip = "192.0.2.7"\nname = "printer"\n[vm.a]\n'
    for name in ("printer", "db.example", "192.0.2.7", "fd05::7"):
        spec = read.loads(f'{text}[[expect]]\nfrom = "a"\nto = "{name}"\nping = true\n', "lab.toml")
        check.check(spec)
        assert expects.all_of(spec)[0].target == Elsewhere(name)


def test_a_report_has_nothing_that_xml_cannot_have() -> None:
    """Whatever a guest says."""
    result = Result(wanted(), Verdict.FAILS, 0.5, "it said \x00\x1b[31m<&>")
    failure = next(ET.fromstring(junit.xml("lab", "lab.toml", [result], "2026-01-01T00:00:00")).iter("failure"))
    assert failure.text == "web must reach db by ping: it said \ufffd\ufffd[31m<&>"


SNMP = """Udp: InDatagrams NoPorts InErrors
Udp: 7 5 0
UdpLite: InDatagrams NoPorts InErrors
UdpLite: 9 9 9
Udp6InDatagrams                 \t3
Udp6NoPorts                     \t2
  sl  local_address rem_address   st
  12: 00000000:0044 00000000:0000 07 00000000:00000000
""".splitlines()


@pytest.mark.parametrize(("port", "v6", "count"), [(53, False, 5), (68, False, 7), (53, True, 2), (68, True, 3)])
def test_a_guests_counters_tell_what_arrives(port: int, v6: bool, count: int) -> None:
    """At ports that nobody has, or at one that somebody has."""
    assert guestspot.datagrams(SNMP, port, v6=v6) == count


def test_this_host_reaches_itself_and_is_refused_by_itself() -> None:
    """By the sockets that expectations use."""
    here, token = Place(), b"0123456789abcdef"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with attempts.listening(here, "127.0.0.1", 0):
        pass
    with attempts.receiving(here, "127.0.0.1", port, token) as arrived:
        attempts.send(here, "127.0.0.1", port, token, 0.1)
        assert arrived()
    assert attempts.send(here, "127.0.0.1", port, token, 5).reach is REFUSED
    assert attempts.connect(here, "127.0.0.1", port, 5).reach is REFUSED


def test_an_offer_to_somebody_else_is_none() -> None:
    assert dhcpask._offer(b"", 7) == ""
    assert dhcpask._offer(dhcpask._packet(dhcpask._discover(bytes(6), 7)), 7) == ""


@pytest.fixture(params=["busybox", "bash"])
def guest(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> guestspot.InGuest:
    """A guest with busybox, and one with neither that nor nc: this host, with nothing else in its PATH."""
    programs = {"busybox": ("nc", "sh", "tftp", "timeout", "true"), "bash": ("bash", "cat", "timeout")}
    for program in programs[request.param]:
        found = shutil.which("busybox" if request.param == "busybox" else program)
        assert found, program
        (tmp_path / program).symlink_to(found)

    def call(here: Runtime, vm: str, argv: Sequence[str], *, timeout: float) -> Outcome:
        program = tmp_path / argv[0]
        if not program.exists():
            return Outcome(127, b"", b"not there")
        words = {"executable": program, "env": {"PATH": str(tmp_path)}, "timeout": timeout}
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, **words)
        return Outcome(done.returncode, done.stdout, done.stderr)

    monkeypatch.setattr(guestspot.inside, "call", call)
    return guestspot.InGuest(Runtime(str(tmp_path)), "web")


def test_a_guest_tries_with_what_it_has(guest: guestspot.InGuest) -> None:
    """For connections that are taken or refused, and datagrams that arrive."""
    here = Place()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert guest.connect("127.0.0.1", port, 5).reach is THROUGH
    assert guest.connect("127.0.0.1", port, 5).reach is REFUSED
    with attempts.receiving(here, "127.0.0.1", port, b"0123456789abcdef") as arrived:
        guest.send("127.0.0.1", port, b"0123456789abcdef", 1)
        assert arrived()
    assert "has no ping" in guest.ping("127.0.0.1", 1).seen
