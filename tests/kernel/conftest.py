"""A fresh network namespace for each test, which must be as it was when the test and its host are done."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.host.linux import LinuxHost
from tests import namespace
from tests.dump import dump, left_behind
from tests.firewall_scene import Scene, fresh_scene
from tests.world import World, fresh_world


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def quiet(*names: str) -> None:
    """Take IPv6 from interfaces: its addresses come and go with a carrier, at any time."""
    for name in names:
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


@contextlib.contextmanager
def fresh_bridge() -> Iterator[None]:
    """A namespace with a bridge ``br0`` and a veth ``eth1`` of somebody else's, both up."""
    with namespace.fresh_namespace():
        ip("link", "add", "br0", "address", "02:00:00:00:00:02", "type", "bridge")
        ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth1-peer")
        quiet("br0", "eth1", "eth1-peer")
        for name in ("br0", "eth1", "eth1-peer"):
            ip("link", "set", name, "up")
        yield


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """Such a namespace; gives a runtime directory."""
    if why := namespace.lack():
        pytest.skip(why)
    with fresh_bridge():
        yield tmp_path


@pytest.fixture
def host(fresh: Path) -> Iterator[LinuxHost]:
    """This machine, seen from the fresh namespace. Whatever a test makes, it takes back."""
    before = dump(fresh)
    host = LinuxHost(str(fresh))
    yield host
    host.close()
    found = left_behind(before, fresh)
    assert not found, found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of its own, in which nothing is left after a test; `World.mark` says what was there before."""
    if why := namespace.lack():
        pytest.skip(why)
    (tmp_path / "host").mkdir()
    with fresh_world(tmp_path) as world:
        world.mark()
        yield world
        found = world.left()
        assert not found, found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A host, two guests of a network of ours, and the world beyond two uplinks of somebody else's."""
    if why := namespace.lack():
        pytest.skip(why)
    with fresh_scene(tmp_path) as scene:
        yield scene
