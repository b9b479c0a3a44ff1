"""Checks scripts of consoles, and fills in what they say of their vm and its cards."""

from __future__ import annotations

import re

from qemunet.config.hints import Bad, did_you_mean, listed
from qemunet.config.scene import absolute, first
from qemunet.errors import ConfigError
from qemunet.model.script import FromFile, ScriptStep, Secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qemunet.config.scene import Scene
    from qemunet.config.spec import LabSpec, ScriptSpec, VmSpec
    from qemunet.model.nic import Nic

TIMEOUT = 60  # seconds
PASSWORD = "{login.password}"  # noqa: S105 - the place for one
_PLACE_HOLDER = re.compile(r"\{((?:vm|nic|login|secret)\.[^{}]*)\}")


def pattern(text: str) -> str:
    """Return a regular expression of Python's; raises Bad if it is none."""
    if not text:
        raise Bad("it is empty, and would find everything", "leave the line out")
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Bad(f'"{text}" is not a regular expression: {error}', "they are those of Python's `re`") from error
    return text


def check(spec: LabSpec, vm: VmSpec) -> None:
    """Raise ConfigError for a step that does nothing, or that fails by what it does not wait for."""
    for step in vm.script:
        if step.expect is None and step.send is None:
            raise _error(spec, step, "", "it neither waits for anything nor types anything", "give it expect or send")
        for key, value in (("fail", step.fail), ("timeout", step.timeout)):
            if value is not None and step.expect is None:
                raise _error(spec, step, key, "it waits for nothing", "it belongs to a step with expect")
        if step.enter is not None and step.send is None:
            raise _error(spec, step, "enter", "it types nothing", "it belongs to a step with send")


def secrets(spec: LabSpec, vm: VmSpec) -> Iterator[Secret]:
    """Yield the secrets of a vm, by the names that stand for them in its script."""
    every = [(f"secret.{name}", source) for name, source in vm.secret or ()]
    every += [("login.password", vm.login.password)] if vm.login.password is not None else []
    for name, source in every:
        yield Secret(name, FromFile(absolute(spec, source.path)) if isinstance(source, FromFile) else source)


def steps(scene: Scene, vm: VmSpec, nics: Sequence[Nic]) -> Iterator[ScriptStep]:
    """Yield the steps of a vm's script, filled in; raises ConfigError."""
    known = _known(vm, nics)
    hidden = {one.name: f"{{{one.name}}}" for one in secrets(scene.spec, vm)}  # they stay what they are
    for step in vm.script:
        yield ScriptStep(
            expect=_filled(scene, step, "expect", known, re.escape),
            fail=_filled(scene, step, "fail", known, re.escape),
            send=_filled(scene, step, "send", known | hidden, str),
            enter=first(step.enter, otherwise=True),
            timeout=first(step.timeout, otherwise=TIMEOUT),
        )


def written(step: ScriptStep) -> Iterator[tuple[str, str | bool | None]]:
    """Yield the keys of a step as a file has them; what is None is left out."""
    yield "expect", step.expect
    yield "fail", step.fail
    yield "send", step.send
    yield "enter", None if step.send is None else step.enter
    yield "timeout", None if step.expect is None else f"{step.timeout}s"


def _known(vm: VmSpec, nics: Sequence[Nic]) -> dict[str, str]:
    """Return what a place holder can stand for."""
    found = {"vm.name": vm.name}
    if vm.login.user is not None:
        found["login.user"] = vm.login.user
    for nic in nics:
        if nic.mac:
            found[f"nic.{nic.id}.mac"] = nic.mac
        if nic.ips:
            found[f"nic.{nic.id}.ip"] = nic.ips[0].partition("/")[0]
    return found


def _unknown(name: str, known: Mapping[str, str], key: str) -> str:
    """Say what to do about a place holder that stands for nothing."""
    if name == "login.user":
        return 'say who it is: login = { user = "root" } in the vm\'s table'
    if name.startswith(("secret.", "login.")) and key != "send":
        return "a secret is typed, and never waited for"
    if name.startswith(("secret.", "login.")):
        say = 'secrets are declared in the vm\'s table: secret = { NAME = { file = "password.txt" } }'
        return did_you_mean(name, [one for one in known if one.startswith("secret.")], say)
    return did_you_mean(name, [*known], f"known are {listed(known)}; an address of a card is that of its ip")


def _error(spec: LabSpec, step: ScriptSpec, key: str, problem: str, hint: str) -> ConfigError:
    """Return the error for something in a step, wherever that was written."""
    path = f"{step.path}.{key}" if key else step.path
    return ConfigError(step.file, path, problem, hint=hint) if step.file else spec.error(path, problem, hint)


def _filled(
    scene: Scene, step: ScriptSpec, key: str, known: Mapping[str, str], quoted: Callable[[str], str]
) -> str | None:
    text = getattr(step, key)
    if text is None:
        return None
    for name in _PLACE_HOLDER.findall(text):
        if name not in known:
            raise _error(scene.spec, step, key, f"nothing is known of {{{name}}}", _unknown(name, known, key))
    return _PLACE_HOLDER.sub(lambda match: quoted(known[match[1]]), text)
