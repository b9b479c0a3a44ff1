"""A plan for people, scope by scope, and as a table for programs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from qemunet.plan.words import by_option
from qemunet.steps import Plan, StartQemu, Step, Word

_SHOWN = {"-machine": "", "-m": "", "-accel": "accel "}


def text(plan: Plan) -> str:
    """Return the plan with a line per step, the steps of a scope below its name."""
    blocks = []
    for scope, parts in groupby(plan.parts(), key=lambda part: part.scope):
        lines = [f"  {_shown(step)}" for part in parts for step in part.steps]
        blocks += [f"{scope}\n" + "\n".join(lines)] if lines else []
    return "\n\n".join(blocks) + "\n" if blocks else "nothing to do\n"


def table(plan: Plan) -> list[dict[str, str]]:
    """Return what ``plan --json`` prints: per step its scope, itself, and the same as shell lines."""
    return [
        {"scope": part.scope, "step": step.describe(), "shell": "\n".join(step.shell())}
        for part in plan.parts()
        for step in part.steps
    ]


def options(argv: tuple[Word, ...]) -> Iterator[str]:
    """Yield a command line readably: each option with its values, one a line."""
    yield from (" ".join(map(str, words)) for words in by_option(argv))


def _shown(step: Step) -> str:
    """Say a step; of QEMU's many options only what a reader wonders about first."""
    if not isinstance(step, StartQemu):
        return step.describe()
    given = {str(words[0]): str(words[1]) for words in by_option(step.argv) if len(words) > 1}
    shown = (label + given[name].partition(",")[0] for name, label in _SHOWN.items() if name in given)
    return f"{step.describe()} ({', '.join(shown)})"
