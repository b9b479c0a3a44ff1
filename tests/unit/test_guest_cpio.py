"""The initramfs archive is what cpio itself reads."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest

from qemunet.guest import cpio

ENTRIES = [
    cpio.Directory("etc"),
    cpio.File("etc/odd", b"abc", 0o600),
    cpio.File("/etc/empty", b""),
    cpio.Symlink("bin", "usr/bin"),
    cpio.CharDevice("console", 5, 1),
    cpio.Fifo("pipe"),
]


def test_every_member_starts_at_a_multiple_of_four() -> None:
    data = cpio.archive(ENTRIES)
    starts = [at for at in range(len(data)) if data.startswith(cpio.MAGIC, at)]
    assert len(starts) == len(ENTRIES) + 1
    assert all(at % 4 == 0 for at in starts)
    assert len(data) % cpio.BLOCK == 0


def test_the_same_entries_give_the_same_bytes() -> None:
    assert cpio.archive(ENTRIES) == cpio.archive(list(ENTRIES))


def test_device_numbers_and_modes_are_in_their_fields() -> None:
    data = cpio.archive([cpio.CharDevice("console", 5, 1)])
    fields = [int(data[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
    assert fields[1] == stat.S_IFCHR | 0o600
    assert fields[9:11] == [5, 1]
    assert fields[11] == len("console") + 1


@pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox")
def test_cpio_unpacks_it(tmp_path) -> None:
    plain = [entry for entry in ENTRIES if not isinstance(entry, cpio.CharDevice)]  # the device would need root
    subprocess.run(
        ["busybox", "cpio", "-id"], input=cpio.archive(plain), cwd=tmp_path, check=True, capture_output=True, timeout=20
    )
    assert (tmp_path / "etc/odd").read_bytes() == b"abc"
    assert stat.S_IMODE((tmp_path / "etc/odd").stat().st_mode) == 0o600
    assert (tmp_path / "etc/empty").read_bytes() == b""
    assert (tmp_path / "bin").readlink().as_posix() == "usr/bin"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
