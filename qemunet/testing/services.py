"""Files and daemons on a host in memory."""

from __future__ import annotations

import errno
import typing

from qemunet.errors import Failed, Taken
from qemunet.host.links import Vanished
from qemunet.steps import (
    Claim,
    CreateImage,
    EndDaemon,
    Reconfigure,
    RemoveFile,
    RemoveImage,
    Reserve,
    StartDaemon,
    Unclaim,
    Unreserve,
    WriteFile,
)

FileStep = Claim | Unclaim | WriteFile | RemoveFile | CreateImage | RemoveImage
ServiceStep = StartDaemon | EndDaemon | Reconfigure | Reserve | Unreserve


class FakeServices:
    """What a host in memory knows of files, by path, and of daemons: name and directory."""

    files: dict[str, str]
    daemons: set[tuple[str, str]]

    def file_step(self, step: FileStep) -> None:
        """Do a step about files."""
        match step:
            case Claim(path, by):
                if path in self.files:
                    raise Taken(f"{'/'.join(path.split('/')[-2:])} is taken by {self.files[path]}")
                self.files[path] = by
            case Unclaim(path, by):
                if self.files.get(path) != by:
                    raise Vanished(errno.ENOENT, f"{path} is not claimed by {by}")
                del self.files[path]
            case WriteFile(path, text):
                self.files[path] = text
            case RemoveFile(path):
                if self.files.pop(path, None) is None:
                    raise Vanished(errno.ENOENT, path)
            case CreateImage(path, kind, size, note):
                if path in self.files:
                    raise Taken(f"{path} exists already and is not overwritten")
                self.files[path] = self.files[note] = f"{kind} of {size}"
            case RemoveImage(path, note):
                made = self.files.pop(note, None)
                if made is None or self.files.get(path) != made:
                    raise Vanished(errno.ENOENT, f"{path} was not made here")
                del self.files[path]
            case _:
                typing.assert_never(step)

    def service_step(self, step: ServiceStep) -> None:
        """Do a step about daemons."""
        match step:
            case StartDaemon(name, directory, where=where):
                if (name, directory) in self.daemons:
                    raise Failed(f"{name} of {where} runs already", where=where)
                self.daemons.add((name, directory))
            case EndDaemon(name, directory):
                if (name, directory) not in self.daemons:
                    raise Vanished(errno.ESRCH, f"no {name} of {directory} runs")
                self.daemons.discard((name, directory))
            case Reconfigure(name, directory, files=files):
                if (name, directory) not in self.daemons:
                    raise Vanished(errno.ESRCH, f"no {name} of {directory} was started")
                self.files |= {f"{directory}/{name}/{path}": text for path, text in files}
            case Reserve(name, directory, path, text):
                self.files[f"{directory}/{name}/{path}"] = text
            case Unreserve(name, directory, path):
                if self.files.pop(f"{directory}/{name}/{path}", None) is None:
                    raise Vanished(errno.ENOENT, f"there is no {path}")
            case _:
                typing.assert_never(step)
