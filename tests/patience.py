"""How long to rest between two looks at what is to come true."""

from __future__ import annotations

import select
import time

SHORTEST, LONGEST = 0.01, 0.25  # seconds


def rest(since: float) -> None:
    """Rest three times as long as the look took that began then: what is waited for needs the processor more."""
    select.select([], [], [], min(max(SHORTEST, 3 * (time.monotonic() - since)), LONGEST))
