"""Settings as frozen dataclasses that JAX sees as pytrees: numbers are leaves, all else structure.

A program is compiled for the structure. A number is an argument of the program, so that another
number compiles nothing.

A field is declared once, by `number`, `numbers`, `weighted` or `option`: its default, its limits,
its unit and its help stand there. Checks, flags, `--help` and tables are made of that.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, dataclass_transform

import jax
import numpy as np

_LARGEST = float(np.finfo(np.float32).max)  # the programs compute in float32


def number(default: Any, **about: Any) -> Any:
    """A field that is a number.

    Args:
      default: its value.
      about: what is known of it: `help`, one line; `unit`; `group`, the heading of its flag; the
        limits `low`, `high`, `above` and `below`, of which the last two are not in the range;
        `whole`, whether it is a whole number; `none`, whether it may be None; `per_run`, whether
        it is one number for all outputs, so that no sweep takes it; `flag`, whether it has one.
    """
    return dataclasses.field(default=default, metadata=about | {"leaf": True, "type": "number"})


def numbers(default: tuple, **about: Any) -> Any:
    """A field that is a tuple of numbers, each as of `number`."""
    return dataclasses.field(default=default, metadata=about | {"leaf": True, "type": "numbers"})


def weighted(names: tuple[str, ...] | Mapping[str, float], **about: Any) -> Any:
    """A field `{name: weight}` in an order of its own: names are structure, weights numbers.

    A tuple of names stands for equal shares. The rest is as of `number`.
    """
    return dataclasses.field(default=names, metadata=about | {"leaf": True, "type": "weighted"})


def option(default: Any, **about: Any) -> Any:
    """A field that decides which program is compiled: anything that can be hashed.

    A default that is True or False allows these two alone, `choices=` one of these alone. With
    `whole=` or limits, as of `number`, it is a number. The rest is as of `number`.
    """
    kind = "option"
    if isinstance(default, bool):
        kind = "switch"
    elif {"whole", "low", "high", "above", "below"} & about.keys():
        kind = "number"
    return dataclasses.field(default=default, metadata=about | {"leaf": False, "type": kind})


def nested(default: Any, *, leaf: bool = True) -> Any:
    """A field that holds other settings, or a tuple of them; without `leaf` all is structure."""
    return dataclasses.field(default=default, metadata={"leaf": leaf, "type": "nested"})


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(number, numbers, weighted, option, nested),
)
def settings(cls: type) -> type:
    """Makes a class a frozen dataclass with keyword-only fields, and a pytree.

    Fields are declared by `number`, `numbers`, `weighted`, `option` and `nested`. What JAX puts in
    the place of numbers, such as tracers, axes or None, is taken as it is: nothing is checked then.

    Two objects are equal where their structure is the same and each number is, bit by bit in
    float32.

    The class refuses, with TypeError or ValueError in one line, a name that it has no field for,
    which it answers with the nearest, and a value outside of what its field says.

    Raises:
      TypeError: a field declared in another way.
    """
    own_check = cls.__dict__.get("__post_init__", getattr(cls, "_own_check", None))

    def __post_init__(self):
        for field in fields:
            value = check_value(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if own_check is not None:
            own_check(self)

    cls.__post_init__, cls._own_check = __post_init__, own_check
    cls = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    fields = dataclasses.fields(cls)
    for field in fields:
        if "leaf" not in field.metadata:
            raise TypeError(
                f"{cls.__name__}.{field.name} must be declared by number, numbers, weighted, "
                "option or nested"
            )
    leaves = tuple(field.name for field in fields if field.metadata["leaf"])
    structure = tuple(field.name for field in fields if not field.metadata["leaf"])
    shares = tuple(field.name for field in fields if field.metadata["type"] == "weighted")
    plain_init = cls.__init__

    @functools.wraps(plain_init)
    def __init__(self, *arguments, **values):
        for name in values:
            if name not in (*leaves, *structure):
                raise TypeError(type(self)._unknown(name))
        plain_init(self, *arguments, **values)

    def flatten(self):
        values = {name: getattr(self, name) for name in leaves}
        names = tuple(tuple(values[name]) for name in shares)
        values |= {name: tuple(values[name].values()) for name in shares}
        return tuple(values.values()), (names, *(getattr(self, name) for name in structure))

    def flatten_with_keys(self):
        values, aux = flatten(self)
        return tuple(zip(map(jax.tree_util.GetAttrKey, leaves), values, strict=True)), aux

    def unflatten(aux, values):
        self = object.__new__(cls)
        names, *rest = aux
        for name, value in zip((*leaves, *structure), (*values, *rest), strict=True):
            object.__setattr__(self, name, value)
        for name, keys in zip(shares, names, strict=True):
            weights = getattr(self, name)
            if isinstance(weights, tuple):  # JAX may ask for a tree of something else
                object.__setattr__(self, name, Weights(zip(keys, weights, strict=True)))
        return self

    def key(self):
        numbers, tree = jax.tree.flatten(self)
        return tree, tuple(
            (np.shape(value), np.asarray(value, np.float32).tobytes()) for value in numbers
        )

    cls.__init__ = __init__
    if not hasattr(cls, "_unknown"):
        cls._unknown = classmethod(_unknown)
    cls.__eq__ = lambda self, other: type(self) is type(other) and key(self) == key(other)
    cls.__hash__ = lambda self: hash(key(self))
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    _SETTINGS.add(cls)
    return cls


class Weights(dict):
    """Weights by name, which stay as they are."""

    def _refuse(self, *_, **__):
        raise TypeError("weights are frozen: give others by replace")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self):
        return Weights, (dict(self),)


_SETTINGS: set[type] = set()


def is_settings(value: Any) -> bool:
    """Whether a value is of a class that `settings` made."""
    return type(value) in _SETTINGS


def _unknown(cls: type, name: str) -> str:
    names = [field.name for field in dataclasses.fields(cls)]
    return f"{cls.__name__} has no field {name!r}{nearest(name, names)}"


def turned(old: Any, kind: type) -> Any:
    """Settings of another class, with what both have taken over from `old`."""
    if type(old) is kind:
        return old
    shared = {field.name for field in dataclasses.fields(kind)}
    return kind(
        **{
            field.name: getattr(old, field.name)
            for field in dataclasses.fields(old)
            if field.name in shared
        }
    )


def with_numbers(old: Any, values: Mapping[str, Any]) -> Any:
    """A copy with other numbers, which nobody looks at: arrays of one an output, or tracers."""
    new = object.__new__(type(old))
    new.__dict__.update(old.__dict__ | values)
    return new


# Checks.


def check_value(field: dataclasses.Field, value: Any, *, name: str | None = None) -> Any:
    """A field's value in the form that it is kept in, if it is one that the field may have.

    Args:
      field: of a class that `settings` made.
      value: for it.
      name: what a message calls it; None is the field's name.

    Raises:
      ValueError, TypeError: it is not; the message names the field and what it may be.
    """
    about, name = field.metadata, field.name if name is None else name
    if about["type"] == "weighted":
        return Weights(
            (each, _checked_number(f"{name}[{each!r}]", weight, about))
            for each, weight in _with_weights(name, value).items()
        )
    if "choices" in about:
        if not (value is None and about.get("none")):
            check_choice(name, value, about["choices"])
        return value
    if about["type"] == "switch":
        if not isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be True or False, got {value!r}")
        return bool(value)
    if about["type"] == "numbers":
        return _checked_numbers(name, value, about)
    if about["type"] == "number":
        if value is None and about.get("none"):
            return None
        return _checked_number(name, value, about)
    return value


def _checked_numbers(name: str, values: Any, about: Mapping) -> tuple:
    try:
        values = tuple(values)
    except TypeError:
        raise TypeError(f"{name} must hold numbers, got {values!r}") from None
    if not values:
        raise ValueError(f"{name} must hold at least one number, got none")
    return tuple(_checked_number(name, value, about) for value in values)


def _checked_number(name: str, value: Any, about: Mapping) -> Any:
    """A number as Python's, if it is within its limits.

    What cannot be looked at, as a tracer of JAX's, is given back as it is.
    """
    wanted = "a whole number" if about.get("whole") else "a number"
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError):  # a tracer, or an array of which others hold parts
        return value
    except ValueError:  # of lists of several lengths
        raise TypeError(f"{name} must be {wanted}, got {value!r}") from None
    if array.ndim:
        raise ValueError(
            f"{name} must be {wanted}, got an array of shape {array.shape}; several are a sweep="
        )
    if array.dtype == bool or not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if not _within(array, about):
        large = _LARGEST < array < math.inf
        limits = f"at most {_LARGEST:.3g}, the largest of float32" if large else _limits(about)
        raise ValueError(f"{name} must be {limits}, got {array.item()!r}")
    if not about.get("whole"):
        return float(array)  # one type, or 2 after 0.5 would compile anew
    if array != np.floor(array):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return int(array)


def _within(value: np.ndarray, about: Mapping) -> bool:
    return bool(
        about.get("low", -_LARGEST) <= value <= about.get("high", _LARGEST)
        and about.get("above", -math.inf) < value < about.get("below", math.inf)
        and abs(value) <= _LARGEST  # and no NaN, which is nowhere
    )


def _limits(about: Mapping) -> str:
    words = {"low": "at least", "above": "greater than", "high": "at most", "below": "less than"}
    said = [f"{words[name]} {about[name]:g}" for name in words if name in about]
    return " and ".join(said) or "finite"


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str:
    """ "; did you mean ...?" with the nearest of `names`, whatever its case, or nothing where none
    is as near as `cutoff`, from 0 for anything to 1 for the same."""
    folded = {each.casefold(): each for each in names}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=cutoff)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuses a value that is none of `choices`, with their list and the nearest."""
    if not isinstance(value, str) or value not in choices:
        hint = nearest(value, choices, cutoff=0.0) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def _with_weights(name: str, value: Any) -> dict[str, Any]:
    """`{name: weight}`; equal shares for a tuple of names."""
    wanted = f"{name} must be a tuple of names, or weights by name, got {value!r}"
    if isinstance(value, str | set | frozenset):  # of which the order is not said
        raise TypeError(wanted)
    try:
        names = tuple(value)
    except TypeError:
        raise TypeError(wanted) from None
    if not all(isinstance(each, str) and each for each in names):
        raise TypeError(wanted)
    if isinstance(value, Mapping):
        return dict(value)
    if len(set(names)) != len(names):
        raise ValueError(f"{name} must name each layer once, got {names!r}")
    return {each: 1.0 / len(names) for each in names}
