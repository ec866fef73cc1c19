"""Settings as frozen dataclasses that are also JAX pytrees.

The numbers of a settings object are the leaves of the pytree. Everything else is its structure. JAX
compiles a program for a structure, and the numbers are arguments of that program. So another number
compiles nothing.

A field is declared once, by `number`, `numbers`, `weighted`, `option` or `nested`. The declaration
holds its default, limits, unit and help. Checks, flags, `--help` and the tables of the
documentation all come from it.
"""

import contextlib
import dataclasses
import difflib
import functools
import json
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    NoReturn,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    dataclass_transform,
)

import jax
import numpy as np
from jax import export

T = TypeVar("T")

Number: TypeAlias = float | np.number | jax.Array
"""A number of the settings. NumPy's and JAX's scalars become Python's; tracers stay as they are."""

_LARGEST = float(np.finfo(np.float32).max)  # the programs compute in float32


class About(TypedDict, total=False):
    """What a declaration may say about its field.

    Attributes:
      help: one line for `--help`.
      unit: the unit of the value, as `--help` shows it.
      group: the heading of its flag in `--help`.
      low: the smallest value.
      high: the largest value.
      above: the value must be greater than this.
      below: the value must be less than this.
      whole: True if the value must be a whole number.
      none: True if the value may be None.
      per_run: True if all outputs share the number, so that a sweep cannot vary it.
      flag: False if the field has no flag.
      choices: the strings that are allowed.
      words: strings that are allowed in place of a number.
    """

    help: str
    unit: str
    group: str
    low: float
    high: float
    above: float
    below: float
    whole: bool
    none: bool
    per_run: bool
    flag: bool
    choices: Collection[str]
    words: Collection[str]


def number(default: Any, **about: Unpack[About]) -> Any:
    """Declares a field that holds one number.

    Args:
      default: the default value.
      **about: see `About`.
    """
    return _declare(default, "number", about)


def numbers(default: tuple[float, ...], **about: Unpack[About]) -> Any:
    """Declares a field that holds a tuple of numbers; the limits apply to each of them.

    Args:
      default: the default value.
      **about: see `About`.
    """
    return _declare(default, "numbers", about)


def weighted(names: Sequence[str] | Mapping[str, float], **about: Unpack[About]) -> Any:
    """Declares a field that holds `{name: weight}`; annotate it as `Weights`.

    The names and their order are structure. The weights are numbers, and the limits apply to each.

    Args:
      names: the default. A tuple of names stands for equal weights that sum to 1.
      **about: see `About`.
    """
    return _declare(names, "weighted", about)


def option(default: Any, **about: Unpack[About]) -> Any:
    """Declares a field that is structure: another value compiles another program.

    The value must be hashable. If the default is True or False, only these two are allowed. With
    `choices`, only those strings are allowed. With `whole` or limits, the value must be a number.

    Args:
      default: the default value.
      **about: see `About`.
    """
    kind = "option"
    if isinstance(default, bool):
        kind = "switch"
    elif {"whole", "low", "high", "above", "below"} & about.keys():
        kind = "number"
    return _declare(default, kind, about, leaf=False)


def nested(default: Any, *, leaf: bool = True) -> Any:
    """Declares a field that holds other settings, or a tuple of them.

    Args:
      default: the default value.
      leaf: False makes the whole value structure, with its numbers.
    """
    return _declare(default, "nested", {}, leaf=leaf)


def _declare(default: Any, kind: str, about: Mapping[str, Any], *, leaf: bool = True) -> Any:
    return dataclasses.field(default=default, metadata={**about, "leaf": leaf, "type": kind})


