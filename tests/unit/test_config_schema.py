"""The reference of keys is made of the table of keys, and is the one in docs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemunet.cli.main import main
from qemunet.config import keys, schema

PAGE = Path(__file__).parents[2] / "docs" / "lab-file.md"


def test_the_page_is_up_to_date() -> None:
    """`qemunet schema --markdown >docs/lab-file.md` makes it so."""
    assert PAGE.read_text() == schema.markdown()


@pytest.mark.parametrize("table", [keys.LAB, keys.NETWORK, keys.VM, *map(keys.sub_table, keys.SUB_TABLES)])
def test_every_key_has_its_line(table: keys.Table) -> None:
    """With its documentation, in a table of four columns."""
    section = schema.markdown().partition(f"## `{table.title}`")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [*table.keys]
    assert all(row.count("|") == 5 for row in rows)
    assert all(key.doc in row for key, row in zip(table.keys.values(), rows, strict=True))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is in the page."""
    assert main(["schema", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()
