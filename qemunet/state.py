"""The runtime directory: which scopes there are, and who may touch them.

::

    RUNTIME/                     whoever allocates or touches something shared holds a flock on it
    RUNTIME/made-by-qemunet      it was not there before: it goes when it is empty
    RUNTIME/used-by-qemunet      it was there and empty: it stays, and this goes when nothing else is in it
    RUNTIME/claims/KIND/VALUE    what only one may have (a MAC, a uid); its text is the owner's scope
    RUNTIME/vm/NAME/             a guest's own scope; `lock` is held by its QEMU for life
    RUNTIME/net/NAME/            a network's scope, shared: `users/` holds a file for each card on it
                                 and stays without one if it has a file `keep`, or `held` with something in it;
                                 `changing` is there while it becomes another one; `leaving` has the addresses that
                                 the host had there before, and how long they stay
    RUNTIME/host/NAME/           a shared setting of the host, likewise
    RUNTIME/netns/NAME/          a namespace, likewise; `net` and `uts` are mounts of it, which keep it
    RUNTIME/cable/NAME/          a cable, likewise: all guests of its lab are its users, and it is one of its networks
    RUNTIME/lab/NAME/            a lab's keeper; `lock` is held by it for life
    …/journal.jsonl              what was done in that scope; whoever works on the scope holds a lock on it

A directory that is empty of all this is removed again.
"""

from __future__ import annotations

import contextlib
import os
import stat

from qemunet import locks
from qemunet.errors import NotFound, QemunetError, waits_for_itself
from qemunet.frozen import replace
from qemunet.host import processes
from qemunet.journal import Journal
from qemunet.locks import Lock, is_locked
from qemunet.model.names import is_name
from qemunet.records import VmRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SHARED_KINDS = ("cable", "net", "netns", "host")  # each uses only what comes after it
_CABLE = "..cable"  # no card has such an id
_NETWORK = "..network"  # likewise
_MADE, _USED = "made-by-qemunet", "used-by-qemunet"
_MARKED, _UNMARKED = 0o700, 0o1700  # modes: whoever makes or removes it may be killed while it has no mark
_DRAFTED = ("vm.toml", "record.json", "net.toml", "fingerprint", "leaving")  # what a live change writes anew