# Every declaration has a default, which type checkers see by the assignment alone. Field specifiers
# would hide it, because checkers look there for the keyword `default=`.
@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass with keyword-only fields, and registers it as a pytree.

    Declare each field by `number`, `numbers`, `weighted`, `option` or `nested`:

        @settings
        class Blur:
            radius: Number = number(1.0, low=0, unit="PIXELS", help="radius of the blur")
            border: str = option("zeros", choices=("zeros", "replicate"))

    The new class checks its arguments. It refuses an unknown name with TypeError, and the message
    suggests the nearest field. It refuses a value that the declaration does not allow with
    ValueError or TypeError. Each message is one line.

    Two objects are equal if they have the same structure and each number has the same bits in
    float32. JAX may put tracers, axes or None in the place of numbers. These are not checked.

    Args:
      cls: the class. Its own `__post_init__`, if any, runs after the checks of the fields.

    Returns:
      The same class, with the methods of a dataclass.

    Raises:
      TypeError: a field is declared in another way.
    """
    own_check = cls.__dict__.get("__post_init__", getattr(cls, "_own_check", None))

    def __post_init__(self):
        for field in fields:
            value = check_value(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if own_check is not None:
            own_check(self)

    kind: Any = cls  # gets attributes that its type does not have
    kind.__post_init__, kind._own_check = __post_init__, own_check
    kind = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(kind)
    fields = dataclasses.fields(kind)
    for field in fields:
        if "leaf" not in field.metadata:
            raise TypeError(
                f"{cls.__name__}.{field.name} must be declared by number, numbers, weighted, "
                "option or nested"
            )
    leaves = tuple(field.name for field in fields if field.metadata["leaf"])
    structure = tuple(field.name for field in fields if not field.metadata["leaf"])
    shares = tuple(field.name for field in fields if field.metadata["type"] == "weighted")
    plain_init = kind.__init__

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
        self = object.__new__(kind)
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

    kind.__init__ = __init__
    if not hasattr(kind, "_unknown"):
        kind._unknown = classmethod(_unknown)
    kind.__eq__ = lambda self, other: type(self) is type(other) and key(self) == key(other)
    kind.__hash__ = lambda self: hash(key(self))
    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
    _SETTINGS.add(kind)
    _BY_NAME[_name_of(kind)] = kind
    register_for_export(kind)
    return kind


class Weights(dict[str, Number]):
    """`{name: weight}` that cannot be changed in place.

    As the annotation of a field that `weighted` declares, it reads as `{name: weight}`. The
    argument may be a mapping, or a sequence of names with equal weights.
    """

    def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("weights are frozen: set other weights by replace")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self):
        return Weights, (dict(self),)

    if TYPE_CHECKING:
        # Tells type checkers what such a field reads as, and what it may be set to.
        def __get__(self, instance: Any, owner: Any = None, /) -> Self: ...
        def __set__(self, instance: Any, value: Mapping[str, Number] | Sequence[str], /): ...


_SETTINGS: set[type] = set()


_BY_NAME: dict[str, type] = {}


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def register_for_export(kind: type) -> None:
    """Lets `jax.export` serialise programs that take or return a pytree of this class.

    Args:
      kind: a registered pytree. What its leaves do not hold must consist of strings, numbers,
        truth values, None, tuples and settings.
    """
    # The name is taken if a notebook defines its class again. The first class then stays.
    with contextlib.suppress(ValueError):
        export.register_pytree_node_serialization(
            kind,
            serialized_name=_name_of(kind),
            serialize_auxdata=lambda aux: json.dumps(_as_json(aux)).encode(),
            deserialize_auxdata=lambda text: _of_json(json.loads(text)),
        )


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple):  # a NamedTuple becomes a plain one, which equals it
        return [_as_json(each) for each in value]
    if is_settings(value):
        fields = [field.name for field in dataclasses.fields(value)]
        plain = {
            name: list(each.items()) if isinstance(each, Weights) else _as_json(each)
            for name, each in ((name, getattr(value, name)) for name in fields)
        }
        return {"settings": _name_of(type(value)), "fields": plain}
    raise TypeError(
        f"a program can be serialised if its settings are strings, numbers, tuples or settings, "
        f"got {value!r}"
    )


def _of_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_of_json(each) for each in value)
    if not isinstance(value, dict):
        return value
    kind: Any = _BY_NAME[value["settings"]]
    fields = {name: _of_json(each) for name, each in value["fields"].items()}
    weights = {f.name for f in dataclasses.fields(kind) if f.metadata["type"] == "weighted"}
    return kind(**{name: dict(v) if name in weights else v for name, v in fields.items()})


def is_settings(value: Any) -> bool:
    """Says whether the class of a value was made by `settings`."""
    return type(value) in _SETTINGS


def _unknown(cls: type, name: str) -> str:
    """The message for an argument that the class has no field for."""
    kind: Any = cls
    names = [field.name for field in dataclasses.fields(kind)]
    return f"{cls.__name__} has no field {name!r}{nearest(name, names)}"


def turned(old: Any, kind: type[T]) -> T:
    """Converts settings to another class; fields that both classes have keep their values.

    Args:
      old: an object of a `settings` class.
      kind: the `settings` class to convert to. Its other fields get their defaults.
    """
    if type(old) is kind:
        return old
    target: Any = kind
    shared = {field.name for field in dataclasses.fields(target)}
    return target(
        **{
            field.name: getattr(old, field.name)
            for field in dataclasses.fields(old)
            if field.name in shared
        }
    )


def with_numbers(old: T, values: Mapping[str, Any]) -> T:
    """Copies settings and replaces fields without any check.

    It is for values that a check would refuse, such as an array with one number per output.

    Args:
      old: an object of a `settings` class.
      values: the new values by the names of the fields.
    """
    new = object.__new__(type(old))
    new.__dict__.update({**old.__dict__, **values})
    return new


# Checks.


def checked_count(name: str, value: Any) -> int:
    """Returns a whole number of at least 1 as an `int`.

    Raises:
      ValueError: the value is another one; the message names it by `name`.
    """
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
    return count


def check_value(field: dataclasses.Field, value: Any, *, name: str | None = None) -> Any:
    """Checks a value against the declaration of its field and converts it.

    Args:
      field: a field of a `settings` class.
      value: the value for it.
      name: the name that messages use; None is the name of the field.

    Returns:
      The value as the settings keep it. Numbers are Python's, except tracers, which stay as they
      are.

    Raises:
      ValueError: the value is outside the limits or not among the choices.
      TypeError: the value has the wrong type.
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
        if isinstance(value, str) and "words" in about:
            check_choice(f"{name} (or a number)", value, about["words"])
            return value
        return _checked_number(name, value, about)
    return value


