"""A frozen type behaves as a frozen, slotted dataclass does."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from qemunet.frozen import as_dict, fields, frozen, is_frozen, replace


@frozen
class Point:
    """A place."""

    x: int
    y: int = 0
    tags: tuple[str, ...] = ()

    @property
    def sum(self) -> int:
        return self.x + self.y


@frozen
class Named(Point):
    """A place with a name."""

    name: str = "nowhere"


@frozen
class Other:
    """Looks like a point and is none."""

    x: int
    y: int = 0
    tags: tuple[str, ...] = ()


def test_arguments_come_by_position_or_name_and_defaults_fill_the_rest() -> None:
    assert as_dict(Point(1, tags=("a",))) == {"x": 1, "y": 0, "tags": ("a",)}


def test_values_are_equal_if_type_and_fields_are() -> None:
    assert Point(1, 2) == Point(x=1, y=2)
    assert Point(1, 2) != Point(2, 1)
    other: object = Other(1, 2)
    assert Point(1, 2) != other
    assert hash(Point(1, 2)) == hash(Point(1, 2))


def test_nothing_can_be_changed_or_added() -> None:
    point = Point(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError, match=rf"Point is frozen: {name} cannot be changed"):
            setattr(point, name, 5)
    with pytest.raises(AttributeError):
        del point.x
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((), {}, "Point needs x"),
        ((1,), {"x": 1}, "Point got x twice"),
        ((1,), {"z": 1}, "Point has no z"),
        ((1, 2, (), 4), {}, "Point takes 3 arguments, not 4"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], named: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Point(*arguments, **named)


def test_replace_keeps_the_rest_and_the_type() -> None:
    assert replace(Named(1, 2, name="here"), y=5) == Named(1, 5, name="here")
    with pytest.raises(TypeError, match="has no z"):
        replace(Point(1), z=1)


def test_fields_of_a_base_come_first() -> None:
    assert fields(Named) == ("x", "y", "tags", "name")
    assert Named(1).sum == 1


def test_it_matches_by_position_and_name() -> None:
    match Point(1, 2):
        case Point(x, y=y):
            assert (x, y) == (1, 2)
        case _:
            pytest.fail("a point is a point")


def test_it_can_be_copied_and_pickled() -> None:
    point = Point(1, 2, ("a",))
    assert copy.deepcopy(point) == point
    assert pickle.loads(pickle.dumps(point)) == point


def test_only_such_values_have_fields() -> None:
    assert is_frozen(Point(1))
    assert not is_frozen("text")
    assert fields(object()) == ()


def test_it_says_what_it_is() -> None:
    assert repr(Point(1)) == "Point(x=1, y=0, tags=())"
