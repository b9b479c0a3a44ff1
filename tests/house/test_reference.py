"""The reference of the Python API is what its docstrings say, and the programs that go with it are sound."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemunet import api, sync

TREE = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
REFERENCE = TREE / "docs" / "api.md"
PROGRAMS = sorted((TREE / "examples" / "python").glob("*.py"))
ORDER = ["open", "Lab", "Vm", "Nic", "NicKeys", "Console", "Events", "Event", "Ending", "Status", "Change", "Address"]
BEFORE_NAMES = re.compile(r"\b(typing|re|t)\.(?=[A-Z])")


def text_of(thing: object) -> str:
    """A docstring as Markdown: an indented block after ``::`` is a program, double backticks are single ones."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(
        r"::\n\n((?: {4}.*\n|\n)+)", lambda block: f"```python\n{textwrap.dedent(block[1]).strip()}\n```\n\n", text
    )
    return re.sub(r"(?<!`)``(?!`)", "`", text).strip()


def signature(name: str, thing: object) -> str:
    found = inspect.signature(thing)  # type: ignore[arg-type]
    words = str(found.replace(parameters=[one for one in found.parameters.values() if one.name != "self"]))
    return name + BEFORE_NAMES.sub("", re.sub(r"(?<=: |> )'([^']*)'", r"\1", words))


def members(thing: type) -> Iterator[tuple[str, object]]:
    for name, member in vars(thing).items():
        if not name.startswith(("_", "from_", "list_", "plugged")) and inspect.isfunction(member):
            yield name, member


def fields(thing: type) -> str:
    """What a value has, or a call takes, by its type."""
    every = {name: kind for one in reversed(thing.__mro__) for name, kind in inspect.get_annotations(one).items()}
    types = {name: BEFORE_NAMES.sub("", str(getattr(kind, "__forward_arg__", kind))) for name, kind in every.items()}
    return "\n".join(["```python", *(f"{name}: {kind}" for name, kind in types.items()), "```"])


def section(name: str) -> Iterator[str]:
    thing = getattr(api, name)
    if inspect.isfunction(thing):
        yield f"## qemunet.{name}\n\n```python\n{signature(f'qemunet.{name}', thing)}\n```\n\n{text_of(thing)}"
        return
    yield f"## {name}\n\n{text_of(thing)}"
    if vars(thing).get("__annotations__") and not list(members(thing)):
        yield fields(thing)
    for method, member in members(thing):
        kind = "await " if inspect.iscoroutinefunction(member) else ""
        yield f"```python\n{kind}{signature(method, member)}\n```\n\n{text_of(member)}"


def reference() -> str:
    head = ["# The Python API", "Made from the docstrings by tests/house/test_reference.py.", text_of(api)]
    parts = [*head, "## qemunet.sync", text_of(sync), *(part for name in ORDER for part in section(name))]
    ruff = [BIN / "ruff", "format", "--stdin-filename", REFERENCE, "-"]  # it looks at programs in documents, too
    return subprocess.run(ruff, input="\n\n".join(parts) + "\n", capture_output=True, text=True, check=True).stdout


def test_the_reference_is_what_the_docstrings_say(request: pytest.FixtureRequest) -> None:
    """`pytest tests/house/test_reference.py --update-golden` writes it anew."""
    if request.config.getoption("--update-golden"):
        REFERENCE.write_text(reference())
    assert REFERENCE.read_text() == reference()


def test_the_reference_has_everything_that_is_public() -> None:
    """But for what nobody makes or names: `Opening`, and `How`, which is a word."""
    assert {*ORDER, "Opening", "How"} == set(api.__all__)


def test_the_programs_and_their_lab_are_sound() -> None:
    """Types and all, as for whoever checks his own."""
    done = subprocess.run([BIN / "mypy", "--strict", *PROGRAMS], cwd=TREE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for command in ("check", "plan"):
        words = [BIN / "qemunet", command, "examples/python/cards.toml"]
        assert subprocess.run(words, cwd=TREE, capture_output=True).returncode == 0
