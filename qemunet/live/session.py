"""Starts guests, takes them back, and finishes what a killed process left: blocking, without an event loop."""

from __future__ import annotations

import contextlib
import os
import select
import time

from qemunet import interrupts, runner
from qemunet.errors import NotTakenBack
from qemunet.facts import Wanted
from qemunet.frozen import frozen, replace
from qemunet.host import processes
from qemunet.host.linux import LinuxHost
from qemunet.live.agenda import QEMU
from qemunet.live.photo import photograph
from qemunet.live.taken import refuse_taken_names, refuse_taken_networks
from qemunet.locks import Lock
from qemunet.state import SHARED_KINDS, Runtime, Scope, write_private
from qemunet.steps import AwaitQemu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from qemunet.facts import Facts
    from qemunet.journal import Journal
    from qemunet.live.agenda import Agenda, Brief, Sheet, Thinker, VmSheet
    from qemunet.steps import Part

_DYING, _GLANCE = 30.0, 0.005  # seconds for a killed process to be gone, and between two looks


@frozen
class Work:
    """A vm's scope while it is being made: the right to work on it, its journal, and what is for good later."""

    scope: Scope
    right: Lock
    journal: Journal
    lasting: list[int]


class Start:
    """One attempt to start vms of a lab. Either all of it comes true, or `give_up` takes all of it back."""

    def __init__(self, runtime: Runtime, host: LinuxHost, *, tethered: bool) -> None:
        self.runtime = runtime
        self.host = host
        self.tethered = tethered
        self._works: dict[str, Work] = {}

    def prepare(self, agenda: Agenda, facts: Facts) -> None:
        """Make what is shared and each vm's own things; the runtime directory's lock must be held."""
        for part in agenda.plan.shared:
            make_shared(self.runtime, self.host, part, facts, agenda.sheets.get(part.scope))
        for vm, sheet in agenda.vms.items():
            self._open(vm, sheet)
        for part in agenda.plan.own:
            self._apply(part, facts)

    def launch(self, agenda: Agenda, facts: Facts) -> None:
        """Start the QEMUs, write down what is known of them while they get ready, and let the guests run.

        Nobody else waits for this. After it, all that will be on record has its room on the disk.
        """
        parts = agenda.plan.start
        ready = next(number for number, part in enumerate(parts) if isinstance(part.steps[0], AwaitQemu))
        for part in parts[:ready]:
            self._apply(part, facts)
        self._write_down()
        for part in parts[ready:]:
            self._apply(part, facts)

    def settle(self) -> None:
        """It is final: say so on record, and let go of the scopes."""
        for work in self._works.values():
            work.scope.publish()
            _end(work)

    def give_up(self) -> list[str]:
        """Take back everything of this attempt; return what could not be."""
        failures = [failure for work in self._works.values() for failure in _take_back(work, self.host)]
        self.host.close()
        return failures + reap(self.runtime, self.host)

    def _open(self, vm: str, sheet: VmSheet) -> None:
        scope = self.runtime.scope(f"vm/{vm}")
        scope.create()
        self._works[scope.name] = _begin(scope)
        write_private(scope.path("vm.toml"), sheet.text)
        if sheet.script:
            from qemunet.live import script

            script.begin(scope.directory, sheet.script, sheet.hidden)
        scope.save(replace(sheet.record, tethered=self.tethered))
        lock = Lock.take(scope.path("lock"), wait=True, create=True)
        assert lock is not None, "a lock that is waited for is had"
        self.host.handles[f"{vm}:lock"] = [lock.fd]

    def _write_down(self) -> None:
        for name, work in self._works.items():
            for number in work.lasting:
                work.journal.mark(number, "kept")
            guest = self.host.guests[name.removeprefix("vm/")]
            known = work.scope.record()
            assert known is not None, "written when the scope was opened"
            work.scope.draft(replace(known, pid=guest.pid, start_time=guest.start_time, started=True))

    def _apply(self, part: Part, facts: Facts) -> None:
        work = self._works[part.scope]
        work.lasting.extend(runner.apply(part.steps, facts, self.host, work.journal, about=part.about))


def make_shared(runtime: Runtime, host: LinuxHost, part: Part, facts: Facts, sheet: Sheet | None) -> None:
    """Make what several guests share; the runtime directory's lock must be held, and `reap` takes it down."""
    scope = runtime.scope(part.scope)
    scope.create()
    with working(scope) as journal:
        runner.apply(part.steps, facts, host, journal)
        if sheet is not None:
            write_private(scope.path(sheet.file), sheet.text)
            if sheet.keep:
                write_private(scope.path("keep"), "")
        scope.complete(part.fingerprint)


