"""The pytest plugin: the fixture `qemunet_lab`, its marker, and what a failing test's guests said and sent.

Nothing of qemunet is imported before a test wants a lab: whoever has it installed pays for this module only.
"""

from __future__ import annotations

import os
import re
import typing

import pytest

if typing.TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    import pluggy

    from qemunet.testing.bench import Bench
    from qemunet.testing.evidence import Evidence
    from qemunet.testing.pool import Opened, Wish

    Node = pytest.Item | pytest.Collector
    _Key = tuple[Wish, Node]

_KEYS = {"file", "scope", "set", "isolate", "around", "ready", "timeout"}
_SCOPES = ("function", "class", "module", "session")
_FIXTURE = "qemunet_lab"
_EVIDENCE: pytest.StashKey[Evidence] = pytest.StashKey()
_OPEN: pytest.StashKey[dict[_Key, Opened]] = pytest.StashKey()
_WANTED: pytest.StashKey[_Key] = pytest.StashKey()
_BASE: pytest.StashKey[Path] = pytest.StashKey()
_MARKER = (
    "qemunet_lab(file_or_text, *vms, scope='module', set=(), isolate=True, around=None, ready=True, timeout=SECONDS): "
    "the lab that the fixture of this name runs, shared by a function, a class, a module or the session"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what is set on the command line or in pytest's own file."""
    group = parser.getgroup("qemunet")
    where = "directory for the logs and packets of tests that fail (default: with pytest's temporary files)"
    group.addoption("--qemunet-artifacts", metavar="DIR", help=where)
    parser.addini("qemunet_artifacts", where, default="")
    parser.addini("qemunet_lab", "lab file of tests that have none of their own, relative to the root", default="")
    parser.addini("qemunet_timeout", "seconds until the guests of a lab have to be ready", default="120")
    parser.addini("qemunet_capture", "capture the packets of every card, for tests that fail", "bool", default=True)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", _MARKER)
    config.stash[_OPEN] = {}


@pytest.fixture
def qemunet_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The lab of the marker of this name, or the one beside the test: ``web, db = qemunet_lab``."""
    from qemunet.errors import QemunetError

    try:
        return _lab(request, tmp_path_factory.getbasetemp())
    except pytest.UsageError as error:
        problem = str(error)
    except QemunetError as error:
        problem = f"{error}\n  hint: {error.hint}" if error.hint else str(error)
    pytest.fail(problem, pytrace=False)  # where qemunet found that out is of no use to the test's author


def _lab(request: pytest.FixtureRequest, base: Path) -> Bench:
    """Return the lab, whose guests are ready, and keep what it says and sends from now on."""
    from qemunet.testing.evidence import Evidence

    item = request.node
    item.config.stash[_BASE] = base
    key = _key(item, base)
    opened = _opened(item.config, key)
    capture = item.config.getini("qemunet_capture")
    evidence = Evidence(opened.bench, _folder(item, base), str(base), capture=capture)
    item.stash[_EVIDENCE] = evidence
    request.addfinalizer(evidence.forget)
    opened.await_ready(key[0])
    return opened.bench


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """Attach what the guests said and sent to the report of a test that fails, while they are still there."""
    report = (yield).get_result()
    evidence = item.stash.get(_EVIDENCE, None)
    if evidence is not None and report.when in ("setup", "call") and report.failed:
        report.sections += list(evidence.sections())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Close the labs that no later test wants: a guest that nobody needs any more only is in the way of others."""
    result = yield
    every = item.config.stash[_OPEN]
    if every and _WANTED in item.stash:
        later = item.session.items[item.session.items.index(item) + 1 :]
        wanted = {_wanted(one, item.config.stash[_BASE]) for one in later}
        for key in [one for one in every if one not in wanted and one[1] is not item.session]:
            _close(every, key)
    return result


# ---------------------------------------------------------------- which lab


def _key(item: pytest.Item, base: Path) -> _Key:
    """Return the lab that a test wants, and the node with which it ends; raises UsageError."""
    if _WANTED not in item.stash:
        callspec = getattr(item, "callspec", None)
        item.stash[_WANTED] = _wish(item, callspec.params.get(_FIXTURE) if callspec else None, base)
    return item.stash[_WANTED]


def _wanted(item: pytest.Item, base: Path) -> _Key | None:
    """Return the lab that a test will want, if any."""
    if _FIXTURE not in getattr(item, "fixturenames", ()) and item.get_closest_marker(_FIXTURE) is None:
        return None
    try:
        return _key(item, base)
    except pytest.UsageError:  # it will say so itself
        return None


def _wish(item: pytest.Item, parameter: object, base: Path) -> tuple[Wish, Node]:
    """Return the lab that a test wants, and the node with which it ends; raises UsageError."""
    from qemunet.testing.pool import Wish

    file, vms, keys = _said(item, parameter)
    set_keys = keys.get("set", ())
    seconds = float(keys.get("timeout") or item.config.getini("qemunet_timeout")) if keys.get("ready", True) else None
    wish = Wish(
        file=_file(item, file, base),
        vms=tuple(vms),
        set=(set_keys,) if isinstance(set_keys, str) else tuple(set_keys),
        isolate=bool(keys.get("isolate", True)),
        seconds=seconds,
        around=keys.get("around"),
    )
    return wish, _node(item, keys.get("scope", "module"))


def _said(
    item: pytest.Item, parameter: object
) -> tuple[str | os.PathLike[str] | None, list[str], dict[str, typing.Any]]:
    """Return the file, the vms and the keys of the marker; what the test is parametrized with goes before those."""
    marker = item.get_closest_marker(_FIXTURE) or pytest.mark.qemunet_lab().mark
    file, *vms = marker.args or (marker.kwargs.get("file"),)
    more = parameter if isinstance(parameter, dict) else {} if parameter is None else {"file": parameter}
    keys = {**marker.kwargs, **more}
    unknown = sorted(keys.keys() - _KEYS)
    if unknown:
        raise pytest.UsageError(f"qemunet_lab: unknown {unknown[0]!r}; it takes {', '.join(sorted(_KEYS))}")
    return more.get("file", file), vms, keys


def _node(item: pytest.Item, scope: str) -> Node:
    if scope not in _SCOPES:
        raise pytest.UsageError(f"qemunet_lab: unknown scope {scope!r}; scopes are {', '.join(_SCOPES)}")
    if scope == "function":
        return item
    if scope == "session":
        return item.session
    own = item.getparent(pytest.Class) if scope == "class" else None
    return own or item.getparent(pytest.Module) or item.session


def _file(item: pytest.Item, wanted: str | os.PathLike[str] | None, base: Path) -> str:
    """Return the lab file: as named, beside the test, or that of pytest's own file; text is written into one."""
    folder = item.path.parent
    if wanted is not None and "\n" in os.fspath(wanted):
        return _written(os.fspath(wanted), base)
    if wanted is not None:
        return str(folder / wanted)
    beside = [folder / f"{item.path.stem}.toml", folder / "lab.toml"]
    found = next((path for path in beside if path.exists()), None)
    if found is not None:
        return str(found)
    named = item.config.getini("qemunet_lab")
    if not named:
        every = " nor ".join(path.name for path in beside)
        raise pytest.UsageError(f"{item.nodeid}: no lab: neither {every} is beside it, and no marker names one")
    return str(item.config.rootpath / named)


def _written(text: str, base: Path) -> str:
    """Write a lab into a file, once: tests that say the same share it."""
    import hashlib

    folder = base / f"qemunet-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    (folder / "lab.toml").write_text(text, encoding="utf-8")
    return str(folder / "lab.toml")


# ---------------------------------------------------------------- the labs that are open


def _opened(config: pytest.Config, key: _Key) -> Opened:
    """Return a lab that is open; one in which a guest has ended is closed, and opened anew."""
    from qemunet.testing.pool import Opened

    every, (wish, node) = config.stash[_OPEN], key
    if key in every and not every[key].bench.is_whole():
        every.pop(key).close()
    if key not in every:
        every[key] = Opened(wish)
        node.addfinalizer(lambda: _close(every, key))
    return every[key]


def _close(every: dict[_Key, Opened], key: _Key) -> None:
    if key in every:
        every.pop(key).close()


def _folder(item: pytest.Item, base: Path) -> str:
    """Return where the files of a test that fails go."""
    name = re.sub(r"[^\w.-]+", "-", item.nodeid).strip("-")[-150:]
    chosen = item.config.getoption("qemunet_artifacts") or item.config.getini("qemunet_artifacts")
    return str(item.config.rootpath / chosen / name if chosen else base / "qemunet" / name)
