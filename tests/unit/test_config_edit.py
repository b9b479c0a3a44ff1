"""A card that is plugged in elsewhere keeps what fits there and loses what does not."""

from __future__ import annotations

import pytest

from qemunet.config import check, edit, read
from qemunet.config.spec import LabSpec, NicSpec
from qemunet.errors import ConfigError

FILE = "/lab/lab.toml"


def card(text: str) -> NicSpec:
    """A card that has these keys, as a file has them."""
    (nic,) = check.nics(spec(text).vms[0])
    return nic


def spec(text: str) -> LabSpec:
    return read.loads(f"[network.lab]\n[network.other]\n[vm.a]\n[[vm.a.nic]]\n{text}\n", FILE)


def given(**keys: object) -> NicSpec:
    return read.nic({key.replace("_", "-"): value for key, value in keys.items()}, "vm a", "nic.net0")


MOVES: list[tuple[str, dict[str, object], str]] = [
    # user mode to a network: what only user mode has goes
    (
        'mode = "user"\nforward = ["tcp::22:22"]\nrestrict = true\nhostname = "h"\nmac = "auto"',
        {"network": "lab"},
        'network = "lab"\nmac = "auto"',
    ),
    # and by the mode alone
    ('forward = ["tcp::22:22"]\nip = ["10.0.0.9/24"]', {"mode": "tap"}, 'mode = "tap"\nip = ["10.0.0.9/24"]'),
    # a network to user mode: no host side any more
    (
        'network = "lab"\nifname = "t0"\nifup = "up.sh"\nvhost = "on"\nlink = "down"',
        {"mode": "user"},
        'mode = "user"\nlink = "down"',
    ),
    # from network to network, to a bridge, and back: all else stays
    (
        'network = "lab"\nmodel = "e1000"\nifname = "t0"\nacpi-index = 3',
        {"network": "other"},
        'network = "other"\nmodel = "e1000"\nifname = "t0"\nacpi-index = 3',
    ),
    ('network = "lab"\nip = ["10.0.0.9/24"]', {"bridge": "br0"}, 'bridge = "br0"\nip = ["10.0.0.9/24"]'),
    ('bridge = "br0"\nmtu = 1400', {"network": "lab"}, 'network = "lab"\nmtu = 1400'),
    # a cable to the host becomes a port, and the other way round
    (
        'address = ["10.0.0.1/30"]\nroutes = ["10.9.0.0/24"]\nmode = "tap"',
        {"network": "lab"},
        'network = "lab"',
    ),
    ('network = "lab"', {"address": ["10.0.0.1/30"]}, 'address = ["10.0.0.1/30"]'),
    # it stays one when its addresses or routes go, each alone
    ('address = ["10.0.0.1/30"]\nroutes = ["10.9.0.0/24"]', {"address": []}, 'address = []\nroutes = ["10.9.0.0/24"]'),
    ('address = ["10.0.0.1/30"]\nroutes = ["10.9.0.0/24"]', {"routes": []}, 'address = ["10.0.0.1/30"]\nroutes = []'),
    ('parent = "eth1"\nhost-macvlan = true', {"host-macvlan": False}, 'parent = "eth1"\nhost-macvlan = false'),
    # and has what nobody spoke of when only one of them is another one
    (
        'address = ["10.0.0.1/30"]\nroutes = ["10.9.0.0/24"]',
        {"routes": ["10.8.0.0/24"]},
        'address = ["10.0.0.1/30"]\nroutes = ["10.8.0.0/24"]',
    ),
    (
        'mode = "tap"\naddress = ["10.0.0.1/30"]\nroutes = ["10.9.0.0/24"]',
        {"address": ["10.0.0.5/30"]},
        'mode = "tap"\naddress = ["10.0.0.5/30"]\nroutes = ["10.9.0.0/24"]',
    ),
    # without an address there is no gateway
    ('network = "lab"\nip = ["10.0.0.9/24"]\ngateway = ["10.0.0.1"]', {"ip": []}, 'network = "lab"\nip = []'),
    (
        'network = "lab"\nip = ["10.0.0.9/24"]\ngateway = ["10.0.0.1"]',
        {"ip": ["fd00::9/64"]},
        'network = "lab"\nip = ["fd00::9/64"]',
    ),
    (
        'network = "lab"\nip = ["10.0.0.9/24"]\ngateway = ["10.0.0.1"]',
        {"ip": ["10.0.0.8/24"]},
        'network = "lab"\nip = ["10.0.0.8/24"]\ngateway = ["10.0.0.1"]',
    ),
    # macvtaps
    ('parent = "eth1"\nmacvtap = "vepa"', {"network": "lab"}, 'network = "lab"'),
    ('network = "lab"\nip = ["10.0.0.9/24"]', {"parent": "eth1"}, 'parent = "eth1"\nip = ["10.0.0.9/24"]'),
    (
        'parent = "eth1"\nmacvtap = "vepa"',
        {"parent": "eth1", "macvtap": "bridge"},
        'parent = "eth1"\nmacvtap = "bridge"',
    ),
    # what is no place leaves the place alone
    ('network = "lab"', {"link": "down"}, 'network = "lab"\nlink = "down"'),
    ('forward = ["tcp::22:22"]', {"forward": ["tcp::80:80"]}, 'forward = ["tcp::80:80"]'),
    ('forward = ["tcp::22:22"]', {"hostname": "h"}, 'forward = ["tcp::22:22"]\nhostname = "h"'),
    (
        'network = "lab"\nlink = "down"',
        {"mac": "52:54:00:00:00:07"},
        'network = "lab"\nlink = "down"\nmac = "52:54:00:00:00:07"',
    ),
]


