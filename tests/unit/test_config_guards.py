"""Guards in a lab file: which addresses are the card's own, which the host's, and what a host may lack for them."""

from __future__ import annotations

import pytest

from qemunet.errors import HostLacks
from qemunet.frozen import replace
from qemunet.model.guard import Guard, GuardLevel
from tests.unit.config_host import FACTS, lab

MAC = "52:54:00:00:00:09"
NETWORK = """
[network.lab]
mode = "isolated"
address = ["10.7.0.1/24", "fd77::1/64"]
mac = "52:54:00:00:00:aa"
"""
CLEAN, STRICT = GuardLevel.CLEAN, GuardLevel.STRICT
HOST = ("10.7.0.1", "fd77::1", "fe80::5054:ff:fe00:aa")
HOSTS = f'hosts = [{{ mac = "{MAC}", ip = "10.7.0.9" }}]\ndhcp = {{ range = ["10.7.0.100", "10.7.0.200"] }}\n'
ABLE = replace(FACTS, programs={**FACTS.programs, "dnsmasq": "/usr/sbin/dnsmasq"})


def guard(card: str, network: str = NETWORK) -> Guard:
    text = f'{network}[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\nmac = "{MAC}"\n{card}\n'
    return lab(text, ABLE).vms[0].nics[0].guard


ON_LAB = 'network = "lab"\n'
BOTH = 'ip = ["10.7.0.9/24", "fd77::9/64"]'
WAY = 'ip = "10.7.0.9/24"\ngateway = "10.7.0.2"'


@pytest.mark.parametrize(
    ("card", "network", "found"),
    [
        (f'{ON_LAB}guard = "off"', NETWORK, Guard()),
        (f'{ON_LAB}guard = "mac"\nip = "10.7.0.9/24"', NETWORK, Guard(GuardLevel.MAC)),
        (f'{ON_LAB}guard = "clean"', NETWORK, Guard(CLEAN, (), (), HOST)),
        (
            f'{ON_LAB}guard = "clean"\nip = ["10.7.0.9/24", "fd77::9/64"]',
            NETWORK,
            Guard(CLEAN, ("10.7.0.9", "fd77::9"), (), HOST),
        ),
        (f'{ON_LAB}guard = "clean"\n{WAY}', NETWORK, Guard(CLEAN, ("10.7.0.9",), (), (*HOST, "10.7.0.2"))),
        (f'{ON_LAB}guard = "strict"', NETWORK + HOSTS, Guard(STRICT, ("10.7.0.9",))),
        (f'{ON_LAB}guard = "strict"\nip = "10.7.0.8/24"', NETWORK, Guard(STRICT, ("10.7.0.8",))),
        ('bridge = "br0"\nguard = "clean"', "", Guard(CLEAN)),
        ('parent = "eth1"\nguard = "strict"\nip = "10.7.0.8/24"', "", Guard(STRICT, ("10.7.0.8",))),
        (
            'address = "10.0.0.1/30"\nroutes = ["10.99.0.0/24"]\nguard = "clean"\nip = "10.0.0.2/30"',
            "",
            Guard(CLEAN, ("10.0.0.2",), ("10.99.0.0/24",), ("10.0.0.1",)),
        ),
    ],
)
def test_whose_addresses_are_whose(card: str, network: str, found: Guard) -> None:
    """The card's own are given, or reserved for its MAC; the host's are those that it has there, and the gateway's."""
    assert guard(card, network) == found


@pytest.mark.parametrize(
    ("card", "way", "word"),
    [
        ('bridge = "br0"', "bridge", "NF_TABLES_BRIDGE"),
        ('parent = "eth1"', "egress", "Linux 5.16"),
        ('mode = "tap"', "inet", "arp"),
    ],
)
def test_a_kernel_that_cannot_look_there_is_an_error(card: str, way: str, word: str) -> None:
    """Before anything is done, and only for the kind of card that it is about."""
    text = f'[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\n{card}\nguard = "mac"\n'
    with pytest.raises(HostLacks) as caught:
        lab(text, replace(FACTS, guard_lacks=frozenset({way})))
    assert word in str(caught.value)
    others = frozenset({"bridge", "egress", "inet"}) - {way}
    assert lab(text, replace(FACTS, guard_lacks=others)).vms[0].nics[0].guard.level is GuardLevel.MAC


def test_without_nft_there_is_no_guard() -> None:
    text = '[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\nbridge = "br0"\nguard = "mac"\n'
    with pytest.raises(HostLacks, match="nft"):
        lab(text, replace(FACTS, programs={name: path for name, path in FACTS.programs.items() if name != "nft"}))
