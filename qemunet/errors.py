"""Every error that qemunet raises on purpose: what is wrong, where, and what to do about it.

::

    QemunetError                 status  meaning
    ├── UsageError                  2    the command line is wrong
    ├── ConfigError                 2    the lab file, or a file that it names, is wrong
    │   └── Duplicate                    two things in it want what only one can have
    ├── HostLacks                   3    the host lacks something; everything it lacks at once
    ├── NotFound                    4    no such vm, nic or network, or it is not running
    ├── TimedOut                    5    a wait ended; says what was last seen
    ├── Taken                       6    a name, MAC, port, interface or slot is in use; says by whom
    ├── Interrupted               130    the user interrupted; everything was taken back
    └── Failed                      1    an action failed and was taken back
        ├── StepFailed                   a step could not be done (carries the step and the cause)
        ├── LaunchFailed                 QEMU died at start (carries argv, status, last stderr lines)
        ├── Refused                      QEMU refused a command (carries QMP's class of the error)
        └── NotTakenBack                 some undo failed too; what is left is named

The command line prints ``error: [where: ]message`` and ``hint: …``; with ``--json`` it prints `as_json`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` itself would cost a start 2 ms
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Never, NoReturn

LAST_LINES = 20  # of QEMU's stderr, in a launch error
_WITHOUT_VALUE = frozenset(
    {"-S", "-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown", "-no-acpi", "-no-hpet"}
)


class QemunetError(Exception):
    """What all of them share: a ``kind`` for programs, an exit status, a place and a hint."""

    kind = "error"
    exit_status = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def as_json(self) -> dict[str, dict[str, str]]:
        """Return the shape that ``--json`` prints on stderr."""
        return {"error": {"kind": self.kind, "message": self.message, "where": self.where, "hint": self.hint}}


class UsageError(QemunetError):
    """The command line is wrong."""

    kind = "usage"
    exit_status = 2


class ConfigError(QemunetError):
    """The lab file is wrong; ``where`` is ``FILE: dotted.path``."""

    kind = "config"
    exit_status = 2

    def __init__(self, file: str, path: str, problem: str, *, hint: str = "") -> None:
        super().__init__(problem, where=f"{file}: {path}" if path else file, hint=hint)
        self.file = file
        self.path = path


class Duplicate(ConfigError):
    """Two things of a lab want what only one can have: an address, an interface, a port, an index."""


class HostLacks(QemunetError):
    """The host lacks things that the plan needs, all of them listed at once."""

    kind = "host"
    exit_status = 3

    def __init__(self, lacks: Sequence[str], *, hint: str = "") -> None:
        super().__init__("this host lacks " + "; ".join(lacks), hint=hint)
        self.lacks = tuple(lacks)


class NotFound(QemunetError):
    """No such vm, nic or network, or it is not running."""

    kind = "not-found"
    exit_status = 4


class TimedOut(QemunetError):
    """A wait ended without success; the message says what was last seen."""

    kind = "timeout"
    exit_status = 5


class Taken(QemunetError):
    """A name, MAC, port, interface or slot is in use; the message says by whom."""

    kind = "taken"
    exit_status = 6


class Interrupted(QemunetError):
    """The user interrupted and everything was taken back."""

    kind = "interrupted"
    exit_status = 130


class Failed(QemunetError):
    """An action failed and was taken back."""

    kind = "failed"


class StepFailed(Failed):
    """A step could not be done; ``step`` is its description, the cause is chained."""

    kind = "step"

    def __init__(self, step: str, cause: str, *, hint: str = "") -> None:
        super().__init__(f"could not {step}: {cause}", hint=hint)
        self.step = step


class LaunchFailed(Failed):
    """QEMU died before it answered: its exit status, its last words and its command line."""

    kind = "launch"

    def __init__(self, vm: str, status: int | None, argv: Sequence[str], stderr: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stderr = "\n".join(stderr.splitlines()[-LAST_LINES:])
        said = "".join(f"\n    {line}" for line in self.stderr.splitlines()) or " (nothing)"
        super().__init__(
            f"QEMU died at start ({describe_status(status)})\n"
            f"  it said:{said}\n"
            f"  command line:\n    {command_line(self.argv)}",
            where=f"vm.{vm}",
        )


class Refused(Failed):
    """QEMU refused a command of its monitor; the message is its own, ``error_class`` is QMP's."""

    kind = "qmp"

    def __init__(self, command: str, description: str, error_class: str = "GenericError") -> None:
        super().__init__(description, where=command)
        self.error_class = error_class


class NotTakenBack(Failed):
    """Some undo failed; the message names what is left and how to try again."""

    kind = "not-taken-back"

    def __init__(self, failures: Sequence[str]) -> None:
        super().__init__(
            "could not take everything back: " + "; ".join(failures),
            hint="`qemunet gc` tries again",
        )
        self.failures = tuple(failures)


class Gone(Exception):
    """Raised by a host when the thing to be undone is not there any more: as good as done."""


def of_the_host(error: OSError) -> QemunetError:
    """Return an operating system error that nobody put into better words as one of ours: the host's, not a mistake."""
    where = error.filename if isinstance(error.filename, str) else ""
    hint = "another user may: is it root's?" if isinstance(error, PermissionError) else ""
    return QemunetError(error.strerror or str(error) or type(error).__name__, where=where, hint=hint)


def raise_all(errors: Sequence[QemunetError]) -> None:
    """Raise the first of them, if there is one, with the others as its notes."""
    for other in errors[1:]:
        errors[0].add_note(str(other))
    if errors:
        raise errors[0]


def waits_for_itself(whom: str) -> Failed:
    """Return the error for a command of a user's hook that would wait for `whom`, who waits for the hook."""
    return Failed(
        f"this was called by a hook that {whom} is waiting for, and would wait for {whom} in turn",
        hint="leave it to a process that outlives the hook, as in `(qemunet … &)`",
    )


def command_line(argv: Sequence[str]) -> str:
    """Return a command as a shell reads it, an option with its value a line."""
    from shlex import quote

    text = ""
    open_option = False  # one whose value has not come yet
    for number, word in enumerate(argv):
        is_option = word.startswith("-") and not open_option
        text += (" \\\n      " if is_option else " ") * (number > 0) + quote(word)
        open_option = is_option and word not in _WITHOUT_VALUE
    return text


def unreachable(value: Never) -> NoReturn:
    """Fail for a value of a kind that was forgotten; type checkers prove that there is none."""
    raise AssertionError(f"nobody thought of {value!r}")


def describe_status(status: int | None) -> str:
    """Say an exit status as :mod:`subprocess` counts it: negative for a signal, None when nobody saw it."""
    if status is None:
        return "exit status unknown"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
