"""Types the script of a vm at its console: waits for what the guest says, answers, and goes on to the next step.

Theory of operation. The script lies in the vm's scope as it was when the vm started, with how far it has come: which
step is next, and where in the console's log its wait began. So a keeper that takes over from a dead one begins that
step again with what the guest has said since, and nothing is lost; what the dead one had typed in that step is typed
once more. One that leaves its guests to a successor leaves the script to it, too. The script is a client of the console
like others: people may watch, and type between its words.

pexpect waits in a thread. What it keeps of a guest that says much and never what is wanted is cut to `WINDOW` bytes,
and of a guest that says more than can be searched it gets the end.

Secrets are filled in when they are typed, and masked in all that is told; until the script has ended, their values lie
beside it (`qemunet.live.secrets`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import time
import typing
from enum import StrEnum

from qemunet.errors import TimedOut
from qemunet.frozen import as_dict, frozen, replace
from qemunet.live import secrets
from qemunet.live.mask import Mask
from qemunet.live.seen import words
from qemunet.model.script import ScriptStep
from qemunet.state import write_private

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pexpect
    from pexpect import fdpexpect

    from qemunet.live.console import Client, Say
    from qemunet.live.consolelog import Log
    from qemunet.live.linkwatch import Tell
    from qemunet.live.process import Guest

    Pattern = type[pexpect.EOF | pexpect.TIMEOUT] | re.Pattern[str] | re.Pattern[bytes] | str | bytes

FILE = "script.json"
WINDOW = 65536  # bytes of what a guest says in which an expression is looked for
_SLICE = 0.5  # seconds between two looks at the clock
_SEEN = 80  # characters of what was last seen, in a message
_KEPT = 1024  # bytes of it, with colours and all


class State(StrEnum):
    """How far a script is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@frozen
class Progress:
    """`at` is the number of the next step, from 0; `offset` where in the console's log it begins to look.

    `log` is the inode number of that log, as another one is begun when it is full.
    """

    state: State = State.RUNNING
    at: int = 0
    offset: int = 0
    text: str = ""
    log: int = 0


class Script:
    """The script of the vm whose scope is a directory, and how far it has come."""

    def __init__(self, directory: str, steps: Sequence[ScriptStep], progress: Progress) -> None:
        self.directory = directory
        self.steps = steps
        self.progress = progress

    def note(self, progress: Progress) -> None:
        """Write down how far it has come."""
        self.progress = progress
        write(self.directory, self.steps, progress)

    def fail(self, why: str) -> None:
        """Have it failed in the step that it is at."""
        self.progress = replace(self.progress, state=State.FAILED, text=f"{self.place()}: {why}")

    def describe(self) -> str:
        """Say in some words how far it has come."""
        if self.progress.state is State.RUNNING:
            return f"{self.place()}: waits for {_quoted(self.steps[self.progress.at].expect)}"
        return self.progress.text

    def place(self) -> str:
        """Name the step that it is at."""
        return f"step {self.progress.at + 1} of {len(self.steps)} of its script"


def begin(directory: str, steps: Sequence[ScriptStep], hidden: Mapping[str, str]) -> None:
    """Leave a script in the scope of a vm that is to be started, with the values of its secrets."""
    write(directory, steps)
    if hidden:
        secrets.keep(directory, hidden)


def write(directory: str, steps: Sequence[ScriptStep], progress: Progress | None = None) -> None:
    """Leave a script in a vm's scope."""
    text = json.dumps({"steps": [as_dict(one) for one in steps], "progress": as_dict(progress or Progress())})
    write_private(os.path.join(directory, FILE), text)


def read(directory: str) -> Script | None:
    """Return the script of a vm; None if it has none."""
    try:
        with open(os.path.join(directory, FILE)) as file:
            found = json.load(file)
    except FileNotFoundError:
        return None
    progress = found["progress"]
    steps = [ScriptStep(**one) for one in found["steps"]]
    return Script(directory, steps, Progress(**{**progress, "state": State(progress["state"])}))


