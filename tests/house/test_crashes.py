"""Every kind of step dies in a crash test, before it is done and after."""

from __future__ import annotations

import typing

from qemunet import steps
from tests.crash import covered


def test_every_kind_of_step_is_in_a_crash_test() -> None:
    """A new one has to be in the list of one of them, each of which sees to it that it has what its list says."""
    kinds = {kind.__name__ for kind in typing.get_args(steps.Step)}
    assert kinds - covered.EVERY == set()
    assert covered.EVERY - kinds == set()
