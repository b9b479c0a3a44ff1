"""Files, claims, images and sysctls, without root."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from qemunet.errors import Failed, Gone, Taken
from qemunet.facts import Wanted
from qemunet.host import caller, files, images, sysctls
from qemunet.host.linux import LinuxHost
from qemunet.steps import (
    Claim,
    CreateImage,
    LoadFile,
    OpenFile,
    OpenOverlay,
    RemoveFile,
    RemoveImage,
    Unclaim,
    WriteFile,
)


def qemu_img(*words: str) -> None:
    subprocess.run(["qemu-img", *words], check=True, stdout=subprocess.DEVNULL)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_claim_is_private_and_so_are_the_directories_made_for_it(tmp_path: Path) -> None:
    files.claim(Claim(str(tmp_path / "claims/mac/52:54:00:00:00:01"), "vm/a"))
    assert mode(tmp_path / "claims") == mode(tmp_path / "claims/mac") == 0o700
    assert mode(tmp_path / "claims/mac/52:54:00:00:00:01") == 0o600


def test_a_claim_without_a_name_is_nobodys(tmp_path: Path) -> None:
    """Whoever made it was killed before he wrote it."""
    (tmp_path / "claim").write_text("")
    files.unclaim(Unclaim(str(tmp_path / "claim"), "vm/a"))
    assert not (tmp_path / "claim").exists()


def test_a_written_file_is_private_and_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    files.write(WriteFile(str(path), "old"))
    with path.open() as old:
        files.write(WriteFile(str(path), "new"))
        assert old.read() == "old"
    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["conf"]


def test_removing_what_is_not_there_is_as_good_as_done(tmp_path: Path) -> None:
    with pytest.raises(Gone):
        files.remove(RemoveFile(str(tmp_path / "none")))


def test_a_loaded_file_is_a_sealed_copy(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(os.urandom(100_000))
    fd = files.load(LoadFile("a:kernel", str(path)))
    original = path.read_bytes()
    path.write_bytes(b"changed")
    with open(f"/proc/self/fd/{fd}", "rb") as again:
        assert again.read() == original
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)


@pytest.mark.parametrize("writable", [False, True])
def test_a_file_is_opened_with_exactly_the_access_that_is_asked_for(tmp_path: Path, *, writable: bool) -> None:
    import fcntl

    path = tmp_path / "disk"
    path.write_bytes(b"")
    fd = files.open_file(OpenFile("a:disk", str(path), writable))
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == (os.O_RDWR if writable else os.O_RDONLY)
    os.close(fd)


def test_a_sysctl_key_may_have_a_dot_inside_a_name() -> None:
    assert sysctls.path("net.ipv4.conf.eth0/10.forwarding") == "/proc/sys/net/ipv4/conf/eth0.10/forwarding"


def note(folder: Path) -> str:
    return str(folder / "note")


@pytest.fixture(params=["nameless", "in place"])
def birth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a file system makes a file: some know none without a name."""
    if request.param == "in place":
        known = os.open

        def refuse(path: str, flags: int, *arguments: int, **named: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
            return known(path, flags, *arguments, **named)

        monkeypatch.setattr(os, "open", refuse)
    return str(request.param)


def test_an_image_is_removed_as_long_as_nobody_wrote_to_it(tmp_path: Path, birth: str) -> None:
    step = CreateImage(str(tmp_path / "disk"), "raw", 1 << 20, note(tmp_path))
    images.create(step)
    images.remove(RemoveImage(step.path, step.note))
    assert not os.listdir(tmp_path)


def test_an_image_that_somebody_has_used_is_not_removed(tmp_path: Path, birth: str) -> None:
    step = CreateImage(str(tmp_path / "disk"), "raw", 1 << 20, note(tmp_path))
    images.create(step)
    os.utime(step.path)
    with pytest.raises(Gone, match="is not as it was made"):
        images.remove(RemoveImage(step.path, step.note))
    assert (tmp_path / "disk").exists()


def test_an_image_has_no_name_before_it_is_known_which_file_it_is(tmp_path: Path) -> None:
    """Whoever is killed before that has made nothing."""
    step = CreateImage(str(tmp_path / "disk"), "raw", 1 << 20, str(tmp_path / "missing" / "note"))
    with pytest.raises(FileNotFoundError):
        images.create(step)
    assert not os.listdir(tmp_path)


def test_an_image_that_is_there_is_kept_however_files_are_made(tmp_path: Path, birth: str) -> None:
    (tmp_path / "disk").write_text("precious")
    with pytest.raises(Taken, match="exists already and is not overwritten"):
        images.create(CreateImage(str(tmp_path / "disk"), "raw", 1 << 20, note(tmp_path)))
    assert (tmp_path / "disk").read_text() == "precious"


def test_a_new_image_is_what_qemu_img_says(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    images.create(CreateImage(str(path), "qcow2", 3 << 20, note(tmp_path)))
    out = subprocess.run(["qemu-img", "info", str(path)], capture_output=True, text=True, check=True).stdout
    assert "file format: qcow2" in out
    assert "virtual size: 3 MiB" in out


def test_an_image_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="qemu-img could not create a nonsense image"):
        images.create(CreateImage(str(tmp_path / "disk"), "nonsense", 1 << 20, note(tmp_path)))
    assert not os.listdir(tmp_path)


def test_a_link_to_nowhere_is_not_followed_for_a_new_image(tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Taken):
        images.create(CreateImage(str(tmp_path / "disk"), "raw", 1 << 20, note(tmp_path)))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_behind_sudo_a_new_image_belongs_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "5678")
    images.create(CreateImage(str(tmp_path / "disk"), "raw", 1 << 20, note(tmp_path)))
    status = (tmp_path / "disk").stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)


