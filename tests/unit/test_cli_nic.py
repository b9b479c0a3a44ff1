"""What the options of `nic add` and `nic set` say, as the keys of a card and in its lab file."""

from __future__ import annotations

import pytest

from qemunet.cli import nic
from qemunet.cli.main import command
from qemunet.config import read
from qemunet.errors import UsageError

LAB = """\
[network.lab]

[vm.a]

[[vm.a.nic]]
network = "lab"    # the office
ip = ["10.0.0.9/24"]
gateway = ["10.0.0.1"]

[[vm.a.nic]]
mode = "user"
forward = ["tcp::2222:22"]

[[vm.a.nic]]
address = ["10.1.0.1/30"]
"""


def keys(*words: str) -> dict[str, object]:
    """What a command line of `nic set` says."""
    return nic._keys(command("nic set")[0].parse(["a", "net0", *words]))


@pytest.mark.parametrize("option", nic._LISTS)
@pytest.mark.parametrize("none", ["none", ""])
def test_any_list_can_be_emptied(option: str, none: str) -> None:
    assert keys(f"--{option}", none) == {option: []}


def test_none_is_not_one_of_several() -> None:
    with pytest.raises(UsageError, match="--ip: none stands alone"):
        keys("--ip", "none", "--ip", "10.0.0.1/24")
    assert keys("--ip", "10.0.0.1/24", "--ip", "fd00::1/64") == {"ip": ["10.0.0.1/24", "fd00::1/64"]}


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("10", {"access": 10}),
        ("access=10", {"access": 10}),
        ("trunk=10,20-29", {"trunk": [10, "20-29"]}),
        ("trunk=10,native=1", {"trunk": [10], "native": 1}),
        ("native=1,trunk=10,20", {"native": 1, "trunk": [10, 20]}),
        ("trunk=,native=1", {"trunk": [], "native": 1}),
        ("none", {}),
    ],
)
def test_vlans_are_given_as_in_a_file(text: str, table: dict[str, object]) -> None:
    assert keys("--vlan", text) == {"vlan": table}


def test_an_impairment_is_given_as_in_a_file() -> None:
    assert keys("--impair", "delay=20ms,loss=1%") == {"impair": {"delay": "20ms", "loss": "1%"}}
    assert keys("--impair", "none") == {"impair": {}}
    for text in ("", "delay", "20ms,loss=1%"):
        with pytest.raises(UsageError, match="is no impairment"):
            keys("--impair", text)


@pytest.mark.parametrize("text", ["", "ten", "10,20", "access=", "vlan=10", "access=1,access=2", "native=1,20", "-1"])
def test_what_is_no_vlan_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="is no VLAN"):
        keys(f"--vlan={text}")


@pytest.mark.parametrize(
    ("name", "words", "before", "after"),
    [
        ("net0", ["--gateway", "none"], 'gateway = ["10.0.0.1"]\n', ""),
        ("net0", ["--ip", "none", "--gateway", ""], 'ip = ["10.0.0.9/24"]\ngateway = ["10.0.0.1"]\n', ""),
        ("net1", ["--forward", "none"], 'forward = ["tcp::2222:22"]\n', ""),
        ("net1", ["--no-forward"], 'forward = ["tcp::2222:22"]\n', ""),
        ("net2", ["--address", "none"], 'address = ["10.1.0.1/30"]\n', "address = []\n"),
    ],
)
def test_an_emptied_list_leaves_the_file(name: str, words: list[str], before: str, after: str) -> None:
    """But for the one that makes a card a cable to the host, which it stays."""
    changed = nic._set_in(LAB, "a", name, keys(*words), "lab.toml")
    assert changed == LAB.replace(before, after)
    read.loads(changed, "lab.toml")
