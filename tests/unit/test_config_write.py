"""A resolved lab is written as a lab file that means the same."""

from __future__ import annotations

import tomllib
from typing import Any

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from qemunet.config import profiles, read, resolve
from qemunet.config.origins import origins
from qemunet.config.write import lab_toml, vm_toml
from qemunet.facts import Facts
from qemunet.frozen import replace
from qemunet.model.lab import Lab
from qemunet.model.vm import NicBus
from tests.unit.config_host import FACTS, FILE, lab

Table = dict[str, Any]


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Table]:
    return st.fixed_dictionaries({}, optional={name.replace("_", "-"): value for name, value in keys.items()})


def merged(*parts: st.SearchStrategy[Table]) -> st.SearchStrategy[Table]:
    return st.tuples(*parts).map(lambda tables: {key: value for table in tables for key, value in table.items()})


text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
common = optional(
    link=st.sampled_from(["up", "down"]),
    mac_prefix=st.sampled_from(["52:54:00", "02", "de:ad:be:ef"]),
)
guest_ips = st.lists(st.integers(1, 2**16 - 1).map(lambda n: f"fd77::{n:x}/64"), unique=True, min_size=1, max_size=2)
common = merged(
    common,
    st.one_of(
        st.just({}),
        st.fixed_dictionaries({"ip": guest_ips}),
        guest_ips.map(lambda ips: {"ip": [*ips, "10.0.0.2/24"], "gateway": ["10.0.0.1", "fd77::1"]}),
        st.fixed_dictionaries({"ip": guest_ips, "gateway": st.just("fd77::1")}),
    ),
)
rates = st.sampled_from(["8kbit", "100mbit", "1.5gbit", "12.5mbps", "1mibit", "12344bit", "100gbit"])
tapped = optional(
    queues=st.sampled_from([1, "auto"]),
    vhost=st.sampled_from(["auto", "on", "off"]),
    guard=st.sampled_from(["off", "mac", "clean"]),
    rate=st.dictionaries(st.sampled_from(["in", "out"]), rates, min_size=1),
)
user = merged(
    st.just({"mode": "user"}),
    common,
    optional(
        restrict=st.booleans(),
        subnet=st.just("10.7.0.0/24"),
        hostname=st.just("kali"),
        tftp=st.just("dir"),
        bootfile=text,
        model=st.sampled_from(["e1000", "rtl8139", "virtio"]),
    ),
)
apart = optional(port_isolation=st.booleans())
network = merged(
    st.just({"network": "lab"}), common, tapped, apart, optional(mtu=st.integers(68, 1400), ifup=st.just("up.sh"))
)
bridged = merged(st.just({"bridge": "br9"}), common, tapped, apart, optional(mtu=st.integers(68, 9000)))
cable = merged(
    st.just({"mode": "tap"}),
    common,
    tapped,
    optional(mtu=st.integers(68, 65535), address=st.just("10.0.0.1/30"), routes=st.just(["10.99.0.0/24"])),
)
old_cable = merged(st.just({"mode": "tap", "model": "e1000"}), optional(mtu=st.integers(68, 65535)))
macvtap = merged(
    st.just({"parent": "eth9"}), common, tapped, optional(macvtap=st.sampled_from(["bridge", "vepa", "private"]))
)
joined = st.fixed_dictionaries(
    {
        "parent": st.just("eth9"),
        "host-macvlan": st.just(True),
        "ip": st.integers(1, 2**16 - 1).map(lambda n: [f"fd77::{n:x}/64"]),
    }
)
passthru = st.just({"parent": "eth1", "macvtap": "passthru"})
disks = st.lists(
    st.sampled_from(
        [
            {"file": "base.qcow2", "readonly": True},
            {"file": "third.qcow2", "snapshot": True},
            {"file": "new", "size": "1.5G"},
            {"file": "cd.iso", "cdrom": True},
            {"file": "evil.qcow2", "backing": "secret", "bus": "sata"},
            {"file": "plain", "format": "raw", "bus": "scsi"},
        ]
    ),
    unique_by=lambda one: str(one["file"]),
    max_size=3,
)
boots = st.one_of(
    st.just({"guest": "tiny"}),
    merged(st.just({"kernel": "vmlinuz"}), optional(initrd=st.just("initrd.img"), append=text)),
    optional(order=st.lists(st.sampled_from(["disk", "network", "cdrom"]), unique=True), firmware=st.just("uefi")),
)
vms = merged(
    optional(
        memory=st.sampled_from(["96M", "1.5G", "64T"]),
        cpus=st.integers(1, 255),
        accel=st.sampled_from(["auto", "kvm", "tcg"]),
        user=st.sampled_from(["auto", "sara", "77", "77:88"]),
        display=st.sampled_from(["none", "gtk"]),
        agent=st.booleans(),
        qemu_args=st.lists(text, max_size=3),
        machine=optional(cpu_tcg=st.just("max")),
        boot=boots,
        disk=disks,
    ),
    st.one_of(
        st.fixed_dictionaries(
            {"nic": st.lists(st.one_of(user, network, bridged, cable, old_cable, macvtap, joined), max_size=4)},
            optional={"profile": st.sampled_from(["q35", "pc"])},
        ),
        st.just({"nic": [{}, {"parent": "eth1", "macvtap": "passthru"}], "profile": "legacy"}),
        st.just({"nic": [{"network": "lab"}], "profile": "microvm"}),
        st.just({}),
    ),
)
labs = st.fixed_dictionaries(
    {
        "vm": st.fixed_dictionaries({"a": vms}),
        "network": st.fixed_dictionaries(
            {
                "lab": st.one_of(
                    st.just({"mode": "bridge", "bridge": "br9"}),
                    st.just({"mode": "bridge", "bridge": "br9", "port-isolation": True}),
                    optional(
                        mode=st.just("private"),
                        stp=st.booleans(),
                        ageing=st.sampled_from(["0s", "5m"]),
                        mtu=st.integers(1400, 65535),
                        mac=st.just("02:00:00:00:00:01"),
                        keep=st.booleans(),
                        port_isolation=st.booleans(),
                        bridge=st.just("virbr4"),
                    ),
                )
            }
        ),
    },
    optional={"lab": st.just({"name": "pentest"})},
)
ADDRESSED = replace(FACTS, addresses={"eth9": ("fd77:0:0:1::1/64",)})
hosts = st.builds(
    lambda vhost, switch: replace(ADDRESSED, vhost_net=vhost, can_switch_user=switch),
    st.just(value=True),
    st.booleans(),
)


