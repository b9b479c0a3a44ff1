"""Ethernet addresses are unicast, stable, and differ from the host's end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemunet.model import mac

octets = st.integers(0, 255).map(lambda n: f"{n:02x}")
first = st.integers(0, 127).map(lambda n: f"{2 * n:02x}")
macs = st.tuples(first, octets, octets, octets, octets, octets).map(":".join).filter(lambda m: m != "00:" * 5 + "00")


@given(macs)
def test_an_address_has_one_form(text: str) -> None:
    """Lower case and colons."""
    assert mac.normalize(text.upper().replace(":", "-")) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("52:54:00:12:34", "not a MAC"),
        ("52:54:0:0:0:1", "not a MAC"),
        ("52:54:00:12:34:5g", "not a MAC"),
        ("525400123456", "not a MAC"),
        ("01:00:5e:00:00:01", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("00:00:00:00:00:00", "zero"),
    ],
)
def test_no_card_has_such_an_address(text: str, why: str) -> None:
    """And it is said why."""
    with pytest.raises(ValueError, match=why):
        mac.normalize(text)


@pytest.mark.parametrize("text", ["", "52:54:00:00:00:00", "5", "53", "zz"])
def test_no_address_begins_like_that(text: str) -> None:
    """One to five octets, the first even."""
    with pytest.raises(ValueError, match="prefix"):
        mac.normalize_prefix(text)


@given(st.lists(st.text(), min_size=1, max_size=4), st.integers(1, 5))
def test_a_stable_address_is_valid_and_stays(identity: list[str], length: int) -> None:
    """Under any prefix."""
    prefix = ":".join(["52", "54", "00", "aa", "bb"][:length])
    address = mac.stable(*identity, prefix=prefix)
    assert mac.normalize(address) == address == mac.stable(*identity, prefix=prefix)
    assert address.startswith(prefix + ":")


def test_a_stable_address_tells_its_owners_apart() -> None:
    """Where one name ends and the next begins matters."""
    assert mac.stable("m", "lab", "a", "net0") != mac.stable("m", "lab", "an", "et0")


@given(macs)
def test_the_hosts_end_differs_from_the_guests(text: str) -> None:
    """It stays unicast, and is high, so that no bridge takes it for its own."""
    twin = mac.host_twin(text)
    assert mac.normalize(twin) == twin != text
    assert twin[3:] == text[3:]
    assert int(twin[:2], 16) >= 0xFA
