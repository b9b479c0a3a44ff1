"""``down``: ends all of a lab in the reverse order of its start, and what was made for it."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.stop import HOW, end_one, ending_arguments, raise_last
from qemunet.errors import Interrupted, NotFound, NotTakenBack, QemunetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Sequence

    from qemunet.cli.parser import Commands, Parser
    from qemunet.records import VmRecord
    from qemunet.state import Runtime

_BY_ITSELF = "itself"
_HOW = HOW | {_BY_ITSELF: "it had ended by itself"}
_TRIES = 3  # keepers that may be killed one after the other


def _arguments(parser: Parser) -> None:
    parser.add_argument("names", metavar="LAB", nargs="+", help="a lab, or its file")
    ending_arguments(parser)


def _down(args: Namespace) -> int:
    from qemunet import interrupts

    interrupts.install()
    here = runtime()
    known = here.vms()
    chosen: dict[str, VmRecord] = {}
    idle = []
    for name in args.names:
        found = _of_lab(name, known) or _nothing_of(name, known, here)
        chosen |= {vm.name: vm for vm in found}
        idle += [] if found else [name]
    results = _descend(list(chosen.values()), args, here)
    _finish(here)
    if args.json:
        render.as_json([{"vm": name, "how": how} for name, how in results.items() if isinstance(how, str)])
    else:
        for name in dict.fromkeys(idle):
            render.note(f"{name}: nothing of it runs")
        _tell_of_networks(here, chosen.values())
    raise_last([how for how in results.values() if isinstance(how, QemunetError)])
    return 0


def _of_lab(name: str, vms: Sequence[VmRecord]) -> list[VmRecord]:
    """Return the vms of a lab, which is named by its name or by its file."""
    from os.path import abspath

    return [vm for vm in vms if vm.lab == name] or [vm for vm in vms if vm.file == abspath(name)]


def _nothing_of(name: str, known: Sequence[VmRecord], here: Runtime) -> list[VmRecord]:
    """Return no vm for a lab file of which nothing runs; raises NotFound for what may be a slip of the pen."""
    from os.path import isfile

    if isfile(name):
        return []
    if "/" in name or name.endswith(".toml"):
        raise NotFound("no such file, and nothing runs that was started from it", where=name)
    labs = ", ".join(sorted({vm.lab for vm in known})) or "none"
    hint = f"`qemunet stop {name}` ends a vm" if any(vm.name == name for vm in known) else ""
    raise NotFound(f'no vm of a lab "{name}" runs (labs: {labs})', where=here.path, hint=hint)


# ---------------------------------------------------------------- the vms


def _descend(vms: Sequence[VmRecord], args: Namespace, here: Runtime) -> dict[str, str | QemunetError]:
    """End vms, each after those that depend on it; return how each ended, or what went wrong."""
    from qemunet.live.descent import Descent

    by_name = {vm.name: vm for vm in vms}
    # Names are unique in a runtime directory, but a vm depends on one of its own lab.
    after = {vm.name: [one for one in vm.depends if one in by_name and by_name[one].lab == vm.lab] for vm in vms}
    tell = (lambda *_: None) if args.json else _Teller([vm.name for vm in vms])
    descent = Descent(after, lambda name: _end(by_name[name], args, here), tell)
    try:
        descent.run()
    except Interrupted as error:
        hint = "guests that were told to end go on with that; the same command sees to the others"
        raise Interrupted(str(error), hint=hint) from error
    return {vm.name: descent.ended[vm.name] for vm in vms}


class _Teller:
    """Shows how far each vm is."""

    def __init__(self, names: Sequence[str]) -> None:
        from qemunet.cli.progress import Progress

        self._progress = Progress(names)

    def __call__(self, vm: str, result: str | QemunetError | None) -> None:
        match result:
            case None:
                self._progress.tell(vm, "stopping")
            case str():
                self._progress.tell(vm, "ended", _HOW.get(result, result))
            case _:
                self._progress.tell(vm, "failed", str(result))


def _end(vm: VmRecord, args: Namespace, here: Runtime) -> str | QemunetError:
    """End a vm, whatever comes of it."""
    from qemunet.cli.errors import told_as

    try:
        return _persistently(vm, args, here)
    except Exception as error:  # whatever it is, the others are ended too
        return told_as(error)


def _persistently(vm: VmRecord, args: Namespace, here: Runtime) -> str:
    """End a vm, by the next keeper if one is killed meanwhile; return how, or that it was quicker."""
    from qemunet.live.control import Lost

    for left in reversed(range(_TRIES)):
        try:
            return end_one(vm, args, here)
        except NotFound:
            return _BY_ITSELF
        except Lost:
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


# ---------------------------------------------------------------- the rest


def _finish(here: Runtime) -> None:
    """Take back what somebody was killed at making, and what nobody uses; raises NotTakenBack."""
    from contextlib import closing

    from qemunet import interrupts
    from qemunet.state import SHARED_KINDS

    unused = any(not scope.in_use() for scope in here.scopes(*SHARED_KINDS))
    if not unused and not any(not scope.alive() for scope in here.scopes("vm")):
        return
    from qemunet.host.linux import LinuxHost
    from qemunet.live import session

    with closing(LinuxHost(here.path)) as host, interrupts.deferred():
        failures = session.clean(here, host) + (session.reap(here, host) if unused else [])
    if failures:
        raise NotTakenBack(failures)


def _tell_of_networks(here: Runtime, vms: Iterable[VmRecord]) -> None:
    """Name the networks of these vms that stay although nobody is on them."""
    for name in sorted({nic.network for vm in vms for nic in vm.nics if nic.network}):
        scope = here.scope(f"net/{name}")
        if scope.exists() and scope.in_use() and not scope.users():
            render.note(f"note: the network {name} stays; `qemunet net down {name}` takes it down")


COMMANDS: Commands = {"down": (_arguments, _down)}
