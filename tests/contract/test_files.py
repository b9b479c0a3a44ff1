"""What every host promises about claims, files and hooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemunet import runner
from qemunet.errors import Failed, Gone, Taken
from qemunet.facts import Wanted
from qemunet.journal import Journal
from qemunet.steps import (
    Claim,
    CreateImage,
    LoadFile,
    OpenFile,
    OpenOverlay,
    RemoveFile,
    RunHook,
    Unclaim,
    WriteFile,
)
from qemunet.testing.fake import FakeHost

from .conftest import World

MAC = "52:54:00:00:00:01"


def claim(world: World, by: str = "vm/a") -> Claim:
    return Claim(world.path(f"claims/mac/{MAC}"), by)


def test_a_claim_says_whose_it_is_and_its_inverse_gives_it_up(world: World) -> None:
    step = claim(world)
    undo = step.inverse(world.host.photograph(Wanted()))
    assert undo is not None
    world.do(step)
    assert world.text(f"claims/mac/{MAC}") == "vm/a"
    world.do(undo)
    assert world.text(f"claims/mac/{MAC}") is None
    with pytest.raises(Gone):
        world.do(undo)


def test_what_is_claimed_is_taken_and_says_by_whom(world: World) -> None:
    world.do(claim(world))
    with pytest.raises(Taken, match=f"mac/{MAC} is taken by vm/a"):
        world.do(claim(world, "vm/b"))
    assert world.text(f"claims/mac/{MAC}") == "vm/a"


def test_a_claim_of_somebody_else_is_not_given_up(world: World) -> None:
    world.do(claim(world))
    with pytest.raises(Gone):
        world.do(Unclaim(claim(world).path, "vm/b"))
    assert world.text(f"claims/mac/{MAC}") == "vm/a"


def test_a_file_is_written_and_removed(world: World) -> None:
    world.do(WriteFile(world.path("net/lab/dnsmasq.conf"), "port=0\n"))
    assert world.text("net/lab/dnsmasq.conf") == "port=0\n"
    world.do(RemoveFile(world.path("net/lab/dnsmasq.conf")))
    assert world.text("net/lab/dnsmasq.conf") is None
    with pytest.raises(Gone):
        world.do(RemoveFile(world.path("net/lab/dnsmasq.conf")))


def test_an_image_is_made_and_its_inverse_removes_it(world: World) -> None:
    step = CreateImage(world.path("disk.qcow2"), "qcow2", 1 << 20, world.path("note"))
    undo = step.inverse(world.host.photograph(Wanted()))
    world.do(step)
    assert step.path in world.host.photograph(Wanted(files=frozenset({step.path}))).files
    assert undo is not None
    world.do(undo)
    assert step.path not in world.host.photograph(Wanted(files=frozenset({step.path}))).files


def test_an_image_that_somebody_has_put_in_its_place_survives_taking_back(world: World) -> None:
    """Whoever made ours was killed; then the user removed it, and made one of his own."""
    step = CreateImage(world.path("disk.raw"), "raw", 1 << 20, world.path("note"))
    undo = step.inverse(world.host.photograph(Wanted()))
    world.do(step, RemoveFile(step.path))
    world.make_file("disk.raw", "precious")
    assert undo is not None
    with pytest.raises(Gone):
        world.do(undo)
    assert world.text("disk.raw") == "precious"


def test_an_image_that_somebody_made_first_survives_taking_back(world: World) -> None:
    """Whoever was to make ours was killed before he did."""
    step = CreateImage(world.path("disk.raw"), "raw", 1 << 20, world.path("note"))
    undo = step.inverse(world.host.photograph(Wanted()))
    world.make_file("disk.raw", "precious")
    assert undo is not None
    with pytest.raises(Gone):
        world.do(undo)
    assert world.text("disk.raw") == "precious"


def test_an_image_that_is_there_is_never_overwritten(world: World) -> None:
    path = world.make_file("disk.raw", "precious")
    with pytest.raises(Taken, match="exists already"):
        world.do(CreateImage(path, "raw", 1 << 20, world.path("note")))
    assert world.text("disk.raw") == "precious"


def test_files_are_opened_under_their_handles(world: World) -> None:
    path = world.make_file("vmlinuz", "kernel")
    world.do(OpenFile("a:disk", path), LoadFile("a:kernel", path), OpenOverlay("a:overlay", path))
    assert {"a:disk", "a:kernel", "a:overlay"} <= world.host.handles.keys()


def test_a_handle_is_used_once(world: World) -> None:
    path = world.make_file("vmlinuz", "kernel")
    world.do(OpenFile("a:disk", path))
    with pytest.raises(Failed, match="a:disk is in use"):
        world.do(OpenFile("a:disk", path))


@pytest.mark.parametrize("kind", [OpenFile, LoadFile, OpenOverlay])
def test_a_file_that_is_missing_cannot_be_opened(world: World, kind: type[OpenFile | LoadFile | OpenOverlay]) -> None:
    with pytest.raises(FileNotFoundError):
        world.do(kind("a:disk", world.path("none")))
    assert "a:disk" not in world.host.handles


def test_a_hook_runs_with_its_interface(world: World) -> None:
    program = world.make_file("up.sh", '#!/bin/sh\necho "$1 $QEMUNET_VM" >"$0.ran"\n', executable=True)
    world.do(RunHook(program, None, "eth1", (("QEMUNET_VM", "a"),)))
    if isinstance(world.host, FakeHost):
        assert world.host.hooks == [(program, "eth1")]
    else:
        assert world.text("up.sh.ran") == "eth1 a\n"


def test_a_hook_for_the_way_back_runs_only_then(world: World) -> None:
    program = world.path("none")
    step = RunHook(None, program, "eth1", ())
    world.do(step)
    undo = step.inverse(world.host.photograph(Wanted()))
    assert undo is not None
    with pytest.raises(FileNotFoundError):
        world.do(undo)


def test_what_somebody_made_since_the_photograph_survives_taking_back(world: World, tmp_path: Path) -> None:
    step = CreateImage(world.path("disk.raw"), "raw", 1 << 20, world.path("note"))
    before = world.host.photograph(Wanted(files=frozenset({step.path})))
    world.make_file("disk.raw", "precious")
    journal = Journal(world.path("journal.jsonl"))
    with pytest.raises(Taken):
        runner.apply([step], before, world.host, journal)
    assert runner.unwind(journal, world.host) == []
    journal.close()
    assert world.text("disk.raw") == "precious"
