"""What a lab of namespaces expects: what gets through, what is kept out, and of what nothing can be said."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.places import inside, world_of_spaces
from tests.world import World

LAB = """
[lab]
name = "shop"
[network.lan]
mode = "isolated"
address = "192.168.50.1/24"
dhcp = { range = ["192.168.50.100", "192.168.50.200"] }
dns = false
[network.other]
mode = "private"
[netns.web]
[netns.db]
[netns.far]
[[cable]]
a = "network:lan"
b = "netns:web"
b-name = "eth0"
b-address = ["192.168.50.2/24", "fd05::2/64"]
[[cable]]
a = "network:lan"
b = "netns:db"
b-name = "eth0"
b-address = ["192.168.50.3/24", "fd05::3/64"]
[[cable]]
a = "network:other"
b = "netns:far"
b-name = "eth0"
b-address = "192.168.60.2/24"
"""
# What keeps others out of db, in silence, with a word, and with a word of TCP's own.
RULES = """table inet filter {
  chain input {
    type filter hook input priority 0;
    iif lo accept
    tcp dport 81 drop
    tcp dport 82 reject
    tcp dport 83 reject with tcp reset
    udp dport 53 drop
    icmpv6 type echo-request drop
  }
}
"""


def expect(**keys: object) -> str:
    words = {"source": "from"}
    lines = (f"{words.get(key, key)} = {json.dumps(value)}" for key, value in keys.items())
    return "\n".join(["[[expect]]", *lines, ""])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A lab that is up, in which db has a firewall; whatever is expected of it is in files of their own."""
    with world_of_spaces(tmp_path_factory.mktemp("verify")) as world:
        file = world.write(LAB)
        world.succeeds("net", "up", file)
        rules = world.folder / "rules.nft"
        rules.write_text(RULES)
        inside(world, "db", "nft", "-f", str(rules))
        yield world
        world.succeeds("net", "down", file)


def results(world: World, status: int, *expects: str) -> list[tuple[str, str]]:
    file = world.write(LAB + "".join(expects), "expects.toml")
    done = world.qemunet("verify", file, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    return [(one["result"], one["seen"]) for one in json.loads(done.stdout)]


def to_db(**keys: object) -> str:
    return expect(source="web", to="db", **keys)


def test_what_gets_through_holds(world: World) -> None:
    """By each way there is, whether somebody listens or we do, by any address or by one of a kind."""
    found = results(
        world,
        0,
        to_db(ping=True, timeout="60s"),
        to_db(tcp=80, listen=True, timeout="60s"),
        to_db(udp=5000, timeout="60s"),
        to_db(tcp=80, listen=True, family="ipv6", timeout="60s"),
        expect(source="web", to="192.168.50.3", ping=True, timeout="60s"),
        expect(source="web", to="host", ping=True, network="lan", timeout="60s"),
        expect(source="host", to="web", tcp=8080, listen=True, timeout="60s"),
        expect(source="web", dhcp=True, network="lan", timeout="60s"),
        expect(source="far", to="far", ping=True, timeout="60s"),
    )
    assert [verdict for verdict, _ in found] == ["holds"] * 9, found
    assert found[3] == ("holds", "fd05::3 takes the connection")
    assert "192.168.50.1" in found[7][1]


def test_what_is_kept_out_holds_only_where_it_would_have_been_answered(world: World) -> None:
    """Silence, a refusal by a firewall, and no way there; each against somebody who listens and answers himself."""
    found = results(
        world,
        0,
        to_db(tcp=81, allow=False, timeout="1s"),
        to_db(tcp=82, allow=False, timeout="1s"),
        to_db(tcp=83, allow=False, timeout="1s"),
        to_db(udp=53, allow=False, timeout="1s"),
        to_db(ping=True, allow=False, family="ipv6", timeout="1s"),
        expect(source="far", to="db", ping=True, allow=False, timeout="1s"),
        expect(source="far", dhcp=True, allow=False, timeout="1s"),
        expect(source="web", to="192.168.50.77", ping=True, allow=False, timeout="1s"),
    )
    assert [verdict for verdict, _ in found] == ["holds"] * 8, found
    assert "refuses it, on the way" in found[2][1]
    assert "nobody knows whether it would answer" in found[7][1]


def test_what_does_not_hold_is_told_with_its_place(world: World) -> None:
    """On stderr, in the table, and to CI systems; what would mean nothing does not hold either."""
    expects = (
        to_db(tcp=80, timeout="1s"),  # nobody listens
        to_db(ping=True, allow=False, timeout="1s", name="db is hidden"),
        to_db(tcp=80, allow=False, timeout="1s", listen=False),
        expect(source="web", to="192.168.50.3", tcp=83, allow=False, timeout="1s"),  # nobody knows who refuses
        to_db(ping=True),
    )
    file = world.write(LAB + "".join(expects), "expects.toml")
    report = world.folder / "out.xml"
    done = world.qemunet("verify", file, "--junit", str(report))
    assert done.returncode == 1
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["EXPECT", "expect[0]", "db", "expect[2]", "expect[3]", "expect[4]"]
    assert f"error: {file}: expect[0]: web must reach db by tcp 80: 192.168.50.3 refuses it" in done.stderr
    assert f"error: {file}: expect[1]: web must not reach db by ping: 192.168.50.3 answers" in done.stderr
    assert "expect[2]: cannot tell whether web must not reach db" in done.stderr
    assert "4 of 5 do not hold" in done.stderr
    suite = ET.parse(report).getroot()[0]
    assert {key: suite.get(key) for key in ("name", "tests", "failures", "errors")} == {
        "name": "shop",
        "tests": "5",
        "failures": "3",
        "errors": "1",
    }
    kinds = [[part.tag for part in case] for case in suite.iter("testcase")]
    assert kinds == [["failure"], ["failure"], ["error"], ["failure"], ["system-out"]]
    assert all(float(case.get("time", "")) >= 0 for case in suite.iter("testcase"))


def test_a_report_may_go_to_standard_output_in_place_of_the_table(world: World) -> None:
    """As with other programs that write a file; what is wrong stays on stderr."""
    file = world.write(LAB + to_db(ping=True) + to_db(tcp=80, timeout="1s"), "expects.toml")
    done = world.qemunet("verify", file, "--junit", "-")
    assert done.returncode == 1
    assert [case.get("classname") for case in ET.fromstring(done.stdout).iter("testcase")] == ["shop", "shop"]
    assert "expect[1]: web must reach db by tcp 80" in done.stderr
    assert "one of them can go" in world.fails(2, "verify", file, "--junit", "-", "--json")
    assert "name of a file" in world.fails(2, "verify", file, "--junit", "")


def test_what_does_not_run_is_named_and_nothing_is_tried(world: World) -> None:
    """All of it at once, with what helps."""
    text = LAB + '[netns.absent]\n[vm.gone]\nmemory = "64M"\n' + expect(source="absent", to="gone", ping=True)
    said = world.fails(4, "verify", world.write(text, "expects.toml"))
    assert "absent and gone of lab shop do not run" in said
    assert "expects nothing" in world.fails(2, "verify", world.write(LAB, "expects.toml"))


def test_a_report_that_cannot_be_written_is_said(world: World) -> None:
    file = world.write(LAB + to_db(ping=True), "expects.toml")
    assert "the report cannot be written" in world.fails(1, "verify", file, "--junit", str(Path("/nowhere/out.xml")))
