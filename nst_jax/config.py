"""What a style transfer is asked to do. `nst_jax.presets` names some.

A `Config` is made of frozen dataclasses: the terms of the loss, the network, the optimiser, and
what belongs to the run as a whole. Each field is *structure*, which decides what program is
compiled (layers, sizes), or a *number*, which the program takes as an argument, so that changing it
compiles nothing. JAX sees that split directly: a `Config` is a pytree whose leaves are the numbers.

Every field has one flat address, the same in `Config.replace`, sweeps, flags, JSON and messages:
`style_weight` is the weight of the term `style`, `momentum` the momentum of the optimiser, `size`
the config's own.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from nst_jax.extractor import VGGExtractor
from nst_jax.optimizers import OPTIMIZERS, SGD, Optimizer
from nst_jax.settings import (
    check_value,
    is_settings,
    nearest,
    nested,
    number,
    option,
    settings,
    with_numbers,
)
from nst_jax.terms import (
    FIRST_CONVOLUTIONS,
    TERMS,
    Content,
    GramStyle,
    Term,
    TotalVariation,
    check_term,
    check_terms,
)

INITS = ("content", "noise", "style")


# The project's own objective. Each layer's difference of Gram matrices is taken relative to the
# style's own, and activations are on a common scale, so that the weights hold for every style, for
# both networks and for every size. With plain squares the fourth layer alone makes up nine tenths
# of the gradient, and colours and fine strokes go their own way. All of it was chosen by looking:
# see docs/presets.md.
_SHARES = dict(zip(FIRST_CONVOLUTIONS, (0.35, 0.25, 0.2, 0.18, 0.02), strict=True))
_TERMS = (
    Content(weight=2.0, layers={"block4_conv2": 1.0}),
    GramStyle(weight=30.0, layers=_SHARES, normalization="relative"),
    TotalVariation(weight=6.0, form="nine_point"),
)
_NETWORK = VGGExtractor(padding="replicate", normalize_features=True)
_OPTIMIZER = SGD(learning_rate=0.8, normalize_gradient="bands", band_weights=(0.5, 0.8, 1.0))


class Address(NamedTuple):
    """Where a field is.

    Attributes:
      owner: a term's name, "optimizer", "network", or None: the config itself.
      field: what is declared of it.
    """

    owner: str | None
    field: dataclasses.Field


@settings
class Config:
    """Settings of a style transfer. `Config()` is the preset `default`.

    Attributes:
      terms: of the loss, see `nst_jax.terms`; names are unique. One whose weight is 0, or that
        looks at no layer, is left out: it costs nothing.
      network: see `nst_jax.extractor`.
      optimizer: see `nst_jax.optimizers`.
      size: side of the pictures in pixels, for content and styles alike; None keeps the size
        that each has.
      size_of: the side meant, "longer" or "height".
      first_size: a coarse-to-fine run starts at this side and grows to `size` in equal factors.
        None is a single scale. There is also a single scale where `size / first_size` is below the
        square root of `scale_factor`.
      scale_factor: how much larger each scale is than the one before, as nearly as a whole number
        of scales allows.
      steps: number of optimisation steps at each scale after the first; at the first too, where
        `first_steps` is None.
      first_steps: number of steps at the first scale, which is also the only one of a run with a
        single scale. None is `steps`.
      clip: keep the picture inside [0, 1] after each step.
      average_decay: of the bias-corrected exponential average of the iterates, which is the
        result; 0 is the last iterate.
      jitter: move the picture by up to so many pixels, at random each step, before it is
        looked at; the content is moved along.
      init: start from the "content" picture, from uniform "noise", or from the "style" picture
        cut to the content's shape.
      color: "style" takes the style's colours; "luminance" transfers luminance alone and keeps
        the content's chroma; "match" first gives the style the content's mean and covariance
        of colours.

    NumPy's numbers become Python's. Tracers, and what `jax.tree` or `jax.vmap` puts in place of
    numbers, are not checked.

    Raises:
      ValueError, TypeError: a value that no run could use; the message names the field.
    """

    terms: tuple[Term, ...] = nested(_TERMS)
    network: Any = nested(_NETWORK, leaf=False)
    optimizer: Optimizer = nested(_OPTIMIZER)
    size: int | None = option(
        512,
        low=1,
        whole=True,
        none=True,
        unit="PIXELS",
        group="Size of the pictures",
        help="side of the pictures, pixels",
    )
    size_of: str = option(
        "longer", choices=("longer", "height"), group="Size of the pictures", help="the side meant"
    )
    first_size: int | None = option(
        128,
        low=1,
        whole=True,
        none=True,
        unit="PIXELS",
        group="Size of the pictures",
        help="coarse to fine: start at this side, pixels, and grow to the size in equal factors; "
        "as large as --size, it is a single scale",
    )
    scale_factor: float = option(
        2.0,
        low=1.1,
        high=16,
        group="Size of the pictures",
        help="how much larger each scale is than the one before, as nearly as equal factors allow",
    )
    color: str = option(
        "style",
        choices=("style", "luminance", "match"),
        group="Objective",
        help="style: its colours; luminance: keep the content's chroma; match: first give the "
        "style the content's colours",
    )
    init: str = option(
        "content",
        choices=INITS,
        group="Pictures to read",
        help="what to start from, or a picture file",
    )
    steps: Any = number(
        80,
        low=1,
        whole=True,
        per_run=True,
        unit="STEPS",
        group="Optimiser",
        help="optimisation steps at each scale; alone it also sets those of the first scale",
    )
    first_steps: Any = number(
        150,
        low=1,
        whole=True,
        none=True,
        per_run=True,
        unit="STEPS",
        group="Optimiser",
        help="steps at the first scale; left out, --steps sets them, or else the preset",
    )
    average_decay: Any = number(
        0.0,
        low=0,
        below=1,
        group="Optimiser",
        help="decay of the average of all iterates, which becomes the picture; 0 takes the last "
        "iterate",
    )
    clip: bool = option(True, group="Optimiser", help="keep the picture in its range at each step")
    jitter: int = option(
        0,
        low=0,
        whole=True,
        unit="PIXELS",
        group="Optimiser",
        help="pixels to move the picture by, at random each step",
    )

    def __post_init__(self):
        check_terms(self.terms)
        # What nobody asked for is not there.
        terms = tuple(term for term in self.terms if not _is_zero(term.weight) and term.layers)
        object.__setattr__(self, "terms", terms)
        if not _is_optimizer(self.optimizer):
            raise TypeError(
                f"optimizer must be {_listed(OPTIMIZERS.values())} of nst_jax.optimizers, got "
                f"{self.optimizer!r}; a transformation of optax goes to stylize(optimizer=)"
            )
        if isinstance(self.network, type) or not hasattr(self.network, "geometry"):
            raise TypeError(
                f"network must be an extractor, see nst_jax.extractor, got {self.network!r}"
            )
        if self.first_size is not None and self.size is None:
            raise ValueError("first_size needs a size to end at, got size None")
        addresses(self)

    @classmethod
    def _unknown(cls, name):
        own = [field.name for field in dataclasses.fields(cls)]
        known = known_addresses()
        if name in known:
            return f"Config has no field {name!r} of its own: Config().replace({name}=...) sets it"
        hint = nearest(name, [*own, *known])
        if hint and not any(repr(field) in hint for field in own):
            hint = f"{hint[:-1]}, which Config().replace(...) sets?"
        return f"Config has no field {name!r}{hint}"

    def term(self, name: str) -> Term | None:
        """The term of that name, or None."""
        return next((term for term in self.terms if term.name == name), None)

    def __getitem__(self, address: str) -> Any:
        """The value at a flat address.

        Raises:
          KeyError: this config has no such field.
        """
        return getattr(
            self.part(addresses(self)[address].owner), addresses(self)[address].field.name
        )

    def part(self, name: str | None) -> Any:
        """The optimiser, the network, or the term of that name or None; of None the config."""
        if name is None:
            return self
        return getattr(self, name) if name in _PARTS else self.term(name)

    def flat(self) -> dict[str, Any]:
        """Every value by its flat address."""
        return {
            address: getattr(self.part(found.owner), found.field.name)
            for address, found in addresses(self).items()
        }

    def replace(self, **changes: Any) -> "Config":
        """A copy with `changes`.

        Args:
          changes: by flat address, `style_weight=9`; or whole parts, `optimizer=Adam()`,
            `tv=TotalVariation(weight=2)`, which take over nothing of the old ones. None takes a
            term out, and so does a weight of 0. A weight for a term that is not there adds the
            package's usual one, as the default has it.

        Raises:
          TypeError: an unknown name, answered with the nearest; or a field that the chosen term,
            optimiser or network does not have.
          ValueError: a value out of range; the message names the address.
        """
        own = {field.name for field in dataclasses.fields(self)}
        whole = {name: changes.pop(name) for name in tuple(changes) if name in own}
        found = whole.pop("terms", self.terms)
        check_terms(found)
        terms = {term.name: term for term in found}
        for name in tuple(changes):
            if name in terms or name in TERMS or isinstance(changes[name], Term):
                terms[name] = changes.pop(name)
        for name in [name for name in TERMS if f"{name}_weight" in changes and name not in terms]:
            terms[name] = _usual_term(name)
        terms = {name: term for name, term in terms.items() if term is not None}
        for name, term in terms.items():
            if not isinstance(term, Term):
                raise TypeError(f"{name} must be a term or None, got {term!r}")
            check_term(term)
            if term.name != name:
                raise ValueError(
                    f"{name} must be a term of that name, got one called {term.name!r}"
                )
        parts = terms | {name: whole.pop(name, getattr(self, name)) for name in _PARTS}
        known = _addresses(type(self), parts)
        given: dict[str, dict[str, Any]] = {}
        for address, value in changes.items():
            if address not in known:
                raise TypeError(_without(address, parts, known))
            found = known[address]
            value = check_value(found.field, value, name=address)
            given.setdefault(found.owner, {})[found.field.name] = value
        for owner, values in given.items():
            parts[owner] = dataclasses.replace(parts[owner], **values)
        others = {name: parts.pop(name) for name in _PARTS}
        return dataclasses.replace(self, terms=tuple(parts.values()), **others, **whole)

    def with_sweep(self, sweep: Mapping[str, Any]) -> "Config":
        """A copy with arrays, one number an output, in place of numbers; `{address: [N]}`. It is
        for programs that are vmapped over the outputs.

        Raises:
          TypeError: no such address, or one that is no number.
        """
        config, known = self, addresses(self)
        for address, values in sweep.items():
            check_sweep(self, address)
            found = known[address]
            part = with_numbers(config.part(found.owner), {found.field.name: values})
            if found.owner is None:
                config = part
            elif found.owner in _PARTS:
                config = with_numbers(config, {found.owner: part})
            else:
                terms = (part if term.name == found.owner else term for term in config.terms)
                config = with_numbers(config, {"terms": tuple(terms)})
        return config

    def draws(self) -> bool:
        """Whether each step's loss is drawn at random: by a jitter, or by a term."""
        return self.jitter != 0 or not all(term.fixed for term in self.terms)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as JSON has it: the kinds of the parts by name, and values by address.

        An extractor that is no `settings` class is told by its type's name alone.
        """
        known = addresses(self)
        values = {
            name: _plain(value, whole=known[name].field.metadata.get("whole", False))
            for name, value in self.flat().items()
        }
        kinds = {name: type(getattr(self, name)).__name__ for name in _PARTS}
        return {"terms": {term.name: type(term).__name__ for term in self.terms}} | kinds | values


_PARTS = ("network", "optimizer")


def from_dict(values: Mapping[str, Any], *, types: Iterable[type] = ()) -> Config:
    """The `Config` that `Config.to_dict` told.

    Args:
      values: of it.
      types: classes of terms and of networks beside those that come with the package. Values come
        out of files, so that they never name what is imported.

    Raises:
      ValueError: a type that is not among these, or values of no `Config`.
    """
    own = [kind for kinds in TERMS.values() for kind in kinds.values()]
    known = {kind.__name__: kind for kind in (*own, *OPTIMIZERS.values(), VGGExtractor, *types)}

    def make(kind):
        if kind not in known:
            raise ValueError(f"types must have the class {kind!r}, got {_listed(known.values())}")
        return known[kind]()

    if not isinstance(values, Mapping):
        raise ValueError(f"config must be what Config.to_dict told, got {type(values).__name__}")
    try:
        values = dict(values)
        parts = {name: make(values.pop(name)) for name in _PARTS}
        terms = []
        for name, kind in values.pop("terms").items():
            term = make(kind)
            # As it is, for a weight of 0 would take it out before its own is set.
            terms.append(with_numbers(term, {"name": name, "weight": 1.0}))
        config = Config(terms=tuple(terms), **parts)
        missing = [address for address in addresses(config) if address not in values]
        if missing:
            raise KeyError(missing[0])
        return config.replace(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
        )
    except KeyError as error:
        raise ValueError(f"config must be what Config.to_dict told: {error} is missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"config must be what Config.to_dict told: {error}") from None


def _plain(value: Any, *, whole: bool = False) -> Any:
    if whole and value is not None:  # what went through JAX is float32
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | bool | int | float | None) else float(value)


def _usual_term(name: str) -> Term:
    """The package's term of that name as the default has it, or else as its class has it."""
    usual = {term.name: term for term in _TERMS}
    return usual[name] if name in usual else next(iter(TERMS[name].values()))()


