"""What is loaded when it is first used is what type checkers believe it to be: they do not see the difference."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest

from qemunet import steps
from qemunet.config import keys
from qemunet.later import later

TREE = Path(__file__).parents[2]


def promised() -> Iterator[tuple[str, str, str, set[str]]]:
    """Yield where a module is to be loaded later: file, name, the module, and the modules that checkers are told of."""
    for path in sorted((TREE / "qemunet").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                told = {
                    f"{one.module}.{name.name}"
                    for one in node.body
                    if isinstance(one, ast.ImportFrom)
                    for name in one.names
                }
                for one in node.orelse:
                    match one:
                        case ast.Assign(
                            targets=[ast.Name(id=name)],
                            value=ast.Call(func=ast.Name(id="later"), args=[ast.Constant(value=str(module))]),
                        ):
                            yield str(path.relative_to(TREE)), name, module, told


PROMISED = list(promised())


@pytest.mark.parametrize(("file", "name", "module", "told"), PROMISED, ids=[f"{one[0]}-{one[1]}" for one in PROMISED])
def test_a_module_that_is_loaded_later_is_the_one_of_that_name(
    file: str, name: str, module: str, told: set[str]
) -> None:
    assert module.rpartition(".")[2] == name
    assert module in told, f"{file}: type checkers are told of another {name}"
    assert util.find_spec(module) is not None


def test_every_module_that_is_loaded_later_is_looked_at_here() -> None:
    """Written otherwise, one would be passed over."""
    written = sum(path.read_text().count(" = later(") for path in (TREE / "qemunet").rglob("*.py"))
    assert written == len(PROMISED) + 1  # and the example of how it is done


def test_the_vocabulary_and_the_tables_of_keys_are_there_to_the_last_word() -> None:
    assert all(getattr(module, name) is not None for module in (steps, keys) for name in module.__all__)
    for module in (steps, keys):
        with pytest.raises(AttributeError, match=r"there is no \w+ Nonsense"):
            module.Nonsense  # noqa: B018


def test_what_a_later_module_does_not_have_is_missing_as_ever() -> None:
    module = later("qemunet.model.names")
    assert module.ifname is not None
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018
