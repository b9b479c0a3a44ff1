"""Which bridge `ifup` takes, and what it does to the tap, thought through without a kernel."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from qemunet.cli import ifup
from qemunet.errors import ConfigError, HostLacks, StepFailed, Taken, UsageError
from qemunet.facts import Facts, LinkFact, Wanted
from qemunet.frozen import replace
from qemunet.steps import PinBridge, SetLink, SetMaster, SetSysctl, Step

SYSCTL = "net.ipv6.conf.tap3.disable_ipv6"
BR0 = LinkFact(2, "br0", "bridge", "52:54:00:00:00:aa", 1400, up=True)
BR1 = LinkFact(3, "br1", "bridge", "52:54:00:00:00:bb", 1500, up=True)
ETH0 = LinkFact(4, "eth0", "", "52:54:00:00:00:cc", 1500, up=True)
TAP = LinkFact(5, "tap3", "tun", "2e:11:22:33:44:55", 1500, up=False)


def links(*known: LinkFact) -> dict[str, LinkFact]:
    return {link.name: link for link in known}


def facts(*known: LinkFact, **sysctls: str) -> Facts:
    return Facts("/run/qemunet", "id", 0, can_switch_user=True, links=links(*known), sysctls=sysctls)


# ---------------------------------------------------------------- which bridge


def test_the_bridge_that_has_the_default_route_is_the_default() -> None:
    """Whether the route goes through the bridge itself or through one of its ports."""
    assert ifup.choose_bridge(links(BR0, BR1, ETH0), ["br1"]) == BR1
    port = LinkFact(4, "eth0", "", ETH0.mac, 1500, up=True, master="br1")
    assert ifup.choose_bridge(links(BR0, BR1, port), ["eth0"]) == BR1


def test_otherwise_the_only_bridge_is_the_default() -> None:
    """A default route through an interface on no bridge says nothing."""
    assert ifup.choose_bridge(links(BR0, ETH0), ["eth0"]) == BR0
    assert ifup.choose_bridge(links(BR0, ETH0), []) == BR0
    assert ifup.choose_bridge(links(BR0, ETH0), ["gone0"]) == BR0


def test_without_a_default_all_bridges_are_named() -> None:
    """The host lacks something: exit status 3, and how to say it."""
    with pytest.raises(HostLacks, match="br0, br1") as several:
        ifup.choose_bridge(links(BR0, BR1, ETH0), ["eth0"])
    assert "QEMUNET_BRIDGE" in several.value.hint
    with pytest.raises(HostLacks, match="a bridge to put the tap on"):
        ifup.choose_bridge(links(ETH0), ["eth0"])


def settings(tmp_path: Path, text: str) -> str:
    file = tmp_path / "ifup.toml"
    file.write_text(text)
    return str(file)


def test_the_variable_beats_the_interfaces_table_and_that_the_general_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearer, the stronger."""
    monkeypatch.delenv("QEMUNET_BRIDGE", raising=False)
    file = settings(tmp_path, 'bridge = "br0"\n[interface.tap3]\nbridge = "br1"\n[interface."tap.4"]\n')
    assert ifup.configured_bridge("tap3", file) == "br1"
    assert ifup.configured_bridge("tap.4", file) == "br0"
    assert ifup.configured_bridge("tap5", file) == "br0"
    assert ifup.configured_bridge("tap5", str(tmp_path / "missing")) is None
    monkeypatch.setenv("QEMUNET_BRIDGE", "br2")
    assert ifup.configured_bridge("tap3", file) == "br2"


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ('bridg = "br0"', "bridg", "unknown key"),
        ("bridge = 1", "bridge", "must be the name of an interface"),
        ('bridge = "a-name-that-is-too-long"', "bridge", "must be the name of an interface"),
        ("interface = 1", "interface", "must be a table"),
        ("interface.tap9 = 1", "interface.tap9", "must be a table"),
        ('[interface.tap9]\nbrigde = "br0"', "interface.tap9.brigde", "unknown key"),
        ("bridge = ", "", "Invalid value"),
        ("a = " + "[" * 5000, "", "recursion"),
    ],
)
def test_a_mistake_in_the_settings_is_found_whatever_interface_is_asked_for(
    text: str, path: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not wait for the guest that it concerns."""
    monkeypatch.delenv("QEMUNET_BRIDGE", raising=False)
    with pytest.raises(ConfigError, match=problem) as raised:
        ifup.configured_bridge("tap3", settings(tmp_path, text))
    assert raised.value.path == path


def test_settings_that_cannot_be_read_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the same as none: a directory, or bytes that are no text."""
    monkeypatch.delenv("QEMUNET_BRIDGE", raising=False)
    with pytest.raises(ConfigError, match="directory"):
        ifup.configured_bridge("tap3", str(tmp_path))
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(ConfigError):
        ifup.configured_bridge("tap3", str(tmp_path / "bytes"))


# ---------------------------------------------------------------- what is done


def test_the_tap_is_made_harmless_before_it_is_plugged_in() -> None:
    """Its address, its MTU and its silence come first, so that nothing of the bridge changes."""
    assert ifup.plan_up(TAP, BR0, facts(TAP, BR0, **{SYSCTL: "0"}), SYSCTL) == [
        SetLink("tap3", mtu=1400, mac="fe:11:22:33:44:55"),
        SetSysctl(SYSCTL, "1"),
        PinBridge("br0", BR0.mac, 1400),
        SetMaster("tap3", "br0"),
        SetLink("tap3", up=True),
    ]


def test_a_bridge_with_a_port_is_left_alone() -> None:
    """It has that one's address, or one of its own, and goes on to follow its other ports if it does so now."""
    before = replace(facts(TAP, BR0), ports={"br0": frozenset({ETH0.mac})})
    assert not any(isinstance(step, PinBridge) for step in ifup.plan_up(TAP, BR0, before, SYSCTL))


def test_where_there_is_no_ipv6_nothing_is_switched_off() -> None:
    """A kernel without it has no such switch."""
    assert not any(isinstance(step, SetSysctl) for step in ifup.plan_up(TAP, BR0, facts(TAP, BR0), SYSCTL))


def test_a_tap_with_a_high_address_keeps_it() -> None:
    """The second `ifup` changes nothing."""
    tap = LinkFact(5, "tap3", "tun", "fe:11:22:33:44:55", 1500, up=True, master="br0")
    assert ifup.plan_up(tap, BR0, facts(tap, BR0), SYSCTL)[0] == SetLink("tap3", mtu=1400, mac=tap.mac)


def test_a_tap_on_another_bridge_is_not_moved() -> None:
    """Somebody else has put it there."""
    tap = LinkFact(5, "tap3", "tun", TAP.mac, 1500, up=True, master="br1")
    with pytest.raises(Taken, match="tap3 is on br1"):
        ifup.plan_up(tap, BR0, facts(tap, BR0), SYSCTL)


class Refusing:
    """A host that refuses the first step of a kind, with one error."""

    def __init__(self, kind: type, error: int) -> None:
        self.kind = kind
        self.error = error
        self.refused = False
        self.done: list[Step] = []

    def photograph(self, wanted: Wanted) -> Facts:
        raise AssertionError(wanted)

    def perform(self, step: Step) -> None:
        if isinstance(step, self.kind) and not self.refused:
            self.refused = True
            raise OSError(self.error, "refused")
        self.done.append(step)


def test_half_of_it_is_taken_back() -> None:
    """A bridge that refuses its port leaves a tap as QEMU had made it."""
    host = Refusing(SetMaster, errno.ELOOP)
    before = facts(TAP, BR0, **{SYSCTL: "0"})
    with pytest.raises(StepFailed, match="plug tap3 into br0"):
        ifup._do(ifup.plan_up(TAP, BR0, before, SYSCTL), before, host)  # type: ignore[arg-type]
    assert host.done[-2:] == [
        SetSysctl(SYSCTL, "0", only_if="1"),
        SetLink("tap3", mtu=1500, mac="2e:11:22:33:44:55"),
    ]


def test_whoever_may_not_is_told_what_he_lacks() -> None:
    """Exit status 3, not 1: nothing was done that could have failed."""
    before = facts(TAP, BR0)
    with pytest.raises(HostLacks, match="CAP_NET_ADMIN"):
        ifup._do(ifup.plan_up(TAP, BR0, before, SYSCTL), before, Refusing(SetLink, errno.EPERM))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "all", "tap%d", "sixteen-letters-", "ü" * 8])
def test_what_cannot_be_an_interface_is_refused_before_anything_is_asked(name: str) -> None:
    """The kernel would take some of them for something else."""
    with pytest.raises(UsageError):
        ifup._check_name(name)
