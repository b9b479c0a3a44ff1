"""Commands in a guest by way of the QEMU guest agent: what that can do of `qemunet exec`.

Theory of operation. The agent answers requests one by one, each a line of JSON (QEMU's docs/interop/qemu-ga-ref), so
one is under way at a time; commands run at once all the same, as ``guest-exec`` begins one and ``guest-exec-status``
tells later how it has ended. Before that the agent keeps what a command writes to itself, 16 MB of each output at most,
and it takes the whole input with the request.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import typing

from qemunet.errors import Failed
from qemunet.live.calls import DEATH, GRACE
from qemunet.live.frames import BULK, Kind
from qemunet.live.qgaport import Port
from qemunet.live.qgawords import decoded, exit_status

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from qemunet.live.client import Client

MOST_INPUT = 8 << 20  # bytes; the request has a third more, and is read by the agent byte by byte
FIRST, LAST = 0.03, 1.0  # seconds between two looks at whether a command has ended
MANY = 16  # calls at once, as each may have 32 MB to give
_NOTICE = 3.0  # seconds until somebody is told that his input is waited for
_BEGIN = """
cd "${HOME:=/root}" 2>/dev/null || cd /
export HOME
command -v setsid >/dev/null && exec setsid "$@"
exec "$@"
"""
_KILL = 'kill "-$1" "-$2" 2>/dev/null || kill "-$1" "$2"'
_OUTPUTS = {"out": Kind.OUT, "err": Kind.ERR}
_OTHER = "`agent = true` and `qemunet guest agent` have no such limit: docs/exec.md"


class Qga(Port):
    """The commands in one guest, on its port for that agent."""

    _count = 0

    async def run(self, argv: Sequence[bytes], client: Client) -> int:
        """Run a command, with what goes in and out of it by way of `client`; return its exit status.

        When the client does not want it any more, it is killed. Raises Failed if the guest ends or reboots meanwhile,
        if its agent refuses, and for more input or output than that can pass on; TimedOut if it does not answer.
        """
        if self._count >= MANY:
            raise Failed(f"{MANY} commands run in it at once", hint="wait for one of them")
        self._count += 1
        try:
            return await self.until(self._run(argv, client), self.closed, self.rebooted)
        finally:
            self._count -= 1

    # ---------------------------------------------------------------- a command

    async def _run(self, argv: Sequence[bytes], client: Client) -> int:
        try:
            words = [word.decode() for word in argv]
        except UnicodeDecodeError:
            raise Failed("the QEMU guest agent takes no words but in UTF-8", hint=_OTHER) from None
        arguments: dict[str, object] = {"path": "sh", "arg": ["-c", _BEGIN, "sh", *words], "capture-output": True}
        given = await self._input(client)
        if given:
            arguments["input-data"] = base64.b64encode(given).decode()
        pid = (await self.ask("guest-exec", arguments)).get("pid")
        if not isinstance(pid, int):
            raise Failed("its QEMU guest agent does not say which process it has begun")
        status = await self._end(pid, client)
        await _deliver(status, client)
        return exit_status(status)

    async def _input(self, client: Client) -> bytes:
        """Return all input: the agent wants it with the request. What is typed would have no end for most commands."""
        found = bytearray()
        if not client.has_input or client.is_typed:
            client.ignore()
            return b""
        reminder = asyncio.create_task(_remind(client))
        try:
            while piece := await client.while_wanted(client.take()):
                reminder.cancel()
                found += piece
                if len(found) > MOST_INPUT:
                    problem = f"the QEMU guest agent takes {MOST_INPUT >> 20} MB of input, and this is more"
                    raise Failed(problem, hint=_OTHER)
        finally:
            reminder.cancel()
            await asyncio.gather(reminder, return_exceptions=True)
        return bytes(found)

    async def _end(self, pid: int, client: Client) -> dict[str, object]:
        """Wait for a command's end, and have it killed when nobody wants it any more; return what is said of it."""
        signals, due, pause = iter((("TERM", GRACE), ("KILL", DEATH))), 0.0, FIRST
        while (status := await self.ask("guest-exec-status", {"pid": pid})).get("exited") is not True:
            is_unwanted = client.unwanted.is_set()
            if is_unwanted and self._loop.time() >= due:
                name, seconds = next(signals, ("", 0.0))
                if not name:
                    raise Failed("the command was killed in the guest and does not end")
                await self.ask("guest-exec", {"path": "sh", "arg": ["-c", _KILL, "sh", name, str(pid)]})
                due, pause = self._loop.time() + seconds, FIRST
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await (self._loop.create_future() if is_unwanted else client.unwanted.wait())
            pause = min(pause * 1.5, LAST)
        return status


async def _remind(client: Client) -> None:
    """Say what is waited for, if that takes long."""
    await asyncio.sleep(_NOTICE)
    note = "note: the QEMU guest agent takes the whole input first, and that has no end yet: -n gives none\n"
    await client.give(Kind.ERR, note.encode())


async def _deliver(status: dict[str, object], client: Client) -> None:
    """Pass on what a command has written; raises Failed if that is not all."""
    cut = [f"std{name}" for name in _OUTPUTS if status.get(f"{name}-truncated") is True]
    if not (cut and client.is_bulk):
        for name, kind in _OUTPUTS.items():
            data = decoded(status.get(f"{name}-data", ""))
            for start in range(0, len(data), BULK):
                await client.give(kind, data[start : start + BULK])
    if cut:
        raise Failed(f"the QEMU guest agent keeps 16 MB of {' and '.join(cut)}, and there was more", hint=_OTHER)