async def play(guest: Guest, tell: Tell, say: Say) -> None:
    """Go through what is left of a guest's script, and tell how that ended."""
    script = read(guest.directory)
    if script is None or script.progress.state is not State.RUNNING or guest.console is None:
        return
    hidden = secrets.recall(guest.directory)
    mine, theirs = socket.socketpair()
    log = guest.console.log
    replay = _unseen(log, script.progress)
    begin = log.total - replay
    client = guest.console.add(theirs, replay, "its script", newest=True)
    with mine:
        player = _Player(
            script, mine, _Reader(log, client, begin), Mask(map(secrets.as_bytes, hidden.values())), hidden
        )
        await asyncio.to_thread(player.play)
    if player.over and guest.ending is None:
        return  # this keeper leaves, and the next one goes on with it
    if player.over:
        script.fail(player.over)
    secrets.forget(guest.directory)
    say(f"{guest.vm}: {script.progress.text}")
    tell("script", guest.vm, what=script.progress.state.value, text=script.progress.text)


def _unseen(log: Log, progress: Progress) -> int:
    """Return how many bytes at the end of a log a script has not seen yet, as far as they matter."""
    same = progress.log in (0, log.inode)
    return min(WINDOW, max(0, log.size - progress.offset) if same else log.size)


@frozen
class _Reader:
    """Whoever reads a console whose log has `begin` bytes before what he got first."""

    log: Log
    client: Client
    begin: int

    def place(self, read: int) -> tuple[int, int]:
        """Return where in which log he is when he has read so many bytes."""
        return max(0, self.begin + read + self.client.skipped - self.log.turned), self.log.inode


class _Over(Exception):
    """The console has ended."""


class _Player:
    """Goes through a script at one end of a socket."""

    def __init__(
        self, script: Script, sock: socket.socket, reader: _Reader, mask: Mask, hidden: Mapping[str, str]
    ) -> None:
        self._script = script
        self._sock = sock
        self._reader = reader
        self._mask = mask
        self._hidden = hidden
        self._read = 0
        self._tail = b""
        self.over = ""  # what there is to say if the console has ended
        self._shell = self._new_shell()

    def _new_shell(self, buffer: bytes = b"") -> fdpexpect.fdspawn[bytes]:
        from pexpect import fdpexpect

        shell: fdpexpect.fdspawn[bytes] = fdpexpect.fdspawn(self._sock.fileno(), maxread=WINDOW)
        shell.logfile_read = self
        shell.buffer = buffer
        return shell

    def write(self, data: bytes) -> None:
        """Note what was read (pexpect's log)."""
        self._read += len(data)
        self._tail = (self._tail + self._mask.feed(data))[-_KEPT:]

    def flush(self) -> None:
        """Be a log."""

    def play(self) -> None:
        script = self._script
        try:
            for number, step in list(enumerate(script.steps))[script.progress.at :]:
                offset, log = self._reader.place(self._read - len(self._shell.buffer))
                script.note(Progress(at=number, offset=offset, log=log))
                self._do(step)
            script.note(Progress(State.DONE, len(script.steps) - 1, text="its script is done"))
        except _Over as error:
            self.over = str(error)
        except (TimedOut, OSError) as error:
            script.fail(str(error))
            with contextlib.suppress(FileNotFoundError):  # the vm is gone, with all that it had
                script.note(script.progress)

    def _do(self, step: ScriptStep) -> None:
        """Do one step; raises TimedOut."""
        if step.expect is not None:
            self._wait(step, step.expect)
        if step.send is not None:
            self._shell.send(secrets.typed(step.send, self._hidden) + (b"\r" if step.enter else b""))

    def _wait(self, step: ScriptStep, wanted: str) -> None:
        from pexpect import EOF, TIMEOUT

        patterns: list[Pattern] = [re.compile(wanted.encode()), EOF, TIMEOUT]
        if step.fail is not None:
            patterns.append(re.compile(step.fail.encode()))
        deadline = time.monotonic() + step.timeout
        while True:
            left = max(0.0, min(_SLICE, deadline - time.monotonic()))
            found = self._shell.expect(patterns, timeout=left, searchwindowsize=WINDOW)
            if found == 0:
                return
            if found == 1:
                raise _Over(f"the guest ended before it said {_quoted(wanted)}; {self._last()}")
            if found == 3:
                raise TimedOut(f"it said what {_quoted(step.fail)} finds; {self._last()}")
            if len(self._shell.before or b"") > WINDOW:
                self._shell = self._new_shell(self._shell.buffer[-WINDOW:])
            if time.monotonic() >= deadline:
                raise TimedOut(f"no {_quoted(wanted)} within {step.timeout} s; {self._last()}")

    def _last(self) -> str:
        """Say what was last seen."""
        seen = words(self._tail + self._mask.rest(), _SEEN)
        return f"last seen: {seen}" if seen else "nothing was seen"


def _quoted(text: str | None) -> str:
    return "nothing" if text is None else f'"{text}"'
