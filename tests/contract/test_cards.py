"""What every host promises about the cards of a guest that runs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from qemunet.errors import Failed, Gone, NotFound, QemunetError, Refused
from qemunet.facts import Wanted
from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.steps import (
    AddCard,
    AddChardev,
    AddNetdev,
    AwaitQemu,
    DelCard,
    DelChardev,
    DelLink,
    DelNetdev,
    EndQemu,
    Handle,
    Mark,
    OpenSocket,
    OpenTap,
    SetForwards,
    SetGuestLink,
    StartQemu,
    Step,
    Word,
)
from qemunet.testing.fake import FakeHost

from .conftest import World

TAP = OpenTap("a:net1", "qn-a", Mark("vm/a", "net1", 0x4000_0001), "fe:54:00:00:00:01", 1500, "br0")
NETDEV = AddNetdev("a", "host-net1", Word(('{"type":"tap","id":"host-net1","fd":"', Handle("a:net1"), '"}')))
USER = AddNetdev("a", "host-net2", Word(('{"type":"user","id":"host-net2"}',)))
CARD = AddCard(
    "a",
    "net1",
    Word(('{"driver":"e1000","id":"net1","netdev":"host-net1","bus":"rp.0","addr":"0x0","romfile":""}',)),
)


class Talk:
    """The monitor of a QEMU that was started here. A guest without a system lets go of its cards by a reset."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.events: list[dict[str, Any]] = []
        self.given = 0

    def execute(self, command: str, **arguments: object) -> object:
        return self._answer(command, arguments, [])

    def give(self, fd: int, name: str | None = None) -> str:
        self.given += 1
        name = name or f"given{self.given}"
        self._answer("getfd", {"fdname": name}, [fd])
        return name

    def _answer(self, command: str, arguments: dict[str, object], fds: list[int]) -> object:
        order = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        socket.send_fds(self.sock, [order], fds)
        while "event" in (reply := self._read()):
            self.events.append(reply)
        if "error" in reply:
            raise Refused(command, reply["error"]["desc"], reply["error"]["class"])
        return reply["return"]

    def _read(self) -> dict[str, Any]:
        self.sock.settimeout(30)
        while b"\n" not in self.data:
            self.data += self.sock.recv(65536)
        line, _, self.data = self.data.partition(b"\n")
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    def forget(self, name: str) -> None:
        with contextlib.suppress(Refused):
            self.execute("closefd", fdname=name)

    def unplug(self, nic: str) -> None:
        self.execute("device_del", id=nic)
        self.execute("system_reset")
        while not any(event.get("data", {}).get("device") == nic for event in self.events):
            self.events.append(self._read())


def started(world: World) -> EndQemu:
    """Start a guest with a place for a card, and let the host talk to it as to one that runs; return how it ends."""
    directory = Path(world.path("vm/a"))
    os.makedirs(directory, exist_ok=True)
    texts = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "16M"]
    texts += ["-machine", "q35", "-device", "pcie-root-port,id=rp.0,chassis=1"]
    argv = [Word((text,)) for text in texts]
    for name in ("qmp", "monitor", "serial"):
        words = (f"socket,id={name},fd=", Handle(f"a:{name}.sock"), ",server=on,wait=off")
        argv += [Word(("-chardev",)), Word(words)]
    argv += [Word((text,)) for text in ("-mon", "chardev=qmp,mode=control", "-mon", "chardev=monitor")]
    argv += [Word(("-serial",)), Word(("chardev:serial",))]
    start = StartQemu("a", str(directory), tuple(argv), ())
    world.do(start, AwaitQemu("a"))
    if isinstance(world.host, LinuxHost):
        sock = world.host.guests["a"].qmp
        assert sock is not None
        world.host.monitors["a"] = Talk(sock)
    return EndQemu("a", start.directory)


def undo(world: World, step: Step) -> Step:
    found = step.inverse(world.host.photograph(Wanted()))
    assert found is not None
    return found


def test_a_card_comes_and_goes_and_its_tap_with_it(world: World) -> None:
    """The tap is QEMU's as soon as it has the backend, and gone when QEMU closes that."""
    end = started(world)
    world.do(TAP, NETDEV)
    assert not [name for name in world.host.handles if name.startswith("a:")]
    assert world.link("qn-a")
    world.do(CARD, SetGuestLink("a", "net1", up=False), SetGuestLink("a", "net1", up=True))
    world.do(undo(world, CARD), undo(world, NETDEV))
    assert world.link("qn-a") is None
    world.do(end)


def test_a_connection_of_a_backend_comes_and_goes(world: World, tmp_path: Path) -> None:
    """Once for each id; who takes it back twice finds nothing."""
    path = str(tmp_path / "there.sock")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(path)
        there.listen()
        end = started(world)
        coming = AddChardev("a", "host-net1", path)
        world.do(coming)
        with pytest.raises(QemunetError):
            world.do(coming)
        world.do(undo(world, coming), coming, undo(world, coming))
        with pytest.raises(Gone):
            world.do(undo(world, coming))
        world.do(end)


