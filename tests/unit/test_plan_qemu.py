"""Command lines: what QEMU is told of a guest, and what is refused before it is started."""

from __future__ import annotations

import json

import pytest

from qemunet.errors import ConfigError, HostLacks
from qemunet.facts import Facts, FileFact
from qemunet.frozen import replace
from qemunet.model.nic import Forward, Nic, OnNetwork, TapBackend, UserBackend
from qemunet.model.vm import (
    Accel,
    DirectBoot,
    Disk,
    Firmware,
    FirmwareBoot,
    GtkDisplay,
    GuestAgent,
    ImageFile,
    Machine,
    NicBus,
    RunAs,
    Vm,
    VncDisplay,
)
from qemunet.plan import qemu

Q35 = Machine("q35", "q35", NicBus.ROOT_PORTS, hotplug_slots=2, cpu_kvm="host", cpu_tcg="")
PC = Machine("pc", "pc", NicBus.PCI, hotplug_slots=0, cpu_kvm="host", cpu_tcg="")
MICROVM = Machine("microvm", "microvm", NicBus.MMIO, hotplug_slots=0, cpu_kvm="host", cpu_tcg="")
TINY = DirectBoot("/tiny/vmlinuz", "/tiny/initrd", "console=ttyS0", tiny=True)
FACTS = Facts(runtime="/run/qemunet", machine_id="m", uid=0, can_switch_user=True)
TAP = TapBackend("qn-a-net0", 1500, OnNetwork("lab", "qn-lab"))


def nic(number: int = 0, model: str = "virtio-net-pci", **changes: object) -> Nic:
    card = Nic(f"net{number}", model, f"52:54:00:00:00:{number:02x}", UserBackend())
    return replace(card, **changes)  # type: ignore[arg-type]


def guest(**changes: object) -> Vm:
    vm = Vm("alice", Q35, 128 << 20, 1, Accel.TCG, TINY, Firmware.BIOS, (), (nic(),))
    return replace(vm, **changes)  # type: ignore[arg-type]


def disk(number: int = 0, **changes: object) -> Disk:
    return replace(Disk(ImageFile(f"/d/{number}.qcow2", "qcow2")), **changes)  # type: ignore[arg-type]


def line(vm: Vm, facts: Facts = FACTS) -> list[str]:
    return [str(argument) for argument in qemu.argv("lab.toml", vm, facts)]


def values(vm: Vm, option: str, facts: Facts = FACTS) -> list[str]:
    words = line(vm, facts)
    return [words[number + 1] for number, text in enumerate(words[:-1]) if text == option]


def value(vm: Vm, option: str, facts: Facts = FACTS) -> str:
    (found,) = values(vm, option, facts)
    return found


def devices(vm: Vm, facts: Facts = FACTS) -> dict[str, dict[str, object]]:
    found = [json.loads(text) for text in values(vm, "-device", facts)]
    return {one["id"]: one for one in found}


# ---------------------------------------------------------------- acceleration


def test_what_only_a_run_can_tell_is_shown_as_undecided() -> None:
    """Nobody has tried KVM yet: neither the accelerator nor a processor that depends on it is guessed."""
    vm = guest(accel=Accel.AUTO)
    assert (value(vm, "-accel"), value(vm, "-cpu")) == ("<decided at run>", "<decided at run>")


@pytest.mark.parametrize(
    ("verdict", "accel", "cpu"),
    [("", "kvm", ["host"]), ("it spins", "tcg", [])],
)
def test_auto_goes_by_what_kvm_did_with_that_processor(verdict: str, accel: str, cpu: list[str]) -> None:
    """A verdict without a reason against it is a yes."""
    vm, facts = guest(accel=Accel.AUTO), replace(FACTS, kvm={"host": verdict})
    assert value(vm, "-accel", facts) == accel
    assert values(vm, "-cpu", facts) == cpu
    assert qemu.acceleration(vm, facts) == (Accel(accel), verdict)


def test_what_the_file_asks_for_is_not_questioned() -> None:
    """accel = "kvm" is an order."""
    assert value(guest(accel=Accel.KVM), "-accel", replace(FACTS, kvm={"host": "it spins"})) == "kvm"


# ---------------------------------------------------------------- cards


