"""What a bad network does to packets: a card has it both ways."""

from __future__ import annotations

from qemunet.frozen import frozen

ALL = 1_000_000  # of so many packets
UNITS = (("s", 1_000_000), ("ms", 1_000), ("us", 1))  # in microseconds


@frozen
class Impairment:
    """Each way (tc-netem(8)): microseconds, and how many of a million packets."""

    delay: int = 0
    jitter: int = 0  # by which the delay varies, more or less
    loss: int = 0
    duplicate: int = 0
    corrupt: int = 0
    reorder: int = 0  # are sent at once; the others have the delay


TIMES, SHARES = ("delay", "jitter"), ("loss", "duplicate", "corrupt", "reorder")


def time_text(microseconds: int) -> str:
    """Return a time in the largest unit without a fraction: ``20ms``."""
    return next(f"{microseconds // size}{unit}" for unit, size in UNITS if not microseconds % size)


def share_text(share: int) -> str:
    """Return how many of a million as a percentage: ``0.1%``."""
    whole, rest = divmod(share, ALL // 100)
    fraction = f"{rest:04}".rstrip("0")
    return f"{whole}.{fraction}%" if fraction else f"{whole}%"


def words(impairment: Impairment) -> dict[str, str]:
    """Return it as a lab file has it."""
    times = {key: time_text(one) for key in TIMES if (one := getattr(impairment, key))}
    return times | {key: share_text(one) for key in SHARES if (one := getattr(impairment, key))}


def text(impairment: Impairment) -> str:
    """Say it: ``delay 20ms, loss 1%``."""
    return ", ".join(f"{key} {one}" for key, one in words(impairment).items())
