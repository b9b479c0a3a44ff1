"""What every host promises about taps that somebody else has made."""

from __future__ import annotations

import os
import subprocess

import pytest

from qemunet.errors import HostLacks, Taken
from qemunet.facts import LinkFact, TunFact, Wanted
from qemunet.frozen import replace
from qemunet.host.linux import LinuxHost
from qemunet.steps import AdoptTap, ChangePort, PlugPort
from qemunet.testing.fake import FakeHost

from .conftest import World

NAME, MAC = "qn-a", "02:00:00:00:00:09"
ADOPT = AdoptTap("a:net0", NAME, 0)


def make(world: World, *flags: str) -> LinkFact:
    """Have somebody else make a tap, which is down; return it."""
    if isinstance(world.host, FakeHost):
        tun = TunFact(tap=True, vnet_hdr="vnet_hdr" in flags, many="multi_queue" in flags)
        world.host.links[NAME] = LinkFact(19, NAME, "tun", MAC, 1500, up=False, tun=tun)
    else:
        subprocess.run(["ip", "tuntap", "add", "dev", NAME, "mode", "tap", *flags], check=True)
        subprocess.run(["ip", "link", "set", NAME, "address", MAC, "addrgenmode", "none"], check=True)
    return world.there(NAME)


def let_go(world: World) -> None:
    if isinstance(world.host, LinuxHost):
        world.host.release("a:net0")
    else:
        world.host.handles.pop("a:net0")


@pytest.mark.parametrize("flags", [(), ("vnet_hdr",), ("vnet_hdr", "multi_queue")])
def test_a_tap_of_somebody_else_is_opened_and_stays_as_it_was(world: World, flags: tuple[str, ...]) -> None:
    """While it is open, and afterwards."""
    before = make(world, *flags)
    world.do(replace(ADOPT, index=before.index))
    found = world.there(NAME)
    assert found.tun is not None
    assert replace(found, tun=replace(found.tun, used=0)) == replace(before, tun=replace(found.tun, used=0))
    assert replace(found.tun, used=0) == before.tun
    let_go(world)
    assert world.there(NAME) == before


def test_nothing_takes_back_that_a_tap_was_opened(world: World) -> None:
    make(world)
    assert ADOPT.inverse(world.host.photograph(Wanted(links=frozenset({NAME})))) is None


def test_a_tap_is_opened_once_per_queue(world: World) -> None:
    make(world, "multi_queue", "vnet_hdr")
    world.do(replace(ADOPT, queues=2))
    if isinstance(world.host, LinuxHost):
        assert len(world.host.handles["a:net0"]) == 2


def test_a_tap_that_is_not_there_is_not_made(world: World) -> None:
    with pytest.raises(HostLacks, match=NAME):
        world.do(ADOPT)
    assert world.link(NAME) is None


def test_an_interface_that_is_no_tap_is_not_opened(world: World) -> None:
    with pytest.raises(HostLacks, match="eth1"):
        world.do(replace(ADOPT, name="eth1"))


def test_a_tap_that_has_taken_the_place_of_another_is_not_opened(world: World) -> None:
    """What was decided was about the one before."""
    link = make(world)
    with pytest.raises(HostLacks, match=NAME):
        world.do(replace(ADOPT, index=link.index + 1))


@pytest.mark.parametrize("flags", [(), ("multi_queue",)])
def test_a_tap_that_somebody_has_open_is_taken(world: World, flags: tuple[str, ...]) -> None:
    """Also one with room for more queues: frames would go to one of the two, and nobody knows which."""
    make(world, *flags)
    world.do(ADOPT)
    if isinstance(world.host, FakeHost):
        world.host.links[NAME] = replace(world.there(NAME), tun=TunFact(tap=True, used=1))
    with pytest.raises(Taken, match=NAME) as caught:
        world.do(replace(ADOPT, handle="b:net0"))
    if isinstance(world.host, LinuxHost):
        assert f"(pid {os.getpid()})" in str(caught.value)


def test_a_tap_that_was_plugged_in_is_out_again_and_as_it_was(world: World) -> None:
    before = make(world)
    steps = (
        ChangePort(NAME, before.index, mtu=1400, was_mtu=1500),
        PlugPort(NAME, before.index, "br0"),
        ChangePort(NAME, before.index, up=True, was_up=False),
    )
    world.do(*steps)
    assert (world.there(NAME).master, world.there(NAME).mtu) == ("br0", 1400)
    photograph = world.host.photograph(Wanted(links=frozenset({NAME})))
    for step in reversed(steps):
        undo = step.inverse(photograph)
        assert undo is not None
        world.do(undo)
    assert world.there(NAME) == before
