"""Starts the guests of a lab for a process that must not fork, and binds them to it (theory: `qemunet.live.launch`).

A process with threads or an event loop cannot do what ``run`` does, so a fresh one is executed that does it: it starts
the guests and becomes their keeper. The two are joined by the same socket pair, and the guests are bound to that from
their first moment to their last, however many they are. Wherever this process is killed, the pair closes:

* before the other process has its order: it ends, and has done nothing;
* while the guests start, or are ready: they are taken back by the process that starts them;
* after ``go``: its keeper finds the connection closed, and ends what it holds.

Where a lab has a keeper already, that one starts the guests, and binds them to the connection that asked for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import typing
from concurrent.futures import ThreadPoolExecutor

from qemunet.errors import NotFound, QemunetError, TimedOut
from qemunet.frozen import as_dict, frozen
from qemunet.host import processes
from qemunet.live.control import Lost, error_from
from qemunet.live.wire import Wire

if typing.TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from qemunet.live.control import Message
    from qemunet.live.launch import Order
    from qemunet.state import Runtime

    T = typing.TypeVar("T")

_TRIES = 5  # keepers that may end just when they are asked
_KEEPER = 60.0  # seconds for a keeper to be there, or to end a guest and take it back


@frozen
class Held:
    """Guests that end when `wire` closes; `keeper` is their keeper's process if that is a child of this one."""

    lab: str
    vms: tuple[str, ...]
    wire: Wire
    keeper: int | None


async def begin(runtime: Runtime, order: Order, tell: Callable[[str], None]) -> Held:
    """Start guests; return when they run. Raises any QemunetError, and then, or if cancelled, all was taken back."""
    for _ in range(_TRIES):
        child = await _Child.spawn(runtime.path)
        answer = await child.start(order, tell)
        if "ready" in answer:
            return await _for_good(runtime, asyncio.ensure_future(child.settle(runtime, answer)))
        lab = str(answer["elsewhere"])
        try:
            wire = await wire_to(runtime, lab)
        except NotFound:  # whoever held the lab gave up
            continue
        with contextlib.suppress(Lost):
            return await _join(runtime, lab, wire, order, tell, answer["environ"])
    raise TimedOut(f"the lab {lab} has a keeper that is always about to end")


async def _for_good(runtime: Runtime, start: asyncio.Future[Held]) -> Held:
    """Let a start that is final come to its end; if it was cancelled meanwhile, take it back."""
    try:
        return await finish(start)
    except asyncio.CancelledError:
        if start.exception() is None:
            held = start.result()
            await finish(end(runtime, held.lab, held.vms))
            await finish(leave(held))
        raise


async def end(runtime: Runtime, lab: str, vms: Iterable[str]) -> list[QemunetError]:
    """End guests at once; return what went wrong when all else was taken back."""

    async def stop(vm: str) -> None:
        with contextlib.suppress(NotFound):
            wire = await wire_to(runtime, lab)
            try:
                await wire.ask("stop", within=_KEEPER, vm=vm, force=True)
            finally:
                await wire.close()

    results = await asyncio.gather(*map(stop, vms), return_exceptions=True)
    return [result for result in results if isinstance(result, QemunetError)]


async def leave(held: Held) -> None:
    """Hang up on the keeper; if it has no guest any more, wait until it has let go of everything."""
    gone = await held.wire.see_off(_KEEPER)
    await held.wire.close()
    if gone and held.keeper is not None:
        await reap(held.keeper)


async def wire_to(runtime: Runtime, lab: str) -> Wire:
    """Connect to a lab's keeper, or to a new one; raises NotFound if it has no guest, TimedOut."""
    from qemunet.live.reach import reach

    try:
        return await Wire.to(runtime.lab(lab).path("keeper.sock"))
    except Lost:
        return await Wire.of((await blocking(lambda: reach(runtime, lab))).sock)


