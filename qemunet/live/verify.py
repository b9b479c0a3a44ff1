"""Judges what a lab expects: tries each expectation for real, and says what came of it.

Theory of operation. What is to get through is tried again and again, at every address that is known of the target,
until it does or its time is over: one way is enough. What is to be blocked has to be blocked at every address, for as
long as it says; and that nothing came through means something only if it could have. So the target itself is seen to
answer at that address before and after, by what is to be tried, from inside; for a connection somebody has to listen
there, if need be we; and who sends must have an address of that kind. Where any of this cannot be shown the outcome is
unclear, which is no success.

A refusal is an answer: the packet was there, or somebody said so on the target's behalf. Where the target was seen to
take connections, it was somebody on the way, and the expectation holds; where nobody knows, as of a host beyond the
lab, it does not.

Expectations are tried side by side. Those that would be in each other's way, as two that need the same port, or that
count what arrives at the same guest, take turns.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import typing
from concurrent import futures
from enum import StrEnum

from qemunet import interrupts
from qemunet.errors import QemunetError
from qemunet.frozen import frozen
from qemunet.host.attempts import Attempt, Reach
from qemunet.live.spots import Unproven, family
from qemunet.model.expect import AtNetns, AtVm, Dhcp, Elsewhere, Expect, OnHost, Ping, Tcp, Udp, said, word

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qemunet.live.spots import Spot
    from qemunet.model.expect import Source, Target

    Find = Callable[[Source | Target], Spot | None]

AT_ONCE = 8  # expectations; more would only wait for each other in guests that are emulated
_ATTEMPT = 2.0  # seconds for one of several attempts
_LEAST = 10.0  # seconds for an address to become known, and for a target to show that it answers
_SETTLE = 0.3  # seconds after which it is looked whether anything has arrived
_GLANCE = 0.1  # seconds between two looks


class Verdict(StrEnum):
    """What became of an expectation."""

    HOLDS = "holds"
    FAILS = "fails"
    UNCLEAR = "unclear"  # it could not be tried, or it would mean nothing


@frozen
class Result:
    """What became of one expectation, in which time, and what was seen."""

    expect: Expect
    verdict: Verdict
    seconds: float
    seen: str

    @property
    def complaint(self) -> str:
        """What is wrong, in a sentence."""
        one = self.expect
        whom = f"{word(one.source)} {'must' if one.allow else 'must not'}"
        what = f"be offered an address{f' on {one.network}' if one.network else ''}"
        if one.target is not None:
            what = f"reach {word(one.target)} by {said(one.check)}"
        return f"{'cannot tell whether ' if self.verdict is Verdict.UNCLEAR else ''}{whom} {what}: {self.seen}"


class Turns:
    """Locks by what only one expectation at a time may use."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[object, threading.Lock] = {}

    @contextlib.contextmanager
    def of(self, expect: Expect) -> Iterator[None]:
        """Wait for the turn of an expectation."""
        key = _contested(expect)
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        while not lock.acquire(timeout=_GLANCE):
            interrupts.check()
        try:
            yield
        finally:
            lock.release()


def judge_all(expects: Sequence[Expect], find: Find) -> list[Result]:
    """Try all; return what became of each, in their order. `find` gives the place of an end, None for one beyond."""
    turns = Turns()
    with futures.ThreadPoolExecutor(AT_ONCE, thread_name_prefix="qemunet-expect") as pool:
        begun = [pool.submit(_judged, one, find, turns) for one in expects]
        try:
            while futures.wait(begun, timeout=_GLANCE).not_done:
                interrupts.check()
        except BaseException:
            for one in begun:
                one.cancel()
            raise
    return [one.result() for one in begun]


def _judged(expect: Expect, find: Find, turns: Turns) -> Result:
    with turns.of(expect):
        began = time.monotonic()
        try:
            verdict, seen = judge(expect, find)
        except QemunetError as error:
            if isinstance(error, Unproven) or error.kind != "interrupted":
                verdict, seen = Verdict.UNCLEAR, str(error)
            else:
                raise
        return Result(expect, verdict, time.monotonic() - began, seen)


def judge(expect: Expect, find: Find) -> tuple[Verdict, str]:
    """Try one expectation; return what became of it, and what was seen. Raises Unproven and any QemunetError."""
    source = find(expect.source)
    assert source is not None, "none is beyond the lab"
    if expect.target is None:
        return _of_dhcp(expect, source)
    target = find(expect.target)
    trial = _Trial(expect, source, target)
    return trial.allowed() if expect.allow else trial.blocked()


def _of_dhcp(expect: Expect, source: Spot) -> tuple[Verdict, str]:
    found = source.ask_dhcp(expect.network, expect.timeout)
    if found.reach is Reach.UNABLE:
        return Verdict.UNCLEAR, found.seen
    return (Verdict.HOLDS if (found.reach is Reach.THROUGH) == expect.allow else Verdict.FAILS), found.seen


