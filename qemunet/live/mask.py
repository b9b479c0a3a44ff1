"""Puts asterisks in the place of secrets in what a guest says, also when they come in pieces.

Theory of operation. A guest that echoes what is typed does so byte by byte, and a shell that edits its line breaks it
where the terminal ends. So a secret is looked for with line ends in between, and the end of what has come so far that
may be the beginning of one is held back until more comes; whoever feeds a mask flushes it when nothing has come for a
while. Bytes are as many as before: places in a log stay what they are.
"""

from __future__ import annotations

import re
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

PATIENCE = 1.0  # seconds that the beginning of a secret is held back for
_WRAP = rb"(?:[\r\n]| (?=\r))*"  # what shells put between two characters at the end of a line; matches in one way only
_STAY = frozenset(b"\r\n")


class Mask:
    """Masks some secrets in a stream of bytes."""

    def __init__(self, secrets: Iterable[bytes]) -> None:
        self._secrets = sorted({one for one in secrets if one}, key=len, reverse=True)
        every = (_WRAP.join(re.escape(bytes([byte])) for byte in one) for one in self._secrets)
        self._pattern = re.compile(b"|".join(every)) if self._secrets else None
        self._held = b""

    @property
    def held(self) -> bytes:
        """What is held back."""
        return self._held

    def feed(self, data: bytes) -> bytes:
        """Take what has come; return what may be shown now."""
        if self._pattern is None:
            return data
        text = self._pattern.sub(_stars, self._held + data)
        end = min(self._beginning(text, one) for one in self._secrets)
        self._held = text[end:]
        return text[:end]

    def flush(self) -> bytes:
        """Return what was held back: it was no secret."""
        held, self._held = self._held, b""
        return held

    def rest(self) -> bytes:
        """Return what is held back, masked: for somebody who cannot wait for what it will be."""
        return _masked(self._held)

    def _beginning(self, text: bytes, secret: bytes) -> int:
        """Return where the end of a text begins that may be the beginning of a secret."""
        at = max(0, len(text) - 3 * len(secret))
        while (at := text.find(secret[:1], at)) >= 0:
            if _may_become(text, at, secret):
                return at
            at += 1
        return len(text)


def _may_become(text: bytes, at: int, secret: bytes) -> bool:
    """Tell whether a text from a place to its end is how a secret begins."""
    known = 0
    for place in range(at, len(text)):
        byte = text[place]
        wraps = byte in _STAY or (byte == 0x20 and text[place + 1 : place + 2] in (b"", b"\r"))
        if known < len(secret) and byte == secret[known]:
            known += 1
        elif not wraps or known == len(secret):
            return False
    return known < len(secret)


def _stars(found: re.Match[bytes]) -> bytes:
    return _masked(found[0])


def _masked(text: bytes) -> bytes:
    return bytes(byte if byte in _STAY else 0x2A for byte in text)
