"""What was last seen at a console, in words that are fit for a message: nothing in them drives a terminal."""

from __future__ import annotations

import re

_DRIVES = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, questions
    rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC and other strings, such as titles
    rb"|\x1b[ -/]*[0-~]?"
)
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), ".")


def words(data: bytes, most: int) -> str:
    """Return the last of what was said, at most so many characters, on one line."""
    text = _DRIVES.sub(b"", data).decode(errors="replace")
    return " ".join(text.split()).translate(_CONTROLS)[-most:]
