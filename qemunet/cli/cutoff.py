"""What is said when a keeper was asked to change something and its answer never came: it does not stop half-way."""

from __future__ import annotations

import contextlib
import typing

from qemunet.errors import Interrupted
from qemunet.live.control import Lost

if typing.TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def cut_off(see: str) -> Iterator[None]:
    """Tell, of an interrupt or a keeper that dies within, that the change may come true, and how to `see` that."""
    hint = f"it may be done all the same: {see}"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint=hint) from None
    except (Interrupted, Lost) as error:
        error.hint = hint
        raise
