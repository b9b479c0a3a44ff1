"""Measures the host's time stamp counter, for guests that cannot.

Under emulation a guest's counter runs as the host's. A Linux guest measures it once, early, against the timer chip, and
a busy host spoils that. On pc and q35 there are other clocks to fall back to; a microvm with ACPI has none, and without
the frequency it waits for a tick that never comes. ``tsc_early_khz=N`` on its kernel command line gives it the answer.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")
SPAN = 5_000_000  # nanoseconds; the clock is read to some 100 of them
TRIES = 5


def kernel_word() -> str:
    """Return ``tsc_early_khz=N`` for the kernel command line of an emulated guest, empty where it cannot be known.

    Takes 5 ms.
    """
    khz = tsc_khz()
    return "" if khz is None else f"tsc_early_khz={khz}"


def tsc_khz() -> int | None:
    """Return the counter's frequency in kHz, None on another processor or where code cannot be made at run time."""
    if os.uname().machine != "x86_64":
        return None
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
            page.write(READ_COUNTER)
            anchor = ctypes.c_char.from_buffer(page)
            read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
            counters, nanoseconds = _elapsed(read)
            del read, anchor  # else the page could not be closed
    except OSError:  # a host that forbids memory both writable and executable
        return None
    return round(counters * 1_000_000 / nanoseconds)


def _elapsed(read: ctypes._FuncPointer) -> tuple[int, int]:
    start_counter, start_time = _moment(read)
    end_counter, end_time = start_counter, start_time
    while end_time - start_time < SPAN:  # nothing to wait for: the way is the measurement
        end_counter, end_time = _moment(read)
    return end_counter - start_counter, end_time - start_time


def _moment(read: ctypes._FuncPointer) -> tuple[int, int]:
    """Return counter and clock of one moment: of several readings, the one between which the least time went by."""
    readings = []
    for _ in range(TRIES):
        before = read()
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        after = read()
        readings.append((after - before, (before + after) // 2, now))
    _, counter, now = min(readings)
    return counter, now