class _Trial:
    """One expectation about a target, which is None beyond the lab."""

    def __init__(self, expect: Expect, source: Spot, target: Spot | None) -> None:
        self._expect = expect
        self._source = source
        self._target = target
        self._deadline = time.monotonic() + expect.timeout

    def allowed(self) -> tuple[Verdict, str]:
        """Try until it gets through, or its time is over."""
        seen = {"": "no address of it is known"}
        while True:
            interrupts.check()
            for address in self._addresses():
                seen.pop("", None)
                found = self._attempt(address, max(min(_ATTEMPT, self._left()), 1.0))
                if found.reach is Reach.THROUGH:
                    return Verdict.HOLDS, found.seen
                if found.reach is Reach.UNABLE:
                    return Verdict.UNCLEAR, found.seen
                seen[address] = found.seen
            if self._left() <= 0:
                return Verdict.FAILS, "; ".join(seen.values())
            select.select([], [], [], _GLANCE)

    def blocked(self) -> tuple[Verdict, str]:
        """Try for the whole time, at every address at which it could get through."""
        seen = []
        for address in self._usable():
            with self._provable(address):
                found = self._attempt(address, self._expect.timeout)
            if found.reach is Reach.UNABLE:
                return Verdict.UNCLEAR, found.seen
            if found.reach is Reach.THROUGH or (found.reach is Reach.REFUSED and self._target is None):
                return Verdict.FAILS, found.seen
            seen.append(f"{found.seen}, on the way" if found.reach is Reach.REFUSED else found.seen)
        doubt = "" if self._target else " (nobody knows whether it would answer)"
        return Verdict.HOLDS, "; ".join(seen) + doubt

    # ---------------------------------------------------------------- where

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _addresses(self) -> list[str]:
        if self._target is None:
            assert isinstance(self._expect.target, Elsewhere), "the only one without a place"
            return [self._expect.target.name]
        every = self._target.addresses(self._expect.network)
        return [one for one in every if self._expect.family in (None, family(one))]

    def _usable(self) -> list[str]:
        """Return the addresses that the source could reach by its own; raises Unproven if there are none."""
        deadline = time.monotonic() + max(_LEAST, self._expect.timeout)
        while True:
            interrupts.check()
            addresses, families = self._addresses(), self._source.families()
            usable = [one for one in addresses if self._target is None or family(one) in families]
            if usable and families:
                return usable
            if time.monotonic() > deadline:
                what = f"{self._source.name} has no address of the kind" if addresses else "no address of it is known"
                raise Unproven(f"{what}, so nothing could get through anyway")
            select.select([], [], [], _GLANCE)

    # ---------------------------------------------------------------- what

    def _attempt(self, address: str, seconds: float) -> Attempt:
        match self._expect.check:
            case Ping():
                return self._source.ping(address, seconds)
            case Tcp(port, listen):
                with contextlib.ExitStack() as stack:
                    if listen and self._target is not None and self._expect.allow:
                        stack.enter_context(self._target.listening(address, port, may_listen=True))
                    return self._source.connect(address, port, seconds)
            case Udp(port):
                return self._send(self._source, address, port, seconds)
        raise AssertionError("DHCP has no target")

    def _send(self, source: Spot, address: str, port: int, seconds: float) -> Attempt:
        token = os.urandom(8).hex().encode()
        if self._target is None:
            return source.send(address, port, token, seconds)
        deadline = time.monotonic() + seconds
        with self._target.receiving(address, port, token) as arrived:
            while True:
                found = source.send(address, port, token, min(_SETTLE, max(deadline - time.monotonic(), _GLANCE)))
                if arrived():
                    return Attempt(Reach.THROUGH, f"datagrams to port {port} of {address} arrive")
                if found.reach in (Reach.NO_WAY, Reach.UNABLE):
                    return found
                if time.monotonic() >= deadline:
                    return Attempt(Reach.SILENT, f"nothing arrives at port {port} of {address}")

    # ---------------------------------------------------------------- whether it means anything

    @contextlib.contextmanager
    def _provable(self, address: str) -> Iterator[None]:
        """See to it that the target would have answered; raises Unproven."""
        if self._target is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            check = self._expect.check
            if isinstance(check, Tcp):
                stack.enter_context(self._target.listening(address, check.port, may_listen=check.listen))
            self._prove(self._target, address)
            yield
            self._prove(self._target, address)

    def _prove(self, target: Spot, address: str) -> None:
        """Have the target reach itself."""
        match self._expect.check:
            case Ping():
                found = target.ping(address, _LEAST)
            case Tcp(port):
                found = target.connect(address, port, _LEAST)
            case Udp(port):
                found = self._send(target, address, port, _LEAST)
            case Dhcp():
                raise AssertionError("DHCP has no target")
        if found.reach is not Reach.THROUGH:
            what = f"{target.name} itself does not get through to its own {address} by {said(self._expect.check)}"
            raise Unproven(f"{what} ({found.seen}), so nothing is shown")


def _contested(expect: Expect) -> object:
    """Return what only one expectation at a time may use."""
    match expect.check, expect.target:
        case Udp(), AtVm(name):
            return ("datagrams", name)
        case Dhcp(), _:
            return ("datagrams", word(expect.source))
        case Tcp(port) | Udp(port), AtVm(name) | AtNetns(name):
            return (type(expect.check), name, port)
        case Tcp(port) | Udp(port), OnHost():
            return (type(expect.check), "", port)
    return expect
