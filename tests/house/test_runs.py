"""What a run of tests promises, with one process and with workers: no skip, no warning and no hang goes unnoticed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import workers

TREE = Path(__file__).parents[2]
WAYS = [(), ("-n", "2")]
CLOSING = re.compile(r"=* .*\b\d+ (passed|failed|skipped)\b.* in [0-9.]+s.* =*")
UNLISTED = "NOT LISTED in tests/skips.txt, so this run fails: "
WRONG = """
import threading
import warnings

def test_warns():
    warnings.warn("x")

def test_leaks():
    open(__file__)

def test_hangs():
    threading.Event().wait()

def test_good():
    pass
"""
SKIPS_ALL = """
import pytest

def skip():
    pytest.skip("not here", allow_module_level=True)
"""
SKIPPING = """
import pytest

@pytest.fixture
def nowhere():
    pytest.skip("no such place")

def test_known():
    pytest.skip("known to be so")

def test_unknown(nowhere):
    pass

def test_good():
    pass
"""


class Tree:
    """A tree with tests of its own under our rules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tests = folder / "tests"
        self.tests.mkdir()
        shutil.copy(TREE / "pyproject.toml", folder)
        for name in ("conftest.py", "workers.py"):
            shutil.copy(TREE / "tests" / name, self.tests)
        (self.tests / "skips.txt").write_text("tests/unit/*::test_known* | it is known\n")

    def write(self, name: str, text: str) -> None:
        path = self.tests / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def run(self, *options: str) -> tuple[int, list[str]]:
        """Run all; return the exit status and the lines that were printed, of which the last is the closing line."""
        needless = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]  # the latter takes most of the time
        argv = [sys.executable, "-m", "pytest", *needless, *options, "tests"]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, timeout=200)
        lines = done.stdout.splitlines() or [done.stderr]
        assert CLOSING.fullmatch(lines[-1]), done.stdout + done.stderr
        return done.returncode, lines


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_a_skip_that_is_not_listed_fails_the_run(tree: Tree, way: tuple[str, ...]) -> None:
    """All are printed with their reasons; so are modules, even those that the same line of a third one skips."""
    tree.write("unit/test_some.py", SKIPPING)
    tree.write("skipping.py", SKIPS_ALL)
    for name in ("one", "two"):
        tree.write(f"unit/test_{name}.py", "from tests.skipping import skip\nskip()\n")
    status, lines = tree.run(*way)
    assert status == 1
    assert "tests/unit/test_some.py::test_known: known to be so" in lines
    assert sorted(line.partition(UNLISTED)[2] for line in lines if line.startswith(UNLISTED)) == [
        "tests/unit/test_one.py: not here",
        "tests/unit/test_some.py::test_unknown: no such place",
        "tests/unit/test_two.py: not here",
    ]
    assert "1 passed" in lines[-1]


@pytest.mark.parametrize("way", WAYS)
def test_skips_that_are_listed_fail_nothing(tree: Tree, way: tuple[str, ...]) -> None:
    tree.write("unit/test_some.py", SKIPPING.replace("def test_unknown(nowhere)", "def test_known_too(nowhere)"))
    status, lines = tree.run(*way)
    assert status == 0
    assert "tests/unit/test_some.py::test_known: known to be so" in lines
    assert "tests/unit/test_some.py::test_known_too: no such place" in lines


@pytest.mark.parametrize("way", WAYS)
def test_a_warning_is_an_error_and_a_test_that_hangs_is_ended(tree: Tree, way: tuple[str, ...]) -> None:
    """Those of files that nobody closed as well; the tests after it are run."""
    tree.write("unit/test_some.py", WRONG)
    status, lines = tree.run("-o", "timeout=5", *way)
    assert status == 1
    assert "3 failed, 1 passed" in lines[-1]
    assert any("Timeout" in line for line in lines)


def test_a_file_stays_with_one_worker_and_the_long_ones_come_first(tree: Tree) -> None:
    """But where tests share nothing, both workers have some."""
    for name in ("unit/test_a.py", "unit/test_b.py", "guest/test_c.py", "crash/test_crash.py"):
        text = "import pytest\n\n@pytest.mark.parametrize('number', range(8))\ndef test_it(number):\n    pass\n"
        tree.write(name, text)
    lines = tree.run("-n", "2", "-v")[1]
    found = [re.match(r"\[(gw\d)\].* PASSED tests/(\S+?)::", line) for line in lines]
    dealt = [(one[2], one[1]) for one in found if one]
    assert len(dealt) == 32
    by_file = {file: {worker for name, worker in dealt if name == file} for file, _ in dealt}
    assert {file for file, of in by_file.items() if len(of) > 1} == {"crash/test_crash.py"}
    for each in ("gw0", "gw1"):  # they do not wait for each other
        folders = [name.partition("/")[0] for name, worker in dealt if worker == each]
        assert folders == sorted(folders, key=("crash", "guest", "unit").index)


def test_what_is_dealt_test_by_test_is_there() -> None:
    """A file that was renamed would be dealt as a whole, unnoticed; so would be a folder last."""
    assert [glob for glob in workers.ONE_BY_ONE if not list(TREE.glob(glob))] == []
    assert [folder for folder in workers.ORDER if not list((TREE / "tests" / folder).glob("test_*.py"))] == []