def _checked_numbers(name: str, values: Any, about: Mapping[str, Any]) -> tuple[Any, ...]:
    try:
        values = tuple(values)
    except TypeError:
        raise TypeError(f"{name} must hold numbers, got {values!r}") from None
    if not values:
        raise ValueError(f"{name} must hold at least one number, got none")
    return tuple(_checked_number(name, value, about) for value in values)


def _checked_number(name: str, value: Any, about: Mapping[str, Any]) -> Any:
    """Converts a value to a Python number and checks its limits.

    A value that cannot be read, such as a tracer, is returned as it is.
    """
    wanted = "a whole number" if about.get("whole") else "a number"
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError):  # a tracer, or an array with parts in other processes
        return value
    except ValueError:  # lists of several lengths
        raise TypeError(f"{name} must be {wanted}, got {value!r}") from None
    if array.ndim:
        raise ValueError(
            f"{name} must be {wanted}, got an array of shape {array.shape}; pass several as sweep="
        )
    if array.dtype == bool or not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if not _within(array, about):
        large = _LARGEST < array < math.inf
        limits = f"at most {_LARGEST:.3g}, the largest float32" if large else _limits(about)
        raise ValueError(f"{name} must be {limits}, got {array.item()!r}")
    if not about.get("whole"):
        return float(array)  # always a float, because 2 after 0.5 would compile again
    if array != np.floor(array):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return int(array)


def _within(value: np.ndarray, about: Mapping[str, Any]) -> bool:
    return bool(
        about.get("low", -_LARGEST) <= value <= about.get("high", _LARGEST)
        and about.get("above", -math.inf) < value < about.get("below", math.inf)
        and abs(value) <= _LARGEST  # refuses NaN, too
    )


def _limits(about: Mapping[str, Any]) -> str:
    words = {"low": "at least", "above": "greater than", "high": "at most", "below": "less than"}
    said = [f"{words[name]} {about[name]:g}" for name in words if name in about]
    return " and ".join(said) or "finite"


def nearest(name: str, names: Iterable[str], *, others: Mapping[str, str] | None = None) -> str:
    """Returns "; did you mean 'NAME'?" with the nearest of `names`, to end a message with.

    Args:
      name: the name that was given; its case does not matter.
      names: the names that exist.
      others: names of other programs in small letters, each with what to use here.

    Returns:
      The hint, or an empty string if no name is near enough.
    """
    asked = str(name).casefold()
    meant = (others or {}).get(asked.replace("-", "_"))
    if meant is None:
        folded = {each.casefold(): each for each in names}
        meant = next((folded[n] for n in difflib.get_close_matches(asked, folded, n=1)), None)
    return "" if meant is None else f"; did you mean {meant!r}?"


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuses a value that is not among the choices.

    Args:
      name: the name that the message uses.
      value: the value to check.
      choices: the strings that are allowed.

    Raises:
      ValueError: the value is not among them. The message lists them and suggests the nearest.
    """
    if not isinstance(value, str) or value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def _with_weights(name: str, value: Any) -> dict[str, Any]:
    """Returns `{name: weight}`. A sequence of names gets equal weights that sum to 1."""
    wanted = f"{name} must be a tuple of names, or weights by name, got {value!r}"
    if isinstance(value, str | set | frozenset):  # a set has no order
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
