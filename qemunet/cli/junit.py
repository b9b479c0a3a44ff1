"""Writes what became of expectations as JUnit XML, which CI systems read: a suite, a case for each, its failure."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from qemunet.live.verify import Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemunet.live.verify import Result

_TAGS = {Verdict.FAILS: "failure", Verdict.UNCLEAR: "error"}


def xml(lab: str, file: str, results: Sequence[Result], began: str) -> bytes:
    """Return the whole document; `began` is a time as ISO 8601 has it."""
    counts = {tag: sum(one.verdict is verdict for one in results) for verdict, tag in _TAGS.items()}
    totals = {
        "tests": str(len(results)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "time": _seconds(sum(one.seconds for one in results)),
    }
    root = ET.Element("testsuites", totals)
    suite = ET.SubElement(root, "testsuite", {"name": lab, **totals, "skipped": "0", "timestamp": began})
    for one in results:
        _case(suite, lab, file, one)
    ET.indent(root)
    document: bytes = ET.tostring(root, "utf-8", xml_declaration=True)
    return document


def _case(suite: ET.Element, lab: str, file: str, one: Result) -> None:
    name = f"{one.expect.path} {one.expect.title}{'' if one.expect.allow else ' blocked'}"
    words = {"classname": lab, "name": name, "file": file, "time": _seconds(one.seconds)}
    case = ET.SubElement(suite, "testcase", {key: _allowed(text) for key, text in words.items()})
    if one.verdict in _TAGS:
        text = _allowed(one.complaint)
        failure = {"message": text, "type": one.verdict.value}
        ET.SubElement(case, _TAGS[one.verdict], failure).text = text
    else:
        ET.SubElement(case, "system-out").text = _allowed(one.seen)


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _allowed(text: str) -> str:
    """Return text without what XML cannot have: a guest may say anything."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
