"""What the process that has time for it parses for the one that starts the guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemunet.config import ahead, files, profiles, read, toml
from qemunet.errors import ConfigError

LAB = '[vm.one]\n[vm.two]\nprofile = "own.toml"\nmemory = "1G"\n[[vm.two.nic]]\nmtu = 1400\n'
PROFILE = '[machine]\ntype = "q35"\nnic-bus = "root-ports"\n'


@pytest.fixture
def lab(tmp_path: Path) -> str:
    (tmp_path / "own.toml").write_text(PROFILE)
    file = tmp_path / "lab.toml"
    file.write_text(LAB)
    return str(file)


def test_a_lab_and_its_profiles_are_read_alike_whoever_parsed_them(lab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read.load(lab)
    known = profiles.load_all(spec)
    toml.expect(ahead.parsed(lab))
    monkeypatch.setitem(__import__("sys").modules, "tomllib", None)  # importing it fails
    assert read.load(lab) == spec
    assert profiles.load_all(spec) == known


def test_what_was_parsed_is_taken_for_the_same_text_only(lab: str) -> None:
    toml.expect(ahead.parsed(lab))
    Path(lab).write_text(LAB.replace("1G", "2G"))
    assert read.load(lab).vms[1].memory == 2 << 30


def test_what_was_parsed_is_taken_once() -> None:
    """Whoever reads may change what he got."""
    toml.expect([("a = 1", '{"a": 2}')])
    assert toml.parse("a = 1", "x") == {"a": 2}
    assert toml.parse("a = 1", "x") == {"a": 1}


@pytest.mark.parametrize(
    "text",
    ["[vm", "when = 2020-01-01", "vm = 1", "[vm]\none = 1", "[vm.one]\nprofile = 7", '[vm.one]\nprofile = "none"'],
    ids=["syntax", "a date", "no table", "no vm", "no name", "no such profile"],
)
def test_what_is_wrong_is_left_to_the_reader(text: str, tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(text)
    toml.expect(ahead.parsed(str(file)))
    with pytest.raises(ConfigError):
        profiles.load_all(read.load(str(file)))


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert ahead.parsed(str(tmp_path / "none.toml")) == []


def test_a_profile_is_found_by_name_and_by_path(lab: str) -> None:
    beside = str(Path(lab).parent / "own.toml")
    assert files.find("own.toml", lab) == (beside, beside)
    assert files.find("none", lab) is None
    found = files.find(files.DEFAULT, lab)
    assert found is not None
    assert found[1] == files.DEFAULT
