"""The linters run as tests, so that what a reviewer would say is said before."""

import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

TOOLS = {
    "ruff finds nothing": ["ruff", "check", "--no-cache", "."],
    "the code is formatted": ["ruff", "format", "--no-cache", "--check", "--diff", "--quiet", "."],
    "the types hold": ["mypy", "--strict"],
    "imports only go down": ["lint-imports", "--no-cache"],
}


@pytest.mark.parametrize("claim", TOOLS)
def test_a_tool_agrees(claim: str) -> None:
    """Each tool ends with 0; otherwise its own words are the failure."""
    program, *rest = TOOLS[claim]
    result = subprocess.run([BIN / program, *rest], cwd=TREE, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"not so: {claim}\n{result.stdout[-6000:]}\n{result.stderr[-2000:]}"
