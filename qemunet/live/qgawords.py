"""What the QEMU guest agent reads and writes, taken apart: QEMU's docs/interop/qemu-ga-ref has its words."""

from __future__ import annotations

import base64
import json

from qemunet.errors import Failed
from qemunet.live.agent import printable


class Refused(Failed):
    """The agent has answered with an error."""


def request(command: str, arguments: dict[str, object]) -> bytes:
    """Return a request as the agent reads it."""
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def answer(line: bytes, command: str) -> dict[str, object]:
    """Return what an answer has to say, empty if it is no object; raises Refused for an error, Failed for nonsense."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and "return" in found:
        value = found["return"]
        return value if isinstance(value, dict) else {}
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        raise Failed(f"what its QEMU guest agent answers to {command} is no answer")
    said = printable(str(error.get("desc", "no reason")).encode(errors="replace")[:300])
    hint = ""
    if "disabled" in said or "not allowed" in said or error.get("class") == "CommandNotFound":
        hint = f"have {command} allowed in the guest, often in /etc/qemu/qemu-ga.conf or /etc/sysconfig/qemu-ga"
    raise Refused(f"its QEMU guest agent refuses {command}: {said}", hint=hint)


def is_greeting(line: bytes, number: int) -> bool:
    """Tell whether a line is the answer to a ``guest-sync-delimited`` with this number."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("return") == number


def decoded(text: object) -> bytes:
    """Return what base64 stands for; raises Failed if it is none."""
    try:
        return base64.b64decode(str(text), validate=True)
    except ValueError:
        raise Failed("its QEMU guest agent sends what is no base64") from None


def exit_status(status: dict[str, object]) -> int:
    """Return what a shell would: 128 and a signal's number, if that ended it; raises Failed if neither is said."""
    code, signal = status.get("exitcode"), status.get("signal")
    if isinstance(signal, int):
        return 128 + (signal & 127)
    if isinstance(code, int):
        return code & 255
    raise Failed("its QEMU guest agent does not say how the command has ended")
