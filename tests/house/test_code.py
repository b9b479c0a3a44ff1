"""The house rules that no linter knows, each read from the syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
PACKAGE = sorted((TREE / "qemunet").rglob("*.py"))
PROGRAMS = [*PACKAGE, *sorted((TREE / "tests").rglob("*.py")), TREE / ".ci/demo"]
TEXTS = {".py", ".toml", ".md", ".txt", ".sh", ".nft", ".conf", ""}
UNFINISHED = re.compile(r"\b(TO[D]O|FI[X]ME)\b")

MAX_FUNCTION = 60
MAX_MODULE = 400


def name(path: Path) -> str:
    return str(path.relative_to(TREE))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def documentation(tree: ast.Module) -> set[ast.AST]:
    """The constants that are docstrings: they may name what the code must not use."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.Module(body=[ast.Expr(value=ast.Constant() as text), *_])
                | ast.ClassDef(body=[ast.Expr(value=ast.Constant() as text), *_])
                | ast.FunctionDef(body=[ast.Expr(value=ast.Constant() as text), *_])
                | ast.AsyncFunctionDef(body=[ast.Expr(value=ast.Constant() as text), *_])
            ):
                found.add(text)
            case _:
                pass
    return found


def is_environ(node: ast.AST) -> bool:
    return ast.unparse(node) in {"os.environ", "environ"}


def forbidden_things(tree: ast.Module) -> Iterator[tuple[int, str]]:
    docstrings = documentation(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="sleep")):
                yield (
                    node.lineno,
                    "time.sleep: wait for a handshake, an event or a notification, with a deadline",
                )
            case ast.ImportFrom(module="time", names=names) if any(one.name == "sleep" for one in names):
                yield (
                    node.lineno,
                    "time.sleep: wait for a handshake, an event or a notification, with a deadline",
                )
            case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                yield node.lineno, "shell=True: argument vectors only"
            case ast.Subscript(value=value, ctx=ast.Store() | ast.Del()) if is_environ(value):
                yield node.lineno, "a write to os.environ: give the child an environment of its own"
            case ast.Call(
                func=ast.Attribute(value=value, attr="update" | "setdefault" | "pop" | "clear" | "popitem")
            ) if is_environ(value):
                yield node.lineno, "a write to os.environ: give the child an environment of its own"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen" | "putenv" as call)):
                yield node.lineno, f"os.{call}"
            case ast.Constant(value=str() as text) if "/sys/class/net" in text and node not in docstrings:
                yield node.lineno, "/sys/class/net: what is mounted there may belong to another namespace"
            case _:
                pass


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_a_module_does_nothing_forbidden(path: Path) -> None:
    """No sleep, no shell string, no write to the environment, no sysfs of another namespace."""
    found = [f"{name(path)}:{line}: {what}" for line, what in forbidden_things(tree_of(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", PROGRAMS, ids=name)
def test_functions_are_short(path: Path) -> None:
    """Thinking and acting in one function is how they become long."""
    functions = (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    sizes = {f"{name(path)}:{one.lineno} {one.name}": (one.end_lineno or 0) - one.lineno + 1 for one in functions}
    assert not {what: size for what, size in sizes.items() if size > MAX_FUNCTION}


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_modules_are_short(path: Path) -> None:
    """One responsibility fits on a few screens."""
    assert len(path.read_text().splitlines()) <= MAX_MODULE


@pytest.mark.parametrize("path", PROGRAMS, ids=name)
def test_a_module_says_what_it_is_responsible_for(path: Path) -> None:
    """The first line is a docstring of one sentence."""
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, f"{name(path)} has no docstring"
    first = docstring.splitlines()[0]
    assert first.endswith("."), f"{name(path)}: the first line is not a sentence: {first!r}"
    assert ". " not in first, f"{name(path)}: the first line is more than one sentence: {first!r}"


def test_nothing_is_marked_unfinished() -> None:
    """What is not done is an issue, not a comment."""
    folders = ["qemunet", "tests", "profiles", "ifup_scripts", "examples", "docs", ".ci"]
    files = [path for folder in folders for path in sorted((TREE / folder).rglob("*")) if path.suffix in TEXTS]
    files += [path for path in sorted(TREE.glob("*")) if path.suffix in TEXTS]
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found, "\n".join(found)