def start(
    runtime: Runtime,
    host: LinuxHost,
    thinker: Thinker,
    *,
    tethered: bool,
    commit: Callable[[Sequence[str]], None] = lambda names: None,
) -> None:
    """Start the vms that somebody has thought about, and what they need.

    When they run, `commit` gets their names and may still raise. Raises any QemunetError; then everything was taken
    back, or `NotTakenBack` says what was not. `host.guests` has the processes.
    """
    brief = thinker.brief
    for name in brief.vms:
        _see_out(runtime.scope(f"vm/{name}"))
    clean(runtime, host)
    verdicts = _try_kvm(brief, host)
    attempt = Start(runtime, host, tethered=tethered)
    try:
        with runtime.exclusive():
            refuse_taken_names(runtime, brief.lab, brief.path, brief.vms)
            drop_half_made(runtime, host)
            facts = replace(photograph(runtime, brief.wanted, host), kvm=verdicts)
            agenda = thinker.agenda(facts)
            refuse_taken_networks(runtime, agenda.plan)
            _heal(runtime, host, agenda)
            attempt.prepare(agenda, facts)
        attempt.launch(agenda, facts)
        commit(brief.vms)
    except BaseException as error:
        failures = attempt.give_up()
        if failures:
            raise NotTakenBack([str(error), *failures]) from error
        raise
    attempt.settle()


def _try_kvm(brief: Brief, host: LinuxHost) -> dict[str, str]:
    """Find out whether KVM works, if a vm leaves that open: by processor model why not, empty if it does.

    It may take seconds, and is remembered.
    """
    if not brief.processors:
        return {}
    qemu = host.photograph(Wanted(programs=frozenset({QEMU}))).programs.get(QEMU)
    if qemu is None:
        return {}
    from qemunet.live import accel

    return {model: accel.kvm_verdict(qemu, model) for model in brief.processors}


def _heal(runtime: Runtime, host: LinuxHost, agenda: Agenda) -> None:
    """Make the bridges again that networks which are up have lost while no guest was on them."""
    if agenda.bare:
        from qemunet.live import mend

        for scope in agenda.bare:
            mend.again(runtime, host, runtime.scope(scope))


def take_back(
    runtime: Runtime, host: LinuxHost, names: Iterable[str], still: Callable[[Scope], bool] = Scope.exists
) -> list[str]:
    """End these vms if they still run and undo all that was done for them; return what could not be undone.

    Waits for whoever works on them. A vm that is not there is as good as taken back, and so is one that is not `still`
    what it was when this was decided: somebody was quicker, and may have started another one of that name.
    """
    failures = []
    for name in names:
        scope = runtime.scope(f"vm/{name}")
        failures += _take_back_if(scope, scope.wait_busy(), still, host)
    return failures + reap(runtime, host)


def is_dead(scope: Scope) -> bool:
    """Tell whether a vm is there and its QEMU is not."""
    return scope.exists() and not scope.alive()


def reap(runtime: Runtime, host: LinuxHost) -> list[str]:
    """Take down what is shared and unused, and forget keepers that are dead; return what could not be undone."""
    failures = []
    with runtime.exclusive():
        for kind in SHARED_KINDS:  # networks use settings of the host
            failures += [text for scope in runtime.scopes(kind) if not scope.in_use() for text in drop(scope, host)]
        for scope in runtime.scopes("lab"):
            if not scope.alive():
                scope.remove()
    return failures


def drop_half_made(runtime: Runtime, host: LinuxHost) -> None:
    """Take down what somebody was killed at making; nobody is at it, as the runtime directory's lock must be held.

    Raises NotTakenBack.
    """
    if any(scope.is_changing() for scope in runtime.scopes("net")):
        from qemunet.live import netchange

        netchange.finish(runtime, host)
    half = [scope for kind in SHARED_KINDS for scope in runtime.scopes(kind) if scope.fingerprint() is None]
    failures = [text for scope in half for text in drop(scope, host)]
    if failures:
        raise NotTakenBack(failures)


def drop(scope: Scope, host: LinuxHost) -> list[str]:
    """Take down what is shared; the runtime directory's lock must be held. Return what could not be undone."""
    return _take_back(_begin(scope), host)


def reap_all(runtime: Runtime, host: LinuxHost, failures: Sequence[str] = ()) -> None:
    """Take down what is shared and unused; raises NotTakenBack, also for what failed before."""
    with interrupts.deferred():
        left = [*failures, *reap(runtime, host)]
    if left:
        raise NotTakenBack(left)


@contextlib.contextmanager
def working(scope: Scope) -> Iterator[Journal]:
    """Have the right to work on a shared scope, and its journal; the runtime directory's lock must be held."""
    work = _begin(scope)
    try:
        yield work.journal
    finally:
        _end(work)


