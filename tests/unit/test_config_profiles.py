"""Profiles are found where people put them, and say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemunet.config import profiles
from qemunet.errors import ConfigError
from qemunet.model.vm import NicBus

MACHINE = '[machine]\ntype = "pc"\nnic-bus = "pci"\n'


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab file in a directory of its own, and a home directory without anything."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("QEMUNET_PROFILE_PATH", raising=False)
    return tmp_path / "lab.toml"


def put(folder: Path, name: str, text: str = MACHINE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_the_shipped_ones_are_there(near: Path) -> None:
    """Each with a line that says what it is."""
    found = {one.name: one for one in profiles.available(str(near))}
    assert {"legacy", "microvm", "pc", "q35"} <= {*found}
    assert all(one.doc.endswith(".") for one in found.values())
    assert found["q35"].machine.nic_bus is NicBus.ROOT_PORTS
    assert found["legacy"].nic.model == "e1000"


def test_the_nearer_one_wins(near: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search path, then beside the lab, then the user's, then the shipped ones."""
    user = put(tmp_path / "config/qemunet/profiles", "q35")
    assert profiles.load("q35", str(near)).reference == str(user)
    beside = put(tmp_path / "profiles", "q35")
    assert profiles.load("q35", str(near)).reference == str(beside)
    searched = put(tmp_path / "searched", "q35")
    monkeypatch.setenv("QEMUNET_PROFILE_PATH", f"/nowhere:{tmp_path / 'searched'}")
    assert profiles.load("q35", str(near)).reference == str(searched)
    assert [one.name for one in profiles.available(str(near))].count("q35") == 1


def test_a_path_is_relative_to_the_lab(near: Path, tmp_path: Path) -> None:
    """And what is remembered of it is absolute, so that a running vm's file finds it."""
    path = put(tmp_path / "hw", "mine")
    for name in ("hw/mine.toml", "./hw/mine.toml", str(path)):
        assert profiles.load(name, str(near)).reference == str(path)
    assert profiles.load("q35", str(near)).reference == "q35"


def test_it_says_itself_what_it_is(near: Path, tmp_path: Path) -> None:
    """By its key `doc`, else by its first comment."""
    put(tmp_path / "profiles", "mine", '# A comment.\ndoc = "My own."\n' + MACHINE)
    put(tmp_path / "profiles", "yours", "# A comment.\n" + MACHINE)
    assert [profiles.load(name, str(near)).doc for name in ("mine", "yours")] == ["My own.", "A comment."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[machine]\ntype = "pc"\n', "machine: nic-bus is missing"),
        ('[machine]\nnic-bus = "pci"\n', "machine: type is missing"),
        ("doc = 1\n" + MACHINE, "doc: text belongs here"),
        (MACHINE + "[network]\n", 'network: unknown table "network"'),
        (MACHINE + '[nic]\nmac = "52:54:00:00:00:01"\n', "nic.mac: a profile cannot preset this"),
        (MACHINE + "[vm.boot]\n", 'vm.boot: unknown key "boot"'),
        (MACHINE + "[vm]\nmemory = 1\n", "vm.memory: 1 is a size without a unit"),
        (MACHINE.replace('"pci"', '"pcie"'), 'machine.nic-bus: unknown nic-bus "pcie"'),
    ],
)
def test_a_wrong_profile_is_explained(near: Path, tmp_path: Path, text: str, message: str) -> None:
    """As a lab file is."""
    path = put(tmp_path / "profiles", "mine", text)
    with pytest.raises(ConfigError) as caught:
        profiles.load("mine", str(near))
    assert str(caught.value) == f"{path}: {message}"
