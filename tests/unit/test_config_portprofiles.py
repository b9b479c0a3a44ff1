"""Port profiles: what a card has of one, what of it is written where, and what a change of a card makes of it."""

from __future__ import annotations

import pytest

from qemunet.config import edit, origins, profiles, read
from qemunet.config.write import lab_toml, vm_toml
from qemunet.errors import ConfigError, UsageError
from qemunet.frozen import replace
from qemunet.model.guard import GuardLevel
from qemunet.model.lab import Lab
from qemunet.model.network import PortProfile
from qemunet.model.nic import Nic, Rate
from qemunet.model.vlan import Vlans
from qemunet.plan.live import Change, differences
from tests.unit.config_host import FACTS, FILE, lab

NETWORK = """
[network.lab]
mode = "isolated"
address = "10.7.0.1/24"
vlan-filtering = true
[network.lab.port-profile.students]
guard = "strict"
rate = { in = "10mbit" }
vlan = { access = 20 }
port-isolation = true
[network.lab.port-profile.staff]
guard = "mac"
"""
VM = """
[vm.a]
boot.kernel = "vmlinuz"
[[vm.a.nic]]
network = "lab"
ip = "10.7.0.9/24"
"""
STUDENT = NETWORK + VM + 'port-profile = "students"\n'
ABLE = replace(FACTS, vlans=True)


def card(text: str) -> Nic:
    return lab(text, ABLE).vms[0].nics[0]


def of(nic: Nic) -> tuple[object, ...]:
    return nic.guard.level, nic.rate, nic.vlans, nic.port_isolation


def test_a_card_has_the_values_of_its_port_profile() -> None:
    assert of(card(STUDENT)) == (GuardLevel.STRICT, Rate(10_000_000), Vlans(20), True)
    assert of(card(NETWORK + VM)) == (GuardLevel.OFF, Rate(), None, False)


def test_what_a_card_says_itself_wins() -> None:
    """Each key as a whole."""
    own = 'guard = "off"\nrate = { out = "1mbit" }\nport-isolation = false\nvlan = { access = 30 }\n'
    assert of(card(STUDENT + own)) == (GuardLevel.OFF, Rate(None, 1_000_000), Vlans(30), False)


@pytest.mark.parametrize("own", ["", 'guard = "off"\n', "port-isolation = false\n", "vlan = { access = 30 }\n"])
def test_it_reads_back_as_it_was(own: str) -> None:
    """Also what a vm that runs has on record; what only the profile says is only there."""
    found = lab(STUDENT + own, ABLE)
    for text in (lab_toml(found), vm_toml(found, found.vms[0]), lab_toml(found, {"lab.name": "file"})):
        again = lab(text, ABLE)
        assert (again.vms, again.networks) == (found.vms, found.networks)
    assert vm_toml(found, found.vms[0]).count("10mbit") == 1


def test_show_spells_it_out_and_says_where_it_is_from() -> None:
    spec = read.loads(STUDENT + 'guard = "mac"\n', FILE)
    text = lab_toml(lab(STUDENT + 'guard = "mac"\n', ABLE), origins.origins(spec, profiles.load_all(spec)))
    of_the_card = text.partition("[[vm.a.nic]]")[2]
    assert 'rate = { in = "10mbit" }  # port-profile students' in of_the_card
    assert "vlan = { access = 20 }  # port-profile students" in of_the_card
    assert "port-isolation = true  # port-profile students" in of_the_card
    assert 'guard = "mac"  # file' in of_the_card
    assert 'port-profile = "students"  # file' in of_the_card
    assert '[network.lab.port-profile.students]\nguard = "strict"  # file' in text


