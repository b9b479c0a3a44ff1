"""``cp``: copies files and directories between here and a guest."""

from __future__ import annotations

import re

from qemunet import interrupts
from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import seconds
from qemunet.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from qemunet.cli.parser import Commands, Parser

_PLACE = re.compile(r"([A-Za-z][A-Za-z0-9-]*):(.*)", re.DOTALL)
_HINT = "VM:PATH is in a guest; a file here with a colon in its name is written ./a:b"


def _arguments(parser: Parser) -> None:
    parser.add_argument("source", metavar="SRC", help="a file here, or VM:PATH in a guest")
    parser.add_argument("target", metavar="DST", help="likewise; if it is a directory, the copy is made in it")
    parser.add_argument("-r", "--recursive", action="store_true", help="a directory with all that is in it")
    what = "how long a guest that still boots is waited for (default: 60s)"
    parser.add_argument("--wait", metavar="TIME", type=seconds, default=60.0, help=what)


def _cp(args: Namespace) -> int:
    from qemunet.live import carry

    (source_vm, source), (target_vm, target) = place(args.source), place(args.target)
    settings = {"recursive": args.recursive, "boot": args.wait}
    if source_vm and target_vm:
        hint = f"by way of the host: `qemunet cp {args.source} FILE`, then `qemunet cp FILE {args.target}`"
        raise UsageError("both are in guests", hint=hint)
    if not source_vm and not target_vm:
        raise UsageError("neither of the two is in a guest", hint=_HINT)
    interrupts.install()
    if target_vm:
        carry.into(runtime(), target_vm, source, target, **settings)
    else:
        for name in carry.out_of(runtime(), source_vm, source, target, **settings):
            render.note(f"note: left out, as it is neither a file, a directory nor a link: {name}")
    return 0


def place(word: str) -> tuple[str, str]:
    """Return the guest and the path that a word stands for; the guest is empty for a path here.

    Without a path it is the guest's home directory.
    """
    found = _PLACE.fullmatch(word)
    return (found[1], found[2] or ".") if found else ("", word)


COMMANDS: Commands = {"cp": (_arguments, _cp)}