@pytest.mark.parametrize(("kind", "size"), [("raw", 5 << 20), ("qcow2", 7 << 20)])
def test_an_overlay_is_nameless_and_as_big_as_what_lies_below(tmp_path: Path, kind: str, size: int) -> None:
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", kind, str(path), str(size))
    fd = images.open_overlay(OpenOverlay("a:disk", str(path)), str(tmp_path))
    assert os.fstat(fd).st_nlink == 0
    header = os.pread(fd, 32, 0)
    assert header[:4] == b"QFI\xfb"
    assert header[8:16] == bytes(8), "no backing file is named in it"
    assert int.from_bytes(header[24:32], "big") == size
    os.close(fd)
    assert os.listdir(tmp_path) == ["disk"]


def test_an_overlay_of_a_raw_image_believes_no_header_in_it(tmp_path: Path) -> None:
    """A guest may have written one there, and would choose how much of the host's disk it can fill."""
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "qcow2", str(path), "1T")
    fd = images.open_overlay(OpenOverlay("a:disk", str(path), raw=True), str(tmp_path))
    assert int.from_bytes(os.pread(fd, 32, 0)[24:32], "big") < 1 << 20
    os.close(fd)


def test_a_backing_chain_is_followed(tmp_path: Path) -> None:
    qemu_img("create", "-q", "-f", "raw", str(tmp_path / "base.raw"), "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", str(tmp_path / "mid.qcow2"))
    qemu_img("create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", str(tmp_path / "top.qcow2"))
    found = images.look_at([str(tmp_path / "top.qcow2")])
    told = [(Path(p).name, f.qcow2, f.backing and Path(f.backing).name, f.backing_format) for p, f in found.items()]
    assert told == [
        ("top.qcow2", True, "mid.qcow2", "qcow2"),
        ("mid.qcow2", True, "base.raw", "raw"),
        ("base.raw", False, None, None),
    ]


def test_a_backing_chain_that_bites_its_tail_ends(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", other, "-F", "qcow2", str(tmp_path / name), "1M")
    assert {Path(path).name for path in images.look_at([str(tmp_path / "a")])} == {"a", "b"}


def test_a_backing_chain_without_end_is_followed_sixteen_times(tmp_path: Path) -> None:
    for number in range(20):
        backing = ["-b", f"i{number + 1}", "-F", "qcow2"]
        qemu_img("create", "-q", "-u", "-f", "qcow2", *backing, str(tmp_path / f"i{number}"), "1M")
    assert len(images.look_at([str(tmp_path / "i0")])) == 16


@pytest.mark.parametrize("name", ["nbd://host/export", "json:{}"])
def test_what_is_no_file_is_told_as_it_is_and_not_followed(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "top")
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", path, "1M")
    assert {p: f.backing for p, f in images.look_at([path]).items()} == {path: name}


@pytest.mark.parametrize("size", [4, 40, 100, 112])
def test_a_torn_header_says_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "top"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "x" * 200, "-F", "raw", str(path), "1M")
    path.write_bytes(path.read_bytes()[:size])
    (fact,) = images.look_at([str(path)]).values()
    assert (fact.qcow2, fact.backing) == (True, None)


def test_what_is_missing_is_not_in_the_picture_and_a_directory_is_no_file(tmp_path: Path) -> None:
    found = images.look_at([str(tmp_path), str(tmp_path / "none")])
    assert [(path, fact.regular) for path, fact in found.items()] == [(str(tmp_path), False)]


@pytest.mark.skipif(not caller.can_switch_user(), reason="only root can look with another user's eyes")
def test_root_sees_what_everybody_may_read_and_behind_sudo_what_the_caller_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.parent.is_relative_to(tempfile.gettempdir()):  # pytest's own, closed to others
            folder.chmod(0o755)
    for name, owner, bits in (("open", 0, 0o644), ("closed", 0, 0o600), ("his", 1234, 0o600)):
        (tmp_path / name).write_text("")
        os.chown(tmp_path / name, owner, owner)
        (tmp_path / name).chmod(bits)
    paths = [str(tmp_path / name) for name in ("open", "closed", "his", "none")]
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert {Path(path).name for path in caller.readable(paths)} == {"open"}
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1234")
    assert {Path(path).name for path in caller.readable(paths)} == {"open", "his"}


def test_a_photograph_shows_programs_and_who_we_are(tmp_path: Path) -> None:
    host = LinuxHost(str(tmp_path))
    facts = host.photograph(Wanted(programs=frozenset({"sh", "no-such-program"})))
    assert facts.programs.keys() == {"sh"}
    assert os.access(facts.programs["sh"], os.X_OK)
    assert facts.uid == os.geteuid()
    assert facts.users["root"] == (0, 0)
    assert facts.machine_id
    host.close()
