"""How secrets are written in a lab file: never themselves, but where they are to be found."""

from __future__ import annotations

from qemunet.config.hints import Bad, did_you_mean
from qemunet.config.kinds import Kind, string, wrong
from qemunet.model.names import NAME, is_name
from qemunet.model.script import FromEnvironment, FromFile, Source

_EXAMPLE = '{ file = "password.txt" } or { env = "PASSWORD" }'


def _source(key: str, value: object) -> Source:
    if isinstance(value, str):
        raise Bad(f"{key}: a secret is not written into a lab file", f"say where it is: {key} = {_EXAMPLE}")
    if not isinstance(value, dict):
        raise wrong("a table", value, f"as in {key} = {_EXAMPLE}")
    for name in value:
        if name not in ("file", "env"):
            raise Bad(f'{key}: unknown key "{name}"', did_you_mean(name, ("file", "env"), f"as in {key} = {_EXAMPLE}"))
    if len(value) != 1:
        raise Bad(f"{key}: it has one source, a file or an environment variable", f"as in {key} = {_EXAMPLE}")
    ((name, text),) = value.items()
    if not string(name, text):
        raise Bad(f"{key}: {name} is empty", f"as in {key} = {_EXAMPLE}")
    return FromFile(str(text)) if name == "file" else FromEnvironment(_variable(key, str(text)))


def _variable(key: str, text: str) -> str:
    if "=" in text:
        raise Bad(f'{key}: "{text}" cannot be the name of an environment variable', "no = is in such a name")
    return text


def _sources(key: str, value: object) -> tuple[tuple[str, Source], ...]:
    if not isinstance(value, dict):
        raise wrong("a table", value, f"as in {key} = {{ root = {_EXAMPLE.partition(' or')[0]} }}")
    for name in value:
        if not is_name(name):
            raise Bad(f'"{name}" cannot be a name', "a letter, then up to 62 letters, digits and hyphens")
    return tuple((name, _source(name, one)) for name, one in value.items())


def written(source: Source) -> dict[str, str]:
    """Return a source as a lab file has it."""
    match source:
        case FromFile(path):
            return {"file": path}
        case FromEnvironment(variable):
            return {"env": variable}


_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "file": {"description": "a file with nothing else in it", "type": "string", "minLength": 1},
        "env": {"description": "an environment variable", "type": "string", "minLength": 1},
    },
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}
SECRET = Kind(_source, _SCHEMA)
SECRETS = Kind(
    _sources,
    {"type": "object", "patternProperties": {f"^{NAME.pattern}$": _SCHEMA}, "additionalProperties": False},
)
