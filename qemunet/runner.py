"""Performs plans and takes them back; nothing else ever performs a step.

Theory of operation. `apply` writes the intent of each step, with its undo computed from the photograph taken before,
performs it, and writes that it is done. A failure, ^C included, is passed on as it is: whoever called decides
which scopes to take back, because a shared scope stays while others use it. `unwind` is the only road back: it reads a
journal newest first, performs each undo, goes on after errors and collects them, and takes what is already gone as
done. A failed step, ^C, ``down``, ``gc`` and recovery after ``kill -9`` all take it.
"""

from __future__ import annotations

import errno
import os
from itertools import groupby

from qemunet import interrupts, steps
from qemunet.errors import Gone, NotFound, QemunetError, StepFailed, Taken
from qemunet.steps import CreateImage, DelGroup, DelLink, RunHook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    from qemunet.facts import Facts, Wanted
    from qemunet.journal import Journal, Owed
    from qemunet.steps import Step

    class Host(Protocol):
        """Something that can be photographed and changed: the machine, a namespace of it, or a fake."""

        def photograph(self, wanted: Wanted) -> Facts:
            """Look at the host."""

        def perform(self, step: Step) -> None:
            """Do one step. Raises QemunetError, OSError, or Gone if there is nothing to undo any more.

            `Taken` promises that nothing was done, so that nothing of whoever was there first is ever taken back.
            """


def apply(
    plan: Iterable[Step], before: Facts, host: Host, journal: Journal, *, about: str = "", operation: int = 0
) -> list[int]:
    """Do the steps in order; return the numbers of records that are for good once the guest runs.

    `about` names the card that they are for, `operation` the live change of which they are a part. Raises what a step
    raises, an OSError as `StepFailed`; what was done so far is in the journal.
    """
    lasting = []
    for step in plan:
        interrupts.check()
        number = journal.intent(step, step.inverse(before), about, operation)
        try:
            host.perform(step)
        except OSError as error:
            journal.mark(number, "failed")
            raise StepFailed(step.describe(), why(error)) from error
        except Taken:
            journal.mark(number, "undone")  # nothing was done, and what is there is somebody else's
            raise
        except Gone as error:
            journal.mark(number, "failed")
            raise NotFound(str(error)) from error
        except BaseException:
            journal.mark(number, "failed")
            raise
        journal.mark(number, "done")
        if isinstance(step, CreateImage):
            lasting.append(number)
    return lasting


def unwind(
    journal: Journal, host: Host, *, started: bool = False, which: Callable[[Owed], bool] = lambda owed: True
) -> list[Exception]:
    """Undo all that the journal owes, newest first; return the errors of what could not be undone.

    It goes on after errors, unless what an interface had cannot be given back: the bridge that has it is left then.

    `started`: the guest ran, so what was made for good stays. `which` picks a part of it.
    """
    failures: list[Exception] = []
    for step, owed in _merged([one for one in journal.owed(started=started) if which(one)]):
        failure = undo(step, host)
        if failure is not None:
            failures.append(failure)
            if isinstance(step, steps.PutAddress | steps.PutRoute):
                break  # until somebody can have it back, whoever has it now stays
            if not isinstance(steps.bare(step), RunHook):  # the user's program was run, and is not run again
                continue
        for one in owed:
            journal.mark(one.number, "undone")
    return failures


def undo(step: Step, host: Host) -> Exception | None:
    """Do a step that takes something back; return the error if it cannot be. What is not there is no error."""
    try:
        with interrupts.deferred():
            host.perform(step)
    except Gone:
        pass
    except (OSError, QemunetError) as error:
        is_still_there = isinstance(error, Taken) and isinstance(steps.bare(step), steps.AddAddress | steps.Divert)
        return None if is_still_there else _explained(step, error)
    return None


def why(error: OSError) -> str:
    """Say an operating system error in the words of errno(3)."""
    name = errno.errorcode.get(error.errno or 0, "")
    reason = error.strerror or str(error) or os.strerror(error.errno or 0)
    return f"{reason} ({name})" if name else reason


def _merged(owed: list[Owed]) -> Iterator[tuple[Step, list[Owed]]]:
    """Join neighbouring deletions of one scope's links: the kernel waits once for all of them together."""
    for key, group in groupby(
        owed, key=lambda one: one.undo.mark.group if isinstance(one.undo, DelLink) else -one.number
    ):
        members = list(group)
        links = tuple(one.undo for one in members if isinstance(one.undo, DelLink))
        yield (DelGroup(links) if key > 0 and len(links) > 1 else members[0].undo), members


def _explained(step: Step, error: OSError | QemunetError) -> Exception:
    return StepFailed(step.describe(), why(error)) if isinstance(error, OSError) else error
