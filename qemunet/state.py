"""The runtime directory: which scopes there are, who may touch them, and what is known of what runs.

::

    RUNTIME/                     whoever allocates or touches something shared holds a flock on it
    RUNTIME/made-by-qemunet      it was not there before: it goes when it is empty
    RUNTIME/used-by-qemunet      it was there and empty: it stays, and this goes when nothing else is in it
    RUNTIME/claims/KIND/VALUE    what only one may have (a MAC, a uid); its text is the owner's scope
    RUNTIME/vm/NAME/             a guest's own scope; `lock` is held by its QEMU for life
    RUNTIME/net/NAME/            a network's scope, shared: `users/` holds a file for each guest on it
    RUNTIME/host/NAME/           a shared setting of the host, likewise
    RUNTIME/lab/NAME/            a lab's keeper; `lock` is held by it for life
    …/journal.jsonl              what was done in that scope; whoever works on the scope holds a lock on it

A directory that is empty of all this is removed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import typing

from qemunet import locks
from qemunet.errors import NotFound, QemunetError
from qemunet.frozen import as_dict, frozen, replace
from qemunet.journal import Journal
from qemunet.locks import Lock, is_locked

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_KINDS = ("net", "host")
_MADE, _USED = "made-by-qemunet", "used-by-qemunet"


def locate() -> str:
    """Return the runtime directory: QEMUNET_RUNTIME_DIR, /run/qemunet for root, else below XDG_RUNTIME_DIR.

    It need not be there yet. Raises QemunetError for one that is somebody else's, or that others can change.
    """
    path = _named()
    problem = _objection(path)
    if problem:
        raise QemunetError(
            f"cannot be the runtime directory: {problem}",
            where=path,
            hint="QEMUNET_RUNTIME_DIR names another place: one that is not there yet, or an empty directory of yours",
        )
    return path


def _objection(path: str) -> str:
    """Say why a directory is none of ours, empty if it is or is not there yet.

    Its entries are removed as a matter of course, and what is in them is done: a folder of the user's that happens to
    have a ``vm`` in it must not be taken for a runtime directory, nor one in which others can put something.
    """
    try:
        found, name = os.stat(path), os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if not stat.S_ISDIR(found.st_mode):
        return "it is no directory"
    if found.st_uid != os.geteuid() or name.st_uid not in (0, os.geteuid()):
        return "it belongs to another user"
    if found.st_mode & 0o022:
        return f"other users can write to it (mode {stat.S_IMODE(found.st_mode):o})"
    entries = os.listdir(path)
    marked = not entries or any(os.path.exists(os.path.join(path, mark)) for mark in (_MADE, _USED))
    return "" if marked else "it is not empty, and not qemunet's"


def _named() -> str:
    named = os.environ.get("QEMUNET_RUNTIME_DIR")
    if named:
        return os.path.abspath(named)
    if os.geteuid() == 0:
        return "/run/qemunet"
    base = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(base or f"/run/user/{os.geteuid()}", "qemunet")


@frozen
class NicRecord:
    """A card as the tables show it."""

    id: str
    mode: str
    model: str
    mac: str
    link: str
    ifname: str | None = None
    host_mac: str | None = None
    network: str | None = None
    bridge: str | None = None
    ips: tuple[str, ...] = ()
    slot: str | None = None


@frozen
class VmRecord:
    """A guest as the tables show it. `tethered`: it ends with the terminal that started it."""

    name: str
    lab: str
    file: str
    machine: str
    accel: str
    nics: tuple[NicRecord, ...]
    pid: int | None = None
    start_time: int | None = None
    tethered: bool = False
    started: bool = False
    state: str = "starting"  # filled in when read: starting | running | dead

    @classmethod
    def from_json(cls, text: str) -> VmRecord:
        """Read what `as_json` wrote."""
        data = json.loads(text)
        nics = tuple(NicRecord(**{**nic, "ips": tuple(nic["ips"])}) for nic in data.pop("nics"))
        return cls(nics=nics, **data)

    def as_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps({**as_dict(self), "nics": [as_dict(nic) for nic in self.nics]}) + "\n"


class Scope:
    """One directory with a journal: a vm's, a network's, or a shared setting's."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self.runtime = runtime
        self.name = name
        self.directory = os.path.join(runtime.path, name)

    def path(self, *parts: str) -> str:
        """Return a path inside the scope's directory."""
        return os.path.join(self.directory, *parts)

    def exists(self) -> bool:
        """Tell whether the scope's directory is there."""
        return os.path.isdir(self.directory)

    def create(self) -> None:
        """Make the directory; raises FileExistsError."""
        os.makedirs(os.path.dirname(self.directory), mode=0o700, exist_ok=True)
        os.mkdir(self.directory, 0o700)

    def users(self) -> tuple[str, ...]:
        """Return the names of the guests that use a shared scope."""
        return tuple(sorted(_listing(self.path("users"))))

    def fingerprint(self) -> str | None:
        """Return what a shared scope was made from, or None if it is not complete."""
        return _text(self.path("fingerprint"))

    def complete(self, fingerprint: str) -> None:
        """Record that a shared scope is made, and from what."""
        write_private(self.path("fingerprint"), fingerprint)

    def busy(self) -> Lock | None:
        """Take the right to work on the scope; None if somebody else has it or the scope is not there."""
        return Lock.take(self.path("journal.jsonl"))

    def wait_busy(self) -> Lock | None:
        """Take the right to work on the scope, waiting for whoever has it; None if the scope is not there."""
        return Lock.take(self.path("journal.jsonl"), wait=True)

    def alive(self) -> bool:
        """Tell whether the process whose life `lock` guards is there: a vm's QEMU, a lab's keeper."""
        return is_locked(self.path("lock"))

    def pid(self) -> int | None:
        """Return the number of that process, if it was written down."""
        try:
            return int(_text(self.path("pid")) or "")
        except ValueError:
            return None

    def journal(self) -> Journal:
        """Open the journal."""
        return Journal(self.path("journal.jsonl"))

    def record(self) -> VmRecord | None:
        """Return the record of a vm, with its state as it is now."""
        text = _text(self.path("record.json"))
        if not text:
            return None
        record = VmRecord.from_json(text)
        if not self.alive():
            at_work = "ending" if record.started else "starting"
            return replace(record, state=at_work if is_locked(self.path("journal.jsonl")) else "dead")
        return replace(record, state="running" if record.started else "starting")

    def save(self, record: VmRecord) -> None:
        """Write the record of a vm."""
        self.draft(record)
        self.publish()

    def draft(self, record: VmRecord) -> None:
        """Write the record of a vm, for nobody to see yet."""
        _draft(self.path("record.json"), record.as_json())

    def publish(self) -> None:
        """Let the draft be the record, which takes no room on a disk."""
        os.rename(self.path("record.json.new"), self.path("record.json"))

    def remove(self) -> None:
        """Remove the directory and all that is in it; nothing in it is anybody else's."""
        for entry in _listing(self.directory):
            path = self.path(entry)
            if os.path.isdir(path) and not os.path.islink(path):
                Scope(self.runtime, os.path.join(self.name, entry)).remove()
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.directory)


