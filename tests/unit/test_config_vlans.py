"""VLANs in a lab file: what becomes of them, what is written back, and what a host may lack for them."""

from __future__ import annotations

import pytest

from qemunet.config import profiles, read, resolve
from qemunet.config.write import cable_toml, lab_toml
from qemunet.errors import ConfigError, HostLacks
from qemunet.frozen import replace
from qemunet.model import vlan
from qemunet.model.network import OwnBridge
from qemunet.model.routing import Carried, IpAddress
from qemunet.model.vlan import Vlans
from tests.unit.config_host import FACTS, FILE, lab

NETWORK = '[network.lab]\nmode = "isolated"\naddress = "10.7.0.1/24"\nvlan-filtering = true\n'
CARD = '[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\nnetwork = "lab"\nvlan = {}\n'
ON_BR0 = '[vm.a]\nboot.guest = "tiny"\n[[vm.a.nic]]\nbridge = "br0"\nvlan = { access = 10 }\n'
CABLE = '[[cable]]\na = "network:lab"\nb = "bridge:br0"\na-vlan = { trunk = [10] }\nb-vlan = { access = 10 }\n'
FILTERING = replace(FACTS, links={**FACTS.links, "br0": replace(FACTS.links["br0"], vlan_filtering=True)})
UNABLE = replace(FACTS, vlans=False)


@pytest.mark.parametrize(
    ("written", "found", "text"),
    [
        ("{ access = 10 }", Vlans(10), "10"),
        ("{ trunk = [20, 10] }", Vlans(None, (10, 20)), "trunk=10,20"),
        ("{ trunk = [10, 20], native = 1 }", Vlans(1, (10, 20)), "trunk=10,20,native=1"),
        ("{ trunk = [10, 20], native = 20 }", Vlans(20, (10,)), "trunk=10,native=20"),
        ('{ trunk = [1, "3-5", 4094] }', Vlans(None, (1, 3, 4, 5, 4094)), "trunk=1,3-5,4094"),
        ('{ trunk = "10-11" }', Vlans(None, (10, 11)), "trunk=10-11"),
        ("{ trunk = [], native = 7 }", Vlans(7), "7"),
    ],
)
def test_a_card_is_in_the_vlans_that_it_says(written: str, found: Vlans, text: str) -> None:
    """They read back from what is written, and from what the tables keep."""
    resolved = lab(NETWORK + CARD.format(written))
    (nic,) = resolved.vms[0].nics
    assert nic.vlans == found
    assert lab(lab_toml(resolved)).vms == resolved.vms
    assert str(found) == text
    assert vlan.parse(text) == found


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("10", "a table belongs here, not a number"),
        ("{}", "it says nothing"),
        ("{ native = 1 }", "native is of a trunk, and there is none"),
        ("{ access = 10, native = 1 }", "access stands alone"),
        ("{ access = 0 }", "0 is not between 1 and 4094"),
        ("{ access = 4095 }", "4095 is not between 1 and 4094"),
        ("{ access = true }", "a whole number belongs here"),
        ("{ trunk = [] }", "a trunk without any VLAN"),
        ('{ trunk = ["20-10"] }', '"20-10" are no VLANs'),
        ('{ trunk = ["1-4095"] }', '"1-4095" are no VLANs'),
        ("{ acces = 10 }", 'unknown key "acces"'),
    ],
)
def test_what_is_no_vlan_is_told(written: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read.loads(NETWORK + CARD.format(written), FILE)
    assert said in str(caught.value)
    assert caught.value.where == f"{FILE}: vm.a.nic[0].vlan"


def test_a_network_and_the_host_on_it_read_back() -> None:
    resolved = lab(NETWORK + 'host = "veth"\nhost-vlan = 10\n')
    switch = resolved.networks[0].switch
    assert isinstance(switch, OwnBridge)
    assert (switch.vlan_filtering, switch.host_vlan) == (True, 10)
    assert lab(lab_toml(resolved)).networks == resolved.networks


def test_a_cables_ends_read_back() -> None:
    """Each has its own."""
    resolved = lab(NETWORK + CABLE, FILTERING)
    (cable,) = resolved.cables
    assert (cable.a.vlans, cable.b.vlans) == (Vlans(None, (10,)), Vlans(10))
    assert lab(cable_toml(resolved, cable), FILTERING).cables == resolved.cables


def test_a_kernel_without_vlans_is_told_with_all_else_that_is_lacking() -> None:
    with pytest.raises(HostLacks) as caught:
        lab(NETWORK + CARD.format("{ access = 10 }") + CABLE.replace("br0", "br7"), UNABLE)
    assert str(caught.value).startswith(
        "this host lacks VLAN filtering of bridges in the kernel (BRIDGE_VLAN_FILTERING); the bridge br7"
    )


@pytest.mark.parametrize("text", [ON_BR0, NETWORK + CABLE], ids=["card", "cable"])
def test_a_bridge_of_others_has_to_tell_vlans_apart_itself(text: str) -> None:
    """It is never changed."""
    assert lab(text, FILTERING)
    with pytest.raises(HostLacks, match="VLAN filtering of the bridge br0, for ") as caught:
        lab(text)
    assert "`ip link set br0 type bridge vlan_filtering 1` turns it on" in (caught.value.hint or "")


def test_what_is_looked_at_is_only_what_a_lab_needs() -> None:
    for text, asked in ((NETWORK, True), (ON_BR0, True), (NETWORK.replace("true", "false"), False)):
        spec = read.loads(text, FILE)
        assert resolve.wanted(spec, profiles.load_all(spec)).vlans is asked


UPLINK = """
[network.out]
mode = "bridge"
ports = ["enp1s0"]
vlan-filtering = true
move-address = {move}
port-vlan = {{ enp1s0 = {vlan} }}
"""


def test_vlans_of_ports_are_theirs_by_whatever_name_and_read_back() -> None:
    resolved = lab(UPLINK.format(move="false", vlan='{ trunk = [10, "20-29"] }'))
    switch = resolved.networks[0].switch
    assert isinstance(switch, OwnBridge)
    assert switch.port_vlans == (("eth1", Vlans(None, (10, *range(20, 30)))),)
    assert lab(lab_toml(resolved)).networks == resolved.networks


def test_the_host_stays_in_its_vlan_when_it_moves_behind_an_uplink() -> None:
    """That is 1, without a tag."""
    carried = {"eth1": Carried(addresses=(IpAddress("192.0.2.2/24"),))}
    facts = replace(FACTS, carried=carried)
    assert lab(UPLINK.format(move="true", vlan="{ trunk = [10], native = 1 }"), facts)
    with pytest.raises(ConfigError, match="with move-address the host is behind eth1, in VLAN 1") as caught:
        lab(UPLINK.format(move="true", vlan="{ trunk = [10] }"), facts)
    assert caught.value.where == f"{FILE}: network.out.port-vlan"
