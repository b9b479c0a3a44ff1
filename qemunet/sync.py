"""The Python API for programs without an event loop: every name of `qemunet.api`, blocking.

::

    with qemunet.sync.open("lab.toml") as lab:
        nic = lab.vm["kali2"].add_nic(network="lab", model="e1000e")
        lab.vm["kali2"].move_nic(nic, "other")

It has no logic of its own: each open lab has a thread with an event loop, in which the method of the same name of
`qemunet.api` does the work. So what is said there holds here, word for word. ``^C`` cancels what is being waited for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import typing

from qemunet import api
from qemunet.api import ADD, DEL, READY, STOP, Address, Change, Ending, Event, How, Nic, NicKeys, Status
from qemunet.shapes import Named, Path

if typing.TYPE_CHECKING:
    import re
    from collections.abc import Callable, Coroutine, Iterable, Mapping

T = typing.TypeVar("T")

__all__ = [
    "open",
    "Address",
    "Change",
    "Console",
    "Ending",
    "Event",
    "Events",
    "How",
    "Lab",
    "Nic",
    "NicKeys",
    "Opening",
    "Status",
    "Vm",
]


class _Loop:
    """A thread with an event loop, made where the lab is opened: it is in the same namespaces."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qemunet", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Coroutine[object, object, T]]) -> T:
        """Have something done and return its result; if this is interrupted, it is cancelled first.

        A ^C comes between any two instructions of this thread, so the other one makes what is waited for.
        """
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(work()))
            tasks[0].add_done_callback(lambda task: _pass_on(task, done))

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # it has not even begun, and never will
                done.set_exception(concurrent.futures.CancelledError())

        try:
            self._loop.call_soon_threadsafe(begin)
            return done.result()
        except BaseException:
            if not done.done():
                self._loop.call_soon_threadsafe(cancel)
                _wait(done)
            raise

    def close(self) -> None:
        """End the loop and its thread."""
        self.run(self._loop.shutdown_asyncgens)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _wait(done: concurrent.futures.Future[T]) -> None:
    """Wait for the end of what was cancelled, which takes things back: another ^C changes nothing."""
    while not done.done():
        with contextlib.suppress(KeyboardInterrupt):
            concurrent.futures.wait([done])


def _pass_on(task: asyncio.Task[T], done: concurrent.futures.Future[T]) -> None:
    error = concurrent.futures.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        done.set_result(task.result())
    else:
        done.set_exception(error)


def open(  # noqa: A001 - as in `qemunet.api`
    file: Path,
    vms: str | Iterable[str] = (),
    *,
    set: str | Iterable[str] = (),  # noqa: A002 - likewise
    runtime: Path | None = None,
) -> Opening:
    """Return a lab to be entered: ``with qemunet.sync.open("lab.toml") as lab``; see `qemunet.api.open`."""
    return Opening(api.open(file, vms, set=set, runtime=runtime))


class Opening:
    """See `qemunet.api.Opening`."""

    def __init__(self, opening: api.Opening) -> None:
        self._opening = opening
        self._loop: _Loop | None = None

    def __enter__(self) -> Lab:
        self._loop = loop = _Loop()
        try:
            return Lab(loop.run(self._opening.__aenter__), loop)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            loop, self._loop = self._loop, None
            try:
                loop.run(lambda: self._opening.__aexit__(None, None, None))
            finally:
                loop.close()


class Lab:
    """See `qemunet.api.Lab`."""

    def __init__(self, lab: api.Lab, loop: _Loop) -> None:
        self._lab = lab
        self._loop = loop
        self.name = lab.name
        self.file = lab.file
        self._vms: dict[str, Vm] = Named(f"{lab.name} has no vm", {})
        self.vm: Mapping[str, Vm] = self._vms
        self._learn()

    def status(self) -> dict[str, Status]:
        """See `qemunet.api.Lab.status`."""
        return self._loop.run(self._lab.status)

    def refresh(self) -> None:
        """See `qemunet.api.Lab.refresh`."""
        self._loop.run(self._lab.refresh)

    def _learn(self) -> None:
        """Have a guest here for each that there is; one that was started again is another one."""
        there = self._lab.vm
        found = {name: self._vms.get(name) for name in there}
        now = {
            name: one if one and one._vm is there[name] else Vm(there[name], self, self._loop)
            for name, one in found.items()
        }
        self._vms.clear()
        self._vms.update(now)

    def up(
        self,
        vms: str | Iterable[str] = (),
        *,
        wait: str | Iterable[str] = (),
        timeout: float = READY,
        keep_going: bool = False,
    ) -> tuple[str, ...]:
        """See `qemunet.api.Lab.up`."""
        try:
            return self._loop.run(lambda: self._lab.up(vms, wait=wait, timeout=timeout, keep_going=keep_going))
        finally:
            self._learn()

    def down(self, *, timeout: float = STOP, force: bool = False) -> dict[str, How]:
        """See `qemunet.api.Lab.down`."""
        return self._loop.run(lambda: self._lab.down(timeout=timeout, force=force))

    def stop(self, *, timeout: float = STOP, force: bool = False) -> dict[str, How]:
        """See `qemunet.api.Lab.stop`."""
        return self._loop.run(lambda: self._lab.stop(timeout=timeout, force=force))

    def apply(
        self,
        file: Path | None = None,
        *,
        dry_run: bool = False,
        set: str | Iterable[str] | None = None,  # noqa: A002 - as in `qemunet.api`
        timeout: float = DEL,
    ) -> tuple[Change, ...]:
        """See `qemunet.api.Lab.apply`."""
        return self._loop.run(lambda: self._lab.apply(file, dry_run=dry_run, set=set, timeout=timeout))

    def events(self, vm: str | None = None) -> Events:
        """See `qemunet.api.Lab.events`."""
        return Events(self._lab.events(vm), self._loop)