def test_every_card_of_a_q35_sits_behind_a_port_of_its_own_and_spare_ports_are_left() -> None:
    """Only there can it be unplugged; the explicit address makes QEMU refuse an occupied port."""
    found = devices(guest(nics=(nic(0), nic(1))))
    assert [(found[name]["bus"], found[name]["addr"]) for name in ("net0", "net1")] == [
        ("rp.0", "0x0"),
        ("rp.1", "0x0"),
    ]
    ports = [one for one in found.values() if one["driver"] == "pcie-root-port"]
    assert [port["id"] for port in ports] == ["rp.0", "rp.1", "rp.2", "rp.3"]


@pytest.mark.parametrize("count", [1, 8, 9, 24])
def test_root_ports_fill_slots_by_eights(count: int) -> None:
    """Every port has a chassis and a place of its own, and the first of a slot announces the others."""
    machine = replace(Q35, hotplug_slots=count)
    found = devices(guest(nics=(), machine=machine)).values()
    ports = [one for one in found if one["driver"] == "pcie-root-port"]
    assert len({port["addr"] for port in ports}) == len({port["chassis"] for port in ports}) == count
    firsts = [port["addr"] for port in ports if port.get("multifunction")]
    assert firsts == [f"{2 + start // 8:#x}.0" for start in range(0, count - 1, 8)]


def test_cards_of_a_pc_keep_their_slots_when_disks_and_screens_come() -> None:
    """Guests name their interfaces by slot; the first is where it is on QEMU's own default machine."""
    plain = devices(guest(machine=PC, nics=(nic(0), nic(1))))
    furnished = guest(machine=PC, nics=(nic(0), nic(1)), disks=(disk(),), display=VncDisplay("127.0.0.1", 1))
    for name, slot in (("net0", "0x3"), ("net1", "0x4")):
        assert plain[name] == devices(furnished)[name]
        assert plain[name]["addr"] == slot


def test_a_card_of_a_microvm_has_no_properties_of_pci() -> None:
    """virtio-mmio has no slot, no ROM, no interrupt vectors and no ACPI index."""
    card = nic(model="virtio-net-device", backend=TAP, queues=2, guest_mtu=1400, acpi_index=1)
    found = devices(guest(machine=MICROVM, nics=(card,)))["net0"]
    assert found == {
        "driver": "virtio-net-device",
        "id": "net0",
        "netdev": "host-net0",
        "mac": card.mac,
        "mq": True,
        "host_mtu": 1400,
    }


def test_queues_are_descriptors_and_interrupt_vectors() -> None:
    """Two vectors per pair, one for the control queue and one for changes."""
    vm = guest(nics=(nic(backend=TAP, queues=4),))
    assert json.loads(value(vm, "-netdev")) == {"type": "tap", "id": "host-net0", "fds": "<alice:net0>"}
    assert (devices(vm)["net0"]["mq"], devices(vm)["net0"]["vectors"]) == (True, 10)


def test_vhost_is_handed_over_open() -> None:
    """QEMU aborts where it may not open the device itself."""
    vm = guest(nics=(nic(backend=TAP, queues=2, vhost=True),))
    netdev = json.loads(value(vm, "-netdev"))
    assert (netdev["vhost"], netdev["vhostfds"]) == (True, "<alice:net0.vhost0>:<alice:net0.vhost1>")


def test_only_virtio_hears_of_queues_and_mtu() -> None:
    """Other models have no such property, and QEMU refuses unknown ones."""
    found = devices(guest(nics=(nic(model="e1000", backend=TAP, guest_mtu=1400),)))["net0"]
    assert found.keys() == {"driver", "id", "netdev", "mac", "bus", "addr", "romfile"}


def test_a_range_of_ports_is_a_rule_for_each() -> None:
    """QEMU has no ranges; the guest's address is left to its DHCP server."""
    forwards = (Forward("udp", "", (6000, 6001), "", (70, 71)), Forward("tcp", "127.0.0.1", (1, 1), "", (2, 2)))
    netdev = json.loads(value(guest(nics=(nic(backend=UserBackend(forwards)),)), "-netdev"))
    assert [rule["str"] for rule in netdev["hostfwd"]] == ["udp::6000-:70", "udp::6001-:71", "tcp:127.0.0.1:1-:2"]


def test_text_of_the_file_cannot_end_a_json_value() -> None:
    """Quotes and commas in a path stay in the path."""
    vm = guest(nics=(nic(backend=UserBackend(tftp='/a",b/ü')),))
    assert json.loads(value(vm, "-netdev"))["tftp"] == '/a",b/ü'


# ---------------------------------------------------------------- booting


