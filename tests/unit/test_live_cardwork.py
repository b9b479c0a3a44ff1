"""What becomes of a card that is to be another one: it is unplugged only for one that can be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet.errors import NotFound, Taken
from qemunet.facts import LinkFact
from qemunet.frozen import replace
from qemunet.live.cardwork import CardWork, Other
from qemunet.live.running import Comparison
from qemunet.model.nic import Nic, TapBackend

from .test_live_change import NET0, ON_OTHER, Scene

E1000E = replace(NET0, model="e1000e")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "run")
    yield made
    made.lock.release()


class Work(CardWork):
    """With the fake host of a scene, whose guest shall have one card, on a host as it is seen then."""

    def __init__(self, scene: Scene, shall: Nic, *there: LinkFact) -> None:
        super().__init__(scene.runtime, "a", scene.host.monitors["a"])
        self.scene = scene
        self.shall = shall
        self.there = {link.name: link for link in there}

    def _host(self) -> object:  # type: ignore[override]
        return self.scene.host

    def _compared(self, *_: object, **__: object) -> Comparison:
        found = self.scene.found(self.shall)
        return replace(found, facts=replace(found.facts, links={**found.facts.links, **self.there}))


def altered(scene: Scene, shall: Nic, *there: LinkFact) -> object:
    """Ask for another card; whatever the answer is, nothing has been done yet."""
    before, done = scene.state(), len(scene.host.performed)
    try:
        return Work(scene, shall, *there).alter_as(lambda spec: spec, "net0")
    finally:
        assert (scene.state(), len(scene.host.performed)) == (before, done)


def test_a_card_that_can_be_had_is_waited_for_in_the_place_of_the_old(scene: Scene) -> None:
    """Its own interface is in nobody's way."""
    other = altered(scene, E1000E)
    assert isinstance(other, Other)
    assert (other.nic, other.seat) == ("net0", {"bus": "rp.0", "addr": "0x0"})


def test_an_address_that_somebody_has_is_refused_before_the_card_goes(scene: Scene) -> None:
    claims = scene.runtime.scope("claims/mac")
    Path(claims.directory).mkdir(parents=True, exist_ok=True)
    Path(claims.path("52:54:00:00:00:99")).write_text("vm/b")
    with pytest.raises(Taken, match="is in use by vm/b"):
        altered(scene, replace(E1000E, mac="52:54:00:00:00:99"))


def test_an_interface_that_somebody_has_is_refused_before_the_card_goes(scene: Scene) -> None:
    """A name of his own for the new one's."""
    theirs = LinkFact(9, "theirs", "tun", "02:00:00:00:00:01", 1500, up=True)
    assert isinstance(NET0.backend, TapBackend)
    with pytest.raises(Taken, match="theirs is a tap already"):
        altered(scene, replace(NET0, backend=replace(NET0.backend, ifname="theirs")), theirs)


def test_a_network_whose_name_is_a_vms_is_refused_before_the_card_goes(scene: Scene) -> None:
    scene.runtime.scope("vm/other").create()
    with pytest.raises(Taken, match='the name "other" is taken by vm other'):
        altered(scene, replace(E1000E, backend=ON_OTHER))


def test_a_network_that_is_up_otherwise_is_refused_before_the_card_goes(scene: Scene) -> None:
    made = scene.runtime.scope("net/other")
    made.create()
    made.complete("of other settings")
    Path(made.path("users")).mkdir()
    Path(made.path("users/b.net0")).write_text("vm/b")
    with pytest.raises(Taken, match="up with other settings"):
        altered(scene, replace(E1000E, backend=ON_OTHER))


# ---------------------------------------------------------------- cards that are said to be gone


def test_a_card_that_qemu_has_is_not_forgotten_whoever_says_so(scene: Scene) -> None:
    """The word may be of an earlier one of its id."""
    before = scene.state()
    assert not Work(scene, NET0).forget("net0")
    assert scene.state() == before


def test_a_card_that_is_being_unplugged_is_not_plugged_in_again(scene: Scene) -> None:
    Work(scene, NET0).part("net0")
    scene.host.guests["a"].cards.remove("net0")
    with pytest.raises(NotFound, match="net0 was unplugged by another command before the guest had it"):
        Work(scene, NET0).again("net0", None)


def test_the_id_of_a_card_that_is_about_to_come_back_is_taken(scene: Scene) -> None:
    """It is neither on record nor in QEMU meanwhile."""
    with pytest.raises(Taken, match="net7 is about to be plugged in again"):
        Work(scene, NET0).add({"id": "net7", "mode": "user"}, lambda: ["net7"])
