"""What is typed at a guest's console when it has started."""

from __future__ import annotations

from qemunet.frozen import frozen


@frozen
class ScriptStep:
    """Wait for `expect`, but no longer than `timeout` seconds and not if `fail` comes first; then type `send`.

    Both are regular expressions. What is typed ends with Enter if `enter` says so.
    """

    expect: str | None
    fail: str | None
    send: str | None
    enter: bool
    timeout: int
