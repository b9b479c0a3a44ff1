"""``events`` and ``qmp``: what happens to the guests as JSON lines, and a word with QEMU itself."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys

from qemunet import interrupts
from qemunet.cli.known import runtime, vm_named
from qemunet.cli.parser import add_json
from qemunet.errors import Interrupted, NotFound, UsageError
from qemunet.live.events import UNHEARD, line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from qemunet.cli.parser import Commands, Parser
    from qemunet.live.control import Control, Message
    from qemunet.records import VmRecord
    from qemunet.state import Runtime

_LOOK = 500  # milliseconds between two looks for keepers that are new
_STDOUT = 1
_UNSEEN: Message = {"what": "ended", "status": None, "reason": "unknown", "text": "ended while nobody watched"}


# ---------------------------------------------------------------- events


def _events_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", nargs="?", help="a vm that runs; with its end the command ends")
    add_json(parser)


def _events(args: Namespace) -> int:
    here = runtime()
    with _ended_by_term():
        for event in _of_all(here) if args.vm is None else _of_one(here, _living(here, args.vm)):
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()
    return 0


@contextlib.contextmanager
def _ended_by_term() -> Iterator[None]:
    """Let TERM end what is done within as ^C does, with the status that shells have for it."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: object) -> None:
    error = Interrupted("interrupted by SIGTERM")
    error.exit_status = 128 + number
    raise error


def _of_one(here: Runtime, vm: VmRecord) -> Iterator[Message]:
    """Give the events of one vm until all that was made for it is taken back."""
    ended = False
    with contextlib.closing(Stream(here, vm.name)) as stream:
        stream.reach(vm.lab)
        while stream.listens():
            for event in stream.wait():
                yield event
                what = event.get("what") if event["event"] == "guest" else None
                ended = ended or what == "ended"
                if what == "over":
                    return
    if not ended:
        yield line("guest", vm.lab, vm.name, _UNSEEN)


def _of_all(here: Runtime) -> Iterator[Message]:
    """Give the events of all keepers, of those that come later too, for as long as somebody wants them."""
    with contextlib.closing(Stream(here, None)) as stream:
        for lab in sorted({vm.lab for vm in here.vms() if vm.state == "running"}):
            stream.reach(lab, there=False)
        while True:
            stream.join()
            yield from stream.wait()


class Stream:
    """The events of `vm`, or of all vms, from their keepers; one that is lost while guests run is replaced."""

    def __init__(self, here: Runtime, vm: str | None) -> None:
        self._here = here
        self._vm = vm
        self._keepers: dict[str, Control] = {}
        self._poll = select.poll()
        self._poll.register(_STDOUT, 0)  # tells when its reader has left
        self._fresh = False  # events may have come that poll(2) does not know of

    def listens(self) -> bool:
        """Tell whether there is any keeper to listen to."""
        return bool(self._keepers)

    def close(self) -> None:
        """Listen to nobody any more."""
        for control in self._keepers.values():
            control.close()

    def reach(self, lab: str, *, there: bool = True) -> None:
        """Listen to the keeper of a lab, or to a new one; raises NotFound if a vm should be `there` and is not."""
        from qemunet.live.control import Lost
        from qemunet.live.reach import reach

        try:
            self._listen(lab, reach(self._here, lab))
        except (NotFound, Lost):
            if there:
                raise

    def join(self) -> None:
        """Listen to the keepers that have come."""
        from qemunet.live.control import Control, Lost

        for scope in self._here.scopes("lab"):
            lab = scope.name.partition("/")[2]
            if lab not in self._keepers:
                try:
                    self._listen(lab, Control.open(scope.path("keeper.sock")))
                except Lost:
                    continue  # it does not listen yet, or not any more

    def wait(self) -> list[Message]:
        """Return what has happened; maybe nothing, after a while. Raises BrokenPipeError if nobody reads on."""
        interrupts.check()
        for fd, _what in self._poll.poll(0 if self._fresh else _LOOK):
            if fd == _STDOUT:
                raise BrokenPipeError
        self._fresh = False
        return [event for lab in list(self._keepers) for event in self._from(lab)]

    def _listen(self, lab: str, control: Control) -> None:
        try:
            if self._vm is None:
                control.ask("events")
            else:
                control.ask("events", vm=self._vm)
        except BaseException:
            control.close()
            raise
        self._keepers[lab] = control
        self._poll.register(control, select.POLLIN)
        self._fresh = True

    def _from(self, lab: str) -> list[Message]:
        from qemunet.live.control import Lost

        try:
            return self._keepers[lab].events()
        except Lost:
            return self._lost(lab)

    def _lost(self, lab: str) -> list[Message]:
        control = self._keepers.pop(lab)
        self._poll.unregister(control)
        control.close()
        with contextlib.suppress(ChildProcessError):  # one that `reach` began is a child
            os.waitpid(-1, os.WNOHANG)
        running = [vm.name for vm in self._here.vms() if vm.lab == lab and vm.state == "running"]
        if not (running if self._vm is None else self._vm in running):
            return []
        self.reach(lab, there=False)
        return [line("gap", lab, self._vm, UNHEARD)]


# ---------------------------------------------------------------- qmp


def _qmp_arguments(parser: Parser) -> None:
    parser.add_argument("vm", metavar="VM", help="a vm that runs")
    parser.add_argument("command", metavar="COMMAND", help="a command of QMP, e.g. query-status")
    parser.add_argument("arguments", metavar="JSON", nargs="?", default="{}", help="its arguments, a JSON object")
    add_json(parser)


def _qmp(args: Namespace) -> int:
    from qemunet.live.reach import reach

    arguments = _object(args.arguments)
    here = runtime()
    vm = _living(here, args.vm)
    with reach(here, vm.lab) as keeper:
        answer = keeper.ask("qmp", vm=vm.name, execute=args.command, arguments=arguments)
    print(json.dumps(answer["return"], indent=2 if sys.stdout.isatty() else None))
    return 0


def _object(text: str) -> Message:
    """Return a JSON object; raises UsageError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"JSON: {error}", hint="""an object in quotes, such as '{"id": "net0"}'""") from None
    if not isinstance(value, dict):
        raise UsageError(f"JSON: {text[:60]} is no object", hint="""QMP's arguments have names: '{"id": "net0"}'""")
    return value


def _living(here: Runtime, name: str) -> VmRecord:
    """Return a vm that has a QEMU, or is about to have one; raises NotFound."""
    vm = vm_named(here, name)
    if vm.state == "dead":
        raise NotFound(f"{vm.name} is dead", hint="`qemunet gc` takes back what it left")
    return vm


COMMANDS: Commands = {"events": (_events_arguments, _events), "qmp": (_qmp_arguments, _qmp)}
