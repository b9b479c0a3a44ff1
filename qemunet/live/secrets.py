"""The values of secrets: read when a vm is started, kept for whoever types them until nobody has to any more.

They come from files and from the environment of the command that starts the vm, which is not that of its keeper, and
gone when another keeper takes over. So they lie in a file of mode 0600 in the vm's scope until its script has ended;
the runtime directory is memory, and closed to others.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import typing

from qemunet.config.spec import LabSpec
from qemunet.errors import ConfigError
from qemunet.model.script import FromEnvironment, FromFile
from qemunet.state import write_private

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qemunet.model.script import Secret
    from qemunet.model.vm import Vm

FILE = "secrets.json"
LONGEST = 4095  # bytes: what a terminal takes as one line
_KEPT = "surrogateescape"  # what is no UTF-8 is typed as it is


def environment(spec: LabSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Return of an environment what the secrets of a lab come from, for a process that has another one."""
    sources = [source for vm in spec.vms for _, source in vm.secret or ()]
    sources += [vm.login.password for vm in spec.vms if vm.login.password is not None]
    named = {source.variable for source in sources if isinstance(source, FromEnvironment)}
    return {name: environ[name] for name in sorted(named & environ.keys())}


def gather(spec: LabSpec, vms: Iterable[Vm], environ: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the values of all secrets of vms, by vm and name; raises ConfigError at the place of one without."""
    return {vm.name: {one.name: _value(spec, vm, one, environ) for one in vm.secrets} for vm in vms}


def keep(directory: str, values: Mapping[str, str]) -> None:
    """Leave the values of a vm's secrets in its scope."""
    write_private(os.path.join(directory, FILE), json.dumps(values))


def recall(directory: str) -> dict[str, str]:
    """Return the values of a vm's secrets; none if nobody has to know them any more."""
    try:
        with open(os.path.join(directory, FILE)) as file:
            found: dict[str, str] = json.load(file)
    except FileNotFoundError:
        return {}
    return found


def forget(directory: str) -> None:
    """Remove the values of a vm's secrets."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, FILE))


def as_bytes(value: str) -> bytes:
    """Return a secret as it is typed."""
    return value.encode(errors=_KEPT)


def typed(text: str, values: Mapping[str, str]) -> bytes:
    """Return what is typed for the text of a step."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return as_bytes(text)


def _value(spec: LabSpec, vm: Vm, secret: Secret, environ: Mapping[str, str]) -> str:
    place = f"vm.{vm.name}.{secret.name}"

    def bad(problem: str, hint: str = "") -> ConfigError:
        return spec.error(place, problem, hint)

    match secret.source:
        case FromFile(path):
            value, what = _content(path, bad).removesuffix("\n").removesuffix("\r"), path
        case FromEnvironment(variable):
            if variable not in environ:
                raise bad(f"the environment variable {variable} is not set", f"as in {variable}=… qemunet run …")
            value, what = environ[variable], f"the environment variable {variable}"
    if not value:
        raise bad(f"{what} is empty")
    if any(ord(one) < 32 or ord(one) == 127 for one in value):
        raise bad(f"{what} has a line break or another control character in it", "a secret is one line")
    if len(as_bytes(value)) > LONGEST:
        raise bad(f"{what} is longer than {LONGEST} bytes", "no terminal takes such a line")
    return value


def _content(path: str, bad: typing.Callable[[str, str], ConfigError]) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise bad(f"{path} is not a file", "a directory, a pipe or a device holds no secret")
            return file.read(LONGEST + 3).decode(errors=_KEPT)
    except FileNotFoundError:
        hint = "~ is not expanded here" if "/~" in path else ""
        raise bad(f"no such file: {path}", hint) from None
    except IsADirectoryError:
        raise bad(f"{path} is not a file", "a directory holds no secret") from None
    except OSError as error:
        raise bad(f"{path} cannot be read: {os.strerror(error.errno or errno.EIO)}", "") from None
