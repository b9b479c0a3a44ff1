"""Commands in a guest by way of the shell at its serial console: the last resort, for one without an agent.

Theory of operation. Nothing is typed before the last that the console says looks like a shell's prompt, and no script
is at work there. Then one line is typed: the terminal is neither to echo nor to change what is written, and there is a
mark before and after what the command writes, the second one with its status. What is typed has a gap in the mark, so
that the echo of it is none. Outputs and errors come by the same line and cannot be told apart, and there is no input.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shlex
import socket
import typing

from qemunet.errors import Failed, Interrupted, QemunetError, TimedOut
from qemunet.live import script
from qemunet.live.calls import GRACE
from qemunet.live.client import ended
from qemunet.live.frames import BULK, Kind
from qemunet.live.seen import words

if typing.TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from qemunet.live.client import Client
    from qemunet.live.console import Console
    from qemunet.live.process import Guest

LONGEST = 3000  # bytes of a line; a terminal takes 4095
HINT = "`agent = true` in its lab file, and what `qemunet guest agent` prints in the guest: docs/exec.md"
NOTE = b"note: no agent is in this guest: typed at its console, what is written as an error comes with the output\n"
_PROMPT = re.compile(rb"[#$%>] ?(?:\x1b\[[0-9;?]*[A-Za-z])*\Z")
_TAIL = 1024  # bytes of what was said before
_QUIET = 0.3  # seconds without a word after which a prompt is one
_ANSWER = 20.0  # seconds for a shell to begin with a line
_SEEN = 80  # characters of what was last seen, in a message
_INTERRUPT, _QUIT = b"\x03", b"\x1c"  # ^C and ^\


class Prompt:
    """The shell at the console of a guest; one command at a time."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._lock = asyncio.Lock()

    async def run(self, argv: Sequence[bytes], seconds: float, client: Client) -> int:
        """Run a command, and give the client what it writes; return its exit status.

        A prompt is waited for so many seconds; raises TimedOut if there is none, or nobody answers at it, and Failed
        for what cannot be typed, for input, and if the guest ends or reboots meanwhile.
        """
        mark = f"qn{secrets.token_hex(6)}"
        line = _line(argv, mark)
        if client.is_bulk:
            raise Failed("files go into a guest and out of it by an agent only, and none is there", hint=HINT)
        await client.while_wanted(self._lock.acquire())
        try:
            async with _joined(self._console()) as typist, self._until_reset(typist):
                await client.while_wanted(typist.find_prompt(seconds, self._guest.directory))
                await typist.type(line.encode("latin-1") + b"\r")
                await _begin(typist, f"{mark}-begin".encode(), client)
                await client.give(Kind.ERR, NOTE)
                return await _follow(typist, f"{mark}-end".encode(), client)
        finally:
            self._lock.release()

    def _console(self) -> Console:
        console = self._guest.console
        if console is None or console.ended.done():
            raise Failed("no agent listens in this guest, and its console is closed", hint=HINT)
        return console

    @contextlib.asynccontextmanager
    async def _until_reset(self, typist: _Typist) -> AsyncIterator[None]:
        def hear(event: Mapping[str, object]) -> None:
            if event.get("event") == "RESET":
                typist.over = "the guest has rebooted meanwhile"
                typist.hang_up()

        self._guest.hear.append(hear)
        try:
            yield
        finally:
            self._guest.hear.remove(hear)


