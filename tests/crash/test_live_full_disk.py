"""A runtime directory without room: a live change comes true or is taken back, says why, and works when there is room.

It lies on a small file system of its own, which has one page more for each try, so that the room ends at each of the
things that are written in turn.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemunet.errors import QemunetError
from tests import namespace
from tests.crash.live import Live, State, live_world, until_state

pytestmark = [pytest.mark.guest]

PAGE = os.sysconf("SC_PAGE_SIZE")
MOST = 24  # pages that a change may need


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    if why := namespace.lack():
        pytest.skip(why)
    place = tmp_path / "host"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", str(place)]
    done = subprocess.run(mounted, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        with live_world(tmp_path) as live:
            live.world.mark()
            live.run()
            yield live
            live.world.succeeds("stop", "--force", "one")
            found = live.left()
            assert not found, found
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def leave_room(live: Live, pages: int) -> None:
    """Fill the file system up to so many pages."""
    ballast = live.world.folder / "host" / "ballast"
    ballast.unlink(missing_ok=True)
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        free = os.fstatvfs(fd).f_bavail
        os.posix_fallocate(fd, 0, (free - pages) * PAGE)
    finally:
        os.close(fd)


def make_room(live: Live) -> None:
    (live.world.folder / "host" / "ballast").unlink()


def without_room(live: Live, do: Callable[[], object], retry: Callable[[], object], *wanted: State) -> None:
    """Do something with ever more room until that is enough; each time it must end in one of these states."""
    for pages in range(MOST):
        leave_room(live, pages)
        said = _failure(do)
        make_room(live)
        if said is None:
            return
        assert said.kind in ("step", "failed"), f"{pages} pages: {said.kind}: {said}"
        assert "No space left on device" in str(said), f"{pages} pages: {said}"
        retry()
        there, found = until_state(live.state, *wanted)
        assert there, f"{pages} pages, {said}: {found}"
    raise AssertionError(f"it never had enough room: {said}")


def _failure(do: Callable[[], object]) -> QemunetError | None:
    try:
        do()
    except QemunetError as error:
        return error
    return None


def test_a_change_for_which_there_is_no_room_is_taken_back_and_works_later(live: Live) -> None:
    """A card that comes, one that moves, one that goes; the guest and its keeper notice nothing else."""
    pids = live.world.pid("one"), live.ask("ping")["pid"]
    before = live.state()

    def card(do: str, **arguments: object) -> Callable[[], object]:
        return lambda: live.ask(do, vm="one", timeout=10, **arguments)

    def nothing() -> object:
        return None

    without_room(live, card("nic-add", keys={"network": "second"}), nothing, before)
    there = live.state()
    without_room(live, card("nic-set", nic="net1", keys={"network": "first"}), nothing, there)
    card("nic-set", nic="net1", keys={"network": "second"})()
    again = live.state()
    delete = card("nic-del", nic="net1")
    without_room(live, delete, lambda: _failure(delete) or card("nic-add", keys={"network": "second"})(), there, again)
    assert (live.world.pid("one"), live.ask("ping")["pid"]) == pids
    live.kill_keeper()
    live.keep()
    found = until_state(live.state, before)[1]
    assert not found, found
