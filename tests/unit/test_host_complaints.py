"""QEMU's last words are read for what they mean; words that mean nothing more stay its own story."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.errors import HostLacks, Taken
from qemunet.host import complaints


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def forward(port: int, address: str = "127.0.0.1") -> str:
    rule = f"tcp:{address}:{port}-:22"
    return f"qemu-system-x86_64: -netdev {{}}: Could not set up host forwarding rule '{rule}'\n"


@pytest.mark.parametrize(
    ("properties", "kind"),
    [('{"type":"netmap","id":"a","ifname":"x"}', "netmap"), ('{"type":"of-the-future","id":"a"}', "of-the-future")],
)
def test_a_backend_that_a_qemu_has_not_is_what_the_host_lacks(properties: str, kind: str) -> None:
    """In the words of the QEMU that is here: one that it was built without, and one that it has never heard of."""
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-M", "none", "-netdev", properties]
    said = subprocess.run(argv, capture_output=True, text=True).stderr
    found = complaints.meant("a", said)
    assert isinstance(found, HostLacks), said
    assert f"a QEMU with the network backend {kind}" in str(found)
    assert "install" in found.hint


@pytest.mark.parametrize("said", ["", "qemu-system-x86_64: unsupported machine type", "Address already in use"])
def test_other_words_are_another_story(said: str) -> None:
    assert complaints.meant("a", said) is None


def test_a_port_that_nobody_has_is_another_story() -> None:
    """QEMU's words do not say why: it may lack the right to a low port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert complaints.taken("a", forward(port)) is None


def test_a_port_on_another_address_is_not_in_the_way(listener: socket.socket) -> None:
    assert complaints.taken("a", forward(listener.getsockname()[1], "127.0.0.2")) is None


def test_another_process_is_named_and_numbered() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        taken = complaints.taken("a", forward(port))
        process.communicate(b"\n", timeout=20)
    assert isinstance(taken, Taken)
    assert taken.exit_status == 6
    assert taken.message.startswith(f"tcp 127.0.0.1:{port} is in use by ")
    assert taken.message.endswith(f" (pid {process.pid})")


def test_a_process_that_cannot_be_looked_into_is_known_by_its_user(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(complaints, "_open_files", lambda pid: iter(()))
    taken = complaints.taken("a", forward(listener.getsockname()[1]))
    assert taken is not None
    assert taken.message.endswith(f"is in use by a process of user {os.getuid()}")


def test_who_listens_on_ports_of_the_host_is_named(listener: socket.socket) -> None:
    """On all addresses or on one; neither a client nor a port beside is in the way."""
    port = listener.getsockname()[1]
    with socket.create_connection(listener.getsockname()) as client:
        mine = client.getsockname()[1]
        ((key, who),) = complaints.listeners("tcp", "", port, port)
        assert [*complaints.listeners("tcp", "", mine, mine)] == []
    assert key == f"tcp/{port}"
    assert who.endswith(f" (pid {os.getpid()})")
    assert [*complaints.listeners("tcp", "127.0.0.2", port, port)] == []
    assert [*complaints.listeners("udp", "", port, port)] == []
    assert [*complaints.listeners("tcp", "", port + 1, port + 1)] == []


def test_who_listens_everywhere_is_in_the_way_of_any_address() -> None:
    """Also of one that the host does not have yet, as that of a network that is to be made."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        port = sock.getsockname()[1]
        assert [key for key, _ in complaints.listeners("udp", "192.0.2.1", port, port)] == [f"udp/{port}"]


def test_a_display_in_use_is_told_even_if_its_holder_has_gone() -> None:
    said = "qemu-system-x86_64: -vnc 192.0.2.1:7: Failed to find an available port: Address already in use\n"
    taken = complaints.taken("a", said)
    assert taken is not None
    assert taken.message == "VNC display 7, tcp 192.0.2.1:5907, is in use by somebody"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "2001:db8::1"])
def test_addresses_are_read_as_the_kernel_prints_them(address: str) -> None:
    packed = ipaddress.ip_address(address).packed
    words = [int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
    assert str(complaints._address("".join(f"{word:08X}" for word in words))) == address


def test_a_mapped_address_is_the_one_that_it_stands_for() -> None:
    words = [int.from_bytes(part, sys.byteorder) for part in (bytes(4), bytes(4), b"\0\0\xff\xff", b"\x7f\0\0\1")]
    assert str(complaints._address("".join(f"{word:08X}" for word in words))) == "127.0.0.1"


# ---------------------------------------------------------------- images

LOCKED = """\
qemu-system-x86_64: -blockdev {{"driver":"raw","node-name":"disk.1"}}: Failed to get {what} lock
Is another process using the image [{image}]?
"""


@pytest.mark.parametrize("what", ['"write"', 'shared "write"', '"consistent read"'])
def test_an_image_that_is_locked_is_named(what: str) -> None:
    taken = complaints.taken("a", LOCKED.format(what=what, image="/images/[a] disk.qcow2"))
    assert isinstance(taken, Taken)
    assert taken.message == "/images/[a] disk.qcow2 is in use by another process"
    assert taken.where == "vm.a"


def test_an_image_that_reached_qemu_open_is_named_by_its_place_in_the_file() -> None:
    """QEMU knows no more of it than a number."""
    taken = complaints.taken("a", LOCKED.format(what='"write"', image="/dev/fdset/3"))
    assert isinstance(taken, Taken)
    assert (taken.message, taken.where) == ("its image is in use by another process", "vm.a.disk[1]")


def test_a_device_of_the_host_that_is_in_use_is_named() -> None:
    said = "qemu-system-x86_64: -device {}: vfio 0000:03:00.1: failed to open /dev/vfio/4095: Device or resource busy\n"
    taken = complaints.taken("a", said)
    assert isinstance(taken, Taken)
    assert "0000:03:00.1" in str(taken)
    assert "somebody has /dev/vfio/4095" in str(taken)


def test_who_has_a_file_open_is_named(tmp_path: Path) -> None:
    """By its program and number; we ourselves do not count."""
    path = tmp_path / "node"
    with path.open("w") as ours:
        assert complaints.opener(str(path)) == "somebody"
        with subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=ours
        ) as other:
            named = complaints.opener(str(path))
            other.communicate()
    assert f"(pid {other.pid})" in named