def test_the_boot_order_becomes_indices_and_explicit_ones_keep_theirs() -> None:
    """Two devices with one index are an error of QEMU's."""
    cd = disk(1, cdrom=True)
    vm = guest(boot=FirmwareBoot(("cdrom", "network", "disk")), disks=(disk(), cd), nics=(nic(0, boot_index=2), nic(1)))
    assert qemu.boot_indices(vm) == {"net0": 2, "disk.1": 1, "net1": 3, "disk.0": 4}
    assert {name: one["bootindex"] for name, one in devices(vm).items() if "bootindex" in one} == qemu.boot_indices(vm)


def test_a_kernel_that_qemu_loads_needs_no_order_and_no_rom() -> None:
    """A boot ROM costs time, and QEMU does not start where it is not installed."""
    found = devices(guest(disks=(disk(),)))
    assert all("bootindex" not in one for one in found.values())
    assert found["net0"]["romfile"] == ""


ROM = {"/usr/lib/ipxe/qemu/efi-virtio.rom": FileFact("/usr/lib/ipxe/qemu/efi-virtio.rom", 1, True, True)}


@pytest.mark.parametrize(
    ("order", "boot_index", "files", "wanted"),
    [
        (("disk", "network"), None, {}, False),  # the default order must not need what is not installed
        (("disk", "network"), None, ROM, True),
        (("disk",), None, ROM, False),
        (("network",), None, {}, True),
        (("disk",), 1, {}, True),
    ],
)
def test_a_card_has_its_boot_rom_where_it_is_to_boot(
    order: tuple[str, ...], boot_index: int | None, files: dict[str, FileFact], wanted: bool
) -> None:
    """Asked for, or by the default order if the ROMs are installed."""
    vm = guest(boot=FirmwareBoot(order), nics=(nic(boot_index=boot_index),))
    assert ("romfile" not in devices(vm, replace(FACTS, files=files))["net0"]) is wanted


def test_the_built_in_guest_reads_its_cards_from_the_kernel_line() -> None:
    """A card in user mode and one without addresses ask DHCP."""
    cards = (
        nic(0, backend=TAP, ips=("10.0.0.1/24", "fd00::1/64"), gateways=("10.0.0.254", "fd00::fe")),
        nic(1, ips=("10.0.2.15/24",)),
        nic(2, backend=TAP),
    )
    assert value(guest(nics=cards), "-append").split() == [
        "console=ttyS0",
        "qemunet.name=alice",
        "qemunet.nic=52:54:00:00:00:00,10.0.0.1/24,fd00::1/64,via=10.0.0.254,via=fd00::fe",
    ]


def test_the_built_in_guest_asks_where_its_network_has_dhcp() -> None:
    """Its address is reserved for it there."""
    told = replace(TAP, attach=OnNetwork("lab", "qn-lab", dhcp=True))
    line = value(guest(nics=(nic(0, backend=told, ips=("10.0.0.1/24",)),)), "-append")
    assert "qemunet.nic=" not in line


@pytest.mark.parametrize("machine", [Q35, PC, MICROVM])
def test_the_built_in_guest_talks_to_its_keeper_on_a_port_of_its_own(machine: Machine) -> None:
    """Whatever its machine: the port has a name, and no card has to move for it."""
    found = devices(guest(nics=(), machine=machine))
    assert found["agent.0"]["name"] == "org.qemunet.agent.0"
    assert values(guest(nics=(), machine=machine), "-serial") == ["chardev:serial"]
    assert "socket,id=agent,fd=<alice:agent.sock>,server=on,wait=off" in values(guest(), "-chardev")


@pytest.mark.parametrize("vm", [guest(boot=DirectBoot("/k", None, "")), guest(boot=FirmwareBoot())])
def test_another_guest_has_no_such_port(vm: Vm) -> None:
    """It would not know what that is for."""
    assert not any("agent" in text for text in line(vm))


def test_a_foreign_kernel_gets_its_line_untouched() -> None:
    """Nothing of ours belongs there."""
    assert (
        value(guest(boot=DirectBoot("/k", None, "a=b"), nics=(nic(backend=TAP, ips=("10.0.0.1/24",)),)), "-append")
        == "a=b"
    )
    assert values(guest(boot=DirectBoot("/k", None, "")), "-append") == []


