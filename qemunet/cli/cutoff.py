"""What is said when a keeper was asked to change something and its answer never came: it does not stop half-way."""

from __future__ import annotations

import contextlib
import typing

from qemunet import interrupts
from qemunet.errors import Interrupted, QemunetError
from qemunet.live.control import Lost

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.live.control import Control, Message

_BACK = 20.0  # seconds for a keeper to take something back


@contextlib.contextmanager
def cut_off(see: str) -> Iterator[None]:
    """Tell, of an interrupt or a keeper that dies within, that the change may come true, and how to `see` that."""
    hint = _all_the_same(see)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint=hint) from None
    except (Interrupted, Lost) as error:
        error.hint = hint
        raise


def ask(keeper: Control, verb: str, see: str, **arguments: object) -> Message:
    """Ask for a change and return the answer, however long it takes.

    An interrupt has it taken back, and raises Interrupted when the keeper has said what is so; a second one is not
    waited for.
    """
    interrupts.install()
    try:
        return keeper.ask(verb, within=None, **arguments)
    except (Interrupted, KeyboardInterrupt):
        interrupts.forget()
        raise _last_word(keeper, see) from None
    except Lost as error:
        error.hint = _all_the_same(see)
        raise


def ask_for_good(keeper: Control, verb: str, see: str, stands: str, **arguments: object) -> Message:
    """Ask for a change that an interrupt does not take back, and then say what `stands`."""
    interrupts.install()
    try:
        return keeper.ask(verb, within=None, **arguments)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(f"interrupted; {stands}", hint=see) from None
    except Lost as error:
        error.hint = _all_the_same(see)
        raise


def _last_word(keeper: Control, see: str) -> Interrupted:
    """Return what there is to say when a keeper has taken back what it was asked for."""
    try:
        keeper.withdraw(_BACK)
    except Interrupted as error:
        if not interrupts.pending():
            return error
    except QemunetError as error:
        return Interrupted(f"interrupted ({error})", hint=see)
    else:
        return Interrupted("interrupted, but it was done already", hint=see)
    return Interrupted("interrupted", hint=_all_the_same(see))


def _all_the_same(see: str) -> str:
    return f"it may be done all the same: {see}"
