"""The README shows a lab, its plan and the commands; all three are what they are here."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from qemunet.cli.catalog import COMMANDS
from qemunet.cli.main import main

TREE = Path(__file__).parents[2]
README = (TREE / "README.md").read_text()


def block(kind: str) -> str:
    """The first block of that kind."""
    match = re.search(rf"^```{kind}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert match, f"no block ```{kind}"
    return match[1]


def test_the_lab_is_valid_and_the_plan_is_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line that is shown is in the plan, in this order; … stands for anything."""
    monkeypatch.setenv("QEMUNET_RUNTIME_DIR", str(tmp_path / "run"))
    file = tmp_path / "pair.toml"
    file.write_text(block("toml"))
    assert main(["plan", str(file)]) == 0
    plan = iter(capsys.readouterr().out.splitlines())
    for shown in filter(None, block("text").splitlines()):
        assert any(fnmatchcase(line, shown.replace("…", "*")) for line in plan), f"not in the plan: {shown}"


def test_the_lab_fits_a_glance() -> None:
    """Fifteen lines, give or take the empty ones."""
    assert len([line for line in block("toml").splitlines() if line]) <= 15


def test_every_command_is_in_the_table_and_no_other() -> None:
    """What is listed exists, and what exists is listed."""
    table = re.search(r"^\| command \|.*?\n\n", README, re.DOTALL | re.MULTILINE)
    assert table
    quoted = re.findall(r"`([a-z][a-z ]*[a-z])", "\n".join(row.split(" | ")[0] for row in table[0].splitlines()))
    assert set(quoted) == set(COMMANDS)


def test_the_links_lead_somewhere() -> None:
    """To files of this tree."""
    for path in re.findall(r"\]\(([^)#]+)\)", README):
        assert (TREE / path).exists(), path