def test_what_is_taken_back_twice_is_gone(world: World) -> None:
    """So is what was never there."""
    end = started(world)
    world.do(TAP, NETDEV, CARD, DelCard("a", "net1"), DelNetdev("a", "host-net1"))
    for step in (DelCard("a", "net1"), DelNetdev("a", "host-net1"), DelLink("qn-a", TAP.mark)):
        with pytest.raises(Gone):
            world.do(step)
    world.do(end)


def test_an_id_is_given_once_and_the_first_one_stays(world: World) -> None:
    """Its owner must not lose it for that."""
    end = started(world)
    world.do(TAP, NETDEV, CARD)
    with pytest.raises(QemunetError, match="Duplicate"):
        world.do(replace(USER, netdev="host-net1", properties=Word(('{"type":"user","id":"host-net1"}',))))
    with pytest.raises(QemunetError, match="Duplicate"):
        world.do(CARD)
    assert world.link("qn-a")
    world.do(end)


def test_cards_go_with_their_qemu(world: World) -> None:
    """Whoever takes them back afterwards finds nothing."""
    end = started(world)
    world.do(TAP, NETDEV, CARD, end)
    if isinstance(world.host, LinuxHost):
        del world.host.monitors["a"]
    assert world.link("qn-a") is None
    for step in (DelCard("a", "net1"), DelNetdev("a", "host-net1")):
        with pytest.raises(Gone):
            world.do(step)


@pytest.mark.parametrize("step", [USER, CARD])
def test_a_qemu_that_nobody_talks_to_gets_no_card(world: World, step: Step) -> None:
    with pytest.raises(NotFound):
        world.do(step)


@pytest.mark.parametrize(
    "step",
    [
        DelNetdev("a", "host-net1"),
        DelChardev("a", "host-net1"),
        DelCard("a", "net1"),
        SetGuestLink("a", "net1", up=True),
        SetForwards("a", "host-net2", remove=("tcp:127.0.0.1:1-:80",)),
    ],
)
def test_what_a_qemu_had_that_nobody_talks_to_is_taken_back_with_it(world: World, step: Step) -> None:
    with pytest.raises(Gone):
        world.do(step)


def test_forwards_are_opened_and_closed(world: World) -> None:
    """Each can be had again when it was closed, and not twice while it is open; the opposite step takes back both."""
    end = started(world)
    rule, other = "tcp:127.0.0.1:5601-:80", "tcp:127.0.0.1:5602-:80"
    opening = SetForwards("a", "host-net2", add=(rule,))
    changing = SetForwards("a", "host-net2", add=(other,), remove=(rule,))
    world.do(USER, opening, changing)
    assert open_forwards(world) == {other}
    world.do(undo(world, changing))
    assert open_forwards(world) == {rule}
    world.do(undo(world, opening), undo(world, opening))
    assert open_forwards(world) == set()
    world.do(opening, end)


def open_forwards(world: World) -> set[str]:
    """What leads into the guest, as whoever connects finds it."""
    if isinstance(world.host, FakeHost):
        return set(world.host.guests["a"].forwards)
    found = set()
    for port in (5601, 5602):
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                found.add(f"tcp:127.0.0.1:{port}-:80")
    return found


def test_a_backend_that_is_not_there_has_no_forwards(world: World) -> None:
    end = started(world)
    with pytest.raises(Failed):
        world.do(SetForwards("a", "host-net9", add=("tcp:127.0.0.1:5601-:80",)))
    world.do(end)


STREAM = AddNetdev(
    "a",
    "host-net3",
    Word(('{"type":"stream","id":"host-net3","server":true,"addr":{"type":"fd","str":"', Handle("a:net3"), '"}}')),
    numbered=True,
)


def test_a_stream_is_given_its_socket_and_lets_go_of_it(world: World) -> None:
    """Also of one that QEMU has got and never used, since its keeper was killed between the two."""
    end = started(world)
    path = world.path("wire")
    listen = OpenSocket("a:net3", "vm.a.nic net3", listen=f"unix:{path}")
    world.do(listen, STREAM)
    world.do(undo(world, STREAM))
    with contextlib.suppress(Gone):  # a QEMU that may remove the socket has done so
        world.do(undo(world, listen))
    world.do(listen)
    if isinstance(world.host, LinuxHost):
        fd = world.host.handles["a:net3"][0]
        world.host.monitors["a"].give(fd, f"host-net3-{os.fstat(fd).st_ino}")
    with pytest.raises(Gone):
        world.do(undo(world, STREAM))
    world.do(undo(world, listen))
    assert world.text("wire") is None
    world.do(end)