@pytest.mark.parametrize(
    "changed",
    [
        PortProfile("students", GuardLevel.STRICT),
        PortProfile("students", GuardLevel.MAC, Rate(5_000_000), vlan=Vlans(30), port_isolation=False),
        PortProfile("students", GuardLevel.STRICT, Rate(10_000_000, 8_000), None, True, Vlans(20)),
        PortProfile("staff", GuardLevel.STRICT),
    ],
)
def test_a_record_is_of_the_values_that_a_card_has_whatever_becomes_of_its_profile(changed: PortProfile) -> None:
    """Cards are changed one by one: the others still have what the profile said before."""
    for text in (STUDENT, NETWORK + VM + 'port-profile = "staff"\n', NETWORK + VM):
        found = lab(text, ABLE)
        networks = tuple(replace(one, port_profiles=(changed,)) for one in found.networks)
        again = lab(vm_toml(Lab("pair", FILE, found.vms, networks), found.vms[0]), ABLE)
        assert of(again.vms[0].nics[0]) == of(found.vms[0].nics[0])


def test_another_value_of_a_profile_is_a_change_of_its_cards_in_place() -> None:
    before, after = lab(STUDENT, ABLE), lab(STUDENT.replace("10mbit", "5mbit"), ABLE)
    (found,) = differences(before.vms[0], after.vms[0])
    assert isinstance(found, Change)
    assert found.describe() == "net0: rate"


def test_a_value_of_a_profile_is_given_on_the_command_line() -> None:
    spec = read.loads(STUDENT, FILE, ["network.lab.port-profile.students.guard=mac"])
    (network,) = spec.networks
    assert network.port_profile is not None
    assert network.port_profile[0].guard is GuardLevel.MAC
    with pytest.raises(UsageError, match=r'there is no "pupils" in .*, network\.lab\.port-profile'):
        read.loads(STUDENT, FILE, ["network.lab.port-profile.pupils.guard=mac"])


# ---------------------------------------------------------------- a card that changes


def changed(old: str, keys: dict[str, object], others: str = "") -> str:
    """What a file says of a card after `nic set`, by what its keys become."""
    spec = read.loads(others + old, FILE)
    assert spec.vms[0].nic is not None
    nic = edit.changed(spec.vms[0].nic[0], edit.given(keys, FILE, "nic"))
    said = ("network", "bridge", "port_profile", "guard", "rate", "vlan", "port_isolation")
    return " ".join(f"{key}={getattr(nic, key)}" for key in said if getattr(nic, key) is not None)


def test_a_card_that_gets_a_profile_has_nothing_of_its_own_but_what_is_given_with_it() -> None:
    own = NETWORK + VM + 'guard = "off"\nvlan = { access = 30 }\n'
    assert changed(own, {"port-profile": "students"}) == "network=lab port_profile=students"
    both: dict[str, object] = {"port-profile": "students", "guard": "mac"}
    assert changed(own, both) == "network=lab port_profile=students guard=mac"


def test_none_of_its_own_is_what_the_profile_says() -> None:
    """And without a profile it is none."""
    assert changed(STUDENT + 'rate = { out = "1mbit" }\n', {"rate": {}}) == "network=lab port_profile=students"
    assert changed(STUDENT + 'guard = "mac"\n', {"port-profile": {}}) == "network=lab guard=mac"
    assert changed(NETWORK + VM + "vlan = { access = 3 }\n", {"vlan": {}}).startswith("network=lab vlan=")


def test_a_card_does_not_move_away_from_its_profile_unsaid() -> None:
    """To another network it takes a profile of that name there; elsewhere there is none."""
    other = STUDENT + '[network.other]\nmode = "private"\n'
    with pytest.raises(ConfigError, match='unknown port-profile "students" of network "other"'):
        lab(other.replace('network = "lab"', 'network = "other"'))
    with pytest.raises(UsageError, match='port-profile "students" is of its network, which it would leave'):
        changed(STUDENT, {"bridge": "br0"})
    assert changed(STUDENT, {"bridge": "br0", "port-profile": {}}) == "bridge=br0"
    assert changed(STUDENT, {"mode": "user"}) == ""