def _is_optimizer(value: Any) -> bool:
    """Whether a value is an optimiser that can run."""
    bare = Optimizer.transformation
    return is_settings(value) and getattr(type(value), "transformation", bare) is not bare


def _is_zero(weight: Any) -> bool:
    # A float alone is a weight: what JAX puts in its place may be an axis, an int.
    return isinstance(weight, float) and weight == 0


def _listed(kinds: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _fields(value: Any) -> dict[str, dataclasses.Field]:
    """The fields of a part that have an address."""
    if not is_settings(value):
        return {}
    found = {field.name: field for field in dataclasses.fields(value)}
    return {n: f for n, f in found.items() if n != "name" and f.metadata["type"] != "nested"}


def _addresses(cls: type, parts: Mapping[str, Any]) -> dict[str, Address]:
    own = {f.name: f for f in dataclasses.fields(cls) if f.metadata["type"] != "nested"}
    found = {name: Address(None, field) for name, field in own.items()}
    terms = [name for name in parts if name not in _PARTS]
    for owner, part in parts.items():
        prefix = "" if owner in _PARTS else f"{owner}_"
        for name, field in _fields(part).items():
            if prefix + name in found:
                owners = [each for each in (owner, found[prefix + name].owner) if each in terms]
                whose = f"name the term {owners[0]!r} otherwise" if owners else f"see {owner}"
                raise ValueError(f"two settings are called {prefix + name!r}: {whose}")
            found[prefix + name] = Address(owner, field)
    for name in terms:
        if name in found or name in _PARTS or name == "terms":
            raise ValueError(f"a term must not be called as a setting is, got {name!r}")
    return found


def addresses(config: Config) -> dict[str, Address]:
    """Every field of a config by its flat address.

    Raises:
      ValueError: two fields of one address.
    """
    return _addresses(type(config), _parts_of(config))


@functools.cache
def known_addresses() -> dict[str, tuple[Address, ...]]:
    """The addresses of all that comes with the package; several where kinds of a part share one."""
    found: dict[str, list[Address]] = {}
    kinds = {name: tuple(kinds.values()) for name, kinds in TERMS.items()}
    kinds |= {"network": (VGGExtractor,), "optimizer": tuple(OPTIMIZERS.values())}
    for owner, classes in kinds.items():
        for kind in classes:
            for address, where in _addresses(Config, {owner: kind()}).items():
                known = found.setdefault(address, [])
                if where.owner is not None or not known:
                    known.append(where)
    return {address: tuple(each) for address, each in found.items()}


def check_sweep(config: Config, address: str, *, values: Iterable[Any] = ()) -> None:
    """Refuses an address that takes no number for each output, and values that it may not have.

    Raises:
      TypeError, ValueError: it does not, or may not, or nothing would read it.
    """
    known = addresses(config)
    if address not in known:
        raise TypeError(_without(address, _parts_of(config), known))
    owner, field = known[address]
    about = field.metadata
    if owner == "network" or about["type"] != "number" or not about["leaf"] or about.get("per_run"):
        raise TypeError(f"sweep must be of numbers of an output, got {address!r}")
    if owner == "optimizer" and field.name in config.optimizer.idle:
        raise ValueError(f"sweep of {address!r} changes nothing in {config.optimizer}")
    for value in values:
        check_value(field, value, name=address)


def _parts_of(config):
    return {term.name: term for term in config.terms} | {
        name: getattr(config, name) for name in _PARTS
    }


def _without(address: str, parts: Mapping[str, Any], known: Iterable[str]) -> str:
    """Why a config has no such address."""
    others = known_addresses().get(address)
    if not others:
        return f"Config has no field {address!r}{nearest(address, {*known, *parts} - {address})}"
    owner = others[0].owner
    if owner in parts:
        kind = type(parts[owner]).__name__
        return f"Config has no {address!r}: its {owner} is {kind}, which has none"
    return f"Config has no {address!r}: there is no term {owner!r}, and {owner}_weight= adds it"
