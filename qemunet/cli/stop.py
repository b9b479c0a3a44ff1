"""``stop`` and ``gc``: ends guests, and finishes what a killed process left."""

from __future__ import annotations

from contextlib import closing
from functools import partial

from qemunet.cli import render
from qemunet.cli.known import runtime, vm_named
from qemunet.cli.parser import add_json, seconds
from qemunet.errors import QemunetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence

    from qemunet.cli.parser import Commands, Parser
    from qemunet.records import VmRecord
    from qemunet.state import Runtime

_DEAD = "dead"
HOW = {
    "powerdown": "powered off",
    "quit": "QEMU was told to quit",
    "kill": "QEMU was killed",
    _DEAD: "was dead already; what it had left was taken back",
}
_DEFAULT_TIMEOUT = 30.0


def ending_arguments(parser: Parser) -> None:
    """Add what the commands that end vms have in common."""
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=seconds,
        default=_DEFAULT_TIMEOUT,
        help="how long a guest may take after the power button was pressed (default 30s)",
    )
    parser.add_argument("--force", action="store_true", help="do not press the power button first")
    add_json(parser)


def _stop_arguments(parser: Parser) -> None:
    parser.add_argument("vms", metavar="VM", nargs="+", help="a vm that runs")
    ending_arguments(parser)


def _stop(args: Namespace) -> int:
    here = runtime()
    return _end([vm_named(here, name) for name in dict.fromkeys(args.vms)], args, here)


# ---------------------------------------------------------------- ending vms


def _end(vms: Sequence[VmRecord], args: Namespace, here: Runtime) -> int:
    """End all of them at the same time; tell of each how, or what went wrong."""
    results = at_once([partial(end_one, vm, args, here) for vm in vms])
    done = [(vm.name, how) for vm, how in zip(vms, results, strict=True) if isinstance(how, str)]
    failed = [how for how in results if isinstance(how, QemunetError)]
    if args.json:
        render.as_json([{"vm": name, "how": how} for name, how in done])
    else:
        for name, how in done:
            render.note(f"{name}: {HOW.get(how, how)}")
    raise_last(failed)
    return 0


def raise_last(errors: Sequence[QemunetError]) -> None:
    """Tell of errors, and raise the last one, which is told in the end; nothing to do if there is none."""
    for error in errors[:-1]:
        render.note(f"error: {error}")
    if errors:
        raise errors[-1]


def end_one(vm: VmRecord, args: Namespace, here: Runtime) -> str:
    """End a vm and return how; raises QemunetError. What was dead already is taken back."""
    if vm.state == "dead":
        return _take_back(vm, here)
    from qemunet.live.reach import reach

    control = reach(here, vm.lab)
    try:
        reply = control.ask("stop", within=None, vm=vm.name, timeout=args.timeout, force=args.force)
        control.see_off()
    finally:
        control.close()
    return str(reply["how"])


def _take_back(vm: VmRecord, here: Runtime) -> str:
    from qemunet.errors import NotTakenBack
    from qemunet.host.linux import LinuxHost
    from qemunet.live import session

    with closing(LinuxHost(here.path)) as host:
        failures = session.take_back(here, host, [vm.name], session.is_dead)
    if failures:
        raise NotTakenBack(failures)
    return _DEAD


def at_once(actions: Sequence[Callable[[], str]]) -> list[str | QemunetError]:
    """Do all actions at the same time; return their results or errors in order."""
    from qemunet.cli.errors import told_as

    results: dict[int, str | QemunetError] = {}

    def do(number: int) -> None:
        try:
            results[number] = actions[number]()
        except Exception as error:  # whatever it is, the others are told too
            results[number] = told_as(error)

    if len(actions) == 1:
        do(0)
    else:
        from threading import Thread

        threads = [Thread(target=do, args=(number,), daemon=True) for number in range(len(actions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [results[number] for number in range(len(actions))]


# ---------------------------------------------------------------- gc


def _gc_arguments(parser: Parser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add_json(parser)


def _gc(args: Namespace) -> int:
    from qemunet import interrupts
    from qemunet.host.linux import LinuxHost
    from qemunet.live import session

    interrupts.install()  # ^C must not fall into the middle of an undo
    here = runtime()
    with closing(LinuxHost(here.path)) as host:
        done = session.gc(here, host, dry_run=args.dry_run)
    if args.json:
        render.as_json(done)
    elif done:
        render.out("\n".join(done))
    else:
        render.note("nothing was left behind")
    return 0


COMMANDS: Commands = {
    "stop": (_stop_arguments, _stop),
    "gc": (_gc_arguments, _gc),
}