def test_a_kernel_line_that_linux_would_cut_is_refused() -> None:
    """It would be cut in silence."""
    longest = "x" * 2047
    assert value(guest(boot=DirectBoot("/k", None, longest)), "-append") == longest
    with pytest.raises(ConfigError, match="2048 bytes") as caught:
        line(guest(boot=DirectBoot("/k", None, longest + "x")))
    assert caught.value.where == "lab.toml: vm.alice.boot.append"


def test_another_users_qemu_finds_the_kernel_among_its_descriptors() -> None:
    """It has no right to the files themselves."""
    vm = guest(run_as=RunAs(64000, 64000))
    assert (value(vm, "-kernel"), value(vm, "-initrd")) == (
        "/proc/self/fd/<alice:boot.kernel>",
        "/proc/self/fd/<alice:boot.initrd>",
    )


def test_uefi_takes_the_first_pair_of_images_that_is_there() -> None:
    """Code and variables belong together."""
    names = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd")
    facts = replace(FACTS, files={name: FileFact(name, 1, True, True) for name in names})
    nodes = [json.loads(text) for text in values(guest(firmware=Firmware.UEFI), "-blockdev", facts)]
    assert {node["filename"] for node in nodes if "filename" in node} == {*names[1:], "/dev/fdset/3"}
    assert value(guest(firmware=Firmware.UEFI), "-machine", facts) == "q35,pflash0=uefi.code,pflash1=uefi.vars"


def test_uefi_without_firmware_is_a_lack_of_the_host() -> None:
    """With the remedy."""
    with pytest.raises(HostLacks, match="UEFI") as caught:
        line(guest(firmware=Firmware.UEFI))
    assert "ovmf" in caught.value.hint
    with pytest.raises(ConfigError, match="no UEFI"):
        line(guest(firmware=Firmware.UEFI, machine=MICROVM))


# ---------------------------------------------------------------- the rest


def test_the_screen_of_a_machine_that_has_no_place_for_one_is_refused() -> None:
    """A microvm has no PCI."""
    with pytest.raises(ConfigError, match="no place for a screen"):
        line(guest(machine=MICROVM, display=VncDisplay("127.0.0.1", 0)))


def test_a_vnc_address_of_ipv6_is_in_brackets() -> None:
    """Or its last part would be taken for the number."""
    assert value(guest(display=VncDisplay("::1", 3)), "-vnc") == "[::1]:3"


def test_without_a_screen_the_firmware_speaks_on_the_serial_line() -> None:
    """A boot loader would otherwise have no way to be seen; a kernel of ours needs none."""
    assert value(guest(boot=FirmwareBoot()), "-machine") == "q35,graphics=off"
    assert value(guest(boot=FirmwareBoot(), display=GtkDisplay()), "-machine") == "q35"
    assert value(guest(), "-machine") == "q35"


def test_the_sandbox_is_on_unless_the_user_says_otherwise() -> None:
    """A window needs programs of its desktop."""
    assert value(guest(), "-sandbox") == qemu.SANDBOX
    assert "spawn" not in value(guest(display=GtkDisplay()), "-sandbox")
    assert values(guest(qemu_args=("-sandbox", "off")), "-sandbox") == ["off"]


def test_what_the_user_adds_is_last_and_untouched() -> None:
    """Also where it looks odd."""
    assert line(guest(qemu_args=("-rtc", "base=utc", "")))[-3:] == ["-rtc", "base=utc", ""]


@pytest.mark.parametrize(
    ("memory", "text"), [(1 << 30, "1G"), (1536 << 20, "1536M"), ((1 << 20) + 1024, "1025K"), (1025, "1025B")]
)
def test_memory_is_said_exactly(memory: int, text: str) -> None:
    """In the largest unit that keeps it whole."""
    assert qemu.size(memory) == text


@pytest.mark.parametrize(
    ("agent", "socket", "name"),
    [
        (GuestAgent.OURS, "agent", "org.qemunet.agent.0"),
        (GuestAgent.QEMU, "qga", "org.qemu.guest_agent.0"),
    ],
)
def test_a_guest_that_has_an_agent_gets_its_port(agent: GuestAgent, socket: str, name: str) -> None:
    """Its lab file says so; the built-in guest needs no word. Agents find their port by its name."""
    vm = guest(boot=FirmwareBoot(), agent=agent)
    assert devices(vm)["agent.0"]["name"] == name
    assert f"socket,id={socket},fd=<alice:{socket}.sock>,server=on,wait=off" in values(vm, "-chardev")
