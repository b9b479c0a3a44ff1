"""What every host promises about the sockets of cards."""

from __future__ import annotations

import socket

import pytest

from qemunet.errors import Gone, HostLacks, Taken
from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.steps import OpenSocket, RemoveSocket
from qemunet.testing.fake import FakeHost

from .conftest import World


def listening(world: World) -> OpenSocket:
    return OpenSocket("a:net0", "vm.a.nic net0", listen=f"unix:{world.path('wire')}")


def undo(world: World, step: OpenSocket) -> RemoveSocket:
    found = step.inverse(world.host.photograph(Wanted()))
    assert isinstance(found, RemoveSocket)
    return found


def is_there(world: World) -> bool:
    return world.text("wire") is not None if isinstance(world.host, FakeHost) else (world.runtime / "wire").exists()


def test_a_socket_in_the_file_system_is_made_and_removed(world: World) -> None:
    """Also by the one who has it open himself."""
    step = listening(world)
    world.do(step)
    assert is_there(world)
    world.do(undo(world, step))
    assert not is_there(world)
    with pytest.raises(Gone):
        world.do(undo(world, step))


def test_who_listens_is_connected_to(world: World) -> None:
    step = listening(world)
    world.do(step, OpenSocket("b:net0", "vm.b.nic net0", connect=step.listen))
    assert {"a:net0", "b:net0"} == set(world.host.handles)
    world.do(undo(world, step))


def test_a_path_that_is_there_is_taken(world: World) -> None:
    step = listening(world)
    world.do(step)
    with pytest.raises(Taken):
        world.do(replace(step, handle="b:net0"))
    world.do(undo(world, step))


def test_addresses_need_no_way_back(world: World) -> None:
    step = OpenSocket("a:net0", "vm.a.nic net0", "127.0.0.1:5000", "127.0.0.1:5001", datagram=True)
    assert step.inverse(world.host.photograph(Wanted())) is None


# ---------------------------------------------------------------- the real one


def test_what_somebody_listens_at_is_not_removed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    host = LinuxHost(str(folder))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "wire"))
        other.listen()
        with pytest.raises(Gone):
            host.perform(RemoveSocket("a:net0", str(folder / "wire")))
    assert (folder / "wire").exists()
    host.close()


def test_nobody_at_an_address_is_told_as_a_lack(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    host = LinuxHost(str(folder))
    with pytest.raises(HostLacks, match="somebody who listens"):
        host.perform(OpenSocket("a:net0", "vm.a.nic net0", connect=f"unix:{folder}/nobody"))
    with pytest.raises(HostLacks, match="the directory"):
        host.perform(OpenSocket("a:net0", "vm.a.nic net0", listen=f"unix:{folder}/not/there"))
    host.close()


def test_who_has_a_port_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    host = LinuxHost(str(tmp_path_factory.mktemp("s")))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Taken, match=f"127.0.0.1:{port} is in use by"):
            host.perform(OpenSocket("a:net0", "vm.a.nic net0", listen=f"127.0.0.1:{port}"))
    with pytest.raises(HostLacks, match="an interface with the address"):
        host.perform(OpenSocket("a:net0", "vm.a.nic net0", listen="192.0.2.77:5000"))
    host.close()


def test_datagrams_go_between_two_addresses_of_one_family(tmp_path_factory: pytest.TempPathFactory) -> None:
    host = LinuxHost(str(tmp_path_factory.mktemp("s")))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    step = OpenSocket("a:net0", "vm.a.nic net0", f"127.0.0.1:{port}", "127.0.0.1:9", datagram=True)
    host.perform(step)
    with pytest.raises(HostLacks, match="of one family"):
        host.perform(replace(step, handle="b:net0", listen="[::1]:5000"))
    host.close()