class Runtime:
    """The runtime directory at `path`, mode 0700; it need not exist."""

    def __init__(self, path: str) -> None:
        self.path = path

    def scope(self, name: str) -> Scope:
        """Return the scope ``KIND/NAME``, whether it is there or not."""
        return Scope(self, name)

    def scopes(self, *kinds: str) -> list[Scope]:
        """Return the scopes of these kinds, in the order of their names."""
        names = [f"{kind}/{entry}" for kind in kinds for entry in _listing(os.path.join(self.path, kind))]
        return [Scope(self, name) for name in sorted(names)]

    def claims(self) -> dict[str, str]:
        """Return every claim, ``KIND/VALUE`` to the scope that has it."""
        base = os.path.join(self.path, "claims")
        keys = [f"{kind}/{value}" for kind in _listing(base) for value in _listing(os.path.join(base, kind))]
        return {key: _text(os.path.join(base, key)) or "" for key in keys}

    def shared(self) -> dict[str, str]:
        """Return the shared scopes that are up, to their fingerprints."""
        marks = {scope.name: scope.fingerprint() for scope in self.scopes(*SHARED_KINDS)}
        return {name: mark for name, mark in marks.items() if mark is not None}

    def vms(self) -> list[VmRecord]:
        """Return the records of all vms."""
        return [record for scope in self.scopes("vm") if (record := scope.record())]

    def vm(self, name: str) -> VmRecord:
        """Return the record of a vm; raises NotFound."""
        record = self.scope(f"vm/{name}").record()
        if record is None:
            known = ", ".join(vm.name for vm in self.vms()) or "none"
            raise NotFound(f"no vm of the name {name} runs (running: {known})", where=self.path)
        return record

    def lab(self, name: str) -> Scope:
        """Return the directory of a lab's keeper."""
        return self.scope(f"lab/{name}")

    def leave_lab(self, name: str, lock: Lock) -> None:
        """Give up the place of a lab's keeper."""
        with self.exclusive():
            self.lab(name).remove()
            lock.release()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the directory's lock: for allocating, and for whatever is shared. Made and tidied as needed."""
        fd = self._lock()
        try:
            yield
        finally:
            self._tidy()
            os.close(fd)

    def _lock(self) -> int:
        """Lock the directory itself: there is no file that would have to be removed before it can be."""
        while True:
            self._make()
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # tidied away by somebody between the two calls
            if locks.hold_directory(fd, self.path):
                if not _listing(self.path):
                    self._mark(_USED)
                return fd
            os.close(fd)

    def _make(self) -> None:
        try:
            os.mkdir(self.path, 0o700)  # not those above it, which would be left behind
        except FileExistsError:
            return
        except OSError as error:
            raise QemunetError(
                f"cannot make the runtime directory: {error.strerror}",
                where=self.path,
                hint="QEMUNET_RUNTIME_DIR names another place",
            ) from error
        self._mark(_MADE)

    def _mark(self, name: str) -> None:
        os.close(os.open(os.path.join(self.path, name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def _tidy(self) -> None:
        """Remove what is empty, and the directory itself if it was made here."""
        kinds = [f"claims/{kind}" for kind in _listing(os.path.join(self.path, "claims"))]
        for name in (*kinds, "claims", "vm", "lab", *SHARED_KINDS):
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self.path, name))
        left = set(_listing(self.path))
        if left <= {_MADE, _USED}:  # both, if somebody else was quicker than the one who made it
            for name in left:
                os.unlink(os.path.join(self.path, name))
            if _MADE in left:
                os.rmdir(self.path)


def write_private(path: str, text: str) -> None:
    """Write a file of mode 0600 whole or not at all."""
    _draft(path, text)
    os.rename(f"{path}.new", path)


def _draft(path: str, text: str) -> None:
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(text)


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None
