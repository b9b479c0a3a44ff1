"""What steps are spelled with: shell lines, sysctl keys, and arguments that name open files."""

from __future__ import annotations

from qemunet.frozen import frozen


def line(*words: str) -> str:
    """Join words to one shell line, each quoted as needed."""
    from shlex import quote  # only what is printed needs it

    return " ".join(map(quote, words))


def sysctl_name(interface: str) -> str:
    """Return an interface's name as a part of a sysctl key: dots and slashes change places (sysctl.d(5))."""
    return interface.replace(".", "/")


@frozen
class Handle:
    """Stands in an argument for the number of an open file; several numbers are joined by colons."""

    name: str

    def __str__(self) -> str:
        return f"<{self.name}>"


@frozen
class Word:
    """One argument of a command line, made of text and handles."""

    parts: tuple[str | Handle, ...]

    def __str__(self) -> str:
        return "".join(str(part) for part in self.parts)
