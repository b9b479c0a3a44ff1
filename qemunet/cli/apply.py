"""``apply``: makes what runs and its networks match the lab file, and says what only a restart can change."""

from __future__ import annotations

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json, add_overrides, seconds
from qemunet.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from qemunet.cli.parser import Commands, Parser
    from qemunet.config.spec import LabSpec
    from qemunet.live.control import Message
    from qemunet.records import VmRecord
    from qemunet.state import Runtime

_TIMEOUT = 30.0  # seconds
_HEADER = ("WHAT", "CHANGE", "DISRUPTION", "DONE")


def _apply_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the lab file")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--timeout",
        metavar="TIME",
        type=seconds,
        default=_TIMEOUT,
        help=f"how long a guest may take for each card (default {_TIMEOUT:g}s)",
    )
    add_overrides(parser)
    add_json(parser)


def _apply(args: Namespace) -> int:
    from os.path import abspath

    from qemunet.config import read

    spec = read.load(args.file, args.overrides)
    here = runtime()
    running = [vm for vm in here.vms() if vm.lab == spec.name and vm.state == "running"]
    up = [one.name for one in spec.networks if not one.external and one.name in here.networks()]
    if not running and not up and not _cables_up(here, spec):
        raise NotFound(f"nothing of the lab {spec.name} runs", where=args.file, hint=f"`qemunet run {args.file}`")
    if running:
        changes, known = _ask(spec.name, abspath(args.file), args)
    else:
        changes, known = _networks_alone(abspath(args.file), args), []
    _print(changes, dry=args.dry_run, as_json=args.json)
    if running:
        _tell_of_others(args.file, spec, running, known)
    return _status(changes, as_json=args.json)


def _cables_up(here: Runtime, spec: LabSpec) -> bool:
    from qemunet.config import cables

    return bool({f"cable/{cables.name(one)}" for one in spec.cables} & {scope.name for scope in here.scopes("cable")})


def _tell_of_others(file: str, spec: LabSpec, running: list[VmRecord], known: list[str]) -> None:
    """Say which vms were not looked at, and why."""
    for vm in spec.vms:
        if vm.name not in known:
            render.note(f"note: {vm.name} does not run; `qemunet run {file} {vm.name}` starts it")
    for name in {vm.name for vm in running}.difference(vm.name for vm in spec.vms):
        render.note(f"note: {name} is not in the file any more; `qemunet stop {name}` ends it")


def _status(changes: list[Message], *, as_json: bool) -> int:
    """Report every change that failed; return the exit status of the first."""
    from qemunet.cli.errors import report
    from qemunet.live.control import errors_in

    return next(iter([report(error, as_json=as_json) for error in errors_in(changes)]), 0)


def _ask(lab: str, file: str, args: Namespace) -> tuple[list[Message], list[str]]:
    from qemunet.cli.cutoff import cut_off
    from qemunet.live.reach import reach

    see = f"`qemunet apply {args.file} --dry-run` shows what is left to do"
    with reach(runtime(), lab) as keeper, cut_off(see):
        words = {"file": file, "overrides": args.overrides, "dry": args.dry_run, "timeout": args.timeout}
        reply = keeper.ask("apply", within=None, **words)
    changes, vms, networks = reply["changes"], reply["vms"], reply.get("networks", [])
    assert isinstance(changes, list), "of what there was to do"
    assert isinstance(networks, list), "likewise"
    assert isinstance(vms, list), "of names"
    return [*({"vm": None, **one} for one in networks), *changes], vms


def _networks_alone(file: str, args: Namespace) -> list[Message]:
    """Change the networks of a lab of which no guest runs."""
    from qemunet import interrupts
    from qemunet.frozen import as_dict
    from qemunet.live.worker import Worker

    interrupts.install()
    rows = Worker(runtime(), "").apply_networks(file, args.overrides, dry=args.dry_run)
    return [{"vm": None, **as_dict(row)} for row in rows]


def _print(changes: list[Message], *, dry: bool, as_json: bool) -> None:
    if as_json:
        render.as_json(changes)
        return
    if not changes:
        render.note("what runs matches the file")
        return
    notes = [one for one in changes if one.get("note") is True]
    changes = [one for one in changes if one not in notes]
    done = {True: "yes", False: "no"}
    rows = [(_who(one), str(one["what"]), str(one["disruption"]), done[one["done"] is True]) for one in changes]
    render.table(_HEADER[:-1] if dry else _HEADER, [row[:-1] if dry else row for row in rows])
    for one in notes:
        render.note(f"note: {_who(one)}: {one['what']}")
    if any(one["disruption"] == "restart" for one in changes):
        render.note("note: what says restart needs one: `qemunet stop`, then `qemunet run`")


def _who(change: Message) -> str:
    """Return what a change is about, as a table has it."""
    if change["vm"] is not None:
        return str(change["vm"])
    return f"cable {change['cable']}" if change.get("cable") else f"network {change['network']}"


COMMANDS: Commands = {"apply": (_apply_arguments, _apply)}
