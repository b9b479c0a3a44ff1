"""The Python API: labs that run as long as an ``async with`` block does, and their guests and cards.

::

    async with qemunet.open("lab.toml") as lab:
        nic = await lab.vm["kali2"].add_nic(network="lab", model="e1000e")
        await lab.vm["kali2"].move_nic(nic, "other")

The guests are held by this process: when the block is left, however that comes, or when this process dies, of SIGKILL
even, they are ended and everything is taken back. Errors are those of `qemunet.errors`, as on the command line.
All of this belongs to one event loop. For programs without one there is `qemunet.sync`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import typing
from collections.abc import Mapping

from qemunet import shapes
from qemunet.errors import NotFound, QemunetError, TimedOut, UsageError, raise_all
from qemunet.live import begin
from qemunet.live.control import errors_in
from qemunet.live.hold import Hold
from qemunet.live.launch import Order
from qemunet.live.power import How
from qemunet.live.streams import Console, Events
from qemunet.shapes import Address, Change, Ending, Event, Named, Nic, NicKeys, Path, Status
from qemunet.state import Runtime, locate

if typing.TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from qemunet.live.control import Message

Stream = typing.TypeVar("Stream", Console, Events)

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

ADD, DEL, STOP = 10.0, 30.0, 30.0  # seconds: for a guest to take a card, to let go of one, and to shut down
READY = 120.0  # seconds: for a guest to be ready
_NEWS = 5.0  # seconds for an event that has been sent
_log = logging.getLogger("qemunet")


def open(  # noqa: A001 - as `qemunet.open` it reads like the builtin, and ends like it
    file: Path,
    vms: str | Iterable[str] = (),
    *,
    set: str | Iterable[str] = (),  # noqa: A002 - the option's name
    runtime: Path | None = None,
) -> Opening:
    """Return a lab to be entered: ``async with qemunet.open("lab.toml") as lab``.

    Entering starts `vms` (all of the file if none is named) with their networks; `set` overrides keys of the file, as
    ``"vm.kali2.memory=1G"``. `runtime` is a runtime directory other than that of the environment. Notes of the start
    (no KVM, and why) go to the logger ``qemunet``. Entering raises ConfigError, HostLacks, Taken, LaunchFailed and any
    other QemunetError; then, or when it is cancelled, everything was taken back. Leaving raises NotTakenBack if
    something was not. Guests that shall power off in order have to be told so before that: `Lab.stop`.
    """
    chosen, overrides = ((one,) if isinstance(one, str) else tuple(one) for one in (vms, set))
    order = Order(shapes.absolute(file), chosen, overrides, detach=True, console=False, hold=True)
    return Opening(order, None if runtime is None else shapes.absolute(runtime))


class Opening:
    """A lab that is started when its block is entered, once; made by `open`."""

    def __init__(self, order: Order, runtime: str | None) -> None:
        self._order = order
        self._runtime = runtime
        self._lab: Lab | None = None

    async def __aenter__(self) -> Lab:
        if self._lab is not None:
            raise UsageError("a lab is opened once", hint="call qemunet.open again")
        runtime = Runtime(locate(self._runtime))
        held = await begin.begin(runtime, self._order, _log.info)
        self._lab = Lab(runtime, self._order, held)
        try:
            await self._lab.refresh()
        except BaseException:
            await begin.finish(self._lab._close())
            raise
        return self._lab

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._lab is not None:
            await begin.finish(self._lab._close())


class Lab:
    """A lab that runs. `name` is its name, `vm` has its guests by their names: those that were started here."""

    def __init__(self, runtime: Runtime, order: Order, held: begin.Held) -> None:
        self.name = held.lab
        self.file = order.file
        self._vms = Named(f"{self.name} has no vm", {name: Vm(self, name) for name in held.vms})
        self.vm: Mapping[str, Vm] = self._vms
        self._runtime = runtime
        self._overrides = order.overrides
        self._hold = Hold(runtime, held, self._end)
        self._streams: list[Events | Console] = []

    async def status(self) -> dict[str, Status]:
        """Return how the guests are that run, by their names."""
        rows = await self._hold.look() if self._living() else {}
        for name in rows.keys() & self.vm.keys():
            self.vm[name]._learn(rows[name])
        return {name: row for name, row in rows.items() if name in self.vm}

    async def refresh(self) -> None:
        """Look again at all guests that run and at their cards."""
        with contextlib.suppress(NotFound):  # the last guest has just ended
            await self.status()
        await asyncio.gather(*(vm._look_if_there() for vm in self._living()))

    async def up(
        self,
        vms: str | Iterable[str] = (),
        *,
        wait: str | Iterable[str] = (),
        timeout: float = READY,  # noqa: ASYNC109 - each vm's, from its own start
        keep_going: bool = False,
    ) -> tuple[str, ...]:
        """Start what of the lab file does not run yet, in the order of ``depends``, as `qemunet up`; return its names.

        `vms` are those that are wanted, and what they depend on comes with them; all of the file if none is named.
        It returns when each of `wait` holds: ``"ready"``, ``"dhcp"``, ``"console=REGEX"``, ``"tcp=VM:PORT"``. What is
        started is held as the others are. If a vm does not start, or is not ready `timeout` seconds after its start,
        what was begun here is taken back, as it is when this is cancelled, and any QemunetError raised. `keep_going`
        leaves out those alone that depend on it: the error comes in the end, and its notes tell of others.
        """
        from qemunet.live import ascent, rise
        from qemunet.live.source import Source

        named, waits = ((one,) if isinstance(one, str) else tuple(one) for one in (vms, wait))
        wish = ascent.Wish(named, waits, timeout, keep_going)
        try:
            source = functools.partial(Source.read, self.file, self._overrides)
            return tuple(await rise.up(self._runtime, lambda: ascent.Ascent(source(), wish), self._start))
        finally:
            with contextlib.suppress(QemunetError):
                await self.refresh()

    async def _start(self, names: Sequence[str]) -> None:
        """Start vms, and hold them; they are known before, for the one that ends at once."""
        before = {name: self._vms[name] for name in names if name in self._vms}
        self._vms.update({name: Vm(self, name) for name in names})
        try:
            await self._hold.start(self.file, names, self._overrides)
        except QemunetError:
            for name in names:
                del self._vms[name]
            self._vms.update(before)
            raise

    async def down(self, *, timeout: float = STOP, force: bool = False) -> dict[str, How]:  # noqa: ASYNC109
        """End all guests in the reverse order of ``depends``, each as `Vm.stop` does; return what it took for each.

        Raises the first error in the end, with others as its notes. The block is still to be left.
        """
        from qemunet.live import rise

        after = {vm.name: self._runtime.vm(vm.name).depends for vm in self._living()}
        found = await rise.down(after, lambda name: self.vm[name].stop(timeout=timeout, force=force))
        errors = [how for how in found.values() if isinstance(how, QemunetError) and not isinstance(how, NotFound)]
        raise_all(errors)
        return {name: how for name, how in found.items() if isinstance(how, How)}

    async def stop(self, *, timeout: float = STOP, force: bool = False) -> dict[str, How]:  # noqa: ASYNC109
        """End all guests at once, see `Vm.stop`; return what it took for each."""
        vms = self._living()
        stops = (vm.stop(timeout=timeout, force=force) for vm in vms)
        results = dict(zip(vms, await asyncio.gather(*stops, return_exceptions=True), strict=True))
        for result in results.values():
            if isinstance(result, BaseException) and not isinstance(result, NotFound):  # it was quicker
                raise result
        return {vm.name: how for vm, how in results.items() if isinstance(how, How)}

    async def apply(
        self,
        file: Path | None = None,
        *,
        dry_run: bool = False,
        set: str | Iterable[str] | None = None,  # noqa: A002 - the option's name
        timeout: float = DEL,  # noqa: ASYNC109 - the guest's, for each card
    ) -> tuple[Change, ...]:
        """Make the cards and networks what a lab file says, this lab's own if none is named; return the changes.

        `set` overrides keys of the file, as in `open` and by default with the same. With `dry_run` nothing is done.
        Raises any QemunetError. A card that fails, as one that its guest does not let go of, is raised when all the
        others were seen to; what was done stays, and notes of the exception tell of other cards that failed.
        """
        overrides = self._overrides if set is None else (set,) if isinstance(set, str) else tuple(set)
        path = self.file if file is None else shapes.absolute(file)
        words = {"file": path, "overrides": list(overrides), "dry": dry_run, "timeout": timeout}
        try:
            reply = await self._hold.ask("apply", within=None, **words)
        finally:
            with contextlib.suppress(QemunetError):
                await self.refresh()
        changes, networks = reply["changes"], reply.get("networks", [])
        assert isinstance(changes, list), "of what there was to do"
        assert isinstance(networks, list), "likewise"
        raise_all(errors_in(changes))
        return tuple(Change.from_row(change) for change in (*networks, *changes) if not change.get("note"))

    def events(self, vm: str | None = None) -> Events:
        """Return what happens to all guests of the lab, or to one, from now on: ``async for event in lab.events()``.

        It ends when the last of them has ended and is taken back. From now on means from the first turn of the loop;
        ``async with lab.events() as events`` begins before that.
        """
        return self._with(Events(self._runtime, self.name, None if vm is None else self.vm[vm].name))

    def _with(self, stream: Stream) -> Stream:
        """Remember what has to be closed with the lab."""
        self._streams = [*(one for one in self._streams if not one.closed), stream]
        return stream

    def _living(self) -> list[Vm]:
        return [vm for vm in self.vm.values() if vm.ending is None]

    def _end(self, vm: str, ending: Ending) -> None:
        self.vm[vm]._end(ending)

    async def _close(self) -> None:
        for stream in self._streams:
            await stream.close()
        await self._hold.close()


class Vm:
    """A guest. `name`; `pid` of its QEMU; `state`: QEMU's word when it was last looked at, ``ended`` in the end.

    `nics` are its cards by their ids, as they were when something was last done to them here; what others do is seen
    by `refresh`. `ending` says how it ended, None as long as it runs. Everything but `wait` raises NotFound after that.
    """

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.pid = 0
        self.state = "running"
        self.nics: Mapping[str, Nic] = {}
        self.ending: Ending | None = None
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<vm {self.name}: {self.state}, pid {self.pid}>"

    async def refresh(self) -> None:
        """Look again at its state and its cards."""
        await self.lab.status()
        await self._look()

    async def add_nic(self, *, timeout: float = ADD, **keys: typing.Unpack[NicKeys]) -> Nic:  # noqa: ASYNC109
        """Plug in a card that has these keys; return it when the guest has it, or cannot know yet (`Nic.presence`).

        Raises any QemunetError, and then nothing has changed; but TimedOut if the guest runs and no driver has taken
        the card within `timeout` seconds: then it is plugged in.
        """
        return self._keep(await self._ask_card("nic-add", timeout, keys=shapes.keys_of(keys)), timeout)

    async def remove_nic(self, nic: Nic | str, *, timeout: float = DEL, cut: bool = False) -> None:  # noqa: ASYNC109
        """Unplug a card, which is a `Nic`, or its id, MAC or network; return when the guest has let go of it.

        `cut` stops its traffic at once. Raises TimedOut if the guest has not let go within `timeout` seconds; the card
        goes as soon as it does.
        """
        reply = await self._ask_card("nic-del", timeout, nic=shapes.id_of(nic), cut=cut)
        gone = Nic.from_row(reply["nic"]).id
        self._set_nics({name: one for name, one in self.nics.items() if name != gone})

    async def set_nic(self, nic: Nic | str, *, timeout: float = DEL, **keys: typing.Unpack[NicKeys]) -> Nic:  # noqa: ASYNC109
        """Change keys of a card, in its place if that can be, else by unplugging it; return it as it is then."""
        return self._keep(
            await self._ask_card("nic-set", timeout, nic=shapes.id_of(nic), keys=shapes.keys_of(keys)), timeout
        )

    async def set_link(self, nic: Nic | str, up: bool | str) -> Nic:
        """Pull the cable of a card, or plug it in: False or ``"down"``, True or ``"up"``; else UsageError."""
        return await self.set_nic(nic, link=shapes.link_word(up))

    async def move_nic(self, nic: Nic | str, network: str) -> Nic:
        """Plug a card into another network, of the lab or one that is up; the guest keeps the card."""
        return await self.set_nic(nic, network=network)

    async def qmp(self, command: str, /, **arguments: object) -> typing.Any:
        """Send QEMU a command of QMP; return what it returns. Raises Refused with QEMU's words."""
        return (await self._ask("qmp", execute=command, arguments=arguments))["return"]

    async def stop(self, *, timeout: float = STOP, force: bool = False) -> How:  # noqa: ASYNC109
        """End it: power button, after `timeout` seconds (with `force` at once) QEMU's quit, then SIGKILL.

        Returns which it took when everything of it was taken back; raises NotTakenBack if something was not.
        """
        reply = await self._ask("stop", within=None, timeout=timeout, force=force)
        with contextlib.suppress(TimedOut):  # the event was sent before the answer
            await self.wait(_NEWS)
        return How(str(reply["how"]))

    async def wait(self, timeout: float | None = None) -> Ending:  # noqa: ASYNC109
        """Wait until it has ended, by itself or not; return how. Raises TimedOut after `timeout` seconds."""
        try:
            await asyncio.wait_for(self._ended.wait(), timeout)
        except TimeoutError:
            raise TimedOut(f"{self.name} has not ended within {timeout:g} s", where=f"vm.{self.name}") from None
        assert self.ending is not None, "that is what was waited for"
        return self.ending

    async def console(self, *, replay: int = 0) -> Console:
        """Connect to its serial console; first come the last `replay` bytes (at most 65536) of what it has shown."""
        self._check()
        wire = await begin.wire_to(self.lab._runtime, self.lab.name)
        try:
            await wire.ask("console", vm=self.name, replay=replay)
        except BaseException:
            await wire.close()
            raise
        return self.lab._with(Console(self.name, wire))

    async def wait_for_console(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:  # noqa: ASYNC109
        """Wait until the console shows something; return the match (see `Console.wait_for`).

        What it has shown before counts, its last 64 kB: text that comes again needs a console that is kept open.
        """
        async with await self.console(replay=65536) as console:
            return await console.wait_for(pattern, timeout)

    # ---------------------------------------------------------------- how

    def _check(self) -> None:
        if self.ending is not None:
            raise NotFound(f"it does not run any more: {self.ending.text}", where=f"vm.{self.name}")

    async def _ask(self, do: str, *, within: float | None = 30.0, **arguments: object) -> Message:
        self._check()
        return await self.lab._hold.ask(do, within=within, vm=self.name, **arguments)

    async def _ask_card(self, do: str, seconds: float, **arguments: object) -> Message:
        """Have something done to a card; a hook may take its time, so only the keeper says how long."""
        try:
            return await self._ask(do, within=None, timeout=seconds, **arguments)
        except TimedOut:  # a card may be on its way out
            with contextlib.suppress(QemunetError):
                await self._look()
            raise

    async def _look_if_there(self) -> None:
        with contextlib.suppress(NotFound):
            await self._look()

    async def _look(self) -> None:
        self._set_nics(Nic.list_from(await self._ask("nics")))

    def _keep(self, reply: Message, seconds: float) -> Nic:
        """Remember a card that was plugged in or changed, also if the guest does not take it."""
        try:
            nic = Nic.plugged(reply, self.name, seconds)
        except TimedOut:
            row = Nic.from_row(reply["nic"])
            self._set_nics({**self.nics, row.id: row})
            raise
        self._set_nics({**self.nics, nic.id: nic})
        return nic

    def _set_nics(self, nics: Mapping[str, Nic]) -> None:
        self.nics = Named(f"{self.name} has no card", nics)

    def _learn(self, status: Status) -> None:
        if self.ending is None:
            self.pid, self.state = status.pid, status.state

    def _end(self, ending: Ending) -> None:
        self.state, self.ending = "ended", ending
        self._ended.set()