def plain(nic: NicSpec) -> NicSpec:
    return edit.replace(nic, path="")


@pytest.mark.parametrize(("before", "keys", "after"), MOVES)
def test_a_changed_card_is_what_its_new_keys_and_those_that_fit_them_say(
    before: str, keys: dict[str, object], after: str
) -> None:
    """As if the file had been written so."""
    found = edit.changed(card(before), given(**keys))
    assert plain(found) == plain(card(after))
    check.check(spec(after))


@pytest.mark.parametrize(("before", "keys", "after"), MOVES)
def test_the_keys_that_a_change_takes_away_are_those_that_a_file_loses(
    before: str, keys: dict[str, object], after: str
) -> None:
    """A file and what runs must not part; none is named that is not there."""
    text = f"[network.lab]\n[network.other]\n[vm.a]\n[[vm.a.nic]]\n{before}\n"
    gone = edit.removed_keys(text, "a", "net0", keys, FILE)

    def names(keys: str) -> set[str]:
        return {line.partition(" = ")[0] for line in keys.splitlines()}

    assert set(gone) == names(before) - names(after)
    assert len(gone) == len(set(gone))


def test_a_key_that_does_not_fit_its_new_place_is_left_for_whoever_checks() -> None:
    """He said it, so he is told; only what nobody says any more is left out in silence."""
    found = edit.changed(card('forward = ["tcp::22:22"]'), given(network="lab", forward=["tcp::80:80"]))
    assert found.forward is not None
    with pytest.raises(ConfigError, match='belongs to mode "user"'):
        check.check(edit.replace(spec(""), vms=(edit.replace(spec("").vms[0], nic=(found,)),)))


def test_a_card_stays_who_it_is_when_it_moves() -> None:
    """Its id and where it stands in the file are no part of its place."""
    old = card('id = "wan"\nnetwork = "lab"\nmac = "52:54:00:00:00:07"')
    new = edit.changed(old, given(network="other"))
    assert (new.id, new.path, new.mac) == (old.id, old.path, old.mac)


@pytest.mark.parametrize(("vm", "nic"), [("b", "net0"), ("a", "net7")])
def test_a_card_that_the_file_does_not_have_loses_nothing(vm: str, nic: str) -> None:
    """Whoever writes the file says that it is not there."""
    text = '[network.lab]\n[vm.a]\n[[vm.a.nic]]\nforward = ["tcp::22:22"]\n'
    assert edit.removed_keys(text, vm, nic, {"network": "lab"}, FILE) == ()


def test_a_card_without_an_id_is_found_by_its_place_in_the_file() -> None:
    text = '[network.lab]\n[vm.a]\n[[vm.a.nic]]\nid = "wan"\n[[vm.a.nic]]\nrestrict = true\n'
    assert edit.removed_keys(text, "a", "net1", {"network": "lab"}, FILE) == ("restrict",)


def test_a_file_that_is_wrong_is_an_error() -> None:
    with pytest.raises(ConfigError):
        edit.removed_keys("[vm.a]\nnonsense = 1\n", "a", "net0", {}, FILE)


@pytest.mark.parametrize(
    ("taken", "free"),
    [
        ([], "net0"),
        (["net0", "net1"], "net2"),
        (["net1"], "net0"),
        (["net0", "net2"], "net1"),
        (["wan", "lan"], "net0"),
        (["net0", "wan", "net00"], "net1"),
    ],
)
def test_the_first_free_id_is_taken(taken: list[str], free: str) -> None:
    """Gaps first: a card that comes back has its old name."""
    assert edit.free_id(iter(taken)) == free


def test_the_files_of_a_card_are_found_from_elsewhere() -> None:
    """In the file they are relative to it."""
    lab = spec('network = "lab"\nifup = "up.sh"\nifdown = "/abs/down.sh"')
    found = edit.with_absolute_paths(lab, card('network = "lab"\nifup = "up.sh"\nifdown = "/abs/down.sh"'))
    assert (found.ifup, found.ifdown, found.tftp) == ("/lab/up.sh", "/abs/down.sh", None)
