"""VLANs: which of them a port of a bridge is in, and which of its frames have a tag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from qemunet.frozen import frozen

FIRST, LAST = 1, 4094  # 0 and 4095 have other uses (IEEE 802.1Q)
_NUMBER = r"0*([1-9][0-9]{0,3})"


@frozen
class Vlans:
    """Those of one port; whatever is in another one does not pass it (bridge(8), "vlan").

    Frames without a tag are in `native`, and those of that VLAN leave without one; None: such frames are dropped.
    Those of `tagged`, in order and without `native`, come and go with a tag.
    """

    native: int | None = None
    tagged: tuple[int, ...] = ()

    @property
    def is_access(self) -> bool:
        """Tell whether it is in one VLAN, and no frame there has a tag."""
        return self.native is not None and not self.tagged

    def __str__(self) -> str:
        """Return it as the command line has it: ``10``, or ``trunk=10,20-29,native=1``."""
        if self.is_access:
            return str(self.native)
        native = () if self.native is None else (f"native={self.native}",)
        return ",".join((f"trunk={','.join(map(ranged, ranges(self.tagged)))}", *native))


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers in order as first and last ones of what has no gap."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def ranged(one: tuple[int, int]) -> str:
    """Return first and last as text: ``10-19``, or ``10``."""
    return str(one[0]) if one[0] == one[1] else f"{one[0]}-{one[1]}"


def others(vlans: Vlans) -> list[tuple[int, int]]:
    """Return the VLANs that a port is not in, as first and last ones."""
    own = {*vlans.tagged, vlans.native}
    return ranges(number for number in range(FIRST, LAST + 1) if number not in own)


def numbers(text: str) -> range:
    """Return the VLANs of ``10`` or ``10-19``; raises ValueError."""
    match = re.fullmatch(f"{_NUMBER}(?:-{_NUMBER})?", text)
    if match is None:
        raise ValueError(text)
    first, last = int(match[1]), int(match[2] or match[1])
    if not FIRST <= first <= last <= LAST:
        raise ValueError(text)
    return range(first, last + 1)


def trunk(tagged: Iterable[int], native: int | None) -> Vlans:
    """Return a trunk's VLANs; that without tags may be among the others."""
    return Vlans(native, tuple(sorted({*tagged} - {native})))


def words(text: str) -> dict[str, int | str | list[int | str]]:
    """Return ``10``, ``access=10`` or ``trunk=10,20-29,native=1`` as a lab file's table, unchecked; raises ValueError.

    ``none`` is an empty one.
    """
    if text == "none":
        return {}
    if re.fullmatch(_NUMBER, text):
        return {"access": int(text)}
    found: dict[str, int | str | list[int | str]] = {}
    for key, one in _pairs(text):
        if key != "trunk" and key in found:
            raise ValueError(text)
        if key == "trunk":
            known = found.setdefault(key, [])
            assert isinstance(known, list), "nothing else is put there"
            known += [_value(one)] if one else []
        else:
            found[key] = _value(one)
    return found


def _value(text: str) -> int | str:
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    key = ""
    for part in text.split(","):
        name, equals, one = part.partition("=")
        if equals and name not in ("access", "trunk", "native"):
            raise ValueError(text)
        key = name if equals else key
        if key != "trunk" and not (equals and one):
            raise ValueError(text)
        yield key, one if equals else name


def parse(text: str) -> Vlans:
    """Return what `str` made."""
    found = words(text)
    tagged, native = found.get("trunk", []), found.get("native", found.get("access"))
    assert isinstance(tagged, list), "words makes it one"
    return trunk(
        (number for one in tagged for number in numbers(str(one))), None if native is None else int(str(native))
    )


def table(vlans: Vlans) -> dict[str, int | tuple[int | str, ...]]:
    """Return it as a lab file has it: ``{access: 10}``, or ``{trunk: (10, 20-29), native: 1}``."""
    if vlans.is_access:
        return {"access": vlans.native or 0}
    listed = tuple(one[0] if one[0] == one[1] else ranged(one) for one in ranges(vlans.tagged))
    return {"trunk": listed} | ({} if vlans.native is None else {"native": vlans.native})
