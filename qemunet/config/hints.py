"""What a message suggests: the nearest known word, and lists of words."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Bad(ValueError):
    """A value is not what its key takes; whoever knows the place makes a ConfigError of it."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that `word` most probably was meant to be, or an empty string."""
    from difflib import get_close_matches  # only a mistake needs it

    lower = {one.lower(): one for one in known}
    found = get_close_matches(word.lower(), lower, n=1)
    return lower[found[0]] if found else ""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``did you mean "…"?`` followed by `otherwise`; that alone if nothing is near."""
    near = nearest(word, known)
    question = f'did you mean "{near}"?' if near else ""
    return " ".join(filter(None, (question, otherwise)))


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return ``a, b and c``."""
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


def dotted(path: str, key: str) -> str:
    """Append a key to a dotted path, in quotes if TOML wants them."""
    bare = key.isascii() and key.replace("-", "a").replace("_", "a").isalnum()
    word = key if bare else quoted(key)
    return f"{path}.{word}" if path else word


def quoted(text: str) -> str:
    """Return `text` as a TOML basic string."""
    return f'"{text.translate(_ESCAPES)}"'


_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(32), 127)} | {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    ord("\n"): "\\n",
    ord("\t"): "\\t",
    ord("\r"): "\\r",
}
