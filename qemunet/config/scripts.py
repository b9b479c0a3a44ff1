"""Checks scripts of consoles, and fills in what they say of their vm and its cards."""

from __future__ import annotations

import re

from qemunet.config.hints import Bad, did_you_mean, listed
from qemunet.config.scene import first
from qemunet.model.script import ScriptStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from qemunet.config.scene import Scene
    from qemunet.config.spec import LabSpec, ScriptSpec, VmSpec
    from qemunet.model.nic import Nic

TIMEOUT = 60  # seconds
_PLACE_HOLDER = re.compile(r"\{((?:vm|nic)\.[^{}]*)\}")


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
            raise spec.error(step.path, "it neither waits for anything nor types anything", "give it expect or send")
        for key, value in (("fail", step.fail), ("timeout", step.timeout)):
            if value is not None and step.expect is None:
                raise spec.error(f"{step.path}.{key}", "it waits for nothing", "it belongs to a step with expect")
        if step.enter is not None and step.send is None:
            raise spec.error(f"{step.path}.enter", "it types nothing", "it belongs to a step with send")


def steps(scene: Scene, vm: VmSpec, nics: Sequence[Nic]) -> Iterator[ScriptStep]:
    """Yield the steps of a vm's script, filled in; raises ConfigError."""
    known = _known(vm, nics)
    for step in vm.script:
        yield ScriptStep(
            expect=_filled(scene, step, "expect", known, re.escape),
            fail=_filled(scene, step, "fail", known, re.escape),
            send=_filled(scene, step, "send", known, str),
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
    for nic in nics:
        if nic.mac:
            found[f"nic.{nic.id}.mac"] = nic.mac
        if nic.ips:
            found[f"nic.{nic.id}.ip"] = nic.ips[0].partition("/")[0]
    return found


def _filled(
    scene: Scene, step: ScriptSpec, key: str, known: Mapping[str, str], quoted: Callable[[str], str]
) -> str | None:
    text = getattr(step, key)
    if text is None:
        return None
    for name in _PLACE_HOLDER.findall(text):
        if name not in known:
            hint = did_you_mean(name, [*known], f"known are {listed(known)}; an address of a card is that of its ip")
            raise scene.spec.error(f"{step.path}.{key}", f"nothing is known of {{{name}}}", hint)
    return _PLACE_HOLDER.sub(lambda match: quoted(known[match[1]]), text)
