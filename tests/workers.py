"""Deals the tests to the workers of `pytest -n`: file by file, those that take longest first.

A file stays whole, because what its tests share (guests that have booted, above all) would be made by each worker anew.
Where tests share nothing and take long, each is dealt out by itself.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling

# The folders whose files take minutes come first: the many quick ones fill what is left of each worker's time.
ORDER = ("crash", "guest", "house", "kernel", "contract", "golden", "unit")
ONE_BY_ONE = ("tests/crash/test_crash*.py", "tests/crash/test_live_storms.py", "tests/house/test_tools.py")


def share_of(test: str) -> str:
    """Return what a test, named by its id, is dealt out with."""
    file = test.partition("::")[0]
    return test if any(fnmatchcase(file, glob) for glob in ONE_BY_ONE) else file


def rank(test: str) -> int:
    """Return how early a test is dealt out; one of a folder that is not known comes first."""
    folder = PurePosixPath(test.partition("::")[0]).parent.name
    return ORDER.index(folder) if folder in ORDER else -1


class Deal(LoadScopeScheduling):
    """Deals shares in the order of the tests."""

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)
