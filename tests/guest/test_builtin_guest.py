"""The built-in guest, booted by a bare QEMU: nothing else of qemunet is in the way."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from itertools import chain
from typing import TYPE_CHECKING, Any

import pexpect
import pexpect.fdpexpect
import pytest

from qemunet.errors import HostLacks
from qemunet.guest.clock import kernel_word
from qemunet.guest.image import GuestImage, build
from tests.patience import rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64"),
]

QEMU = ["qemu-system-x86_64", "-accel", "tcg", "-m", "128M", "-nodefaults", "-display", "none"]
BOOT = 60  # seconds, on a machine that does other things as well
PROMPT = "vm1:~# "
SLIRP_ADDRESS = "10.0.2.15"
QUICK_MODELS = ["virtio-net-pci", "rtl8139", "vmxnet3", "pcnet", "tulip", "ne2k_pci"]
SLOW_MODELS = ["e1000", "e1000e"]  # their carrier comes seconds after the card was brought up


class Guest:
    """A running QEMU with its console and its control socket."""

    def __init__(self, image: GuestImage, machine: str, words: str, args: list[str]) -> None:
        self.console_socket, console = socket.socketpair()
        self.monitor, monitor = socket.socketpair()
        argv = [
            *QEMU, "-machine", machine, "-kernel", image.kernel, "-initrd", image.initrd,
            "-append", f"{image.append} {kernel_word()} qemunet.name=vm1 {words}",
            "-chardev", f"socket,id=con,fd={console.fileno()}", "-serial", "chardev:con",
            "-chardev", f"socket,id=mon,fd={monitor.fileno()}", "-mon", "chardev=mon,mode=control", *args,
        ]  # fmt: skip
        self.process = subprocess.Popen(argv, pass_fds=[console.fileno(), monitor.fileno()])
        console.close()
        monitor.close()
        self.console = pexpect.fdpexpect.fdspawn(self.console_socket.fileno(), encoding="utf-8", timeout=BOOT)
        self.monitor.settimeout(20)
        self.answers = self.monitor.makefile("r")
        json.loads(self.answers.readline())
        self.qmp("qmp_capabilities")

    def qmp(self, command: str, **arguments: Any) -> Any:
        self.monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "return" not in (answer := json.loads(self.answers.readline())):
            assert "error" not in answer, answer
        return answer["return"]

    def wait_for_event(self, name: str, **data: Any) -> None:
        while True:
            event = json.loads(self.answers.readline())
            if event.get("event") == name and data.items() <= event["data"].items():
                return

    def ready(self) -> str:
        """Wait for the ready line and the prompt; return the line."""
        self.console.expect(r"\n(qemunet guest ready: [^\r\n]*)\r?\n")
        line = self.console.match.group(1)
        self.console.expect_exact(PROMPT)
        return str(line)

    def run(self, command: str, within: float = 15) -> str:
        """Return what a command prints."""
        self.console.sendline(f"{command}; echo @''$?@")
        self.console.expect(r"@(\d+)@\r\n", timeout=within)
        output = str(self.console.before).partition("\n")[2]
        self.console.expect_exact(PROMPT)
        return output

    def wait_until(self, command: str, text: str, within: float = 20) -> float:
        """Repeat a command until its output contains a text; return the seconds that it took."""
        start = begun = time.monotonic()
        while text not in (seen := self.run(command)):
            assert time.monotonic() < start + within, f"{command}: no {text!r} after {within} s, last seen {seen!r}"
            rest(begun)
            begun = time.monotonic()
        return time.monotonic() - start

    def end(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)
        self.answers.close()
        self.monitor.close()
        self.console_socket.close()


@pytest.fixture(scope="session")
def image() -> GuestImage:
    try:
        return build(print)
    except HostLacks as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def booted(image: GuestImage, machine: str, *args: str, words: str = "") -> Iterator[Guest]:
    guest = Guest(image, machine, words, list(args))
    try:
        yield guest
    finally:
        guest.end()


def card(number: int, model: str, bus: str = "") -> list[str]:
    """A card on a user network of its own; its MAC ends with the number."""
    place = {"bus": bus, "addr": "0x0"} if bus else {}
    device = {"driver": model, "id": f"net{number}", "netdev": f"host-net{number}", "mac": mac(number), **place}
    netdev = {"type": "user", "id": f"host-net{number}"}
    return ["-netdev", json.dumps(netdev), "-device", json.dumps(device)]


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


def root_ports(count: int) -> list[str]:
    ports = [f"pcie-root-port,id=rp{n},chassis={n + 1},port={n},addr=0x{n + 2:x}" for n in range(count)]
    return [word for port in ports for word in ("-device", port)]


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_every_quick_card_has_its_lease_in_the_ready_line(image: GuestImage, machine: str) -> None:
    cards = [card(number, model) for number, model in enumerate(QUICK_MODELS)]
    with booted(image, machine, *chain(*cards)) as guest:
        line = guest.ready()
        assert line.startswith("qemunet guest ready: vm1 ")
        assert line.count(f"={SLIRP_ADDRESS}") == len(QUICK_MODELS), line


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_slow_cards_do_not_delay_and_get_their_lease_later(image: GuestImage, machine: str) -> None:
    cards = [card(number, model) for number, model in enumerate(SLOW_MODELS)]
    with booted(image, machine, *chain(*cards)) as guest:
        assert "eth0=" in guest.ready()
        for name in ("eth0", "eth1"):
            guest.wait_until(f"ip -4 addr show {name}", SLIRP_ADDRESS)


def test_microvm_has_a_card_too(image: GuestImage) -> None:
    with booted(image, "microvm", *card(0, "virtio-net-device")) as guest:
        assert guest.ready() == f"qemunet guest ready: vm1 eth0={SLIRP_ADDRESS}"


def test_addresses_and_gateways_of_the_command_line(image: GuestImage) -> None:
    words = (
        f"qemunet.nic={mac(0)},10.1.0.5/24,fd77::5/64,via=10.1.0.1,via=fd77::1"
        f" qemunet.nic={mac(1)},10.2.0.5/16,10.3.0.5/24 qemunet.nic={mac(2)},none"
    )
    cards = [card(number, "virtio-net-pci") for number in range(3)]
    with booted(image, "q35", *chain(*cards), words=words) as guest:
        assert guest.ready() == ("qemunet guest ready: vm1 eth0=10.1.0.5,fd77::5 eth1=10.2.0.5,10.3.0.5 eth2=-")
        assert "default via 10.1.0.1 dev eth0" in guest.run("ip route")
        assert "default via fd77::1 dev eth0" in guest.run("ip -6 route")
        addresses = guest.run("ip addr show eth0")
        assert "10.1.0.5/24" in addresses
        assert re.search(r"fd77::5/64 scope global(?! tentative)", addresses)
        third = guest.run("ip addr show eth2")
        assert "inet " not in third
        assert "UP" in third


def test_no_dhcp_does_not_hold_it_up(image: GuestImage) -> None:
    silent = ["-netdev", "hubport,id=h,hubid=1", "-device", "virtio-net-pci,netdev=h"]
    with booted(image, "q35", *silent) as guest:
        assert guest.ready() == "qemunet guest ready: vm1 eth0=-"
        assert guest.run("pidof udhcpc").strip().isdecimal()  # it still asks


@pytest.fixture(scope="class")
def plugged_into(image: GuestImage, machine: str, bus: str) -> Iterator[Guest]:
    with booted(image, machine, *(root_ports(2) if bus else [])) as guest:
        guest.ready()
        yield guest


@pytest.mark.parametrize(("machine", "bus"), [("pc", ""), ("q35", "rp0")], scope="class")
class TestHotPlug:
    @pytest.mark.parametrize("model", ["virtio-net-pci", "e1000", "rtl8139"])
    def test_a_hot_plugged_card_gets_its_lease_and_leaves(self, plugged_into: Guest, bus: str, model: str) -> None:
        guest = plugged_into
        for _ in range(2):  # the same name again, another card
            place = {"bus": bus, "addr": "0x0"} if bus else {}
            guest.qmp("netdev_add", type="user", id="host-net9")
            guest.qmp("device_add", driver=model, id="net9", netdev="host-net9", mac=mac(9), **place)
            guest.wait_until("ip -4 addr show eth0", SLIRP_ADDRESS)
            guest.qmp("device_del", id="net9")
            guest.wait_for_event("DEVICE_DELETED", device="net9")
            guest.wait_until("ls /sys/class/net", "lo\r\n")
            guest.wait_until("pidof udhcpc || echo none", "none")
            guest.qmp("netdev_del", id="host-net9")


def test_a_static_card_of_the_command_line_may_come_later(image: GuestImage) -> None:
    with booted(image, "q35", *root_ports(1), words=f"qemunet.nic={mac(9)},10.9.0.5/24") as guest:
        guest.ready()
        guest.qmp("netdev_add", type="user", id="host-net9")
        guest.qmp("device_add", driver="virtio-net-pci", id="net9", netdev="host-net9", mac=mac(9), bus="rp0")
        guest.wait_until("ip -4 addr show eth0", "10.9.0.5/24")


def interrupted_for_a_second(guest: Guest) -> None:
    guest.qmp("set_link", name="net0", up=False)
    time.sleep(1)
    guest.qmp("set_link", name="net0", up=True)


def interrupted_as_shortly_as_it_sees(guest: Guest) -> None:
    """A driver that looks only after the link is up again has seen nothing; then it is done again."""
    counted = "cat /sys/class/net/eth0/carrier_up_count"
    ups, deadline = guest.run(counted), time.monotonic() + 20
    while guest.run(counted) == ups:
        assert time.monotonic() < deadline, f"the guest has seen no interruption of its link: {ups} as before"
        guest.qmp("set_link", name="net0", up=False)
        guest.qmp("set_link", name="net0", up=True)


@pytest.fixture(scope="class")
def with_a_card(image: GuestImage) -> Iterator[tuple[Guest, str]]:
    """A guest, and what it said when it was ready."""
    with booted(image, "q35", *card(0, "virtio-net-pci")) as guest:
        yield guest, guest.ready()


class TestWithACard:
    def test_the_console_is_free_of_escape_sequences(self, with_a_card: tuple[Guest, str]) -> None:
        guest, line = with_a_card
        assert "\x1b" not in line
        guest.console.sendline("echo one two")
        guest.console.expect_exact(PROMPT)
        assert guest.console.before == "echo one two\r\none two\r\n"
        assert "\x1b" not in guest.run("ls /; cd /tmp; true")
        assert guest.run("pwd") == "/tmp\r\n"  # and the prompt has not changed

    @pytest.mark.parametrize("interrupt", [interrupted_for_a_second, interrupted_as_shortly_as_it_sees])
    def test_a_link_that_was_down_asks_anew(
        self, with_a_card: tuple[Guest, str], interrupt: Callable[[Guest], None]
    ) -> None:
        guest, _ = with_a_card
        client = guest.run("pidof udhcpc").strip()
        interrupt(guest)
        guest.wait_until(f"[ \"$(pidof udhcpc)\" = '{client}' ] || echo another", "another\r\n")
        guest.wait_until("ip -4 addr show eth0", SLIRP_ADDRESS)


@pytest.fixture(scope="class")
def without_a_card(image: GuestImage) -> Iterator[tuple[Guest, str]]:
    """A guest, and what it said when it was ready."""
    with booted(image, "q35") as guest:
        yield guest, guest.ready()


class TestWithoutACard:
    def test_no_card_does_not_hold_it_up(self, without_a_card: tuple[Guest, str]) -> None:
        assert without_a_card[1] == "qemunet guest ready: vm1"

    def test_the_web_page_says_the_name(self, without_a_card: tuple[Guest, str]) -> None:
        answer = without_a_card[0].run("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 80")
        assert "200 OK" in answer
        assert answer.rstrip().endswith("vm1")

    def test_the_shell_comes_back(self, without_a_card: tuple[Guest, str]) -> None:
        guest, _ = without_a_card
        guest.console.sendline("exit")
        guest.console.expect_exact(PROMPT)
        assert "ready" not in guest.console.before
        guest.console.sendline("sleep 1000")
        time.sleep(0.3)
        guest.console.send("\x03")
        guest.console.expect_exact(PROMPT, timeout=10)
        assert "done" in guest.run("echo done")


@pytest.mark.parametrize("machine", ["pc", "q35", "microvm"])
class TestTheEnd:
    def test_the_power_button_ends_qemu(self, image: GuestImage, machine: str) -> None:
        with booted(image, machine) as guest:
            guest.ready()
            guest.qmp("system_powerdown")
            assert guest.process.wait(timeout=10) == 0

    def test_reboot_boots_again_and_poweroff_ends_qemu(self, image: GuestImage, machine: str) -> None:
        with booted(image, machine) as guest:
            guest.ready()
            guest.console.sendline("reboot")
            assert guest.ready() == "qemunet guest ready: vm1"
            guest.console.sendline("poweroff")
            assert guest.process.wait(timeout=10) == 0

    def test_reboot_without_reboot_ends_qemu(self, image: GuestImage, machine: str) -> None:
        with booted(image, machine, "-no-reboot") as guest:
            guest.ready()
            guest.console.sendline("reboot")
            assert guest.process.wait(timeout=10) == 0
