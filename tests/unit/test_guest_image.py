"""The cache: what is found is whole and up to date, and a broken build leaves nothing."""

from __future__ import annotations

import fcntl
import json
import os
import time
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

    monkeypatch.setattr(build, "find_busybox", busybox)
    monkeypatch.setattr(kernel, "of_host", lambda: kernel.Kernel("1", place / "vmlinuz-1", place / "modules"))
    return place


def make(base: Path) -> image.GuestImage:
    return build.build_in(str(base), lambda text: None)


def index_of(cache: Path) -> Path:
    return cache / image.index_name(image.recipe())


def use_recipe(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    """Be another version of the program, as far as the cache can tell."""
    monkeypatch.setattr(image, "recipe", lambda: number)
    monkeypatch.setattr(build, "recipe", lambda: number)


def age(index: Path, days: float) -> None:
    """Let an index be last used so long ago."""
    then = time.time() - days * 24 * 3600
    os.utime(index, (then, then))


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
    use_recipe(monkeypatch, "newer")
    assert image.find_in(str(tmp_path / "cache")) is None


def test_two_versions_keep_their_images_side_by_side(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    made = {}
    for number in ("older", "newer"):
        use_recipe(monkeypatch, number)
        made[number] = make(cache)
    for number in ("older", "newer"):
        use_recipe(monkeypatch, number)
        assert image.find_in(str(cache)) == made[number]
    assert made["older"].fingerprint != made["newer"].fingerprint


@pytest.mark.parametrize(("days", "stays"), [(50, True), (70, False)])
def test_an_image_goes_when_nobody_used_it_for_two_months_and_another_is_built(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch, days: float, stays: bool
) -> None:
    cache = tmp_path / "cache"
    use_recipe(monkeypatch, "older")
    old = make(cache)
    age(index_of(cache), days)
    use_recipe(monkeypatch, "newer")
    make(cache)
    use_recipe(monkeypatch, "older")
    assert (image.find_in(str(cache)) is not None) == Path(old.kernel).exists() == index_of(cache).exists() == stays


def test_who_uses_an_image_keeps_it(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    use_recipe(monkeypatch, "older")
    old = make(cache)
    age(index_of(cache), 70)
    assert image.find_in(str(cache)) == old
    use_recipe(monkeypatch, "newer")
    make(cache)
    assert Path(old.kernel).exists()


def test_looking_what_may_go_is_no_use(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    use_recipe(monkeypatch, "older")
    make(cache)
    age(index_of(cache), 50)
    used = index_of(cache).stat()
    use_recipe(monkeypatch, "newer")
    make(cache)
    use_recipe(monkeypatch, "older")
    after = index_of(cache).stat()
    assert (after.st_atime_ns, after.st_mtime_ns) == (used.st_atime_ns, used.st_mtime_ns)


def test_the_only_index_of_earlier_versions_counts_as_long_as_it_is_used(tmp_path: Path, sources: Path) -> None:
    """It names an image as the others do, and nothing else of it is needed; one that is garbage names nothing."""
    cache = tmp_path / "cache"
    (cache / "0123456789abcdef").mkdir(parents=True)
    (cache / "fedcba9876543210").mkdir()
    (cache / "index.json").write_text(json.dumps({"fingerprint": "0123456789abcdef", "recipe": "0"}))
    (cache / "index-bad.json").write_text('["fedcba9876543210"')
    make(cache)
    assert (cache / "0123456789abcdef").exists()
    assert not (cache / "fedcba9876543210").exists()


def test_nothing_is_removed_while_somebody_builds(tmp_path: Path, sources: Path) -> None:
    """A builder has the lock from before he looks until he has removed what may go."""
    cache = tmp_path / "cache"
    seen = []

    def held(path: Path) -> bool:
        with (cache / build.LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    remove = build._remove_unused

    def watched(base: Path) -> None:
        seen.append(held(base))
        remove(base)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_remove_unused", watched)
        make(cache)
    assert seen == [True]


def test_a_damaged_cache_is_built_again(tmp_path: Path, sources: Path) -> None:
    cache = tmp_path / "cache"
    made = make(cache)
    Path(made.initrd).write_bytes(b"half")
    assert image.find_in(str(cache)) is None
    assert make(cache) == made
    index_of(cache).write_text("{")
    assert make(cache) == made
    index_of(cache).write_text(json.dumps([1]))
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