class _Typist:
    """Somebody at a console."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self.data = b""
        self.over = "the guest has ended meanwhile"

    def hang_up(self) -> None:
        """Have whoever reads be told that it is over."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    async def type(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # reading will say why
            await self._loop.sock_sendall(self._sock, data)

    async def read(self) -> None:
        """Wait for more; raises Failed at the end."""
        data = await self._loop.sock_recv(self._sock, BULK)
        if not data:
            raise Failed(self.over)
        self.data += data

    async def find_prompt(self, seconds: float, directory: str) -> None:
        """Wait until a prompt is the last that is said, and nobody else's script types; raises TimedOut."""
        deadline = self._loop.time() + seconds
        while not await self._is_silent(min(_QUIET, seconds)) or not self._is_prompt(directory):
            self.data = self.data[-_TAIL:]
            if self._loop.time() > deadline:
                problem = f"no agent listens in this guest, nor is a shell's prompt at its console within {seconds:g} s"
                raise TimedOut(f"{problem}; {self._last()}", hint=HINT)
        self.data = b""

    async def find_begin(self, mark: bytes) -> None:
        """Wait until a shell begins with what was typed; raises TimedOut."""
        found = None
        try:
            async with asyncio.timeout(_ANSWER):
                while (found := re.search(re.escape(mark) + rb"\r?\n", self.data)) is None:
                    await self.read()
        except TimeoutError:
            await self.type(_INTERRUPT)
            problem = f"what is at its console is no shell that does as it is told; {self._last()}"
            raise TimedOut(problem, hint=HINT) from None
        self.data = self.data[found.end() :]

    def _is_prompt(self, directory: str) -> bool:
        return _PROMPT.search(self.data) is not None and not _is_scripted(directory)

    async def _is_silent(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.read()
                return False
        return True

    def _last(self) -> str:
        seen = words(self.data[-_TAIL:], _SEEN)
        return f"last seen: {seen}" if seen else "nothing was seen"


@contextlib.asynccontextmanager
async def _joined(console: Console) -> AsyncIterator[_Typist]:
    """Be at a console, and know what was said there last."""
    mine, theirs = socket.socketpair()
    mine.settimeout(0)
    console.add(theirs, _TAIL, "a command")
    with mine:
        yield _Typist(mine)


async def _begin(typist: _Typist, mark: bytes, client: Client) -> None:
    try:
        await client.while_wanted(typist.find_begin(mark))
    except Interrupted:
        await typist.type(_INTERRUPT)
        raise


async def _follow(typist: _Typist, mark: bytes, client: Client) -> int:
    """Give the client what a command writes up to its end; return its status. Unwanted, it gets a ^C, and a ^\\."""
    following = asyncio.ensure_future(_pass_on(typist, mark, client))
    refused = asyncio.ensure_future(_refuse_input(client))
    unwanted = asyncio.ensure_future(client.unwanted.wait())
    try:
        await asyncio.wait((following, refused, unwanted), return_when=asyncio.FIRST_COMPLETED)
        for key in (_INTERRUPT, _QUIT):
            if not following.done():
                await typist.type(key)
                await asyncio.wait((following,), timeout=GRACE)
        if not following.done():
            raise Failed("the command was interrupted at the guest's console and does not end")
        if refused.done():
            raise Failed(
                "no agent is in this guest, and at its console a command gets no input", hint=f"-n gives none; {HINT}"
            )
        return following.result()
    finally:
        await ended(following, refused, unwanted)


async def _refuse_input(client: Client) -> None:
    """Return when there is input; never, when there is none."""
    if client.is_typed or not client.has_input:
        client.ignore()
    elif await client.take():
        return
    await asyncio.get_running_loop().create_future()


async def _pass_on(typist: _Typist, mark: bytes, client: Client) -> int:
    end = re.compile(rb"\r?\n" + mark + rb" (\d+)\r?\n")
    while (found := end.search(typist.data)) is None:
        known = _before_end(typist.data, mark)
        ready, typist.data = typist.data[:known], typist.data[known:]
        if ready:
            await client.give(Kind.OUT, ready)
        await typist.read()
    for start in range(0, found.start(), BULK):
        await client.give(Kind.OUT, typist.data[start : min(start + BULK, found.start())])
    return int(found[1])


def _before_end(data: bytes, mark: bytes) -> int:
    """Return how many bytes are in any case before the line of a mark, as far as that has come."""
    last, feed, line = data.rpartition(b"\n")
    if feed and (mark.startswith(line) or line.startswith(mark)):
        return len(last.removesuffix(b"\r"))
    return len(data.removesuffix(b"\r"))


def _line(argv: Sequence[bytes], mark: str) -> str:
    """Return what is typed for a command, a byte a character; raises Failed for what cannot be."""
    command = " ".join(shlex.quote(word.decode("latin-1")) for word in argv)
    gap = f"qn''{mark.removeprefix('qn')}"
    # A shell drops the rest of a line when ^C ends a part of it, so the outer parentheses bear it.
    line = (
        f" (trap : INT QUIT; qn=$(stty -g 2>/dev/null); stty -echo -opost 2>/dev/null; printf '%s-begin\\n' {gap}; "
        f"(trap - INT QUIT; exec {command}) </dev/null 2>&1; "
        f'printf \'\\n%s-end %d\\n\' {gap} "$?"; stty "$qn" 2>/dev/null)'
    )
    if any(ord(one) < 32 or ord(one) == 127 for one in command):
        raise Failed("a line break or another control character cannot be typed at a console", hint=HINT)
    if len(line) > LONGEST:
        raise Failed(f"a console takes {LONGEST} bytes of a command with all around it, and this is more", hint=HINT)
    return line


def _is_scripted(directory: str) -> bool:
    """Tell whether a script is at work at the console."""
    try:
        found = script.read(directory)
    except QemunetError:
        return False
    return found is not None and found.progress.state is script.State.RUNNING
