"""Frozen, slotted value types whose definition costs next to nothing.

`dataclasses` writes and compiles each class's methods while the program starts: 0.4 ms a class and 6 ms for its own
import, which for the eighty types here was half of the time that ``qemunet run`` spent before QEMU. `frozen` shares one
set of methods, written once. Type checkers treat it as a dataclass (PEP 681).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_):  # noqa: D103 - `typing` would cost 5 ms
        return lambda decorator: decorator


_MISSING = object()


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Make a class of annotated fields a value type: positional or named arguments, defaults, equality, hash, repr.

    Defaults are shared by all values, so they must be immutable. Two values are equal if they are of the same class and
    their fields are. Fields of base classes come first.
    """
    own = tuple(vars(cls).get("__annotations__", {}))
    inherited = tuple(name for base in cls.__bases__ for name in fields(base))
    defaults = {**getattr(cls, "_defaults", {}), **{name: vars(cls)[name] for name in own if name in vars(cls)}}
    left_out = {*own, "__dict__", "__weakref__"}
    body = {name: value for name, value in vars(cls).items() if name not in left_out}
    names = (*inherited, *own)
    shared = {"__slots__": own, "__match_args__": names, "_defaults": defaults, "__qualname__": cls.__qualname__}
    made: type[T] = type(cls.__name__, cls.__bases__, {**_METHODS, **body, **shared})
    return made


def fields(value: object) -> tuple[str, ...]:
    """Return the names of the fields of a value type or a value, none for anything else."""
    cls: Any = value if isinstance(value, type) else type(value)
    return cls.__match_args__ if "_defaults" in vars(cls) else ()


def is_frozen(value: object) -> bool:
    """Tell whether something is a value of a type made by `frozen`."""
    return "_defaults" in vars(type(value))


def replace(value: T, **changes: Any) -> T:
    """Return a copy with other values in some fields; raises TypeError for a field that it does not have."""
    return type(value)(**{**as_dict(value), **changes})


def as_dict(value: object) -> dict[str, Any]:
    """Return the fields by name, not going into values within."""
    return {name: getattr(value, name) for name in fields(value)}


def _init(self: Any, *arguments: Any, **named: Any) -> None:
    names = self.__match_args__
    if len(arguments) > len(names):
        raise TypeError(f"{type(self).__name__} takes {len(names)} arguments, not {len(arguments)}")
    for name, argument in zip(names, arguments, strict=False):
        if name in named:
            raise TypeError(f"{type(self).__name__} got {name} twice")
        object.__setattr__(self, name, argument)
    for name in names[len(arguments) :]:
        argument = named.pop(name, _MISSING)
        if argument is _MISSING:
            argument = self._defaults.get(name, _MISSING)
        if argument is _MISSING:
            raise TypeError(f"{type(self).__name__} needs {name}")
        object.__setattr__(self, name, argument)
    if named:
        raise TypeError(f"{type(self).__name__} has no {', '.join(named)}")


def _eq(self: Any, other: object) -> bool:
    return type(self) is type(other) and _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash((type(self), *_values(self)))


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{n}={v!r}' for n, v in as_dict(self).items())})"


def _fixed(self: object, name: str, _value: object = None) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be changed")


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), _values(self)


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, name) for name in self.__match_args__)


_METHODS = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _fixed,
    "__delattr__": _fixed,
    "__reduce__": _reduce,
}
