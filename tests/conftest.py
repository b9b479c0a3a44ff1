"""Makes every skip visible: all are printed, and one that tests/skips.txt does not list fails the run.

With `pytest -n` that is done where the workers' reports come together, and the tests are dealt out by tests/workers.py.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests import workers

SKIPS = Path(__file__).with_name("skips.txt")


def known_skips(text: str) -> list[str]:
    """The globs of skips.txt; a line without a reason is refused."""
    globs = []
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        glob, _, reason = (part.strip() for part in line.partition(" | "))
        if not reason:
            raise pytest.UsageError(f"{SKIPS.name}: no reason given in {line!r}")
        globs.append(glob)
    return globs


def matches(test: str, globs: list[str]) -> bool:
    """Square brackets are part of a parametrised test's id, never a character class."""
    return any(fnmatchcase(test, glob.replace("[", "[[]")) for glob in globs)


class Skips:
    """Collects the skips of one run."""

    def __init__(self) -> None:
        self.known = known_skips(SKIPS.read_text())
        self.seen: dict[str, str] = {}

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.seen[report.nodeid] = reason.removeprefix("Skipped: ")

    pytest_runtest_logreport = note
    pytest_collectreport = note

    def unlisted(self) -> list[str]:
        return [test for test in self.seen if not matches(test, self.known)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker has seen: of the collections' reports only those come by themselves that differ."""
        self.seen |= getattr(node, "workeroutput", {}).get("skips", {})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["skips"] = self.seen
        elif self.unlisted() and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.seen:
            terminalreporter.section("skips")
        unlisted = self.unlisted()
        for test, reason in self.seen.items():
            mark = "NOT LISTED in tests/skips.txt, so this run fails: " if test in unlisted else ""
            terminalreporter.line(f"{mark}{test}: {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what golden tests found as what they expect")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have what lasts as long as the process looked through for garbage neither while it comes to be nor ever after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: workers.rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> workers.Deal | None:
    if config.getoption("dist") != "load":  # what `-n` alone means; another choice is the caller's
        return None
    config.option.loadscopereorder = False  # our order, not that of the files with the most tests
    return workers.Deal(config, log)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(), "skips")
    heed_interrupts()
    if config.pluginmanager.hasplugin("hypothesispytest"):
        hurry_nobody()


def heed_interrupts() -> None:
    """A shell that is no terminal's has its background jobs ignore ^C, and what they start would inherit that."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def hurry_nobody() -> None:
    """On a machine that does other things as well, an example may take any time."""
    from hypothesis import settings

    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")
