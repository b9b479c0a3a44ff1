"""`plan`, `check`, `show` and the helpers as an ordinary user meets them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qemunet.cli import helpers
from qemunet.cli.main import main
from qemunet.errors import UsageError

Output = pytest.CaptureFixture[str]
LAB = """\
[network.lab]
[vm.one]
boot.kernel = "vmlinuz"
[[vm.one.nic]]
network = "lab"
[vm.two]
boot.kernel = "vmlinuz"
[[vm.two.nic]]
mode = "user"
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "vmlinuz").touch()
    file = tmp_path / "shop.toml"
    file.write_text(LAB)
    return str(file)


def printed(capsys: Output, *argv: str) -> str:
    assert main(argv) == 0
    return capsys.readouterr().out


def test_a_plan_is_printed_and_nothing_is_made(lab: str, capsys: Output) -> None:
    """For people, for programs and for a shell."""
    text = printed(capsys, "plan", lab)
    assert "add bridge qn-lab" in text
    assert "start QEMU of one" in text
    rows = json.loads(printed(capsys, "plan", lab, "--json"))
    assert all(set(row) >= {"step", "shell"} for row in rows)
    script = printed(capsys, "plan", lab, "--shell")
    assert script.startswith("#!/bin/sh")
    assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0
    assert sorted(os.listdir(Path(lab).parent)) == ["shop.toml", "vmlinuz"]


NOTE = "note: vm.two.nic[0]: in user mode ping may find nobody though TCP and UDP do\n"


@pytest.mark.parametrize("command", [["check"], ["plan"], ["plan", "--shell"]])
def test_what_surprises_people_is_noted_beside_the_data(lab: str, capsys: Output, command: list[str]) -> None:
    """On stderr, so that a script or a plan can go to a file."""
    assert main([*command, lab]) == 0
    said = capsys.readouterr()
    assert NOTE in said.err
    assert "note: vm" not in said.out


@pytest.mark.parametrize("command", ["check", "plan"])
def test_programs_get_no_notes(lab: str, capsys: Output, command: str) -> None:
    """JSON, and nothing else."""
    assert main([command, lab, "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_a_plan_for_some_vms_leaves_the_others_out(lab: str, capsys: Output) -> None:
    """And the networks that only those need."""
    text = printed(capsys, "plan", lab, "two")
    assert "vm/two" in text
    assert "vm/one" not in text
    assert "qn-lab" not in text
    assert main(["plan", lab, "three"]) == 4


def test_set_changes_one_value(lab: str, capsys: Output) -> None:
    """In the plan as in what is shown, with its origin."""
    assert 'memory = "1G"' in printed(capsys, "show", lab, "--set", "vm.one.memory=1G")
    assert main(["plan", lab, "--set", "vm.one.memry=1G"]) == 2
    assert 'did you mean "memory"?' in capsys.readouterr().err


def test_check_is_silent_on_stdout(lab: str, capsys: Output) -> None:
    """It has no data; with --json it has."""
    assert main(["check", lab]) == 0
    assert capsys.readouterr() == ("", f"{NOTE}{lab} is a valid lab: shop, 2 vms, 1 network\n")
    assert json.loads(printed(capsys, "check", lab, "--json"))["vms"] == ["one", "two"]


def test_what_show_prints_is_a_lab_again(lab: str, capsys: Output, tmp_path: Path) -> None:
    """With every default spelled out it means the same."""
    shown = printed(capsys, "show", lab)
    again = tmp_path / "again.toml"
    again.write_text(shown)
    assert main(["check", str(again)]) == 0


@pytest.mark.parametrize("command", ["run", "plan", "check", "show"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        (b"", ""),
        (b"\xff\xfe", "not UTF-8"),
        (b"vm = 1", "vm"),
        (b"[vm.one]\nmemory = 512", "memory"),
        (b"[vm.one]\nmemori = '512M'", 'did you mean "memory"'),
        (b"[vm.'../../etc']", ""),
        (b"a = " + b"[" * 10000, ""),
        (b"[vm.one]\nprofile = '/'", ""),
        (b"[vm.one.boot]\nkernel = '\\u0000'", ""),
        (b'[vm.one.boot]\nkernel = "a\\u0000b"', ""),
        (b"[vm.one]\ncpus = 99999999999999999999999", "cpus"),
        (b"[vm.one]\ncpus = nan", "cpus"),
        (b"[vm.one]\nmemory = '9999999999999999999T'", "memory"),
    ],
)
def test_a_wrong_file_ends_with_2_and_no_traceback(
    command: str, content: bytes | None, problem: str, tmp_path: Path
) -> None:
    """Whatever is in it."""
    file = tmp_path / "lab.toml"
    if content is not None:
        file.write_bytes(content)
    env = {**os.environ, "QEMUNET_RUNTIME_DIR": str(tmp_path / "run")}
    argv = [sys.executable, "-m", "qemunet", command, str(file)]
    result = subprocess.run(argv, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=60)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert problem in result.stderr
    assert "Traceback" not in result.stderr
    assert "mistake in qemunet" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["/", "/dev/null/lab.toml", "/proc/self/mem", "x" * 5000, "a\nb.toml"])
def test_a_file_that_is_none_ends_with_2(place: str, capsys: Output) -> None:
    """A directory, a file as a directory, a device, a name that no file can have."""
    assert main(["check", place]) == 2
    assert "mistake in qemunet" not in capsys.readouterr().err


# ---------------------------------------------------------------- helpers


def test_macs_are_different_unicast_addresses_below_their_prefix(capsys: Output, lab: str) -> None:
    """52:54:00 unless told otherwise; as many as were asked for."""
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}\n", printed(capsys, "mac"))
    many = json.loads(printed(capsys, "mac", "-n", "50", "--prefix", "DE-AD", "--json"))
    assert len(set(many)) == 50
    assert all(re.fullmatch(r"de:ad(:[0-9a-f]{2}){4}", mac) for mac in many)


def test_a_mac_that_a_guest_has_is_not_given_again() -> None:
    """One octet leaves 256 addresses; what is taken is never among them."""
    taken = {f"52:54:00:00:00:{octet:02x}" for octet in range(250)}
    found = helpers.random_macs(1, "52:54:00:00:00", taken)
    assert not taken.intersection(found)


def test_too_many_macs_are_refused() -> None:
    """There are no 300 addresses below five octets."""
    with pytest.raises(UsageError, match="there are not 300"):
        helpers.random_macs(300, "52:54:00:00:00", ())


@pytest.mark.parametrize("prefix", ["53", "xx", "52:54:00:12:34:56", ""])
def test_a_prefix_that_is_none_ends_with_2(prefix: str, capsys: Output, lab: str) -> None:
    """A multicast bit, letters that are none, a whole address, nothing."""
    assert main(["mac", "--prefix", prefix]) == 2


def test_profiles_are_listed_with_what_they_are_for(capsys: Output, lab: str) -> None:
    """Their first comment says it."""
    found = {one["name"]: one for one in json.loads(printed(capsys, "profiles", "--json"))}
    assert {"q35", "pc", "microvm", "legacy"} <= set(found)
    assert all(one["doc"] for one in found.values())


def test_the_schema_is_json(capsys: Output) -> None:
    """An editor reads it."""
    assert "properties" in json.loads(printed(capsys, "schema"))
