"""A lab file on disk is changed whole or not at all, and nobody's change is lost."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qemunet import interrupts
from qemunet.config import read
from qemunet.config.save import add_nic
from qemunet.errors import ConfigError, Failed, Interrupted, QemunetError
from qemunet.host import saving
from qemunet.host.saving import Saved, save

NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
SAVER = """
import sys
from qemunet.config.save import add_nic
from qemunet.host.saving import save
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    name = f"{sys.argv[2]}-{number}"
    save(sys.argv[1], None, lambda text: add_nic(text, "a", {"id": name}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that an ordinary user can enter, and owns."""
    found = Path(tempfile.mkdtemp(prefix="qn-save-"))
    found.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(found, NOBODY, NOBODY)
    yield found
    found.chmod(0o755)
    shutil.rmtree(found)


@pytest.fixture
def lab(folder: Path) -> Path:
    file = folder / "lab.toml"
    file.write_bytes(b"[vm.a]\r\nnic = []")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, NOBODY, NOBODY)
    return file


@contextmanager
def ordinary() -> Iterator[None]:
    """Be a user without rights within."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def mine(text: str) -> str:
    return text + "# mine\n"


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


# ---------------------------------------------------------------- what stays


def test_the_bytes_are_those_of_the_edit(lab: Path) -> None:
    """A byte order mark, line breaks of another system and a missing last one included."""
    lab.write_bytes(b"\xef\xbb\xbf# \xc3\xbc\r\n[vm.a]\r\ncpus = 1")
    assert save(str(lab), None, lambda text: text.replace("1", "2")) == Saved(str(lab), changed=True, meanwhile=False)
    assert lab.read_bytes() == b"\xef\xbb\xbf# \xc3\xbc\r\n[vm.a]\r\ncpus = 2"


def test_mode_and_neighbours_stay(lab: Path) -> None:
    (lab.parent / "other").write_text("")
    save(str(lab), None, mine)
    assert stat.S_IMODE(lab.stat().st_mode) == 0o640
    assert names(lab.parent) == ["lab.toml", "other"]


@root
def test_a_file_that_root_changes_stays_its_owners(lab: Path) -> None:
    os.chown(lab, 12345, 12346)
    save(str(lab), None, mine)
    assert (lab.stat().st_uid, lab.stat().st_gid) == (12345, 12346)
    assert stat.S_IMODE(lab.stat().st_mode) == 0o640


@root
def test_a_group_that_the_user_cannot_give_leaves_no_rights_to_another(lab: Path) -> None:
    """What the group might do, everybody of the user's own group could do else."""
    os.chown(lab, NOBODY, 12346)
    lab.chmod(0o664)
    with ordinary():
        save(str(lab), None, mine)
    assert lab.stat().st_gid == NOBODY
    assert stat.S_IMODE(lab.stat().st_mode) == 0o644


def test_a_link_stays_a_link(lab: Path) -> None:
    (lab.parent / "sub").mkdir()
    (lab.parent / "sub/second").symlink_to("../first")
    (lab.parent / "first").symlink_to("lab.toml")
    assert save(str(lab.parent / "sub/second"), None, mine).path == str(lab)
    assert lab.read_text().endswith("# mine\n")
    assert (lab.parent / "first").is_symlink()
    assert names(lab.parent / "sub") == ["second"]


def test_a_relative_name_is_one_of_the_working_directory(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.parent)
    assert save("lab.toml", None, mine).path == str(lab)


def test_without_a_change_the_file_is_not_touched(lab: Path) -> None:
    before = lab.stat()
    assert not save(str(lab), None, str).changed
    after = lab.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


def test_the_content_is_on_the_disk_before_it_has_the_name(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash of the machine there is the old file or the new one, never an empty one."""
    done: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real, **k: (done.append(name), real(*a, **k))[1])
    save(str(lab), None, mine)
    assert done == ["fsync", "rename", "fsync"]


# ---------------------------------------------------------------- somebody else


def written(lab: Path, text: str) -> None:
    lab.write_text(text)


def replaced(lab: Path, text: str) -> None:
    other = lab.parent / "other"
    other.write_text(text)
    other.rename(lab)


def in_the_same_instant(lab: Path, text: str) -> None:
    """As large as before and with its times: clocks of file systems are coarse."""
    was = lab.stat()
    lab.write_text(text)
    assert lab.stat().st_size == was.st_size
    os.utime(lab, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.mark.parametrize("how", [written, replaced, in_the_same_instant])
def test_what_an_editor_wrote_meanwhile_is_kept(lab: Path, how: object) -> None:
    """The edit begins again with what is there now."""
    lab.write_text("# old\n")
    calls: list[str] = []

    def edit(text: str) -> str:
        if not calls:
            how(lab, "# new\n")  # type: ignore[operator]
        calls.append(text)
        return mine(text)

    assert save(str(lab), b"# old\n", edit) == Saved(str(lab), changed=True, meanwhile=True)
    assert calls == ["# old\n", "# new\n"]
    assert lab.read_text() == "# new\n# mine\n"
    assert names(lab.parent) == ["lab.toml"]


def test_a_file_that_is_only_half_written_is_no_error(lab: Path) -> None:
    """An editor truncates first: what the edit says of that does not matter when there is more a moment later."""
    whole = lab.read_bytes()
    lab.write_text("")

    def edit(text: str) -> str:
        if not text:
            lab.write_bytes(whole)
        return add_nic(text, "a", {"mtu": 1400})

    save(str(lab), None, edit)
    assert [nic.mtu for nic in read.load(str(lab)).vms[0].nic or ()] == [1400]


def test_it_is_told_whether_the_file_was_what_the_caller_had_seen(lab: Path) -> None:
    assert not save(str(lab), lab.read_bytes(), mine).meanwhile
    assert save(str(lab), b"something else", mine).meanwhile
    assert not save(str(lab), None, mine).meanwhile


def test_a_file_that_never_rests_is_left_to_the_other(lab: Path) -> None:
    calls: list[str] = []

    def edit(text: str) -> str:
        calls.append(text)
        lab.write_text(f"# {len(calls)}\n")
        return mine(text)

    with pytest.raises(Failed, match="somebody else has changed it 20 times") as error:
        save(str(lab), None, edit)
    assert "nothing was changed" in error.value.hint
    assert lab.read_text() == "# 20\n"
    assert names(lab.parent) == ["lab.toml"]


def test_every_change_of_many_savers_lands(lab: Path) -> None:
    command = [sys.executable, "-c", SAVER, str(lab)]
    savers = [
        subprocess.Popen([*command, f"s{number}", "12"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(6)
    ]
    for one in savers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in savers:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in savers:
        one.communicate(timeout=120)
    assert [one.returncode for one in savers] == [0] * 6
    found = {nic.id for nic in read.load(str(lab)).vms[0].nic or ()}
    assert found == {f"s{saver}-{number}" for saver in range(6) for number in range(12)}
    assert names(lab.parent) == ["lab.toml"]


def test_where_directories_cannot_be_locked_the_last_look_remains(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS, for one; there another saver's draft may be alive, and stays."""

    def refused(fd: int, _path: str) -> bool:
        os.close(fd)
        raise OSError(errno.EBADF, "no lock")

    monkeypatch.setattr(saving, "hold_directory", refused)
    other = lab.parent / ".lab.toml.0123456789abcdef.qemunet-save"
    other.write_text("")
    before = len(os.listdir("/proc/self/fd"))
    save(str(lab), None, mine)
    assert len(os.listdir("/proc/self/fd")) == before
    assert names(lab.parent) == [other.name, "lab.toml"]


# ---------------------------------------------------------------- nothing is left


@pytest.mark.parametrize("call", ["fchmod", "fsync", "rename"])
def test_an_interrupt_leaves_the_old_file_alone(lab: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, files = lab.read_bytes(), len(os.listdir("/proc/self/fd"))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(str(lab), None, mine)
    assert lab.read_bytes() == before
    assert names(lab.parent) == ["lab.toml"]
    assert len(os.listdir("/proc/self/fd")) == files


def test_an_interrupt_that_has_arrived_ends_it(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_seen", [2])
    with pytest.raises(Interrupted):
        save(str(lab), None, mine)


def test_a_full_disk_leaves_the_old_file_alone(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lab.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QemunetError, match="cannot be saved: No space left on device") as error:
        save(str(lab), None, mine)
    assert error.value.where == str(lab)
    assert lab.read_bytes() == before
    assert names(lab.parent) == ["lab.toml"]


def test_the_draft_of_a_killed_saver_goes_with_the_next_one(lab: Path) -> None:
    """Nobody can clear up after a kill -9 but somebody else."""
    (lab.parent / ".lab.toml.0123456789abcdef.qemunet-save").write_text("half a l")
    (lab.parent / ".lab.toml.swp").write_text("an editor's")
    save(str(lab), None, mine)
    assert names(lab.parent) == [".lab.toml.swp", "lab.toml"]


def test_a_long_name_is_not_too_long_for_a_draft(lab: Path) -> None:
    long = lab.rename(lab.parent / ("\u00fc" * 127))
    save(str(long), None, mine)
    assert names(lab.parent) == [long.name]


# ---------------------------------------------------------------- what is refused


def test_what_the_edit_refuses_changes_nothing(lab: Path) -> None:
    before = lab.stat().st_ino
    with pytest.raises(ConfigError, match=r"vm\.a\.nic\[0\]\.mtu"):
        save(str(lab), None, lambda text: add_nic(text, "a", {"mtu": 1}))
    assert lab.stat().st_ino == before
    assert names(lab.parent) == ["lab.toml"]


def test_a_read_only_file_stays_as_it_is(lab: Path) -> None:
    """It could be replaced, but somebody has meant it to stay."""
    lab.chmod(0o440)
    before = lab.read_bytes()
    with ordinary(), pytest.raises(QemunetError, match="it is read-only for you"):
        save(str(lab), None, mine)
    assert lab.read_bytes() == before


def test_a_directory_that_takes_no_new_file_is_named(lab: Path) -> None:
    lab.parent.chmod(0o555)
    before = lab.read_bytes()
    with ordinary(), pytest.raises(QemunetError, match="cannot be saved: Permission denied") as error:
        save(str(lab), None, mine)
    assert error.value.where == str(lab)
    assert f"{lab.parent} writable" in error.value.hint
    assert lab.read_bytes() == before


def test_a_directory_that_cannot_be_read_is_named(lab: Path) -> None:
    lab.parent.chmod(0o311)
    with ordinary(), pytest.raises(QemunetError, match="cannot be saved: Permission denied"):
        save(str(lab), None, mine)


@pytest.mark.parametrize("mode", [0o555, 0o755])
def test_that_a_file_cannot_be_saved_is_known_before(lab: Path, mode: int) -> None:
    """For what cannot be taken back once the file is refused; what is no change needs no rights."""
    lab.chmod(0o440)
    lab.parent.chmod(mode)
    with ordinary():
        saving.check(str(lab), lambda text: text)
        with pytest.raises(QemunetError, match="it is read-only for you"):
            saving.check(str(lab), mine)


def test_a_look_before_changes_nothing(lab: Path) -> None:
    """Not even in the directory; what the edit refuses is refused, and so is a directory that takes no new file."""
    before = lab.stat()
    saving.check(str(lab), mine)
    with pytest.raises(ConfigError, match=r"vm\.a\.nic\[0\]\.mtu"):
        saving.check(str(lab), lambda text: add_nic(text, "a", {"mtu": 1}))
    assert lab.stat() == before
    assert names(lab.parent) == ["lab.toml"]
    lab.parent.chmod(0o555)
    with ordinary(), pytest.raises(QemunetError, match="cannot be saved: Permission denied"):
        saving.check(str(lab), mine)


def test_what_is_no_lab_file_is_said(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "latin1").write_bytes(b"# a\n# \xfc\n")
    (folder / "large").write_bytes(b"\n" * (4 << 20) + b"#")
    told = {
        "": "is a directory, a pipe or a device",
        "fifo": "is a directory, a pipe or a device",
        "dangling": "no such file",
        "missing": "no such file",
        "no/where": "no such file",
        "latin1": r"not UTF-8 text \(byte 0xfc in line 2\)",
        "large": "is larger than 4 MiB",
    }
    for name, what in told.items():
        with pytest.raises(ConfigError, match=what):
            save(str(folder / name), None, mine)
