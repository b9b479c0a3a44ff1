"""Prints what a start and what taps cost here, as ratios to the same work done by hand (``make bench``).

The contenders take turns (A B A B …), so that whatever else the machine does falls on all of them; the table has
medians of the times, and of the ratios to the first of the group in the same turn. Nothing is asserted: a clock is no
witness on a shared machine. Everything happens in a network namespace made for it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.contenders import (
    Contender,
    GuestBoot,
    IpBatchTaps,
    OurTaps,
    PlainQemu,
    QemunetRun,
    RoomyQemu,
    ScriptedQemu,
    Virsh,
)

CLONE_NEWNET = 0x4000_0000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen groups and print their tables."""
    options = parser().parse_args(argv)
    if os.geteuid() != 0:
        print("error: making links takes root\n  hint: sudo make bench", file=sys.stderr)
        return 3
    enter_namespace()
    with tempfile.TemporaryDirectory(prefix="qemunet-bench-") as scratch:
        for title, contenders in groups(Path(scratch)):
            if options.only in title:
                print_table(title, contenders, measure(contenders, options.rounds))
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    arguments.add_argument("--rounds", type=int, default=11, help="turns of each contender (default 11)")
    arguments.add_argument("--only", default="", metavar="TEXT", help="only the groups whose title contains it")
    return arguments


def enter_namespace() -> None:
    """Move this process, while it has one thread, into a new network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")


def groups(scratch: Path) -> Iterator[tuple[str, list[Contender]]]:
    """Yield each group with its contenders, the yardstick first."""
    for cards in (1, 4):
        contenders: list[Contender] = [
            PlainQemu(scratch, cards),
            QemunetRun(scratch, cards),
            RoomyQemu(scratch, cards),
            ScriptedQemu(scratch, cards, pause=False),
            ScriptedQemu(scratch, cards, pause=True),
        ]
        if shutil.which("virsh"):
            contenders.append(Virsh(scratch, cards))
        yield f"start of a guest with {cards} tap card{'s' * (cards > 1)}", contenders
    boots = {"q35": "virtio-net-pci", "pc": "virtio-net-pci", "microvm": "virtio-net-device"}
    yield "boot of the built-in guest", [GuestBoot(machine, model) for machine, model in boots.items()]
    for count in (1, 10, 100):
        yield f"{count} tap{'s' * (count > 1)} on a bridge, made and taken down", [IpBatchTaps(count), OurTaps(count)]


def measure(contenders: Sequence[Contender], rounds: int) -> list[list[tuple[float, ...]]]:
    """Let the contenders take turns; return each one's times in seconds, a tuple a turn."""
    times: list[list[tuple[float, ...]]] = [[] for _ in contenders]
    with ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(contender)
        for turn in range(rounds + 1):
            for contender, taken in zip(contenders, times, strict=True):
                result = contender.turn()
                if turn:  # the first one warms the caches
                    taken.append(result)
    return times


def cell(part: str, column: Sequence[float], base: Sequence[float]) -> str:
    """Return what the table says of one part of a contender's work."""
    ratios = [one / other for one, other in zip(column, base, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{part} {statistics.median(column) * 1000:8.1f} ms  {median:5.2f} x ({low:.2f}-{high:.2f})"


def print_table(title: str, contenders: Sequence[Contender], times: Sequence[list[tuple[float, ...]]]) -> None:
    """Print the medians in milliseconds, and those of the ratios to the first contender with their quartiles.

    A ratio is one of two times of the same turn: a machine that is shared is fast now and slow then, for all of them.
    """
    print(f"\n{title} ({len(times[0])} turns, medians; in brackets half of the ratios)")
    first = list(zip(*times[0], strict=True))
    for contender, taken in zip(contenders, times, strict=True):
        columns = zip(contenders[0].parts, zip(*taken, strict=True), first, strict=True)
        cells = [cell(part, column, base) for part, column, base in columns]
        print(f"  {contender.name:<44}{'   '.join(cells)}")
    if not shutil.which("virsh") and "start of a guest" in title:
        print("  virsh start: not measured, libvirt is not installed here")


if __name__ == "__main__":
    sys.exit(main())
