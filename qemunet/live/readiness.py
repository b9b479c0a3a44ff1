"""Finds out whether a guest is ready: by its console, by a lease of a network's, or by a port that it listens on.

Theory of operation. Nothing is waited for here: each watch is asked now and then, and says what it has seen since. A
console is read from its log, which is complete whoever is attached and survives the keeper; a guest that is ready once
stays so. What a guest has not said, been lent or taken yet is said in the words of whoever waits in vain.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import typing
from abc import ABC, abstractmethod

from qemunet.errors import NotFound, TimedOut
from qemunet.live.control import Lost
from qemunet.live.reach import learn, reach
from qemunet.live.seen import words
from qemunet.model.ready import ConsoleReady, LeaseReady, Ready, ScriptReady, TcpReady

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.host.netns import Place
    from qemunet.records import VmRecord
    from qemunet.state import Runtime

_TAIL = 65536  # bytes of a console in which an expression is looked for
_SAID = 60  # characters of it in a message
_ATTEMPT = 0.5  # seconds for a connection to be taken


class Watch(ABC):
    """A guest that is to become ready. `seen` is what was last seen of that, for people."""

    def __init__(self, here: Runtime, vm: VmRecord) -> None:
        self.here = here
        self.vm = vm
        self.seen = "nothing yet"

    @abstractmethod
    def ready(self) -> bool:
        """Look again."""


def watch(here: Runtime, vm: VmRecord, ready: Ready | None) -> Watch:
    """Return what tells when a guest that runs is ready; None: it is as soon as it runs."""
    match ready:
        case None:
            return _Running(here, vm)
        case ConsoleReady(pattern):
            return _Console(here, vm, re.compile(pattern.encode()))
        case LeaseReady():
            return _Lease(here, vm)
        case TcpReady(port):
            return _Port(here, vm, port)
        case ScriptReady():
            return _Script(here, vm)


class _Running(Watch):
    def ready(self) -> bool:
        self.seen = "it runs"
        return True


class _Console(Watch):
    """What the guest has said since it was started, its last `_TAIL` bytes; the log may be moved aside meanwhile."""

    def __init__(self, here: Runtime, vm: VmRecord, pattern: re.Pattern[bytes]) -> None:
        super().__init__(here, vm)
        self._path = here.scope(f"vm/{vm.name}").path("console.log")
        self._pattern = pattern
        self._inode = 0
        self._read = 0
        self._said = b""

    def ready(self) -> bool:
        new = self._news()
        if not new:
            return False
        text = self._said + new
        self._said = text[-_TAIL:]
        self.seen = f"its console said …{words(self._said, _SAID)}"
        return self._pattern.search(text) is not None

    def _news(self) -> bytes:
        """Return what has come since it was looked at last."""
        try:
            with open(self._path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                before = b"" if inode == self._inode else self._moved_aside()
                if inode != self._inode:
                    self._inode, self._read = inode, 0
                file.seek(self._read)
                found = file.read()
                self._read += len(found)
                return before + found
        except FileNotFoundError:
            return b""

    def _moved_aside(self) -> bytes:
        """Return what came to the file that was looked at before, if that is the one that was moved aside."""
        try:
            with open(f"{self._path}.1", "rb") as file:
                if os.fstat(file.fileno()).st_ino != self._inode:
                    return b""
                file.seek(self._read)
                return file.read()
        except FileNotFoundError:
            return b""


class _Lease(Watch):
    """A lease that has not run out, for any card."""

    def ready(self) -> bool:
        from qemunet.live import leases

        lent = leases.of_cards(self.here.scope(f"vm/{self.vm.name}").directory, self.vm.nics)
        every = [address for addresses in lent.values() for address in addresses]
        self.seen = f"lent: {', '.join(every)}" if every else "no network has lent it an address"
        return bool(every)


class _Script(Watch):
    """What its keeper types at its console; one that was killed has a successor made, which goes on with it."""

    def ready(self) -> bool:
        """Raises TimedOut if the script has failed."""
        from qemunet.live import script

        found = script.read(self.here.scope(f"vm/{self.vm.name}").directory)
        if found is None:
            self.seen = "it was started without its script"
            return False
        self.seen = found.describe()
        if found.progress.state is script.State.RUNNING:
            self.seen += f"; last seen: {words(self._end(), _SAID) or 'nothing'}"
        if found.progress.state is script.State.FAILED:
            raise TimedOut(self.seen, where=f"vm.{self.vm.name}")
        if found.progress.state is script.State.RUNNING and not self.here.lab(self.vm.lab).alive():
            with contextlib.suppress(NotFound, TimedOut, Lost):
                reach(self.here, self.vm.lab).close()
        return found.progress.state is script.State.DONE

    def _end(self) -> bytes:
        """Return the end of what the guest has said."""
        try:
            with open(self.here.scope(f"vm/{self.vm.name}").path("console.log"), "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 1024))
                return file.read()
        except FileNotFoundError:
            return b""


class _Port(Watch):
    """A port at any address that is known of the guest."""

    def __init__(self, here: Runtime, vm: VmRecord, port: int) -> None:
        super().__init__(here, vm)
        self._port = port

    def ready(self) -> bool:
        addresses = list(self._addresses())
        if not addresses:
            self.seen = "no address of it is known"
        return any(self._takes(place, address) for place, address in addresses)

    def _addresses(self) -> Iterator[tuple[Place, str]]:
        """Yield addresses, and from where to try them: from the host, and from the namespace that a card is in."""
        from qemunet.host import spaces

        with contextlib.suppress(NotFound, TimedOut, Lost):  # it has ended, which whoever waits sees by himself
            known = learn(self.here, self.vm.lab, "nics", vm=self.vm.name)["known"]
            assert isinstance(known, dict), "what is known, by MAC"
            inside = {nic.mac: nic.netns for nic in self.vm.nics if nic.netns}
            for mac, one in known.items():
                for netns in dict.fromkeys((None, inside.get(mac))):
                    place = spaces.place(self.here.path, netns)
                    yield from ((place, ip["address"].partition("/")[0]) for ip in one["ip"])

    def _takes(self, place: Place, address: str) -> bool:
        try:
            place.inside(lambda: socket.create_connection((address, self._port), timeout=_ATTEMPT)).close()
        except OSError as error:
            why = "no answer" if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno or 0, str(error))
            self.seen = f"port {self._port} of {address}: {why}"
            return False
        self.seen = f"{address} takes connections to port {self._port}"
        return True
