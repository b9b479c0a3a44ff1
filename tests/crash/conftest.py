"""A lab with a guest that has booted, for all tests of a module: each has to leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import namespace
from tests.crash.live import Live, differs, live_world, until_state


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """It runs once, and when it is stopped nothing is left."""
    if why := namespace.lack():
        pytest.skip(why)
    with live_world(tmp_path_factory.mktemp("live")) as live:
        live.text = getattr(request.module, "ROOMY", live.text)
        live.world.mark()
        live.run()
        yield live
        live.world.succeeds("stop", "--force", "one")
        found = live.left()
        assert not found, found


@pytest.fixture
def live(lab: Live) -> Iterator[Live]:
    """Whatever a test plugs in, is out again before the next one."""
    lab.ensure()
    before = lab.state()
    yield lab
    lab.ensure()
    for row in lab.runtime.vm("one").nics[1:]:
        lab.ask("nic-del", vm="one", nic=row.id, timeout=10)
    there, found = until_state(lab.state, before)
    assert there, differs(before, lab.state()) or found
