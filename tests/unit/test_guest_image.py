"""The cache: what is found is whole and up to date, and a broken build leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qemunet.errors import HostLacks
from qemunet.guest import build, image, kernel, modules


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel and a busybox of a few bytes."""
    place = tmp_path / "sources"
    (place / "modules").mkdir(parents=True)
    (place / "vmlinuz-1").write_bytes(b"kernel")
    (place / "busybox").write_bytes(b"busybox")

    def busybox(work: Path, report: object) -> build.Busybox:
        path = place / "busybox"
        return build.Busybox(path.read_bytes(), ("sh",), (image.stamp(str(path)),))

    monkeypatch.setattr(build, "_busybox", busybox)
    monkeypatch.setattr(kernel, "of_host", lambda: kernel.Kernel("1", place / "vmlinuz-1", place / "modules"))
    return place


def make(base: Path) -> image.GuestImage:
    return build.build_in(str(base), lambda text: None)


def test_a_built_image_is_found(tmp_path: Path, sources: Path) -> None:
    assert image.find_in(str(tmp_path / "cache")) is None
    made = make(tmp_path / "cache")
    assert image.find_in(str(tmp_path / "cache")) == made == make(tmp_path / "cache")
    assert Path(made.kernel).read_bytes() == b"kernel"
    assert Path(made.initrd).read_bytes().startswith(b"070701")


@pytest.mark.parametrize("changed", ["vmlinuz-1", "busybox"])
def test_another_source_makes_another_image_and_removes_the_old_one(
    tmp_path: Path, sources: Path, changed: str
) -> None:
    cache = tmp_path / "cache"
    old = make(cache)
    (sources / changed).write_bytes(b"something newer")
    assert image.find_in(str(cache)) is None
    new = make(cache)
    assert new.fingerprint != old.fingerprint
    assert not Path(old.kernel).exists()


def test_a_source_that_is_gone_takes_nothing_away(tmp_path: Path, sources: Path) -> None:
    made = make(tmp_path / "cache")
    (sources / "busybox").unlink()
    assert image.find_in(str(tmp_path / "cache")) == made


def test_another_recipe_is_another_image(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "cache")
    monkeypatch.setattr(image, "recipe", lambda: "newer")
    assert image.find_in(str(tmp_path / "cache")) is None


def test_a_damaged_cache_is_built_again(tmp_path: Path, sources: Path) -> None:
    cache = tmp_path / "cache"
    made = make(cache)
    Path(made.initrd).write_bytes(b"half")
    assert image.find_in(str(cache)) is None
    assert make(cache) == made
    (cache / image.INDEX).write_text("{")
    assert make(cache) == made
    (cache / image.INDEX).write_text(json.dumps([1]))
    assert make(cache) == made


def test_a_full_disk_leaves_the_cache_as_it_was(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_write", full)
    with pytest.raises(HostLacks, match="No space left"):
        make(cache)
    assert [path.name for path in cache.iterdir()] == [build.LOCK]


def test_what_a_killed_builder_left_is_removed(tmp_path: Path, sources: Path) -> None:
    left = tmp_path / "cache" / f"{build.WORK_PREFIX}dead"
    left.mkdir(parents=True)
    make(tmp_path / "cache")
    assert not left.exists()


def test_the_downloaded_kernel_is_kept_as_long_as_the_same_modules_are_wanted(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    downloads = []

    def download(work: Path, report: object) -> None:
        downloads.append(1)
        (work / "unpacked/boot").mkdir(parents=True)
        (work / "unpacked/boot/vmlinuz-2").write_bytes(b"package kernel")
        (work / "unpacked/lib/modules/2").mkdir(parents=True)

    monkeypatch.setattr(kernel, "of_host", lambda: None)
    monkeypatch.setattr(kernel.packages, "available", lambda: True)
    monkeypatch.setattr(kernel, "_download", download)
    make(cache)
    (sources / "busybox").write_bytes(b"something newer")
    make(cache)
    assert len(downloads) == 1
    monkeypatch.setattr(modules, "WANTED", ("another",))
    (sources / "busybox").write_bytes(b"the newest")
    make(cache)
    assert len(downloads) == 2
    assert len(list(cache.glob("kernel-*"))) == 1


def test_no_kernel_anywhere_names_the_remedy(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "of_host", lambda: None)
    monkeypatch.setattr(kernel.packages, "available", lambda: False)
    with pytest.raises(HostLacks, match="a kernel for the built-in guest") as caught:
        make(tmp_path / "cache")
    assert "chmod" in caught.value.hint
