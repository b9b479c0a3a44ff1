"""The guests of one lab and whoever watches them: taken in, told about, ended with their tethers, cleared up after."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import traceback
import typing

from qemunet.errors import NotTakenBack, QemunetError
from qemunet.live import power
from qemunet.live.cards import Cards
from qemunet.live.events import Bus
from qemunet.live.farewell import Farewell
from qemunet.live.heal import Healer
from qemunet.live.leases import LeaseWatch
from qemunet.live.linkwatch import LinkWatch, Roster
from qemunet.live.process import Ending, Guest, Seen
from qemunet.live.server import Peer, Server
from qemunet.live.verbs import Verbs
from qemunet.live.watchmen import Watchmen

if typing.TYPE_CHECKING:
    import socket
    from collections.abc import Collection

    from qemunet.live.console import Say
    from qemunet.live.control import Message
    from qemunet.live.mend import Found
    from qemunet.live.netchange import Row
    from qemunet.live.watchmen import Revived
    from qemunet.live.worker import Wish, Worker


class Keeper:
    """The guests of one lab and whoever watches them."""

    def __init__(self, lab: str, worker: Worker, say: Say) -> None:
        self.lab = lab
        self.worker = worker
        self.say = say
        self.guests: dict[str, Guest] = {}
        self.cards = Cards(self)
        self.server = Server(Verbs(self))
        self.bus = Bus(lab)
        self.links = LinkWatch(Roster(worker.runtime, self.guests), self.tell)
        self.watchmen = Watchmen(worker.runtime, self.guests, self._revive, self.tell, say, self.begin, self._looked)
        self.farewell = Farewell(worker.runtime, self.watchmen.networks, self._see_off, self.tell, say, self.begin)
        self.healer = Healer(worker.runtime, self.guests, self._mend, self.tell, say, self.begin)
        self.leases = LeaseWatch(worker.runtime, self.guests, self.watchmen.networks, self.tell)
        self.leaving = False
        self._busy = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

    async def run(self, listener: socket.socket, seen: list[Seen], tether: socket.socket | None) -> None:
        """Take care of these guests, and of all that come, until there is none; leaves the connections open."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave)
        await self.take(seen)
        begun = [name for name, guest in self.guests.items() if not guest.adopted]
        await self.server.open(listener)
        if tether is not None:
            self.bind(await self.server.add(tether), begun, holds=True)
        while not self.leaving and (self.guests or self._busy):
            self._changed.clear()
            await self._changed.wait()
        self.server.close_door()
        self.watchmen.close()
        self.farewell.close()
        self.healer.close()
        for guest in list(self.guests.values()):
            await guest.leave()

    async def take(self, seen: list[Seen]) -> list[str]:
        """Take care of these guests too; return the names of those that are there."""
        taken = []
        for one in seen:
            if await self._has(one):
                continue
            try:
                guest = Guest(one, self.worker.runtime.scope(f"vm/{one.vm}").directory, self.say)
            except ProcessLookupError as error:
                self.say(f"{one.vm}: {error}")
                self.begin(self._clear_up(one))
                continue
            self.guests[one.vm] = guest
            self._listen(guest)
            self.links.learn(one.vm)
            self.watchmen.learn(one.vm)
            self.healer.look()
            await guest.attend(one)
            await self.cards.attend(guest)
            self.tell("guest", one.vm, **{**_state(guest), "what": "adopted" if guest.adopted else "started"})
            self.begin(self._accompany(guest))
            if guest.has_script:
                self.begin(self._play(guest))
            taken.append(one.vm)
        return taken

    async def _has(self, seen: Seen) -> bool:
        """Tell whether this guest is in care already; an earlier one of its name is waited for to be over."""
        while (known := self.guests.get(seen.vm)) is not None:
            if known.pid == seen.pid:
                return True
            await asyncio.shield(known.over)
        return False

    async def start(self, wish: Wish) -> list[str]:
        """Start more guests and take care of them; return their names."""
        return await self.take(await self.blocking(self.worker.start, wish))

    async def stop(self, guest: Guest, seconds: float, *, force: bool) -> power.How:
        """End a guest; returns when all was taken back, raises `NotTakenBack` if something was not."""
        how = await power.stop(guest, seconds, force=force)
        failures = await asyncio.shield(guest.over)
        if failures:
            raise NotTakenBack(failures)
        return how

    def bind(self, peer: Peer, vms: list[str], *, holds: bool) -> None:
        """Let a connection hear of these guests, and end them with it if it `holds` them."""
        peer.vms |= set(vms)
        peer.holds = peer.holds or holds
        peer.tell({"event": "watching", "vms": sorted(peer.vms)})
        for vm in peer.vms & self.guests.keys():
            if self.guests[vm].scripted:
                peer.tell({"event": "script", "vm": vm, **self.guests[vm].scripted})
        if not peer.vms:
            peer.tell({"event": "over", "failures": []})
        if peer.gone():  # while the guests were made ready for it
            self.lost(peer)

    def tell(self, kind: str, vm: str | None, /, **details: object) -> None:
        """Tell an event to whoever subscribed; without a vm it concerns all. To be called in the loop's thread."""
        self.bus.tell(kind, vm, details)
        if kind == "card" and vm is not None:  # it may be on another network now
            self.watchmen.learn(vm)
            self.healer.look()

    def subscribe(self, peer: Peer, vm: str | None) -> None:
        """Tell a connection the events of a vm, or of all; before them, how the guests are that there are."""
        for guest in self.guests.values():
            if vm in (None, guest.vm):
                peer.tell(self.bus.event("guest", guest.vm, _state(guest)))
        self.bus.subscribe(peer, vm)
        self.links.open()
        self.leases.open()

    def lost(self, peer: Peer) -> None:
        """A connection has ended: so do the guests that it held."""
        self.bus.lost(peer)
        if not self.bus:
            self.links.close()
            self.leases.close()
        if not peer.holds or self.leaving:
            return
        for vm in peer.vms & self.guests.keys():
            self.say(f"{vm}: its terminal is gone; ending it")
            self.begin(self._end_forsaken(self.guests[vm]))

    async def blocking(self, work: typing.Callable[..., typing.Any], *arguments: object) -> typing.Any:
        """Do something that blocks, in a thread; one such thing at a time."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(work, *arguments)

    def begin(self, work: typing.Coroutine[typing.Any, typing.Any, None]) -> None:
        """Do something beside everything else, and keep it from being forgotten."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    @contextlib.contextmanager
    def busy(self) -> typing.Iterator[None]:
        """Keep the keeper from ending meanwhile."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._changed.set()

    async def _revive(self, network: str) -> Revived | None:
        found: Revived | None = await self.blocking(self.worker.revive, network)
        return found

    async def _see_off(self) -> list[Row]:
        found: list[Row] = await self.blocking(self.worker.see_off)
        return found

    def _looked(self) -> None:
        self.farewell.look()

    async def _mend(self, vms: list[str], bridges: Collection[str]) -> list[Found]:
        found: list[Found] = await self.blocking(self.worker.mend, vms, bridges)
        return found

    async def _play(self, guest: Guest) -> None:
        from qemunet.live import script  # few guests have one, and it brings pexpect

        await script.play(guest, self._tell_script, self.say)

    async def _accompany(self, guest: Guest) -> None:
        """Stay with a guest to its end, and clear up after it."""
        guest.ending = ending = await guest.end()
        self.say(f"{guest.vm}: {ending.text}")
        self._tell_ended(ending)
        await guest.leave()
        failures = await self._take_back(guest.vm, guest.pid, guest.start_time)
        with self.busy():
            del self.guests[guest.vm]
            self.watchmen.look()
            self.healer.look()
            guest.over.set_result(failures)
            self._tell_over(guest.vm, failures)

    async def _clear_up(self, seen: Seen) -> None:
        with self.busy():
            await self._take_back(seen.vm, seen.pid, seen.start_time)

    async def _take_back(self, vm: str, pid: int, start_time: int) -> list[str]:
        failures: list[str]
        try:
            failures = await self.blocking(self.worker.take_back, vm, pid, start_time)
        except Exception as error:  # whatever it is, the other guests need their keeper
            self.say(traceback.format_exc())
            failures = [f"{vm}: {error}"]
        for failure in failures:
            self.say(f"{vm}: not taken back: {failure}")
        return failures

    def _listen(self, guest: Guest) -> None:
        """Pass on what QEMU says, and that some of it was missed."""
        vm = guest.vm

        def qmp(event: Message) -> None:
            details = {"name": event["event"], "data": event.get("data", {}), "timestamp": event.get("timestamp")}
            self.tell("qmp", vm, **details)

        guest.hear.append(qmp)
        guest.missed.append(lambda: self.tell("gap", vm, what="qmp", text="the monitor's connection broke"))

    def _tell_ended(self, ending: Ending) -> None:
        words = _words(ending)
        self.tell("guest", ending.vm, what="ended", **words)
        for peer in self._watchers(ending.vm):
            peer.tell({"event": "ended", "vm": ending.vm, **words})

    def _tell_over(self, vm: str, failures: list[str]) -> None:
        self.links.read()  # what became of its interfaces comes before
        self.tell("guest", vm, what="over", failures=failures)
        for peer in self._watchers(vm):
            peer.vms.discard(vm)
            peer.failures += failures
            if not peer.vms:
                peer.tell({"event": "over", "failures": peer.failures})
                peer.holds = False

    def _tell_script(self, kind: str, vm: str | None, /, **details: object) -> None:
        self.tell(kind, vm, **details)
        assert vm is not None, "a script is that of a vm"
        if vm in self.guests:
            self.guests[vm].scripted = details
        for peer in self._watchers(vm):
            peer.tell({"event": "script", "vm": vm, **details})

    def _watchers(self, vm: str) -> list[Peer]:
        return [peer for peer in self.server.peers() if vm in peer.vms]

    async def _end_forsaken(self, guest: Guest) -> None:
        with contextlib.suppress(QemunetError):  # what was not taken back is in the log already
            await self.stop(guest, 0, force=True)

    def _leave(self) -> None:
        self.say(f"told to go; left running: {', '.join(self.guests) or 'no guest'}")
        self.leaving = True
        self._changed.set()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.say("".join(traceback.format_exception(error)))


def _state(guest: Guest) -> Message:
    """Return how a guest is, as an event tells it."""
    if guest.ending is not None:
        return {"what": "ended", **_words(guest.ending)}
    return {"what": "running", "pid": guest.pid, "since": guest.since, "adopted": guest.adopted}


def _words(ending: Ending) -> Message:
    return {"status": ending.status, "reason": ending.reason.value, "text": ending.text}
