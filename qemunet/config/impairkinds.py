"""How an impairment is written in a lab file."""

from __future__ import annotations

import re

from qemunet.config.hints import Bad, did_you_mean
from qemunet.config.kinds import Kind, string, wrong
from qemunet.model.impair import ALL, SHARES, TIMES, UNITS, Impairment

_EXAMPLE = 'as in impair = { delay = "20ms", loss = "1%" }'
_LONGEST = 60 * 1_000_000  # microseconds
_DOCS = {
    "delay": "how long every packet takes, each way",
    "jitter": "by which the delay varies",
    "loss": "how many packets are lost",
    "duplicate": "how many arrive twice",
    "corrupt": "of how many a bit is wrong",
    "reorder": "how many have no delay, and arrive before others",
}


def _impair(_key: str, value: object) -> Impairment:
    if not isinstance(value, dict):
        raise wrong("a table", value, _EXAMPLE)
    for name in value:
        if name not in _DOCS:
            raise Bad(f'unknown key "{name}"', did_you_mean(str(name), _DOCS, f"known: {', '.join(_DOCS)}"))
    times = {name: _time(name, value[name]) for name in TIMES if name in value}
    found = Impairment(**times, **{name: _share(name, value[name]) for name in SHARES if name in value})
    if found == Impairment():
        raise Bad("it says nothing", _EXAMPLE)
    if found.jitter > found.delay:
        raise Bad("jitter is more than the delay, which varies by it", _EXAMPLE)
    if found.reorder and not found.delay:
        raise Bad("without a delay no packet is before another one", _EXAMPLE)
    return found


def _time(name: str, value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Bad(f"{name} is a time without a unit", f'write {name} = "{value}ms"')
    written = string(name, value)
    match = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?(s|ms|us)", written)
    if match is None:
        raise Bad(f'{name}: "{written}" is no time', "as in 20ms, 1.5s or 100us")
    size = dict(UNITS)[match[3]]
    found = int(match[1]) * size + int((match[2] or "0").ljust(6, "0")) * size // 1_000_000
    if found > _LONGEST:
        raise Bad(f"{name}: {written} is more than a minute")
    return found


def _share(name: str, value: object) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Bad(f"{name} is a share without a percent sign", f'write {name} = "{value}%"')
    written = string(name, value)
    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,4}))?%", written)
    found = -1 if match is None else int(match[1]) * (ALL // 100) + int((match[2] or "0").ljust(4, "0"))
    if not 0 <= found <= ALL:
        raise Bad(f'{name}: "{written}" is no share of the packets', "as in 1% or 0.1%; 100% are all")
    return found


_TIME = {"type": "string", "pattern": r"^\d+(\.\d+)?(s|ms|us)$"}
_SHARE = {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,4})?%$"}
IMPAIR = Kind(
    _impair,
    {
        "type": "object",
        "properties": {
            name: {"description": doc, **(_TIME if name in TIMES else _SHARE)} for name, doc in _DOCS.items()
        },
        "minProperties": 1,
        "additionalProperties": False,
    },
)
