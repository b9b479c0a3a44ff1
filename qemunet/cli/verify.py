"""``verify``: tries what a lab file expects, on the lab that runs, and says what holds."""

from __future__ import annotations

import sys

from qemunet.cli import render
from qemunet.cli.known import runtime
from qemunet.cli.parser import add_json, add_overrides, file_name
from qemunet.errors import QemunetError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from qemunet.cli.parser import Commands, Parser
    from qemunet.live.verify import Result
    from qemunet.model.expect import Expect

_HEADER = ("EXPECT", "FROM", "TO", "CHECK", "ALLOW", "RESULT", "TIME", "SEEN")
_STDOUT = "-"


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the lab file, whose lab runs")
    what = "write a report for CI systems there, as JUnit XML; - is standard output, instead of the table"
    parser.add_argument("--junit", metavar="FILE", type=file_name, help=what)
    add_overrides(parser)
    add_json(parser)


def _verify(args: Namespace) -> int:
    from datetime import UTC, datetime

    from qemunet import interrupts
    from qemunet.config import check, expects
    from qemunet.live.source import Source
    from qemunet.live.spots import Spots
    from qemunet.live.verify import Verdict, judge_all

    if args.junit == _STDOUT and args.json:
        raise UsageError("--junit - and --json are both for standard output", hint="one of them can go to a file")
    interrupts.install()
    spec = Source.read(args.file, args.overrides).spec
    check.check(spec)
    wanted = expects.all_of(spec)
    if not wanted:
        raise UsageError(f"{args.file} expects nothing", hint="what is to be tried is written [[expect]]")
    ends = [end for one in wanted for end in (one.source, one.target) if end is not None]
    spots = Spots(runtime(), spec, ends)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    results = judge_all(wanted, spots.find)
    if args.junit:
        _write(args.junit, spec.name, args.file, results, began)
    if args.json:
        render.as_json([_shape(one) for one in results])
    else:
        _print(results, args.file, tabled=args.junit != _STDOUT)
    return 0 if all(one.verdict is Verdict.HOLDS for one in results) else 1


def _write(path: str, lab: str, file: str, results: Sequence[Result], began: str) -> None:
    from qemunet.cli import junit

    report = junit.xml(lab, file, results, began)
    if path == _STDOUT:
        render.out(report.decode())
        return
    try:
        with open(path, "wb") as found:
            found.write(report)
    except OSError as error:
        raise QemunetError(f"the report cannot be written: {error.strerror}", where=path) from error


def _print(results: Sequence[Result], file: str, *, tabled: bool) -> None:
    from qemunet.live.verify import Verdict

    if tabled:
        render.table(_HEADER, map(_row, results))
    wrong = [one for one in results if one.verdict is not Verdict.HOLDS]
    for one in wrong:
        render.note(f"{render.paint('error', sys.stderr)}: {render.line(file)}: {one.expect.path}: {one.complaint}")
    if wrong:
        render.note(f"{len(wrong)} of {len(results)} do not hold")


def _row(one: Result) -> Sequence[str]:
    words = _words(one.expect)
    allow = "yes" if one.expect.allow else "no"
    name = one.expect.name or one.expect.path
    return (name, words["from"], words["to"], words["check"], allow, one.verdict, f"{one.seconds:.1f}s", one.seen)


def _shape(one: Result) -> dict[str, object]:
    expect = one.expect
    known: dict[str, object] = {"expect": expect.path, "name": expect.name, **_words(expect), "allow": expect.allow}
    known |= {"network": expect.network, "family": expect.family and str(expect.family), "timeout": expect.timeout}
    return known | {"result": str(one.verdict), "seconds": round(one.seconds, 3), "seen": one.seen}


def _words(expect: Expect) -> dict[str, str]:
    from qemunet.model.expect import said, word

    return {"from": word(expect.source), "to": word(expect.target), "check": said(expect.check)}


COMMANDS: Commands = {"verify": (_arguments, _verify)}
