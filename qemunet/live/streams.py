"""What comes from a keeper without being asked for each time: a guest's console, and what happens to guests."""

from __future__ import annotations

import asyncio
import codecs
import re
import typing

from qemunet.errors import NotFound, TimedOut
from qemunet.live.control import Lost
from qemunet.live.events import UNHEARD, line
from qemunet.live.wire import Wire
from qemunet.shapes import Event

if typing.TYPE_CHECKING:
    from qemunet.live.control import Message
    from qemunet.state import Runtime

_CHUNK = 65536  # bytes
_KEPT = 1 << 20  # characters in which a pattern is looked for
_SHOWN = 300  # characters, in an error


class Console:
    """A connection to a guest's serial console; what others type is seen here, too.

    `reader` and `writer` are asyncio's streams, for whatever the methods do not do.
    """

    def __init__(self, vm: str, wire: Wire) -> None:
        self.vm = vm
        self.reader = wire.reader
        self.writer = wire.writer
        self._wire = wire
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def read(self, most: int = _CHUNK) -> bytes:
        """Return what the guest has written next, at least a byte; nothing at its end."""
        return await self.reader.read(most)

    async def write(self, data: bytes) -> None:
        r"""Type something; the Return key is ``b"\r"``. Waits while the guest does not take its input."""
        self.writer.write(data)
        await self.writer.drain()

    async def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:  # noqa: ASYNC109
        """Read until the text matches a regular expression (multi-line); return the match and go on behind it.

        Bytes that are no text are replaced. Raises TimedOut after `timeout` seconds and NotFound at the guest's end,
        both with the last that was seen.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        try:
            async with asyncio.timeout(timeout):
                while (found := wanted.search(self._text)) is None:
                    await self._more(pattern)
        except TimeoutError:
            raise TimedOut(
                f'"{pattern}" has not come within {timeout:g} s; {self._last()}', where=self._place
            ) from None
        self._text = self._text[found.end() :]
        return found

    @property
    def closed(self) -> bool:
        """Tell whether it was closed here."""
        return self.writer.is_closing()

    async def close(self) -> None:
        """Hang up."""
        await self._wire.close()

    async def __aenter__(self) -> typing.Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _more(self, pattern: str) -> None:
        data = await self.read()
        if not data:
            raise NotFound(f'the console has ended before "{pattern}" came; {self._last()}', where=self._place)
        self._text = (self._text + self._decoder.decode(data))[-_KEPT:]

    def _last(self) -> str:
        return f"the last was: {self._text[-_SHOWN:]}" if self._text else "nothing came"

    @property
    def _place(self) -> str:
        return f"vm.{self.vm}"


class Events:
    """What happens to the guests of a lab, or to one of them; ends when all that was made for them is taken back."""

    def __init__(self, runtime: Runtime, lab: str, vm: str | None) -> None:
        self._runtime = runtime
        self._lab = lab
        self._vm = vm
        self._wire: Wire | None = None
        self._there: set[str] = set()
        self.closed = False

    async def __aenter__(self) -> typing.Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> typing.Self:
        return self

    async def __anext__(self) -> Event:
        while not self.closed:
            if self._wire is None:
                await self._listen()
                continue
            try:
                event = Event.from_line(await self._next(self._wire))
            except Lost:
                return await self._gap()
            await self._count(event)
            return event
        raise StopAsyncIteration

    async def close(self) -> None:
        """Listen no more."""
        self.closed = True
        if self._wire is not None:
            await self._wire.close()

    async def _listen(self) -> None:
        from qemunet.live.begin import wire_to

        wire = await wire_to(self._runtime, self._lab)
        try:
            await (wire.ask("events") if self._vm is None else wire.ask("events", vm=self._vm))
        except BaseException:
            await wire.close()
            raise
        self._wire = wire

    async def _next(self, wire: Wire) -> Message:
        return wire.events.pop(0) if wire.events else await wire.next()

    async def _count(self, event: Event) -> None:
        """Know which guests are there: with the last of them it ends."""
        if event.kind != "guest" or event.vm is None:
            return
        if event.what != "over":
            self._there.add(event.vm)
            return
        self._there.discard(event.vm)
        if not self._there:
            await self.close()  # this one is still given

    async def _gap(self) -> Event:
        """The keeper is lost: listen to a new one, or end if nobody is there."""
        assert self._wire is not None, "it was lost"
        await self._wire.close()
        try:
            if self.closed or not self._there:
                raise StopAsyncIteration
            await self._listen()
        except (NotFound, Lost):
            await self.close()
            raise StopAsyncIteration from None
        return Event.from_line(line("gap", self._lab, self._vm, UNHEARD))