def clean(runtime: Runtime, host: LinuxHost) -> list[str]:
    """Take back the vms whose QEMU is dead and on which nobody works: the cheap part of `gc`."""
    dead = [scope for scope in runtime.scopes("vm") if not scope.alive()]
    if not dead:
        return []
    failures = []
    for scope in dead:
        failures += _take_back_if(scope, scope.busy(), is_dead, host)
    with runtime.exclusive():
        for scope in dead:
            if scope.exists() and not os.path.exists(scope.path("journal.jsonl")):
                scope.remove()
    return failures + reap(runtime, host)


def gc(runtime: Runtime, host: LinuxHost, *, dry_run: bool = False) -> list[str]:
    """Finish what killed processes left; return a line for each thing that was, or would be, done.

    Vms whose QEMU is dead are taken back, and so are those that nobody can be waiting for: never fully started,
    or bound to a terminal, and without a keeper. Vms started with ``-d`` run on. Raises `NotTakenBack`.
    """
    for scope in runtime.scopes("vm", "lab"):
        _wait_for_workers(scope)
        _see_out(scope)
    names = [scope.name.removeprefix("vm/") for scope in runtime.scopes("vm") if _forsaken(runtime, scope)]
    done = [*_changes(runtime, host, dry_run=dry_run), *(f"take back vm {name}" for name in names)]
    unused = _unused(runtime, names)
    if dry_run:
        return done + [f"take down {name}" for name in unused]
    failures = clean(runtime, host) + take_back(runtime, host, names, lambda scope: _forsaken(runtime, scope))
    if failures:
        raise NotTakenBack(failures)
    return done + [f"take down {name}" for name in unused if not runtime.scope(name).exists()]


def _changes(runtime: Runtime, host: LinuxHost, *, dry_run: bool) -> list[str]:
    """Finish what is to be finished of changes of networks; return a line for each, as `gc` does."""
    there = runtime.scopes("net")
    if not any(scope.is_changing() or scope.leaving() for scope in there):
        return []
    from qemunet.live import netchange

    with runtime.exclusive():  # nobody is at it
        half = [scope.name.partition("/")[2] for scope in there if scope.is_changing()]
        found = {scope.name.partition("/")[2]: netchange.overdue_addresses(scope) for scope in there}
    if not dry_run:
        netchange.see_off(runtime, host)
    lines = [f"finish the change of network {name}" for name in half]
    return lines + [f"take {one} from network {name}" for name, several in found.items() for one in several]


def _unused(runtime: Runtime, but: Sequence[str]) -> list[str]:
    """Return the names of the shared scopes that nobody uses but these vms, and networks that nobody else uses."""
    unused: list[str] = []
    for kind in SHARED_KINDS:
        gone = [*but, *(name.partition("/")[2] for name in unused)]
        unused += [scope.name for scope in runtime.scopes(kind) if not scope.in_use(but=gone)]
    return sorted(unused)


def _wait_for_workers(scope: Scope) -> None:
    right = scope.wait_busy()
    if right is not None:
        right.release()


def _see_out(scope: Scope) -> None:
    """Wait for the end of a process that was killed: until it has freed its memory, its lock is held."""
    deadline = time.monotonic() + _DYING
    while (pid := scope.pid()) and processes.is_ending(pid) and scope.alive() and time.monotonic() < deadline:
        interrupts.check()
        select.select([], [], [], _GLANCE)


def _forsaken(runtime: Runtime, scope: Scope) -> bool:
    """Tell whether nobody will ever end this vm but us, provided that nobody works on it."""
    known = scope.record()
    if known is None or not scope.alive():
        return scope.exists()
    return (known.tethered or not known.started) and not runtime.lab(known.lab).alive()


def _begin(scope: Scope) -> Work:
    right = Lock.take(scope.path("journal.jsonl"), wait=True, create=True)
    assert right is not None, "a lock that is waited for is had"
    return Work(scope, right, scope.journal(), [])


def _end(work: Work) -> None:
    work.journal.close()
    work.right.release()


def _take_back_if(scope: Scope, right: Lock | None, still: Callable[[Scope], bool], host: LinuxHost) -> list[str]:
    """Take back a vm with the right to work on it, if it is still to be taken back."""
    if right is None:
        return []
    if still(scope):
        return _take_back(Work(scope, right, scope.journal(), []), host)
    right.release()
    return []


def _take_back(work: Work, host: LinuxHost) -> list[str]:
    """Undo what the scope's journal owes and remove the scope; what could not be undone stays on record."""
    from qemunet.host import hooks

    hooks.end_left(work.scope.directory)
    known = work.scope.record()
    started = known.started if known is not None else work.scope.name.partition("/")[0] in SHARED_KINDS
    failures = runner.unwind(work.journal, host, started=started)
    if not work.journal.owed(started=started):
        work.scope.remove()
    _end(work)
    return [str(failure) for failure in failures]
