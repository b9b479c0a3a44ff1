"""A lab file becomes a typed spec; the command line may change values of it; one table knows all keys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qemunet.config import keys, read, spec
from qemunet.config.tables import field_of
from qemunet.errors import ConfigError, UsageError
from qemunet.frozen import fields
from qemunet.model.nic import MacvtapMode, Rate
from qemunet.model.vm import Accel

TEXT = """
[lab]
name = "pentest"
[vm.kali2]
memory = "1G"
boot.append = "quiet"
[[vm.kali2.nic]]
network = "lab"
ip = "10.0.0.1/24"
[[vm.kali2.nic]]
id = "wan"
forward = ["tcp::2222:22"]
[network.lab]
"""


def load(*overrides: str) -> spec.LabSpec:
    return read.loads(TEXT, "lab.toml", overrides)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (keys.VM, spec.VmSpec),
        (keys.MACHINE, spec.MachineSpec),
        (keys.BOOT, spec.BootSpec),
        (keys.DISK, spec.DiskSpec),
        (keys.NIC, spec.NicSpec),
        (keys.NETWORK, spec.NetworkSpec),
    ],
)
def test_every_key_has_an_attribute_and_every_attribute_a_key(table: keys.Table, values: type) -> None:
    """The table and the types cannot part."""
    names = set(fields(values)) - {"path", "name"}
    assert names == {key.field for key in table.keys.values()} | {
        *table.tables,
        *table.lists,
        *map(field_of, table.named),
    }


def test_values_are_typed_and_places_remembered() -> None:
    """What is left open is None."""
    lab = load()
    (vm,) = lab.vms
    assert (lab.name, lab.named, vm.memory, vm.cpus, vm.boot.append) == ("pentest", True, 1 << 30, None, "quiet")
    assert vm.nic is not None
    assert [nic.path for nic in vm.nic] == ["vm.kali2.nic[0]", "vm.kali2.nic[1]"]
    assert vm.nic[0].ip == ("10.0.0.1/24",)


def test_no_card_and_no_word_about_cards_differ() -> None:
    """An empty list is a guest without network."""
    assert read.loads("[vm.a]\n", "lab.toml").vms[0].nic is None
    assert read.loads("[vm.a]\nnic = []\n", "lab.toml").vms[0].nic == ()


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("kali.toml", "[vm.a]", "kali"),
        ("kali.toml", "[vm.kali]", "kali-lab"),
        ("two hosts.toml", "[vm.a]", "two-hosts"),
        ("2hosts.toml", "[vm.a]", "lab-2hosts"),
        ("ä.toml", "[vm.a]", "lab"),
        ("a" * 80 + ".toml", "[vm.a]", "a" * 50),
    ],
)
def test_a_lab_is_named_after_its_file(file: str, text: str, name: str) -> None:
    """Always with something that may be a name and that no vm or network has."""
    assert read.loads(text, f"/x/{file}").name == name


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Some editors write one."""
    path = tmp_path / "lab.toml"
    path.write_bytes(b"\xef\xbb\xbf[vm.a]\n")
    assert read.load(str(path)).vms[0].name == "a"


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("vm.kali2.memory=2G", lambda lab: lab.vms[0].memory == 2 << 30),
        ('vm.kali2.memory="2G"', lambda lab: lab.vms[0].memory == 2 << 30),
        ("vm.kali2.cpus=4", lambda lab: lab.vms[0].cpus == 4),
        ("vm.kali2.accel = tcg", lambda lab: lab.vms[0].accel is Accel.TCG),
        ("vm.kali2.boot.append=console=ttyS0 x=1", lambda lab: lab.vms[0].boot.append == "console=ttyS0 x=1"),
        ("vm.kali2.boot.append=12", lambda lab: lab.vms[0].boot.append == "12"),
        ("vm.kali2.boot.guest=tiny", lambda lab: lab.vms[0].boot.guest == "tiny"),
        ("vm.kali2.machine.cpu-tcg=max", lambda lab: lab.vms[0].machine.cpu_tcg == "max"),
        ("vm.kali2.nic[0].mac=12:34:56:12:34:56", lambda lab: lab.vms[0].nic[0].mac == "12:34:56:12:34:56"),
        ("vm.kali2.nic.net0.mtu=1400", lambda lab: lab.vms[0].nic[0].mtu == 1400),
        ("vm.kali2.nic.wan.restrict=true", lambda lab: lab.vms[0].nic[1].restrict is True),
        ('vm.kali2.nic.wan.forward=["tcp::1:1", "udp::1:1"]', lambda lab: len(lab.vms[0].nic[1].forward) == 2),
        ('vm.kali2.nic[0].rate={in="8mbit"}', lambda lab: lab.vms[0].nic[0].rate == Rate(8_000_000)),
        ("vm.kali2.nic[0].macvtap=vepa", lambda lab: lab.vms[0].nic[0].macvtap is MacvtapMode.VEPA),
        ("network.lab.address=10.0.0.254/24", lambda lab: lab.networks[0].address == ("10.0.0.254/24",)),
        ("lab.name=other", lambda lab: lab.name == "other"),
    ],
)
def test_the_command_line_overrides_the_file(override: str, found: object) -> None:
    """Values are TOML, and text needs no quotes."""
    assert callable(found)
    lab = load(override)
    assert found(lab)
    assert len(lab.overridden) == 1


