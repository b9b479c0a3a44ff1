"""Sizes, times, addresses, forwards and displays: what is written is what is read."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemunet.config import hints, units
from qemunet.config.hints import Bad
from qemunet.model.nic import Forward, rate_text
from qemunet.model.vm import GtkDisplay, VncDisplay

ports = st.integers(1, 65535)
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).map(str)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1K", 1024), ("512M", 512 << 20), ("1.5G", 3 << 29), ("2T", 2 << 40), ("10GiB", 10 << 30), ("0.5M", 512 << 10)],
)
def test_a_size_has_a_unit_of_1024(text: str, value: int) -> None:
    """As QEMU counts."""
    assert units.size(text) == value


@pytest.mark.parametrize("text", ["512", "512m", "512MB", "", "M", "-1M", "1e3M", "1,5G", " 1M", "0.3M", "1.G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Also what some other program would take."""
    with pytest.raises(Bad):
        units.size(text)


@given(st.integers(0, 2**43).map(lambda n: n * 1024))
def test_a_size_reads_back(value: int) -> None:
    """Whatever the unit that fits."""
    assert units.size(units.format_size(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8kbit", 8_000),
        ("100mbit", 10**8),
        ("1.5gbit", 1_500_000_000),
        ("0.1tbit", 10**11),
        ("12344bit", 12_344),
        ("1mibit", 1 << 20),
        ("1000bps", 8_000),
        ("12.5mbps", 10**8),
        ("1gibps", 8 << 30),
    ],
)
def test_a_rate_has_one_of_tcs_units(text: str, value: int) -> None:
    """Bits per second, and with ``ps`` bytes."""
    assert units.rate(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "mbit", "100", "100Mbit", "100Mbps", "100mb", "100 mbit", "-1mbit", "1e3mbit", "0mbit", "7kbit", "0.2tbit"],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    """Also what tc would take: in capitals nobody knows whether bits or bytes are meant."""
    with pytest.raises(Bad):
        units.rate(text)


@given(st.integers(units.LEAST_RATE // 8, units.MOST_RATE // 8).map(lambda n: n * 8))
def test_a_rate_reads_back(value: int) -> None:
    """Whatever the unit that fits."""
    assert units.rate(rate_text(value)) == value


@pytest.mark.parametrize(("text", "value"), [("0s", 0), ("30s", 30), ("5m", 300), ("5min", 300), ("1h", 3600)])
def test_a_time_has_a_unit(text: str, value: int) -> None:
    """Seconds, minutes or hours."""
    assert units.seconds(text) == value


@pytest.mark.parametrize("text", ["30", "500ms", "1d", "-1s", "1.5s", "s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Parts of a second too."""
    with pytest.raises(Bad):
        units.seconds(text)


@given(v4 | v6)
def test_an_address_is_normal(text: str) -> None:
    """The same address is always the same text."""
    assert units.ip(text) == text
    assert units.ip(units.ip(text).upper()) == text
    assert units.number(text) == int(ipaddress.ip_address(text))


@given(st.text("0123456789.", max_size=16))
def test_addresses_are_those_of_python(text: str) -> None:
    """Neither leading zeroes nor short forms."""
    try:
        expected = str(ipaddress.IPv4Address(text))
    except ValueError:
        with pytest.raises(Bad):
            units.ip(text)
    else:
        assert units.ip(text) == expected


@given(v4, st.integers(0, 32))
def test_networks_are_those_of_python(address: str, prefix: int) -> None:
    """What has host bits is an address, what has none is a network."""
    text = f"{address}/{prefix}"
    found = ipaddress.ip_interface(text)
    if found.ip == found.network.network_address:
        assert units.subnet(text) == text
    else:
        with pytest.raises(Bad, match="is an address, not a network") as caught:
            units.subnet(text)
        assert str(found.network) in caught.value.hint
    assert units.inside(address, text)
    assert units.inside(str(found.network.broadcast_address), text)


@given(v6, st.integers(0, 128), v6)
def test_ipv6_networks_are_those_of_python(address: str, prefix: int, other: str) -> None:
    """Membership is the same."""
    text = f"{address}/{prefix}"
    assert units.inside(other, text) == (ipaddress.ip_address(other) in ipaddress.ip_network(text, strict=False))


@pytest.mark.parametrize(
    "text", ["10.0.0.1/24", "10.0.0.1/31", "10.0.0.1/32", "fd77::1/64", "fd77::/128", "10.0.0.0/31"]
)
def test_an_interface_has_a_host_part(text: str) -> None:
    """Two-address and one-address networks have no network address to avoid."""
    assert units.interface(text) == text


forwards = st.builds(
    lambda protocol, address, first, inner, length, vm: Forward(
        protocol, address, (first, first + length), vm, (inner, inner + length)
    ),
    st.sampled_from(["tcp", "udp"]),
    st.just("") | v4 | v6,
    st.integers(1, 65000),
    st.integers(1, 65000),
    st.integers(0, 500),
    st.sampled_from(["", "web", "db-1"]),
)


@given(forwards)
def test_a_forward_reads_back(forward: Forward) -> None:
    """In both grammars."""
    assert units.forward(units.format_forward(forward, own=not forward.vm)) == forward


@given(st.text("tcpud:[]-.0123456789a", max_size=40))
def test_no_text_breaks_the_forward_reader(text: str) -> None:
    """It is a forward, or Bad."""
    try:
        forward = units.forward(text)
    except Bad:
        return
    assert units.forward(units.format_forward(forward, own=not forward.vm)) == forward


def test_a_forward_of_all_addresses_has_none() -> None:
    """The example of the documentation."""
    assert units.forward("tcp::8080:kali2:80") == Forward("tcp", "", (8080, 8080), "kali2", (80, 80))
    assert units.forward("udp:[fd77::1]:53:53") == Forward("udp", "fd77::1", (53, 53), "", (53, 53))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", None),
        ("gtk", GtkDisplay()),
        ("vnc=127.0.0.1:1", VncDisplay("127.0.0.1", 1)),
        ("vnc=[::1]:0", VncDisplay("::1", 0)),
        ("vnc=:7", VncDisplay("", 7)),
    ],
)
def test_a_display_reads_back(text: str, value: object) -> None:
    """All three kinds."""
    assert units.display(text) == value
    assert units.format_display(units.display(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_quoted_text_is_toml(text: str) -> None:
    """Whatever is in it."""
    import tomllib

    assert tomllib.loads(f"x = {hints.quoted(text)}") == {"x": text}
    assert tomllib.loads(f"{hints.dotted('a', text)} = 1") == {"a": {text: 1}}


def test_the_nearest_word_is_found_whatever_its_case() -> None:
    """Nothing far-fetched is offered."""
    assert hints.nearest("Virtoi", ["virtio", "e1000"]) == "virtio"
    assert hints.nearest("something", ["virtio", "e1000"]) == ""
    assert hints.listed(["a", "b", "c"]) == "a, b and c"
