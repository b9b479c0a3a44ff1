"""Steps about guests: their hooks and their QEMU."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.model.vm import RunAs
    from qemunet.steps import Step
    from qemunet.steps.words import Word


@frozen
class RunHook:
    """Run a program of the user's when a card's host side is ready (`up`), and `down` before it goes.

    It is called as qemu-ifup scripts are, with the interface as its argument, and finds the rest in variables
    whose names begin with QEMUNET_.
    """

    up: str | None
    down: str | None
    interface: str
    environment: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"run {self.up} {self.interface}" if self.up else f"later run {self.down} {self.interface}"

    def inverse(self, before: Facts) -> Step | None:
        return RunHook(self.down, None, self.interface, self.environment) if self.down else None

    def shell(self) -> tuple[str, ...]:
        settings = [f"{key}={value}" for key, value in self.environment]
        return (line("env", *settings, self.up, self.interface),) if self.up else ()


@frozen
class StartQemu:
    """Start a guest's QEMU, its processors stopped, with its sockets in `directory`.

    `argv` names descriptors by handles; `script` is the same for a shell, with everything by name and running, if the
    plan is one that can be printed. `netns`: the namespace of the lab that it runs in, empty for the host's own.
    """

    vm: str
    directory: str
    argv: tuple[Word, ...]
    script: tuple[str, ...]
    run_as: RunAs | None = None
    groups: tuple[int, ...] = ()
    netns: str = ""

    def describe(self) -> str:
        who = f" as uid {self.run_as.uid}" if self.run_as else ""
        return f"start QEMU of {self.vm}{who}{f' in {self.netns}' if self.netns else ''}"

    def inverse(self, before: Facts) -> Step | None:
        return EndQemu(self.vm, self.directory)

    def shell(self) -> tuple[str, ...]:
        return self.script


@frozen
class EndQemu:
    """End a guest's QEMU at once and wait until it is gone."""

    vm: str
    directory: str

    def describe(self) -> str:
        return f"end QEMU of {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        pid = f'"$(cat {line(self.directory)}/pid)"'
        return (f"kill {pid} && while kill -0 {pid} 2>/dev/null; do sleep 0.1; done",)


@frozen
class AwaitQemu:
    """Wait until a started QEMU answers on its monitor; if it died, say how."""

    vm: str

    def describe(self) -> str:
        return f"wait for QEMU of {self.vm}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()


@frozen
class Resume:
    """Let the guest's processors run."""

    vm: str

    def describe(self) -> str:
        return f"let {self.vm} run"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return ()
