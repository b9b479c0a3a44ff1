"""How VLANs are written in a lab file."""

from __future__ import annotations

from qemunet.config.hints import Bad, did_you_mean
from qemunet.config.kinds import LINK, Kind, whole, wrong
from qemunet.model import vlan
from qemunet.model.vlan import FIRST, LAST, Vlans

_EXAMPLE = "as in {} = {{ access = 10 }}, or {} = {{ trunk = [10, 20], native = 1 }}"
_KEYS = ("access", "trunk", "native")
NUMBER = whole(FIRST, LAST)


def _vlan(key: str, value: object) -> Vlans:
    example = _EXAMPLE.format(key, key)
    if not isinstance(value, dict):
        number = isinstance(value, int) and not isinstance(value, bool)
        raise wrong("a table", value, f"write {key} = {{ access = {value} }}" if number else example)
    for name in value:
        if name not in _KEYS:
            raise Bad(f'unknown key "{name}"', did_you_mean(str(name), _KEYS, example))
    if "access" in value:
        if len(value) > 1:
            raise Bad("access stands alone: a port in one VLAN, where no frame has a tag", example)
        return Vlans(_number("access", value["access"]))
    if "trunk" not in value:
        raise Bad("native is of a trunk, and there is none" if value else "it says nothing", example)
    native = _number("native", value["native"]) if "native" in value else None
    found = vlan.trunk(_trunk(value["trunk"]), native)
    if found == Vlans():
        raise Bad("a trunk without any VLAN", example)
    return found


def _number(key: str, value: object) -> int:
    number = NUMBER.read(key, value)
    assert isinstance(number, int), "it is a kind of numbers"
    return number


def _trunk(value: object) -> list[int]:
    several = value if isinstance(value, list) else [value]
    return [number for one in several for number in _member(one)]


def _member(one: object) -> range:
    if isinstance(one, str):
        try:
            return vlan.numbers(one)
        except ValueError:
            raise Bad(f'"{one}" are no VLANs', 'as in trunk = [10, "20-29"]; they go from 1 to 4094') from None
    number = _number("trunk", one)
    return range(number, number + 1)


def _ports(key: str, value: object) -> tuple[tuple[str, Vlans], ...]:
    if not isinstance(value, dict):
        raise wrong("a table", value, f"as in {key} = {{ eth1 = {{ trunk = [10, 20] }} }}")
    return tuple((str(LINK.read("", name)), _vlan(name, one)) for name, one in value.items())


_MEMBER = {"anyOf": [NUMBER.schema, {"type": "string", "pattern": r"^\d{1,4}(-\d{1,4})?$"}]}
VLAN = Kind(
    _vlan,
    {
        "type": "object",
        "properties": {
            "access": {"description": "the VLAN that it is in, without tags", **NUMBER.schema},
            "trunk": {
                "description": "those that it is in with tags",
                "anyOf": [{"type": "array", "items": _MEMBER}, *_MEMBER["anyOf"]],
            },
            "native": {"description": "of a trunk: that of frames without tags", **NUMBER.schema},
        },
        "oneOf": [{"required": ["access"]}, {"required": ["trunk"]}],
        "additionalProperties": False,
    },
)
PORT_VLANS = Kind(_ports, {"type": "object", "additionalProperties": VLAN.schema})
