"""What a guest asks a terminal, and what terminals answer: so that one answer comes, and none to what is long past.

A program in the guest may ask where the cursor is, what kind of terminal there is, or for a colour; the answer comes as
if it were typed. Where two people look, both terminals answer, and the second answer would be typed into whatever runs
by then; so would one to a question that is shown again from the log.
"""

from __future__ import annotations

import re

_QUERY = re.compile(
    rb"\x1b\[[?>=]?[0-9;]*[nc]"  # status and cursor position, kind of terminal
    rb"|\x1b\[[?>]?[0-9;]*\$p"  # a mode
    rb"|\x1b\[>[0-9]*q"  # its version
    rb"|\x1b\[(?:1[1345689]|2[01])t"  # of its window, size and title among them
    rb"|\x1b\][0-9]+;[^\x07\x1b]*\?(?:\x07|\x1b\\)"  # a colour, the clipboard
    rb"|\x1bP[$+]q[^\x1b]*\x1b\\"  # a setting
    rb"|\x1bZ|\x05"
)
_ANSWER = re.compile(rb"\x1b\[[?>]?[0-9;]+(?:[Rnct]|\$y)|\x1b\][0-9lL][^\x07\x1b]*(?:\x07|\x1b\\)|\x1bP[^\x1b]*\x1b\\")
_LONGEST = 64  # bytes of a question that may come in two pieces


def without(data: bytes) -> bytes:
    """Return what a guest has said without its questions."""
    return _QUERY.sub(b"", data)


class Asked:
    """Counts the questions in what a guest says."""

    def __init__(self) -> None:
        self._end = b""

    def count(self, data: bytes) -> int:
        """Return how many questions are complete with these bytes."""
        if not self._end and b"\x1b" not in data and b"\x05" not in data:
            return 0
        text, number, end = self._end + data, 0, 0
        for found in _QUERY.finditer(text):
            number, end = number + 1, found.end()
        begun = text.find(b"\x1b", max(end, len(text) - _LONGEST))
        self._end = text[begun:] if begun >= 0 else b""
        return number


def unanswered(typed: bytes, owed: int) -> tuple[bytes, int]:
    """Return what was typed without the first `owed` answers of a terminal, and how many are still to come."""
    text, gone = _ANSWER.subn(b"", typed, count=owed) if owed > 0 else (typed, 0)
    return text, owed - gone
