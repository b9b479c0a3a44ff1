"""``plan``, ``check`` and ``show``: says what a lab file means; touches nothing and needs no rights."""

from __future__ import annotations

import os
from contextlib import closing

from qemunet.cli import render
from qemunet.cli.known import runtime, vm_or_lab
from qemunet.cli.parser import add_json, add_overrides
from qemunet.errors import Taken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence
    from typing import Any

    from qemunet.cli.parser import Commands, Parser
    from qemunet.live.source import Source, Thought
    from qemunet.state import Scope


# ---------------------------------------------------------------- plan


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the lab file")
    parser.add_argument("vms", metavar="VM", nargs="*", default=[], help="only for these vms of it")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--shell", action="store_true", help="print a POSIX script that does it without qemunet")
    form.add_argument("--json", action="store_true", help="print JSON; errors too, on stderr")
    add_overrides(parser)


def _plan(args: Namespace) -> int:
    thought = _think(_source(args), args.vms, tell=_teller(args))
    if args.shell:
        from qemunet.frozen import replace
        from qemunet.plan import build
        from qemunet.plan.shell import script

        alone = build(thought.lab, replace(thought.facts, scopes={}), args.vms)  # it shares nothing with what is up
        print(script(thought.lab, alone), end="")
    elif args.json:
        from qemunet.plan.text import table

        render.as_json(table(thought.plan))
    else:
        from qemunet.plan.text import text

        render.out(text(thought.plan).rstrip("\n"))
    return 0


# ---------------------------------------------------------------- check


def _check_arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the lab file")
    add_overrides(parser)
    add_json(parser)


def _check(args: Namespace) -> int:
    source = _source(args)
    try:
        _think(source, tell=_teller(args))
    except Taken as error:  # the file is as good as ever when that has stopped
        render.note(f"note: {error}")
    names = {"vms": [vm.name for vm in source.spec.vms], "networks": [net.name for net in source.spec.networks]}
    if args.json:
        render.as_json({"file": source.spec.path, "lab": source.spec.name, **names})
    else:
        contents = ", ".join(f"{_counted(len(found), kind)}" for kind, found in names.items())
        render.note(f"{render.line(args.file)} is a valid lab: {source.spec.name}, {contents}")
    return 0


def _counted(number: int, plural: str) -> str:
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"


# ---------------------------------------------------------------- show


def _show_arguments(parser: Parser) -> None:
    parser.add_argument("what", metavar="FILE|NAME", help="a lab file, or a vm or a lab that runs")
    add_overrides(parser)


def _show(args: Namespace) -> int:
    here = runtime()
    running = [] if _is_file(args.what) else vm_or_lab(here, args.what)
    if running:
        print(_saved([here.scope(f"vm/{vm.name}") for vm in running]), end="")
        return 0
    from qemunet.config.origins import origins
    from qemunet.config.write import lab_toml

    source = _source(args, args.what)
    print(lab_toml(_think(source).lab, origins(source.spec, source.profiles)), end="")
    return 0


def _is_file(what: str) -> bool:
    return "/" in what or "." in what or os.path.isfile(what)


def _saved(scopes: Sequence[Scope]) -> str:
    """Return the saved models of running vms as one lab file; that of one vm as it is, comments included."""
    texts = []
    for scope in scopes:
        with open(scope.path("vm.toml"), encoding="utf-8") as file:
            texts.append(file.read())
    return texts[0] if len(texts) == 1 else joined(texts)


def joined(texts: Sequence[str]) -> str:
    """Return labs that differ in their vms as one lab; the comments get lost."""
    import tomllib

    import tomli_w

    whole: dict[str, Any] = {}
    for text in texts:
        for kind, table in tomllib.loads(text).items():
            whole[kind] = {**whole.get(kind, {}), **table}
    return tomli_w.dumps(whole)


# ---------------------------------------------------------------- shared


def _source(args: Namespace, file: str | None = None) -> Source:
    from qemunet.live.source import Source

    return Source.read(file or args.file, args.overrides)


def _teller(args: Namespace) -> Callable[[str], None] | None:
    """Return what prints a note; whoever wants JSON gets nothing else."""
    return None if args.json else render.note


def _think(source: Source, vms: Sequence[str] = (), tell: Callable[[str], None] | None = None) -> Thought:
    from qemunet.host.linux import LinuxHost
    from qemunet.live.photo import photograph

    here = runtime()
    with closing(LinuxHost(here.path)) as host:
        facts = photograph(here, source.wanted(), host)
    return source.think(facts, vms, strict=False, tell=tell)


COMMANDS: Commands = {
    "plan": (_plan_arguments, _plan),
    "check": (_check_arguments, _check),
    "show": (_show_arguments, _show),
}
