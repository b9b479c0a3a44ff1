"""The helper of a card in mode passt: what starts it for a guest, and by which socket QEMU reaches it.

QEMU 10.1 has a backend ``passt`` that would start it itself, which QEMU's sandbox denies; ``stream`` is since 7.2.
It goes with the connection (``--one-off``): if QEMU dies, the kernel ends that, and it ends itself. Its only right is
to listen at ports below 1024; it is the guest's own user, like QEMU.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from qemunet.facts import Facts
from qemunet.model.nic import Forward, Nic
from qemunet.model.remote import PasstBackend
from qemunet.model.vm import Vm
from qemunet.plan.words import word
from qemunet.steps import FILES, Handle, OpenSocket, StartDaemon, Step, Word, line
from qemunet.steps.spaces import inside

PROGRAM = "passt"
_READY = "You can now start qemu"
_RUN, _SOCKET = "run/", "run/socket"


def steps(vm: Vm, nic: Nic, backend: PasstBackend, facts: Facts, handle: str) -> Iterator[Step]:
    """Yield what starts it and connects to it."""
    where, directory = f"vm.{vm.name}.nic {nic.id}", f"{facts.runtime}/vm/{vm.name}"
    yield StartDaemon(
        name=name(nic),
        directory=directory,
        argv=tuple(_argv(backend)),
        where=where,
        ready=_READY,
        uid=vm.run_as.uid if vm.run_as else None,
        writes=(_RUN,),
        script=tuple(_script(vm, nic, backend)),
        netns=vm.netns,
        rights=("net_bind_service",),
    )
    yield OpenSocket(handle, where, connect=f"unix:{directory}/{name(nic)}/{_SOCKET}")


def name(nic: Nic) -> str:
    """Return what the helper of a card is called in its vm's directory."""
    return named(nic.id)


def named(nic: str) -> str:
    """Return the same by the card's id."""
    return f"{PROGRAM}-{nic}"


def scripted(vm: Vm, nic: Nic) -> str:
    """Return the directory of the helper in a script, below its ``run``."""
    return f"{vm.name}.{name(nic)}"


def _argv(backend: PasstBackend) -> Iterator[Word]:
    yield from map(word, (PROGRAM, "--foreground", "--one-off", "--socket"))
    yield word(Handle(FILES), f"/{_SOCKET}")
    yield from map(word, _options(backend))


def _options(backend: PasstBackend) -> Iterator[str]:
    yield from _forwards(backend.forwards)
    if backend.dns is not None:
        yield from ("--dns", backend.dns)


def _forwards(forwards: tuple[Forward, ...]) -> Iterator[str]:
    """Yield an option per port: of a range, it would be content with any that it gets."""
    for one in forwards:
        address = f"{one.address}/" if one.address else ""
        for number in range(one.ports[1] - one.ports[0] + 1):
            yield f"--{one.protocol}-ports"
            yield f"{address}{one.ports[0] + number}:{one.guest_ports[0] + number}"


def _script(vm: Vm, nic: Nic, backend: PasstBackend) -> Iterator[str]:
    """Yield the same for a shell, which waits until it is ready."""
    folder = f'"$run"/{shlex.quote(scripted(vm, nic))}'
    yield f"mkdir -m 700 {folder}"
    if vm.run_as:
        yield f"give {folder}"
    user = ' --runas "$user:$group"' if vm.run_as else ""
    words = f"{line(PROGRAM, '--foreground', '--one-off', *_options(backend))}{user} --socket {folder}/socket"
    yield f"{inside(vm.netns, words) if vm.netns else words} >{folder}/log 2>&1 &"
    yield f"echo $! >{folder}/pid"
    yield f"while ! grep -q {shlex.quote(_READY)} {folder}/log; do"
    yield f"    kill -0 $! 2>/dev/null || {{ cat {folder}/log >&2; exit 1; }}"
    yield "    sleep 0.1"
    yield "done"
