"""What is typed at a guest's console when it has started."""

from __future__ import annotations

from qemunet.frozen import frozen


@frozen
class ScriptStep:
    """Wait for `expect`, but no longer than `timeout` seconds and not if `fail` comes first; then type `send`.

    Both are regular expressions. What is typed ends with Enter if `enter` says so. The names of secrets stand in braces
    in `send`: what they stand for is known to nobody but whoever types it.
    """

    expect: str | None
    fail: str | None
    send: str | None
    enter: bool
    timeout: int


@frozen
class FromFile:
    """A secret is what a file holds; an absolute path, or relative to the lab file until that is resolved."""

    path: str


@frozen
class FromEnvironment:
    """A secret is the value of an environment variable of the command that starts the vm."""

    variable: str


Source = FromFile | FromEnvironment


@frozen
class Secret:
    """What is typed where a script has `name` in braces, and where its value comes from when the vm is started."""

    name: str
    source: Source
