"""Real QEMUs and the built-in guest in a network namespace that must be as before when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.guest import image
from qemunet.testing.bench import Bench
from tests import namespace
from tests.dump import dump, left_behind
from tests.guest.scene import Peer, Scene, ip, join


@pytest.fixture
def able() -> None:
    """Whether guests can be started here at all."""
    if why := namespace.lack():
        pytest.skip(why)
    image.build(print)


@pytest.fixture
def lab(able: None, qemunet_lab: Bench) -> Bench:
    """The lab of the marker `qemunet_lab`."""
    return qemunet_lab


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A host with nothing but lo and ``eth1``, an interface that leads nowhere."""
    if why := namespace.lack():
        pytest.skip(why)
    image.build(print)
    with namespace.fresh_namespace():
        scene = Scene(tmp_path)
        yield scene


@pytest.fixture
def unchanged(scene: Scene, tmp_path: Path) -> Iterator[None]:
    """Whatever a test sets up before it asks for this, is there and the same afterwards."""
    before = dump(tmp_path / "run")
    yield
    found = left_behind(before, tmp_path / "run")
    assert not found, found


@pytest.fixture
def lan(scene: Scene) -> Iterator[Peer]:
    """A host 192.0.2.2 on the LAN, at the other end of this host's ``eth1``, which is 192.0.2.1."""
    with Peer() as peer:
        join(peer, "eth1", "lan0")
        # its IPv6 addresses come and go with the carrier, at any time
        Path("/proc/sys/net/ipv6/conf/eth1/disable_ipv6").write_text("1")
        ip("address", "add", "192.0.2.1/24", "dev", "eth1")
        peer.run("ip", "address", "add", "192.0.2.2/24", "dev", "lan0")
        yield peer
        ip("link", "del", "eth1")