class Vm:
    """See `qemunet.api.Vm`."""

    def __init__(self, vm: api.Vm, lab: Lab, loop: _Loop) -> None:
        self._vm = vm
        self._loop = loop
        self.lab = lab
        self.name = vm.name

    @property
    def pid(self) -> int:
        return self._vm.pid

    @property
    def state(self) -> str:
        return self._vm.state

    @property
    def nics(self) -> Mapping[str, Nic]:
        return self._vm.nics

    @property
    def ending(self) -> Ending | None:
        return self._vm.ending

    def __repr__(self) -> str:
        return repr(self._vm)

    def refresh(self) -> None:
        """See `qemunet.api.Vm.refresh`."""
        self._loop.run(self._vm.refresh)

    def add_nic(self, *, timeout: float = ADD, **keys: typing.Unpack[NicKeys]) -> Nic:
        """See `qemunet.api.Vm.add_nic`."""
        return self._loop.run(lambda: self._vm.add_nic(timeout=timeout, **keys))

    def remove_nic(self, nic: Nic | str, *, timeout: float = DEL, cut: bool = False) -> None:
        """See `qemunet.api.Vm.remove_nic`."""
        self._loop.run(lambda: self._vm.remove_nic(nic, timeout=timeout, cut=cut))

    def set_nic(self, nic: Nic | str, *, timeout: float = DEL, **keys: typing.Unpack[NicKeys]) -> Nic:
        """See `qemunet.api.Vm.set_nic`."""
        return self._loop.run(lambda: self._vm.set_nic(nic, timeout=timeout, **keys))

    def set_link(self, nic: Nic | str, up: bool | str) -> Nic:
        """See `qemunet.api.Vm.set_link`."""
        return self._loop.run(lambda: self._vm.set_link(nic, up))

    def move_nic(self, nic: Nic | str, network: str) -> Nic:
        """See `qemunet.api.Vm.move_nic`."""
        return self._loop.run(lambda: self._vm.move_nic(nic, network))

    def qmp(self, command: str, /, **arguments: object) -> typing.Any:
        """See `qemunet.api.Vm.qmp`."""
        return self._loop.run(lambda: self._vm.qmp(command, **arguments))

    def stop(self, *, timeout: float = STOP, force: bool = False) -> How:
        """See `qemunet.api.Vm.stop`."""
        return self._loop.run(lambda: self._vm.stop(timeout=timeout, force=force))

    def wait(self, timeout: float | None = None) -> Ending:
        """See `qemunet.api.Vm.wait`."""
        return self._loop.run(lambda: self._vm.wait(timeout))

    def console(self, *, replay: int = 0) -> Console:
        """See `qemunet.api.Vm.console`."""
        return Console(self._loop.run(lambda: self._vm.console(replay=replay)), self._loop)

    def wait_for_console(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """See `qemunet.api.Vm.wait_for_console`."""
        return self._loop.run(lambda: self._vm.wait_for_console(pattern, timeout))


class Console:
    """See `qemunet.api.Console`."""

    def __init__(self, console: api.Console, loop: _Loop) -> None:
        self._console = console
        self._loop = loop
        self.vm = console.vm

    def read(self, most: int = 65536) -> bytes:
        """See `qemunet.api.Console.read`."""
        return self._loop.run(lambda: self._console.read(most))

    def write(self, data: bytes) -> None:
        """See `qemunet.api.Console.write`."""
        self._loop.run(lambda: self._console.write(data))

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """See `qemunet.api.Console.wait_for`."""
        return self._loop.run(lambda: self._console.wait_for(pattern, timeout))

    def close(self) -> None:
        """See `qemunet.api.Console.close`."""
        self._loop.run(self._console.close)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Events:
    """See `qemunet.api.Events`."""

    def __init__(self, events: api.Events, loop: _Loop) -> None:
        self._events = events
        self._loop = loop

    def __enter__(self) -> typing.Self:
        self._loop.run(self._events.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> typing.Self:
        return self

    def __next__(self) -> Event:
        try:
            return self._loop.run(self._events.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """See `qemunet.api.Events.close`."""
        self._loop.run(self._events.close)
