"""A file that is wrong is refused with the place, the problem and what to do, word for word as in config_errors.txt."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from qemunet.config import profiles, read
from qemunet.errors import ConfigError
from tests.unit.config_host import FILE, lab

CASES = re.findall(
    r"^=== (\S+)\n(.*?)^=> (.*?)\n(?:\?> (.*?)\n)?(?=\n===|\Z)",
    Path(__file__).with_name("config_errors.txt").read_text(),
    re.MULTILINE | re.DOTALL,
)


def test_the_table_was_understood() -> None:
    """A case that the pattern misses would be no test."""
    text = Path(__file__).with_name("config_errors.txt").read_text()
    assert len(CASES) == text.count("\n=== ") >= 60


@pytest.mark.parametrize(("text", "message", "hint"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_wrong_file_is_explained(text: str, message: str, hint: str) -> None:
    """Each message says where, what and, if there is something to do, what to do."""
    with pytest.raises(ConfigError) as caught:
        lab(text)
    assert str(caught.value) == f"{FILE}: {message}"
    assert caught.value.hint == hint


def test_a_wrong_file_is_explained_without_a_host_as_well() -> None:
    """`check` says the same as `run` about what does not depend on the host."""
    with pytest.raises(ConfigError, match="there is no kernel"):
        lab('[vm.a]\nboot.initrd = "initrd.img"\n', strict=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[vm.a]\n# caf\xe9\n", "not UTF-8 text (byte 0xe9 in line 2)"),
        (b"\xff\xfe[\x00", "not UTF-8 text (byte 0xff in line 1)"),
        (b"[vm.a]\n\x00", "line 2, column 1: invalid statement"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Bytes that are not UTF-8 are named."""
    path = tmp_path / "lab.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read.load(str(path))
    assert str(caught.value) == f"{path}: {message}"


def test_a_directory_is_no_lab(tmp_path: Path) -> None:
    """Nor does it end in a traceback."""
    with pytest.raises(ConfigError, match="is a directory, not a lab file"):
        read.load(str(tmp_path))


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    """In the file, in a profile and on the command line alike."""
    digits = "9" * 5000
    with pytest.raises(ConfigError) as caught:
        read.loads(f"[vm.a]\ncpus = {digits}\n", FILE)
    assert str(caught.value) == f"{FILE}: a number in it has thousands of digits"
    for wrong in (f"vm.a.cpus={digits}", f"vm.a.user={digits}", "vm.a.cpus=0x" + "f" * 5000, "vm.a.cpus=" + "[" * 5000):
        with pytest.raises(ConfigError):
            read.loads("[vm.a]\n", FILE, [wrong])


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_might_never_end_is_no_lab(tmp_path: Path, kind: str) -> None:
    """It is refused without a look at its content."""
    path = tmp_path / "lab.toml" if kind == "pipe" else Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ConfigError, match="is a pipe or a device, not a lab file") as caught:
        read.load(str(path))
    assert caught.value.hint == "write the lab into a file first"


def test_a_file_as_large_as_no_lab_is_refused(tmp_path: Path) -> None:
    """A disk image that was given by mistake, say."""
    path = tmp_path / "lab.toml"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ConfigError, match="is larger than 4 MiB"):
        read.load(str(path))


def test_a_missing_file_brings_its_neighbour_to_mind(tmp_path: Path) -> None:
    """A typing error in the file's name gets a hint."""
    (tmp_path / "router.toml").touch()
    with pytest.raises(ConfigError, match="no such file") as caught:
        read.load(str(tmp_path / "ruoter.toml"))
    assert caught.value.hint == f'did you mean "{tmp_path}/router.toml"?'
    with pytest.raises(ConfigError) as caught:
        read.load(str(tmp_path / "nowhere/lab.toml"))
    assert caught.value.hint == f"{tmp_path}/nowhere is not there either"


def test_an_unknown_profile_is_reported_where_it_is_named() -> None:
    """The message names the key of the lab file."""
    spec = read.loads('[vm.a]\nprofile = "./mine.toml"\n', FILE)
    with pytest.raises(ConfigError, match=re.escape(f"{FILE}: vm.a.profile: there is no profile")):
        profiles.load_all(spec)
