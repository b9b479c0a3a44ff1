"""The disk of the guest that is an installed system is kept in the cache while it is the one that would be made now."""

from __future__ import annotations

import fcntl
from pathlib import Path

from tests.disk import image


def test_another_agent_or_another_unit_makes_another_disk() -> None:
    """They are those that users have: what the program prints, what the documentation shows."""
    files = image.agent_files()
    assert files[image.AGENT].startswith("#!/bin/sh\n")
    (unit,) = (text for name, text in files.items() if name.endswith(".service"))
    assert f"ExecStart=/{image.AGENT}\n" in unit
    assert unit.startswith("[")
    assert "[Install]\n" in unit
    numbers = [image.number("suite", files | {name: files[name] + "#\n"}) for name in files]
    assert len({image.number("suite", files), image.number("other", files), *numbers}) == 4


def test_the_cache_keeps_one_disk_and_those_that_are_in_use(tmp_path: Path) -> None:
    """What a killed maker has left goes as well; the other things in the cache are none of its business."""
    for name in ("disk-guest-1", "disk-guest-2", "disk-guest-3", "disk-guest-work-x", "guest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "disk.raw").touch()
    with image.held(tmp_path / "disk-guest-2", fcntl.LOCK_SH):
        image.remove_others(tmp_path, tmp_path / "disk-guest-3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk-guest-2", "disk-guest-3", "guest"]
