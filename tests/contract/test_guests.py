"""What every host promises about guests."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from qemunet.errors import Failed, Gone, NotFound
from qemunet.facts import Wanted
from qemunet.steps import (
    AwaitQemu,
    EndQemu,
    Handle,
    Mark,
    OpenTap,
    Resume,
    SetGuestLink,
    StartQemu,
    Word,
)

from .conftest import World, refused

TAP = OpenTap("a:net0", "qn-a", Mark("vm/a", "net0", 0x4000_0001), "fe:54:00:00:00:01", 1500, "br0", 2)


def words(*texts: str) -> tuple[Word, ...]:
    return tuple(Word((text,)) for text in texts)


def qemu(world: World) -> StartQemu:
    """A guest without a system, its processors stopped, on the tap."""
    directory = Path(world.path("vm/a"))
    os.makedirs(directory, exist_ok=True)
    argv = list(words("qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "16M"))
    for name in ("qmp", "monitor", "serial"):
        socket = ("fd=", Handle(f"a:{name}.sock"))
        argv += [Word(("-chardev",)), Word((f"socket,id={name},", *socket, ",server=on,wait=off"))]
    argv += words("-mon", "chardev=qmp,mode=control", "-mon", "chardev=monitor", "-serial", "chardev:serial")
    argv += [Word(("-netdev",)), Word(("tap,id=host-net0,vhost=off,fds=", Handle("a:net0")))]
    argv += words("-device", "virtio-net-pci,id=net0,netdev=host-net0,mq=on,vectors=6,romfile=")
    return StartQemu("a", str(directory), tuple(argv), ())


def test_a_guest_is_started_answers_runs_and_ends(world: World) -> None:
    start = qemu(world)
    undo = start.inverse(world.host.photograph(Wanted()))
    assert undo == EndQemu("a", start.directory)
    world.do(TAP, start, AwaitQemu("a"), SetGuestLink("a", "net0", up=False), Resume("a"), undo)
    with pytest.raises(Gone):
        world.do(undo)


def test_a_tap_lives_exactly_as_long_as_its_guest(world: World) -> None:
    start = qemu(world)
    world.do(TAP, start)
    assert not [name for name in world.host.handles if name.startswith("a:")]
    assert world.link("qn-a")
    world.do(EndQemu("a", start.directory))
    assert world.link("qn-a") is None


def test_a_guest_in_a_directory_that_has_one_is_refused(world: World) -> None:
    start = qemu(world)
    world.do(TAP, start)
    with refused(errno.EADDRINUSE):
        world.do(start)
    world.do(EndQemu("a", start.directory))


@pytest.mark.parametrize("step", [AwaitQemu("b"), Resume("b")])
def test_a_guest_that_was_not_started_cannot_be_told_anything(world: World, step: AwaitQemu | Resume) -> None:
    with pytest.raises(NotFound, match="no QEMU of b"):
        world.do(step)


@pytest.mark.parametrize("step", [SetGuestLink("a", "net0", up=True), Resume("a")])
def test_a_guest_is_told_nothing_before_it_has_answered(world: World, step: SetGuestLink | Resume) -> None:
    start = qemu(world)
    world.do(TAP, start)
    with pytest.raises(Failed, match="has not answered yet"):
        world.do(step)
    world.do(EndQemu("a", start.directory))


def test_a_descriptor_that_is_not_open_is_a_fault_of_the_plan(world: World) -> None:
    with pytest.raises(KeyError, match="a:net0"):
        world.do(qemu(world))