@pytest.mark.parametrize(
    ("override", "missing", "hint"),
    [
        ("vm.kali3.memory=1G", 'there is no "kali3" in lab.toml, vm', 'did you mean "kali2"? known there: kali2'),
        ("network.lan.mtu=1400", 'there is no "lan" in lab.toml, network', 'did you mean "lab"? known there: lab'),
        ("vm.kali2.memmory=1G", 'there is no "memmory" in lab.toml, vm.kali2', 'did you mean "memory"?'),
        ("vm.kali2.boot=x", 'there is no "boot" in lab.toml, vm.kali2', "known there"),
        ("vm.kali2.nic[2].mac=auto", 'there is no "nic[2]" in lab.toml, vm.kali2', 'did you mean "nic[1]"?'),
        ("vm.kali2.nic.lan.mac=auto", 'there is no "lan" in lab.toml, vm.kali2.nic', 'did you mean "wan"?'),
        ("vm.kali2.disk[0].file=x", 'there is no "disk[0]" in lab.toml, vm.kali2', "known there: nothing"),
        ("vms.kali2.memory=1G", 'there is no "vms" in lab.toml', 'did you mean "vm"?'),
        ("vm.memory=1G", 'unknown path "vm.memory"', "as in vm.kali2.memory"),
        ("memory=1G", 'unknown path "memory"', "lab, vm.NAME, network.NAME, netns.NAME or dhcp-server.NAME"),
        ("vm.kali2.memory", "is not PATH=VALUE", "as in"),
    ],
)
def test_what_is_not_in_the_file_cannot_be_overridden(override: str, missing: str, hint: str) -> None:
    """It is a mistake on the command line."""
    with pytest.raises(UsageError) as caught:
        load(override)
    assert missing in str(caught.value)
    assert hint in caught.value.hint


def test_an_override_smuggles_in_nothing_else() -> None:
    """A line break does not make a second key."""
    with pytest.raises(ConfigError, match="a line break"):
        load("vm.kali2.user=a\nmemory = 1")


def test_a_wrong_value_of_the_command_line_is_reported_as_such() -> None:
    """Not as the file's."""
    with pytest.raises(ConfigError) as caught:
        load("vm.kali2.memory=lots")
    assert str(caught.value) == '--set: vm.kali2.memory: "lots" is not a size'


@pytest.mark.parametrize("text", ["vm = 1", "vm.a = 1", "vm.a.nic = 1", "vm.a.nic = [1]", "lab = 1", "vm.a.boot = []"])
def test_an_override_of_a_broken_file_is_no_traceback(text: str) -> None:
    """Whatever the shape of the file."""
    for override in ("vm.a.nic[0].mac=auto", "vm.a.nic.net0.mac=auto", "vm.a.boot.append=x", "lab.name=x"):
        with pytest.raises((ConfigError, UsageError)):
            read.loads(text, "lab.toml", [override])


def test_the_schema_knows_all_keys() -> None:
    """And nothing else is allowed."""
    schema = keys.json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert [*properties] == ["lab", "vm", "network", "dhcp-server", "netns", "cable", "expect"]
    (vm,) = properties["vm"]["patternProperties"].values()
    assert vm["additionalProperties"] is False
    assert {*vm["properties"]} == {*keys.VM.known()}
    nic = vm["properties"]["nic"]["items"]["properties"]
    assert {*nic} == {*keys.NIC.keys}
    assert nic["mode"]["enum"] == [
        "user",
        "tap",
        "macvtap",
        "stream",
        "dgram",
        "mcast",
        "vde",
        "passt",
        "vhost-user",
        "hostdev",
    ]
    assert all(one["description"] for one in nic.values())


def test_reading_is_light() -> None:
    """Nothing is imported that a start need not have."""
    code = "import sys; from qemunet.config import read, resolve, profiles, write; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"difflib", "ipaddress", "pathlib", "json", "tomli_w", "subprocess", "asyncio", "pyroute2", "hashlib"}
    assert not heavy & {*done.stdout.split()}
