"""The addresses that were lent are read from dnsmasq's file, whatever a guest had written there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qemunet.host.leases import FILE, Lease, parse
from qemunet.plan.dhcp import LEASES, NAME

FOURTH = "1795250000 52:54:00:00:00:0a 192.168.50.100 alice 01:52:54:00:00:00:0a\n"
SIXTH = """duid 00:01:00:01:31:00:aa:bb:52:54:00:aa:bb:01
1795250001 5505034 fd77::107 alice 00:03:00:01:52:54:00:00:00:0a
0 5505035 fd77::108 * 00:01:00:01:31:00:aa:bb:52:54:00:00:00:0b
1795250003 5505036 fd77::109 * 00:02:00:00:ab:11:42
"""


def test_leases_of_both_kinds() -> None:
    """An IPv6 client is known by the MAC in its id, if it has one there."""
    assert list(parse(FOURTH + SIXTH)) == [
        Lease("52:54:00:00:00:0a", "192.168.50.100", "alice", 1795250000),
        Lease("52:54:00:00:00:0a", "fd77::107", "alice", 1795250001),
        Lease("52:54:00:00:00:0b", "fd77::108", None, None),
        Lease("", "fd77::109", None, 1795250003),
    ]


def test_a_line_that_is_being_written_is_left_out() -> None:
    assert list(parse(FOURTH + FOURTH[:40])) == list(parse(FOURTH))


def test_what_has_not_the_form_of_a_name_is_no_name() -> None:
    (lease,) = parse(FOURTH.replace("alice", "\x1b[2J"))
    assert lease.hostname is None


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    """What comes out has the form that it should have."""
    for lease in parse(text):
        assert lease.mac == "" or len(lease.mac) == 17
        assert lease.hostname is None or lease.hostname.isprintable()


def test_the_file_is_where_the_plan_puts_it() -> None:
    assert f"{NAME}/{LEASES}" == FILE