async def finish(work: Awaitable[T]) -> T:
    """Do something to its end, however often it is cancelled; only then is the cancellation raised."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # the cancellation counts
        raise cancelled
    return task.result()


async def blocking(work: Callable[[], T]) -> T:
    """Do something that blocks, in a thread of its own: it is in the namespaces in which this one is now."""
    pool = ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)


async def reap(pid: int) -> int | None:
    """Wait for the end of a child; return its exit status if that can be known."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        loop.add_reader(fd, ended.set)
        await ended.wait()
        return processes.reap(pid)
    finally:
        loop.remove_reader(fd)
        os.close(fd)


# ---------------------------------------------------------------- a process of our own


class _Child:
    """The process that starts the guests and becomes their keeper."""

    def __init__(self, pid: int, wire: Wire) -> None:
        self.pid = pid
        self.wire = wire

    @classmethod
    async def spawn(cls, runtime: str) -> _Child:
        pid, tether = _spawn(runtime)
        return cls(pid, await Wire.of(tether))

    async def start(self, order: Order, tell: Callable[[str], None]) -> Message:
        """Send the order; return ``ready`` or ``elsewhere``. Raises what went wrong once all is taken back."""
        self.wire.send(as_dict(order))
        try:
            answer = await self.wire.next()
            while "tell" in answer:
                tell(str(answer["tell"]))
                answer = await self.wire.next()
        except Lost:
            answer = {}
        except BaseException:
            await finish(self._give_up())
            raise
        if "error" in answer:
            await finish(self._give_up())
            raise error_from(answer["error"])
        if "elsewhere" in answer:
            await finish(self._give_up())
        return answer or {"ready": None}

    async def settle(self, runtime: Runtime, answer: Message) -> Held:
        """Say that the start is final, and wait until the keeper watches over the guests; not to be cancelled."""
        self.wire.write(b"go\n")
        try:
            final = await self.wire.next() if answer["ready"] else {}
            while (await self.wire.next()).get("event") != "watching":
                pass
        except Lost:
            await self._clean_up(runtime)
            raise
        vms = answer["ready"]
        assert isinstance(vms, list), "the names of what was started"
        return Held(str(final["lab"]), tuple(vms), self.wire, self.pid)

    async def _give_up(self) -> None:
        """Let the other process take everything back, and wait until it has."""
        with contextlib.suppress(OSError, Lost):
            self.wire.writer.write_eof()
            while True:
                await self.wire.next()
        await self.wire.close()
        await reap(self.pid)

    async def _clean_up(self, runtime: Runtime) -> None:
        """It died without a word: finish what it left; raises Failed."""
        from qemunet.live.launch import clean_up

        await self.wire.close()
        status = await reap(self.pid)
        await blocking(lambda: clean_up(runtime, status))


def _spawn(runtime: str) -> tuple[int, socket.socket]:
    """Execute the process, in the namespaces of the thread that calls; return it and our end of the pair."""
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    argv = [sys.executable, "-P", "-m", "qemunet.live.launch", str(fd)]
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, fd, fd)]
    environment = {**os.environ, "QEMUNET_RUNTIME_DIR": runtime}
    try:
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True, setsigmask=())
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, ours


# ---------------------------------------------------------------- a keeper that is there


async def _join(
    runtime: Runtime, lab: str, wire: Wire, order: Order, tell: Callable[[str], None], environ: object
) -> Held:
    asked = {"file": order.file, "vms": list(order.vms), "overrides": list(order.overrides), "environ": environ}
    try:
        reply = await wire.ask("start", within=None, tether="all", **asked)
    except BaseException:
        await finish(_withdraw(runtime, lab, wire))
        raise
    for event in wire.events:
        if event["event"] == "said":
            tell(str(event["text"]))
    wire.events = [event for event in wire.events if event["event"] != "said"]
    started = reply["vms"]
    assert isinstance(started, list), "the keeper names what it started"
    return Held(lab, tuple(started), wire, None)


async def _withdraw(runtime: Runtime, lab: str, wire: Wire) -> None:
    """Let the keeper take back what it was asked to start, and wait until it has."""
    vms: object = ()
    with contextlib.suppress(OSError, Lost):
        wire.writer.write_eof()
        while True:
            reply = (await wire.next()).get("ok")
            vms = reply.get("vms", ()) if isinstance(reply, dict) else vms
    await wire.close()
    if isinstance(vms, list):
        await end(runtime, lab, vms)
