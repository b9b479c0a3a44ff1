"""An archive out of a guest may be made to harm: nothing outside the folder is touched."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from qemunet.cli.copy import place
from qemunet.errors import Failed
from qemunet.live import untar


def archive(*members: tarfile.TarInfo) -> io.BytesIO:
    """A tar in which every file contains its own name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for member in members:
            content = member.name.encode() if member.isreg() else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    file.seek(0)
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, to, mode
    return found


def extract(tmp_path: Path, *members: tarfile.TarInfo) -> list[str]:
    return untar.extract(archive(*members), str(tmp_path / "to"))  # type: ignore[arg-type]


def test_what_is_harmless_is_there_afterwards(tmp_path: Path) -> None:
    """Without the bits that give somebody else's rights; a device is left out, and said to be."""
    left = extract(
        tmp_path,
        member(".", tarfile.DIRTYPE, mode=0o755),
        member("./a", mode=0o6755),
        member("b", tarfile.LNKTYPE, "a"),
        member("sub", tarfile.DIRTYPE, mode=0o700),
        member("sub/l", tarfile.SYMTYPE, "../a"),
        member("null", tarfile.CHRTYPE),
    )
    assert left == ["null"]
    assert (tmp_path / "to/a").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "to/b").samefile(tmp_path / "to/sub/l")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["a", "b", "sub"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    """Whatever it is the name of."""
    with pytest.raises(Failed, match="leads out"):
        extract(tmp_path, member(name, kind, "y"))
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Neither through one of the archive, which is made last, nor through one that was there."""
    (tmp_path / "outside").mkdir()
    with pytest.raises((Failed, OSError)):
        extract(tmp_path, member("l", tarfile.SYMTYPE, "../outside"), member("l/x"))
    (tmp_path / "to").mkdir(exist_ok=True)
    (tmp_path / "to/m").symlink_to("../outside")
    with pytest.raises(Failed, match="link"):
        extract(tmp_path, member("m/x"))
    (tmp_path / "to/f").symlink_to("../outside/f")
    extract(tmp_path, member("f"))
    assert not list((tmp_path / "outside").iterdir())
    assert not (tmp_path / "to/f").is_symlink()


def test_half_an_archive_is_told(tmp_path: Path) -> None:
    """The guest may have been switched off."""

    class Half(io.BytesIO):
        def check(self) -> None:
            """Nothing is known of the command."""

    whole = archive(member("a" * 50)).getvalue()
    with pytest.raises(Failed, match="no whole archive"):
        untar.extract(Half(whole[:700].replace(b"ustar", b"xxxxx")), str(tmp_path / "to"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("vm:/a:b", ("vm", "/a:b")),
        ("vm:", ("vm", ".")),
        ("./a:b", ("", "./a:b")),
        ("/a:b", ("", "/a:b")),
        ("a", ("", "a")),
    ],
)
def test_only_a_name_before_a_colon_is_a_guest(word: str, found: tuple[str, str]) -> None:
    """As with scp, a path with a slash before the colon is one here."""
    assert place(word) == found