def locate(named: str | None = None) -> str:
    """Return the runtime directory: as named, QEMUNET_RUNTIME_DIR, /run/qemunet for root, or below XDG_RUNTIME_DIR.

    It need not be there yet. Raises QemunetError for one that is somebody else's, or that others can change.
    """
    path = named or _named()
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

    def serving(self) -> str:
        """Return the directory of what serves a network: its own, or that of a server of several."""
        named = (_text(self.path("served-by")) or "").partition("\n")[0]
        return os.path.join(self.runtime.path, named) if named else self.directory

    def users(self) -> tuple[str, ...]:
        """Return the names of the guests that use a shared scope; each of their cards has a file ``VM.NIC`` there.

        And of the cables and networks that do.
        """
        return tuple(sorted({entry.partition(".")[0] for entry in _listing(self.path("users"))}))

    def cables(self) -> tuple[str, ...]:
        """Return the names of the cables that use a network, ``CABLE..cable``."""
        return tuple(sorted(entry.removesuffix(_CABLE) for entry in _listing(self.path("users")) if _CABLE in entry))

    def networks(self) -> tuple[str, ...]:
        """Return the names of the networks that use a namespace, ``NETWORK..network``."""
        return tuple(sorted(one.removesuffix(_NETWORK) for one in _listing(self.path("users")) if _NETWORK in one))

    def guests(self) -> tuple[str, ...]:
        """Return the names of the guests that use a network or a cable."""
        others = (_CABLE, _NETWORK)
        found = (entry.partition(".")[0] for entry in _listing(self.path("users")) if not entry.endswith(others))
        return tuple(sorted({*found}))

    def held(self) -> bool:
        """Tell whether `net up` holds a network; a file with nothing in it is that of one that was killed."""
        return bool(_text(self.path("held")))

    def is_changing(self) -> bool:
        """Tell whether somebody is at changing a network that is up, or was killed at it."""
        return os.path.exists(self.path("changing"))

    def leaving(self) -> dict[str, int | None]:
        """Return the addresses that a network had before and that stay: until then, or until nobody needs them."""
        words = (line.split() for line in (_text(self.path("leaving")) or "").splitlines())
        return {address: int(until) if until.isdecimal() else None for address, until in words}

    def in_use(self, but: Iterable[str] = ()) -> bool:
        """Tell whether a shared scope is to stay: somebody else uses it, or it is all made, and kept or held."""
        if set(self.users()).difference(but):
            return True
        return self.fingerprint() is not None and (self.held() or os.path.exists(self.path("keep")))

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
        """Take the right to work on the scope, waiting for whoever has it; None if the scope is not there.

        Raises Failed if whoever has it waits for us.
        """
        right = self.busy()
        if right is None and processes.is_locked_by_ancestor(self.path("journal.jsonl")):
            raise waits_for_itself(" ".join(self.name.split("/")))
        return right or Lock.take(self.path("journal.jsonl"), wait=True)

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

    def draft_text(self, name: str, text: str) -> None:
        """Write a file of a vm or a network, for nobody to see yet."""
        _draft(self.path(name), text)

    def publish(self) -> None:
        """Let the drafts of records and descriptions be what they are drafts of, which takes no room on a disk."""
        for name in _DRAFTED:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path(f"{name}.new"), self.path(name))

    def drop_drafts(self) -> None:
        """Remove drafts that are not to come true."""
        for name in _DRAFTED:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(f"{name}.new"))

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

    def networks(self) -> dict[str, str]:
        """Return the networks that are up, to the lab files that they were made from."""
        up = [scope for scope in self.scopes("net") if scope.fingerprint() is not None]
        return {scope.name.removeprefix("net/"): _text(scope.path("net.toml")) or "" for scope in up}

    def vms(self) -> list[VmRecord]:
        """Return the records of all vms."""
        return [record for scope in self.scopes("vm") if (record := scope.record())]

    def vm(self, name: str) -> VmRecord:
        """Return the record of a vm; raises NotFound, which says which there are."""
        record = self.scope(f"vm/{name}").record() if is_name(name) else None
        if record is None:
            known = ", ".join(vm.name for vm in self.vms())
            hint = f"running: {known}" if known else "nothing runs"
            raise NotFound(f'no vm of the name "{name}" runs', where=self.path, hint=hint)
        return record

    def lab(self, name: str) -> Scope:
        """Return the directory of a lab's keeper."""
        return self.scope(f"lab/{name}")

    def take_lab(self, name: str) -> Lock | None:
        """Take the place of a lab's keeper; None if it has one."""
        with self.exclusive():
            scope = self.lab(name)
            if not scope.exists():
                scope.create()
            return Lock.take(scope.path("lock"), create=True)

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
                self._mark(fd)
                return fd
            os.close(fd)

    def _make(self) -> None:
        try:
            os.mkdir(self.path, _UNMARKED)  # not those above it, which would be left behind
        except FileExistsError:
            pass
        except OSError as error:
            raise QemunetError(
                f"cannot make the runtime directory: {error.strerror}",
                where=self.path,
                hint="QEMUNET_RUNTIME_DIR names another place",
            ) from error

    def _mark(self, fd: int) -> None:
        """Say in the directory, which is locked, whether it was made here, if nothing says so yet."""
        entries = _listing(self.path)
        ours = bool(os.fstat(fd).st_mode & stat.S_ISVTX) and set(entries) <= {_MADE}
        if ours or not entries:
            mark = os.path.join(self.path, _MADE if ours else _USED)
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if ours:
            os.fchmod(fd, _MARKED)

    def _tidy(self) -> None:
        """Remove what is empty, and the directory itself if it was made here."""
        kinds = [f"claims/{kind}" for kind in _listing(os.path.join(self.path, "claims"))]
        for name in (*kinds, "claims", "vm", "lab", *SHARED_KINDS):
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self.path, name))
        left = set(_listing(self.path))
        if left <= {_MADE, _USED}:
            if _MADE in left:
                os.chmod(self.path, _UNMARKED)
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
