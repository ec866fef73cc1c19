"""Settings as frozen dataclasses that JAX sees as pytrees: numbers are leaves, all else structure.

A program is compiled for the structure. A number is an argument of the program, so that another
number compiles nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nst_jax.config import check_choice


def number(default: Any, **about: Any) -> Any:
    """A field that is a number: a float, an array of one number an output, or a tuple of these."""
    return dataclasses.field(default=default, metadata=about | {"leaf": True})


def option(default: Any, **about: Any) -> Any:
    """A field that decides which program is compiled: anything that can be hashed."""
    return dataclasses.field(default=default, metadata=about | {"leaf": False})


def weighted(names: tuple[str, ...], **about: Any) -> Any:
    """A field `{name: weight}` in an order of its own: names are structure, weights numbers.

    A tuple of names stands for equal shares.
    """
    return dataclasses.field(default=names, metadata=about | {"leaf": True, "weighted": True})


def settings(cls: type) -> type:
    """Makes a class a frozen dataclass with keyword-only fields, and a pytree.

    Fields are declared by `number`, `option` and `weighted`. What JAX puts in the place of numbers,
    such as tracers, axes or None, is taken as it is: nothing is checked then.

    Two objects are equal where their structure is the same and each number is, bit by bit in
    float32.

    A field with `choices=` among what is said about it takes one of these alone; anything else is a
    ValueError that lists them.

    Raises:
      TypeError: a field declared in another way.
    """
    own_check = getattr(cls, "__post_init__", None)

    def __post_init__(self):
        for name in shares:
            object.__setattr__(self, name, _with_weights(name, getattr(self, name)))
        for field in fields:
            if "choices" in field.metadata:
                check_choice(field.name, getattr(self, field.name), field.metadata["choices"])
        if own_check is not None:
            own_check(self)

    cls.__post_init__ = __post_init__
    cls = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    fields = dataclasses.fields(cls)
    for field in fields:
        if "leaf" not in field.metadata:
            raise TypeError(f"{cls.__name__}.{field.name} must be a number, option or weighted")
    leaves = tuple(field.name for field in fields if field.metadata["leaf"])
    structure = tuple(field.name for field in fields if not field.metadata["leaf"])
    shares = tuple(field.name for field in fields if field.metadata.get("weighted"))

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
                object.__setattr__(self, name, dict(zip(keys, weights, strict=True)))
        return self

    def key(self):
        numbers, tree = jax.tree.flatten(self)
        return tree, tuple(
            (np.shape(value), np.asarray(value, np.float32).tobytes()) for value in numbers
        )

    cls.__eq__ = lambda self, other: type(self) is type(other) and key(self) == key(other)
    cls.__hash__ = lambda self: hash(key(self))
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    _SETTINGS.add(cls)
    return cls


_SETTINGS: set[type] = set()


def is_settings(value: Any) -> bool:
    """Whether a value is of a class that `settings` made."""
    return type(value) in _SETTINGS


def _with_weights(name: str, value: Any) -> dict[str, Any]:
    """`{name: weight}`; equal shares for a tuple of names."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name} must be names, or weights by name, got {value!r}")
    names = tuple(value)
    if len(set(names)) != len(names):
        raise ValueError(f"{name} must name each once, got {names}")
    return {each: 1.0 / len(names) for each in names}