@given(labs, hosts)
def test_what_is_written_reads_back_as_the_same_lab(table: Table, facts: Facts) -> None:
    """Every default is spelled out, and means what was meant."""
    for number, card in enumerate(table["vm"]["a"].get("nic", [])):
        card["ip"] = [
            one.replace("::", f"::{number}:").replace("10.0.0.2", f"10.0.0.{number + 2}") for one in card.get("ip", [])
        ]
    first = resolve_text(tomli_w.dumps(table), facts)
    again = resolve_text(lab_toml(first), facts)
    assert again == first
    assert lab_toml(again) == lab_toml(first)


def resolve_text(text: str, facts: Facts) -> Lab:
    spec = read.loads(text, FILE)
    found = profiles.load_all(spec)
    return resolve.resolve(spec, found, facts, strict=False)


def test_one_vm_is_written_with_its_networks_alone() -> None:
    """What `vm.toml` of a running vm holds."""
    text = "[network.n]\n[network.m]\n[vm.a]\n[[vm.a.nic]]\nnetwork = 'n'\n[vm.b]\n"
    found = lab(text)
    one = tomllib.loads(vm_toml(found, found.vm("a")))
    assert (one["lab"], [*one["network"]], [*one["vm"]]) == ({"name": "lab"}, ["n"], ["a"])
    assert lab(vm_toml(found, found.vm("a"))).vms == (found.vm("a"),)


def test_every_value_can_say_where_it_came_from() -> None:
    """The file, the command line, a profile, a default, or other values."""
    text = '[network.n]\nmtu = 1400\n[vm.a]\nmemory = "1G"\n[[vm.a.nic]]\nnetwork = "n"\nmac = "02:00:00:00:00:01"\n'
    spec = read.loads(text, FILE, ["vm.a.cpus=2"])
    found = profiles.load_all(spec)
    written = lab_toml(resolve.resolve(spec, found, FACTS), origins(spec, found)).splitlines()
    for line in (
        'name = "lab"  # derived',
        "mtu = 1400  # file",
        "stp = false  # default",
        'memory = "1G"  # file',
        "cpus = 2  # --set",
        "hotplug-slots = 8  # profile q35",
        'profile = "q35"  # default',
        'model = "virtio-net-pci"  # profile q35',
        'mac = "02:00:00:00:00:01"  # file',
        'ifname = "qn-a-net0"  # derived',
        'type = "q35"  # profile q35',
    ):
        assert line in written
    assert all("  # " in line for line in written if " = " in line)


def test_a_machine_of_ones_own_reads_back() -> None:
    """What differs from the profile is written too."""
    found = lab('[vm.a]\nmachine = { nic-bus = "pci", type = "pc,acpi=off" }\n')
    assert found.vms[0].machine.nic_bus is NicBus.PCI
    assert lab(lab_toml(found)) == found


def test_whom_a_vm_depends_on_is_written_where_that_one_is() -> None:
    """A vm that is saved alone needs nobody else to be read; when it is ready it still knows."""
    table = '[vm.a]\nready = "console=login: "\n[vm.b]\ndepends = "a"\nready = "tcp=80"\n[vm.c]\ndepends = ["a", "b"]\n'
    found = lab(table)
    again = lab(lab_toml(found))
    assert [(vm.depends, vm.ready) for vm in again.vms] == [(vm.depends, vm.ready) for vm in found.vms]
    (alone,) = lab(vm_toml(found, found.vm("b"))).vms
    assert (alone.depends, alone.ready) == ((), found.vm("b").ready)


def test_a_script_is_written_as_it_is_typed() -> None:
    """What was filled in stays so, and other braces are what they were."""
    card = 'nic = [{ mode = "user", ip = ["10.0.2.9/24"], mac = "52:54:00:00:00:09" }]\n'
    first = '[[vm.a.script]]\nexpect = "{vm.name}{2}"\nsend = "${x} {nic.net0.ip} {nic.net0.mac}"\n'
    found = lab(f'[vm.a]\n{card}{first}[[vm.a.script]]\nsend = "\\u0003"\nenter = false\n').vms[0]
    assert [(one.expect, one.send, one.enter) for one in found.script] == [
        ("a{2}", "${x} 10.0.2.9 52:54:00:00:00:09", True),
        (None, "\x03", False),
    ]
    whole = lab(f'[vm.a]\n{card}{first}[[vm.a.script]]\nsend = "\\u0003"\nenter = false\n')
    assert lab(lab_toml(whole)).vms[0].script == found.script
