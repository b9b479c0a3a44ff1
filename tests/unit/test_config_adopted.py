"""Taps that somebody else has made: what a card says of one, and what may be wrong with it."""

from __future__ import annotations

import pytest

from qemunet.config.write import vm_toml
from qemunet.errors import ConfigError, HostLacks, QemunetError, Taken
from qemunet.facts import Facts, LinkFact, TunFact
from qemunet.frozen import replace
from qemunet.model.nic import AsItIs, Backend, OnBridge, TapBackend
from tests.unit.config_host import FACTS, lab

TAP7 = LinkFact(7, "tap7", "tun", "52:54:00:aa:00:07", 1400, up=True, tun=TunFact(tap=True))
VM = '[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\n'
CARD = f'{VM}ifname = "tap7"\nadopt = true\n'


def host(**tun: object) -> Facts:
    """The host of these tests with a tap that was made like this."""
    made = replace(TAP7, tun=TunFact(**{"tap": True, **tun}))  # type: ignore[arg-type]
    return replace(FACTS, links={**FACTS.links, "tap7": made})


def backend(text: str, facts: Facts) -> Backend:
    return lab(text, facts).vms[0].nics[0].backend


def test_an_adopted_tap_has_the_mtu_that_it_has_and_stays_where_it_is() -> None:
    assert backend(CARD, host()) == TapBackend("tap7", 1400, AsItIs(), adopted=True)


def test_an_adopted_tap_is_plugged_into_a_bridge_only_if_the_file_says_so() -> None:
    assert backend(f'{CARD}bridge = "br0"', host()) == TapBackend("tap7", 1500, OnBridge("br0"), adopted=True)


def test_a_card_with_an_adopted_tap_is_written_as_it_was_read() -> None:
    found = lab(CARD, host())
    text = vm_toml(found, found.vms[0])
    assert "adopt = true" in text
    assert lab(text, host()).vms[0].nics == found.vms[0].nics


@pytest.mark.parametrize(
    ("more", "path", "what"),
    [
        ('address = "10.0.0.1/30"', "address", "a point-to-point card"),
        ('rate = { in = "1mbit" }', "rate", "belongs to"),
        ('bridge = "br0"\nrate = { in = "1mbit" }', "rate", "somebody else's"),
        ('bridge = "br0"\nimpair = { loss = "1%" }', "impair", "somebody else's"),
        ('guard = "mac"', "guard", "has the tap of somebody else"),
        ("port-isolation = true", "port-isolation", "has the tap of somebody else"),
    ],
)
def test_what_would_change_the_tap_is_refused(more: str, path: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lab(CARD + more, host())
    assert caught.value.where.endswith(f"vm.a.nic[0].{path}")
    assert what in str(caught.value)


@pytest.mark.parametrize("port", ['bridge = "br0"', 'network = "lab"'])
def test_an_adopted_tap_is_in_no_vlans_of_ours(port: str) -> None:
    """Whether it is plugged in here or not: what there was could not be given back."""
    network = "[network.lab]\nvlan-filtering = true\n"
    with pytest.raises(ConfigError, match="with whoever has made it") as caught:
        lab(f"{network}{CARD}{port}\nvlan = {{ access = 10 }}", host())
    assert caught.value.where.endswith("nic[0].vlan")
    assert "bridge vlan add dev tap7" in caught.value.hint


def test_adopting_needs_the_name_of_the_tap() -> None:
    with pytest.raises(ConfigError, match="has a name") as caught:
        lab(f"{VM}adopt = true", host())
    assert caught.value.where.endswith("nic[0].ifname")


@pytest.mark.parametrize(
    ("text", "facts", "lacking"),
    [
        (CARD, FACTS, "the tap tap7"),
        (CARD.replace("tap7", "eth1"), FACTS, "a tap eth1 (it is no tap)"),
        (CARD.replace("tap7", "br9"), FACTS, "a tap br9 (it is a bridge)"),
        (CARD, host(tap=False), "a tap tap7 (it is a tun without Ethernet)"),
        (CARD, host(pi=True), "without packet information"),
        (f"{CARD}queues = 2", host(), "made for several queues"),
        (CARD, replace(host(), tun=False), "/dev/net/tun"),
        (CARD, replace(host(owner=1001), uid=1000, can_switch_user=False), "the right to open tap7"),
        (f'{CARD}bridge = "br0"', replace(host(), uid=1000, can_switch_user=False), "the right to plug tap7"),
    ],
)
def test_what_is_wrong_with_the_tap_is_something_that_the_host_lacks(text: str, facts: Facts, lacking: str) -> None:
    """Exit status 3, and what to do."""
    with pytest.raises(HostLacks) as caught:
        lab(text, facts)
    assert lacking in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (f"{CARD}queues = 2", host(many=True)),
        (CARD, host(many=True)),
        (CARD, host(vnet_hdr=False)),
        (CARD, replace(host(owner=1000), uid=1000, can_switch_user=False)),
        (CARD, replace(host(), uid=1000, can_switch_user=False)),
    ],
)
def test_other_flags_do_not_matter(text: str, facts: Facts) -> None:
    """An ordinary user may have a tap that is his, or anybody's."""
    assert isinstance(backend(text, facts), TapBackend)


@pytest.mark.parametrize(
    ("text", "facts", "what"),
    [
        (f'{CARD}mac = "{TAP7.mac}"', host(), "is the address of the tap"),
        (f'{CARD}bridge = "br9"', replace(FACTS, links={**FACTS.links, "tap7": replace(TAP7, master="br0")}), "br0"),
    ],
)
def test_what_is_in_use_is_said(text: str, facts: Facts, what: str) -> None:
    with pytest.raises(Taken, match=what):
        lab(text, facts)


def test_one_tap_has_one_card() -> None:
    with pytest.raises(QemunetError, match="tap7"):
        lab(f'{CARD}[[vm.a.nic]]\nifname = "tap7"\nadopt = true\n', host())
