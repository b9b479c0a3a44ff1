"""Names on the host are derived from names in the lab, fit, and stay apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemunet.model import names

words = st.from_regex(names.NAME, fullmatch=True)


@given(st.lists(words, min_size=1, max_size=2))
def test_an_interface_name_always_fits(parts: list[str]) -> None:
    """Short ones are readable, long ones keep their beginning."""
    name = names.ifname(*parts)
    assert names.is_ifname(name)
    assert name.startswith("qn-")
    full = "-".join(("qn", *parts))
    assert (name == full) is (len(full) <= names.IFNAMSIZ)
    assert name[:9] == full[:9]


@given(words, words)
def test_different_things_have_different_interfaces(one: str, other: str) -> None:
    """Also where both are shortened."""
    assert (names.ifname(one) == names.ifname(other)) is (one == other)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "all", "default", "a b", "a/b", "a:b", "tap%d", "x" * 16, "ä" * 8, "a\nb"]
)
def test_the_kernel_would_not_take_these(text: str) -> None:
    """Or would make something else of them."""
    assert not names.is_ifname(text)


@pytest.mark.parametrize("text", ["tap0", "br-lan.10", "ä" * 7, "x" * 15, "qn_1"])
def test_the_kernel_would_take_these(text: str) -> None:
    """Bytes count, not letters."""
    assert names.is_ifname(text)


@pytest.mark.parametrize("text", ["", "1a", "-a", "a_b", "a.b", "a" * 64, "ä", "a\n", "a b"])
def test_not_everything_is_a_name(text: str) -> None:
    """Names become directories, QEMU ids and parts of interfaces."""
    assert not names.is_name(text)


@given(st.text(min_size=1), words)
def test_a_group_is_one_of_ours(runtime: str, name: str) -> None:
    """The same for the same scope of the same runtime directory, and positive as a signed number."""
    group = names.group(runtime, f"vm/{name}")
    assert 1 << 30 <= group < 1 << 31
    assert group == names.group(runtime, f"vm/{name}")
    assert group != names.group(runtime, f"net/{name}")


@given(words)
def test_an_altname_says_whose_a_link_is(name: str) -> None:
    """It has no slash, which no alternative name may have."""
    assert names.altname(f"vm/{name}", "net0") == f"qemunet.vm-{name}.net0"
