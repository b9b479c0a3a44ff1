"""What a keeper does for whoever asks on its control socket, verb by verb (the table: `qemunet.live.control`)."""

from __future__ import annotations

import asyncio
import functools
import os
import traceback
import typing

from qemunet.errors import Failed, QemunetError, Refused, UsageError
from qemunet.frozen import as_dict
from qemunet.live import arrival, power, sight
from qemunet.live.control import Message, no_such_vm
from qemunet.live.record import CAPTURE_INSIDE, refuse_device
from qemunet.live.server import Peer, Takeover
from qemunet.live.worker import Wish
from qemunet.model.guard import GuardLevel

if typing.TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from qemunet.live.care import Keeper
    from qemunet.live.console import Console
    from qemunet.live.presence import Presence
    from qemunet.live.process import Guest
    from qemunet.records import NicRecord

    Answer = Message | Takeover

MAX_TAIL = 65536  # bytes of the console's past
MAX_TIMEOUT = 86400.0  # seconds


class Verbs:
    """Answers the requests to `keeper`."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._verbs: dict[str, Callable[[Peer, Message], Awaitable[Answer]]] = {
            "ping": self._ping,
            "status": self._status,
            "stop": self._stop,
            "powerdown": self._powerdown,
            "start": self._start,
            "tether": self._tether,
            "watch": self._watch,
            "detach": self._detach,
            "events": self._events,
            "console": self._console,
            "capture": self._capture,
            "tail": self._tail,
            "qmp": self._qmp,
            "nics": self._nics,
            "nic-add": self._nic_add,
            "nic-del": self._nic_del,
            "nic-set": self._nic_set,
            "apply": self._apply,
            "adopt": self._adopt,
            "exec": self._exec,
        }

    async def answer(self, peer: Peer, request: Message) -> Answer:
        """Do what is asked; raises QemunetError, and nothing else whatever was asked."""
        verb = self._verbs.get(str(request.get("do")))
        if verb is None:
            known = ", ".join(self._verbs)
            raise UsageError(f"unknown verb {str(request.get('do'))[:80]!r}", hint=f"known are {known}")
        with self.keeper.busy():
            try:
                return await verb(peer, request)
            except QemunetError:
                raise
            except Exception as error:  # a mistake of ours must not end the keeper
                self.keeper.say(traceback.format_exc())
                raise Failed(f"{type(error).__name__}: {error}", hint="keeper.log has the details") from error

    def lost(self, peer: Peer) -> None:
        """A connection has ended."""
        self.keeper.lost(peer)

    async def _ping(self, peer: Peer, request: Message) -> Answer:
        return {"pid": os.getpid(), "lab": self.keeper.lab, "vms": sorted(self.keeper.guests)}

    async def _status(self, peer: Peer, request: Message) -> Answer:
        guests = [self._guest(request)] if "vm" in request else list(self.keeper.guests.values())
        states = await asyncio.gather(*(guest.run_state() for guest in guests))
        rows = zip(guests, states, strict=True)
        return {"vms": [_row(guest, run_state) for guest, run_state in rows]}

    async def _stop(self, peer: Peer, request: Message) -> Answer:
        timeout = _number(request, "timeout", power.TIMEOUT, MAX_TIMEOUT)
        how = await self.keeper.stop(self._guest(request), timeout, force=request.get("force") is True)
        return {"how": how.value}

    async def _powerdown(self, peer: Peer, request: Message) -> Answer:
        await self._guest(request).execute("system_powerdown")
        return {}

    async def _start(self, peer: Peer, request: Message) -> Answer:
        tethered, held = request.get("tether") is True, request.get("tether") == "all"
        wish = Wish(
            file=_text(request, "file"),
            vms=tuple(_texts(request, "vms")),
            overrides=tuple(_texts(request, "overrides")),
            tethered=tethered,
            tell=_teller(peer),
            wanted=lambda: not (peer.gone() or self.keeper.leaving),
            environ=_texts_by_name(request, "environ"),
            held=held,
        )
        names = await self.keeper.start(wish)
        if held or (tethered and len(names) == 1):  # several have no terminal to end with
            self.keeper.bind(peer, names, holds=True)
        return {"vms": names}

    async def _tether(self, peer: Peer, request: Message) -> Answer:
        return await self._bind(peer, request, holds=True)

    async def _watch(self, peer: Peer, request: Message) -> Answer:
        return await self._bind(peer, request, holds=False)

    async def _bind(self, peer: Peer, request: Message, *, holds: bool) -> Answer:
        vms = [self._guest({"vm": vm}).vm for vm in _texts(request, "vms")]
        if holds:
            await self.keeper.blocking(self.keeper.worker.tie, vms)
        self.keeper.bind(peer, [vm for vm in vms if vm in self.keeper.guests], holds=holds)
        return {"vms": vms}

    async def _detach(self, peer: Peer, request: Message) -> Answer:
        vms, held = sorted(peer.vms), peer.holds
        peer.vms, peer.holds = set(), False
        if held:
            await self.keeper.blocking(self.keeper.worker.untie, vms)
        return {"vms": vms}

    async def _events(self, peer: Peer, request: Message) -> Answer:
        self.keeper.subscribe(peer, self._guest(request).vm if "vm" in request else None)
        return {"vms": sorted(self.keeper.guests)}

    async def _console(self, peer: Peer, request: Message) -> Answer:
        replay = int(_number(request, "replay", 0, MAX_TAIL))
        console = self._console_of(request)
        name, seen = "a client of the control socket", request.get("masked") is True
        screen = request.get("screen") is True
        return Takeover(lambda sock: console.add(sock, replay, name, masked=seen, newest=seen, screen=screen))

    async def _capture(self, peer: Peer, request: Message) -> Answer:
        guest, nic = self._guest(request), _text(request, "nic")
        card = self.keeper.worker.runtime.vm(guest.vm).card(nic)
        if card.ifname is not None:
            raise UsageError(f"its frames are to be seen at the interface {card.ifname}", where=f"{guest.vm}.{nic}")
        refuse_device(card, guest.vm, CAPTURE_INSIDE)
        capture = await guest.captures.begin(nic)
        return Takeover(capture.attach, lambda: capture.end("nobody wanted it"))

    async def _tail(self, peer: Peer, request: Message) -> Answer:
        size = int(_number(request, "bytes", 4096, MAX_TAIL))
        return {"text": self._console_of(request).log.tail(size).decode(errors="replace")}

    async def _qmp(self, peer: Peer, request: Message) -> Answer:
        arguments = request.get("arguments", {})
        if not isinstance(arguments, dict):
            raise UsageError("`arguments` is an object")
        guest = self._guest(request)
        try:
            return {"return": await guest.execute(_text(request, "execute"), arguments=arguments)}
        except Refused as error:  # whoever speaks QMP wants to know the class
            error.message = f"{error.error_class}: {error.message}"
            raise

    async def _nics(self, peer: Peer, request: Message) -> Answer:
        guest = self._guest(request)
        rows, foreign = await self.keeper.cards.list(guest)
        known = {mac: one.as_message() for mac, one in (await sight.look(guest, rows)).items()}
        found: Message = {"nics": [as_dict(row) for row in rows], "foreign": foreign, "known": known}
        found["state"] = await guest.run_state()
        if any(row.guard != GuardLevel.OFF for row in rows):
            from qemunet.live import guards

            found["dropped"] = await asyncio.to_thread(guards.dropped, self.keeper.worker.runtime.path, guest.vm, rows)
        return found | (await self.keeper.cards.compared(guest) if request.get("compare") is True else {})

    async def _nic_add(self, peer: Peer, request: Message) -> Answer:
        guest, seconds = self._guest(request), _number(request, "timeout", arrival.TIMEOUT, MAX_TIMEOUT)
        row, presence = await self.keeper.cards.add(guest, _keys(request), seconds, peer.gone)
        return await _plugged(guest, row, presence)

    async def _nic_del(self, peer: Peer, request: Message) -> Answer:
        guest, seconds = self._guest(request), _number(request, "timeout", arrival.TIMEOUT, MAX_TIMEOUT)
        row = await self.keeper.cards.remove(guest, _text(request, "nic"), seconds, cut=request.get("cut") is True)
        return {"nic": as_dict(row)}

    async def _nic_set(self, peer: Peer, request: Message) -> Answer:
        guest, seconds = self._guest(request), _number(request, "timeout", arrival.TIMEOUT, MAX_TIMEOUT)
        word, keys = _text(request, "nic"), _keys(request)
        row, presence = await self.keeper.cards.alter(guest, word, keys, seconds, peer.gone)
        return await _plugged(guest, row, presence)

    async def _apply(self, peer: Peer, request: Message) -> Answer:
        from qemunet.config import read
        from qemunet.live.running import as_in

        seconds = _number(request, "timeout", arrival.TIMEOUT, MAX_TIMEOUT)
        dry = request.get("dry") is True
        spec = await self.keeper.blocking(read.load, _text(request, "file"), _texts(request, "overrides"))
        named = [vm.name for vm in spec.vms]
        guests = [guest for name, guest in sorted(self.keeper.guests.items()) if name in named]
        words = _text(request, "file"), _texts(request, "overrides")
        worker = self.keeper.worker
        networks = await self.keeper.blocking(functools.partial(worker.apply_networks, *words, dry=dry))
        done = [await self.keeper.cards.apply(guest, as_in(spec, guest.vm), seconds, dry=dry) for guest in guests]
        found: Message = {"changes": [one for changes in done for one in changes], "vms": [one.vm for one in guests]}
        return found | {"networks": [as_dict(row) for row in networks]}

    async def _adopt(self, peer: Peer, request: Message) -> Answer:
        seen = await self.keeper.blocking(self.keeper.worker.living)
        return {"vms": await self.keeper.take(seen)}

    async def _exec(self, peer: Peer, request: Message) -> Answer:
        from qemunet.live import command
        from qemunet.live.client import Client

        guest, seconds = self._guest(request), _number(request, "wait", command.WAIT, MAX_TIMEOUT)
        argv = _words(request)
        names = {"has_input": "input", "is_typed": "typed", "is_bulk": "bulk"}
        told = {name: request.get(word) is True for name, word in names.items()}
        return Takeover(lambda sock: self.keeper.begin(command.run(guest, argv, seconds, Client(sock, **told))))

    def _guest(self, request: Message) -> Guest:
        guest = self.keeper.guests.get(_text(request, "vm"))
        if guest is None:
            raise no_such_vm(request["vm"], sorted(self.keeper.guests))
        return guest

    def _console_of(self, request: Message) -> Console:
        guest = self._guest(request)
        if guest.console is None or guest.console.ended.done():
            raise Failed("its console is closed", where=f"vm.{guest.vm}")
        return guest.console


async def _plugged(guest: Guest, row: NicRecord, presence: Presence) -> Answer:
    name = await sight.named(guest, row, presence)
    return {"nic": as_dict(row), "presence": presence.value, "guest_ifname": name}


def _row(guest: Guest, run_state: str) -> Message:
    return {
        "vm": guest.vm,
        "pid": guest.pid,
        "state": run_state,
        "since": guest.since,
        "adopted": guest.adopted,
    }


def _teller(peer: Peer) -> Callable[[str], None]:
    """Return a way to pass on what a start says, from the thread in which it runs."""
    loop = asyncio.get_running_loop()

    def tell(text: str) -> None:
        event: Message = {"event": "said", "text": text}
        loop.call_soon_threadsafe(peer.tell, event)

    return tell


def _keys(request: Message) -> dict[str, object]:
    value = request.get("keys")
    if not isinstance(value, dict):
        raise UsageError("`keys` is an object: the keys of a [[vm.NAME.nic]]")
    return value


def _text(request: Message, key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not _is_encodable(value):
        raise UsageError(f"`{key}` is missing or not a text")
    return value


def _is_encodable(text: str) -> bool:
    """Tell whether a text can be a file's name: JSON can spell halves of characters, which cannot."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _texts(request: Message, key: str) -> list[str]:
    value = request.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"`{key}` is a list of texts")
    return value


def _texts_by_name(request: Message, key: str) -> dict[str, str]:
    value = request.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise UsageError(f"`{key}` is an object of texts")
    return value


def _words(request: Message) -> list[bytes]:
    """Return a command, each of its words as a program gets it."""
    argv = _texts(request, "argv")
    if not argv or not all(_is_encodable(word) and "\0" not in word for word in argv):
        raise UsageError("`argv` is a command and its arguments, without zero bytes")
    return [os.fsencode(word) for word in argv]


def _number(request: Message, key: str, default: float, most: float) -> float:
    value = request.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise UsageError(f"`{key}` is a number from 0 to {most:g}")
    return float(value)
