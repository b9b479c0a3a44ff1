"""What is kept of a test that fails: what consoles, QEMUs and the keeper said, and the packets of every card."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import tempfile
import threading
import typing

from qemunet.errors import QemunetError
from qemunet.host import pcap

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from qemunet.host.packets import Packets
    from qemunet.live.mirrored import Mirrored
    from qemunet.records import NicRecord
    from qemunet.testing.bench import Bench

    Source = Packets | Mirrored

_LINES = 200  # of a log in a report; the files have all of it
_MOST = 64 << 20  # bytes of packets that are kept of a card
_GLANCE = 0.1  # seconds between two looks whether it is over
_LOGS = (("console.log", "console"), ("qemu.log", "QEMU"))
_KEEPER = "keeper.log"


class Evidence:
    """Watches a lab from its making until `close`, its packets if `capture`; `folder` is for what is kept.

    Until then it is in `base`.
    """

    def __init__(self, bench: Bench, folder: str, base: str, *, capture: bool) -> None:
        self._bench = bench
        self._folder = folder
        self._logs = list(_logs(bench))
        self._recorder = Recorder(bench, base) if capture else None

    def sections(self) -> Iterator[tuple[str, str]]:
        """Write everything into the directory; yield the titles and texts of a report."""
        folder = self._folder
        self.close()
        os.makedirs(folder, exist_ok=True)
        for log in self._logs:
            path = os.path.join(folder, log.name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(log.text())
            if shown := log.news():
                yield log.title, f"{shown}\n(all of it: {path})"
        if self._recorder is not None:
            lines = list(self._recorder.keep(folder))
            yield f"packets of {self._bench.name}", "\n".join(lines) or "no card could be captured"

    def close(self) -> None:
        """Watch no longer; once is enough."""
        if self._recorder is not None:
            self._recorder.close()

    def forget(self) -> None:
        """Watch no longer, and keep nothing but what was asked for."""
        for log in self._logs:
            log.close()
        if self._recorder is not None:
            self._recorder.forget()


class _Log:
    """A log from now on. It stays open: with what ended in the test, its files are taken back."""

    def __init__(self, title: str, name: str, path: str, *, fallback: bool) -> None:
        self.title = title
        self.name = name
        self._path = path
        self._fallback = fallback
        self._held: typing.BinaryIO | None = None
        with contextlib.suppress(FileNotFoundError):  # its guest was not started
            self._held = open(path, "rb")  # noqa: SIM115 - until it is closed
        self._before = len(self.text())

    def text(self) -> str:
        """Return all of it; what was begun anew meanwhile comes behind what was there before."""
        held = b""
        if self._held is not None:
            self._held.seek(0)
            held = self._held.read()
        return (held + self._anew()).decode(errors="replace")

    def news(self) -> str:
        """Return what was said since the beginning; if that is nothing and there is a `fallback`, what was before."""
        text = self.text()
        new = text[self._before :] if self._before <= len(text) else text
        since = new if new.strip() or not self._fallback else text
        return "\n".join(since.rstrip().splitlines()[-_LINES:])

    def close(self) -> None:
        if self._held is not None:
            self._held.close()

    def _anew(self) -> bytes:
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            if self._held is None or not os.path.sameopenfile(file.fileno(), self._held.fileno()):
                return file.read()
        return b""


def _logs(bench: Bench) -> Iterator[_Log]:
    for vm in bench.guests:
        scope = bench.runtime.scope(f"vm/{vm}")
        for file, what in _LOGS:
            yield _Log(f"{what} of {vm}", f"{vm}.{file}", scope.path(file), fallback=file == "console.log")
    keeper = bench.runtime.lab(bench.name).path(_KEEPER)
    yield _Log(f"keeper of {bench.name}", f"{bench.name}.{_KEEPER}", keeper, fallback=False)


class Recorder:
    """Captures at every card of every guest, each into a file of its own, in a thread."""

    def __init__(self, bench: Bench, base: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="qemunet-packets-", dir=base)
        self._bench = bench
        self._over = threading.Event()
        self._cards = [card for name in bench.guests for card in self._begin(name)]
        self._thread = threading.Thread(target=self._record, name="qemunet-packets", daemon=True)
        self._thread.start()

    def keep(self, folder: str) -> Iterator[str]:
        """Move the files into a directory; yield a line about each."""
        for card in self._cards:
            path = shutil.move(card.path, os.path.join(folder, os.path.basename(card.path)))
            yield f"{card.name}: {card.count} packets, {path}"
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """End; the files stay until they were moved, or this is forgotten."""
        self._over.set()
        self._thread.join()

    def forget(self) -> None:
        """End, and keep nothing."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self, vm: str) -> Iterator[_Card]:
        record = self._bench.runtime.scope(f"vm/{vm}").record()
        for nic in record.nics if record is not None else ():
            with contextlib.suppress(QemunetError, OSError):  # a guest that has ended, or a device of the host
                source = self._bench.inside(lambda nic=nic: _source(self._bench, vm, nic))  # type: ignore[misc]
                yield _Card(f"{vm} {nic.id}", os.path.join(self.folder, f"{vm}.{nic.id}.pcap"), source)

    def _record(self) -> None:
        open_ones = list(self._cards)
        while open_ones:
            if self._over.is_set():
                for card in open_ones:
                    card.stop()
            ready = select.select([card.source for card in open_ones], [], [], _GLANCE)[0]
            for card in [one for one in open_ones if one.source in ready or self._over.is_set()]:
                card.read()
            open_ones = [card for card in open_ones if not card.over]


class _Card:
    """One card and its file."""

    def __init__(self, name: str, path: str, source: Source) -> None:
        self.name = name
        self.path = path
        self.source = source
        self.count = 0
        self.over = False
        self._file = open(path, "wb")  # noqa: SIM115 - until it is over
        self._file.write(pcap.HEADER)

    def stop(self) -> None:
        """Want no more than what is there."""
        try:
            self.source.stop()
        except OSError:  # the other side has hung up already
            self._end()

    def read(self) -> None:
        """Take what is there."""
        if self.over:
            return
        try:
            records = self.source.read()
        except (QemunetError, OSError):
            self._end()
            return
        self.count += len(records)
        if self._file.tell() < _MOST:
            self._file.write(b"".join(records))
        if self.source.over:
            self._end()

    def _end(self) -> None:
        self.over = True
        self._file.close()
        self.source.close()


def _source(bench: Bench, vm: str, nic: NicRecord) -> Source:
    """Return where the frames of a card are to be had: on the host, or else from its QEMU."""
    if nic.ifname is None:
        from qemunet.live.mirrored import Mirrored
        from qemunet.live.reach import reach

        return Mirrored(reach(bench.runtime, bench.name), vm, nic.id)
    from qemunet.host import spaces
    from qemunet.host.packets import Packets

    return Packets(spaces.place(bench.runtime.path, nic.netns), nic.ifname)
