"""The settings of a style transfer. `nst_jax.presets` has named ones.

A `Config` is made of frozen dataclasses: the terms of the loss, the network, the optimiser, and the
settings of the run as a whole. A field is either *structure* or a *number*. Structure, such as
layers and sizes, decides which program is compiled. A number is an argument of the program, so
another number compiles nothing. In JAX a `Config` is a pytree whose leaves are the numbers.

Every field has one flat address. It is the same in `Config.replace`, sweeps, flags, JSON and
messages. `style_weight` is the weight of the term `style`, `momentum` is a field of the optimiser,
and `size` is a field of the config itself.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, Self, get_args

from nst_jax.extractor import Network, VGGExtractor
from nst_jax.optimizers import OPTIMIZERS, SGD, Optimizer
from nst_jax.settings import (
    Number,
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
    NearestNeighbors,
    Term,
    TotalVariation,
    check_term,
    check_terms,
)

Init = Literal["content", "recolored", "style", "pixels", "noise", "grey"]
INITS: tuple[Init, ...] = get_args(Init)
Color = Literal["style", "luminance", "match", "histogram", "transfer"]
SizeOf = Literal["longer", "height"]
Size = int | Literal["original"] | None


# Names that other programs use for a setting, for the hint of a message.
OTHER_NAMES = {
    **dict.fromkeys(("iterations", "iters", "num_iters", "num_iterations", "max_iter"), "steps"),
    **dict.fromkeys(("n_iter", "max_iterations", "num_steps", "epochs", "num_epochs"), "steps"),
    **dict.fromkeys(("original_colors", "original_color", "keep_colors"), "color=luminance"),
    **dict.fromkeys(("preserve_color", "preserve_colors", "keep_color"), "color=luminance"),
    **dict.fromkeys(("image_size", "img_size", "imsize", "imgsize", "max_size"), "size"),
    **dict.fromkeys(("lr", "step_size"), "learning_rate"),
    **{"avg_pooling": "pooling=average", "cw": "content_weight", "sw": "style_weight"},
    **{
        "tvw": "tv_weight",
        "smoothness_weight": "tv_weight",
        "normalize_gradients": "normalize_gradient",
    },
}


# The default objective. The difference of Gram matrices in a layer is relative to the style's own
# matrix, activations are on a common scale, and cosines have none. So the weights suit every style,
# both networks and every size. docs/presets.md says how each value was chosen.
_SHARES = dict(zip(FIRST_CONVOLUTIONS, (0.35, 0.25, 0.2, 0.18, 0.02), strict=True))
_TERMS = (
    Content(weight=4.0, layers={"block4_conv2": 1.0}),
    GramStyle(weight=30.0, layers=_SHARES, normalization="relative"),
    NearestNeighbors(weight=4.0, rows=512),
    TotalVariation(weight=6.0, form="nine_point"),
)
_NETWORK = VGGExtractor(padding="replicate", normalize_features=True)
_OPTIMIZER = SGD(learning_rate=0.8, normalize_gradient="bands", band_weights=(0.5, 0.8, 1.0))


class Address(NamedTuple):
    """The place of a field in a `Config`.

    Attributes:
      owner: the name of a term, "optimizer" or "network". None is the config itself.
      field: the field and its declaration.
    """

    owner: str | None
    field: dataclasses.Field


@settings
class Config:
    """The settings of a style transfer. `Config()` is the preset `default`.

    NumPy's numbers become Python's. Tracers are not checked, and neither is what `jax.tree` or
    `jax.vmap` puts in the place of numbers.

    Attributes:
      terms: the terms of the loss, see `nst_jax.terms`. Their names are unique. A term is left out
        and costs nothing if its weight is 0 or it has no layers.
      network: an extractor, see `nst_jax.extractor`.
      optimizer: see `nst_jax.optimizers`.
      size: the side of the pictures in pixels, for contents and styles. "original" is the side of
        the content. None keeps the size of each picture.
      size_of: the side that `size` means, "longer" or "height".
      style_scale: the size at which the styles are looked at, by the size of the pictures. With 0.5
        the strokes are half as large. Double the size and halve this, and the strokes stay.
      style_size: the side of the styles in pixels at the last scale, in place of `style_scale`.
        None means that `style_scale` decides.
      first_size: the first side of a coarse-to-fine run, which grows to `size` in equal factors.
        None is a single scale. A run also has a single scale if `size / first_size` is less than
        the square root of `scale_factor`.
      scale_factor: how much each scale is larger than the one before. The real factor is as near to
        it as a whole number of scales allows.
      color: how colours are treated. "style" takes the style's colours. "luminance" transfers
        luminance alone and keeps the content's chroma. "match" first gives the style the mean and
        the covariance of the content's colours, and "histogram" the histogram of each of its
        channels. "transfer" optimises nothing: the result is the content with the mean and the
        covariance of the style's colours.
      init: the picture to start from: the "content"; the content with the mean and the covariance
        of the style's colours ("recolored"); the "style", cut to the shape of the content; "pixels"
        of the style, drawn at random; uniform "noise"; or a medium "grey".
      steps: the number of steps at each scale after the first. If `first_steps` is None, it also
        holds for the first scale.
      first_steps: the number of steps at the first scale, which may be the only one. None means
        `steps`.
      coarse_content: a factor of the weights of all terms that refer to the content, once for each
        scale that follows. With 2, a run of three scales begins with four times the weights. So
        coarse scales place the things of the content, and the last one is freer to paint.
      pyramid: the number of levels of the Laplacian pyramid whose coefficients are optimised. 1
        optimises the pixels themselves.
      average_decay: the decay of the exponential average of all iterates, which becomes the result.
        The average is corrected for its bias. 0 takes the last iterate.
      tolerance: a picture's scale ends early once ten steps lower its loss by less than this share.
        Other pictures go on. 0 takes all steps.
      clip: keep the picture inside [0, 1] after each step.
      jitter: move the picture by up to this many pixels, at random in each step, before the network
        sees it. The content moves with it.

    Raises:
      ValueError: a value that no run can use. The message names the field.
      TypeError: a value of the wrong type. The message names the field.
    """

    terms: tuple[Term, ...] = nested(_TERMS)
    network: Network = nested(_NETWORK, leaf=False)
    optimizer: Optimizer = nested(_OPTIMIZER)
    size: Size = option(
        512,
        low=1,
        whole=True,
        none=True,
        words=("original",),
        unit="PIXELS",
        group="Size of the pictures",
        help="side of the pictures in pixels, or original: the content's own",
    )
    size_of: SizeOf = option(
        "longer",
        choices=get_args(SizeOf),
        group="Size of the pictures",
        help="whether --size is the longer side or the height",
    )
    style_scale: float = option(
        1.0,
        low=0.05,
        high=8,
        group="Size of the pictures",
        help="size of the styles, as a factor of the size of the pictures: 0.5 makes strokes "
        "half as large",
    )
    style_size: int | None = option(
        None,
        low=1,
        whole=True,
        none=True,
        unit="PIXELS",
        group="Size of the pictures",
        help="side of the styles in pixels, in place of --style_scale",
    )
    first_size: int | None = option(
        128,
        low=1,
        whole=True,
        none=True,
        unit="PIXELS",
        group="Size of the pictures",
        help="side of the first scale in pixels; the run grows from it to --size in equal factors; "
        "with the value of --size there is a single scale",
    )
    scale_factor: float = option(
        2.0,
        low=1.1,
        high=16,
        group="Size of the pictures",
        help="how much each scale is larger than the one before, as nearly as equal factors allow",
    )
    color: Color = option(
        "style",
        choices=get_args(Color),
        group="Objective",
        help="colours of the picture (style: the style's; luminance: keep the content's chroma; "
        "match: first give the style the content's colours; histogram: first give the style the "
        "content's histograms; transfer: give the content the style's colours, and paint nothing)",
    )
    init: Init = option(
        "content",
        choices=INITS,
        group="Pictures to read",
        help="what to start from, or a picture file (recolored: the content in the style's "
        "colours; pixels: drawn at random from the style)",
    )
    steps: int = number(
        60,
        low=1,
        whole=True,
        per_run=True,
        unit="STEPS",
        group="Optimiser",
        help="steps at each scale after the first; without --first_steps at the first, too",
    )
    first_steps: int | None = number(
        150,
        low=1,
        whole=True,
        none=True,
        per_run=True,
        unit="STEPS",
        group="Optimiser",
        help="steps at the first scale; if not given, those of --steps, or else of the preset",
    )
    average_decay: Number = number(
        0.0,
        low=0,
        below=1,
        group="Optimiser",
        help="decay of the average of all iterates, which becomes the picture; 0 takes the last "
        "iterate",
    )
    tolerance: Number = number(
        0.0,
        low=0,
        below=1,
        group="Optimiser",
        help="end the scale of a picture once ten steps lower its loss by less than this share; 0 "
        "takes all steps",
    )
    coarse_content: float = number(
        1.0,
        above=0,
        high=16,
        per_run=True,
        group="Objective",
        help="how many times more the content weighs at each coarser scale; 1 is alike at all",
    )
    pyramid: int = option(
        1,
        low=1,
        high=12,
        whole=True,
        unit="LEVELS",
        group="Optimiser",
        help="levels of the Laplacian pyramid that is optimised; 1 optimises pixels",
    )
    clip: bool = option(
        True, group="Optimiser", help="keep the picture in its range after each step"
    )
    jitter: int = option(
        0,
        low=0,
        whole=True,
        unit="PIXELS",
        group="Optimiser",
        help="largest random shift of the picture in a step, in pixels",
    )

    def __post_init__(self):
        check_terms(self.terms)
        # A term without a weight or layers would be compiled and computed for nothing.
        terms = tuple(term for term in self.terms if not _is_zero(term.weight) and term.layers)
        object.__setattr__(self, "terms", terms)
        if not _is_optimizer(self.optimizer):
            raise TypeError(
                f"optimizer must be one of {_listed(OPTIMIZERS.values())}, got "
                f"{self.optimizer!r}; an optax transformation goes to stylize(optimizer=)"
            )
        if isinstance(self.network, type) or not hasattr(self.network, "geometry"):
            raise TypeError(
                f"network must be an extractor (see nst_jax.extractor), got {self.network!r}"
            )
        if self.first_size is not None and self.size is None:
            raise ValueError("first_size needs a size to end at, got size None")
        if self.style_size is not None and self.style_scale != 1:
            raise ValueError(
                f"style_size and style_scale exclude each other, got {self.style_size} and "
                f"{self.style_scale:g}"
            )
        addresses(self)

    @classmethod
    def _unknown(cls, name: str) -> str:
        own = [field.name for field in dataclasses.fields(cls)]
        known = known_addresses()
        if name in known:
            return f"Config has no field {name!r} of its own: Config().replace({name}=...) sets it"
        hint = nearest(name, [*own, *known], others=OTHER_NAMES)
        if hint and not any(repr(field) in hint for field in own):
            hint = f"{hint[:-1]}, which Config().replace(...) sets?"
        return f"Config has no field {name!r}{hint}"

    def on(self, platform: str) -> Self:
        """Returns the same settings, with the type and precision that None means on a platform.

        Args:
          platform: such as "cpu", "gpu" or "tpu".
        """
        resolved = getattr(self.network, "resolved", None)
        return self if resolved is None else self.replace(network=resolved(platform))

    def term(self, name: str) -> Term | None:
        """Returns the term of that name, or None."""
        return next((term for term in self.terms if term.name == name), None)

    def __getitem__(self, address: str) -> Any:
        """Returns the value at a flat address.

        Raises:
          KeyError: this config has no such field.
        """
        found = addresses(self)[address]
        return getattr(self.part(found.owner), found.field.name)

    def part(self, name: str | None) -> Any:
        """Returns a part of this config.

        Args:
          name: "optimizer", "network" or the name of a term, as in `Address.owner`.

        Returns:
          The part. It is None if there is no such term, and the config itself if `name` is None.
        """
        if name is None:
            return self
        return getattr(self, name) if name in _PARTS else self.term(name)

    def flat(self) -> dict[str, Any]:
        """Returns every value by its flat address."""
        return {
            address: getattr(self.part(found.owner), found.field.name)
            for address, found in addresses(self).items()
        }

    def replace(self, **changes: Any) -> Self:
        """Returns a copy with changes.

        Args:
          **changes: values by flat address, such as `style_weight=9`. Or whole parts, such as
            `optimizer=Adam()` or `tv=TotalVariation(weight=2)`, which keep nothing of the old part.
            A term is removed by None or by a weight of 0. A weight for a term that is not there,
            such as `tv_weight=6`, adds the term of the default.

        Raises:
          TypeError: an unknown name, for which the message suggests the nearest; a field that the
            chosen term, optimiser or network does not have; or a value of the wrong type.
          ValueError: a value out of range. The message names the address.
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
                    f"{name} must be a term named {name!r}, got one named {term.name!r}"
                )
        parts: dict[str, Any] = dict(terms)
        parts |= {name: whole.pop(name, getattr(self, name)) for name in _PARTS}
        known = _addresses(type(self), parts)
        given: dict[str, dict[str, Any]] = {}
        for address, value in changes.items():
            if address not in known:
                raise TypeError(_without(address, parts, known))
            owner, field = known[address]
            assert owner is not None  # the config's own fields are in `whole`
            given.setdefault(owner, {})[field.name] = check_value(field, value, name=address)
        for owner, values in given.items():
            parts[owner] = dataclasses.replace(parts[owner], **values)
        others = {name: parts.pop(name) for name in _PARTS}
        return dataclasses.replace(self, terms=tuple(parts.values()), **others, **whole)

    def with_sweep(self, sweep: Mapping[str, Any]) -> Self:
        """Returns a copy with arrays of one number per output in the place of numbers.

        It is for programs that are vmapped over the outputs.

        Args:
          sweep: `{address: array [N]}`.

        Raises:
          TypeError: there is no such address, or a sweep cannot vary it.
          ValueError: the number has no effect.
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
        """Says whether the loss of a step is random, because of a jitter or a term that draws."""
        return self.jitter != 0 or not all(term.fixed for term in self.terms)

    def to_dict(self) -> dict[str, Any]:
        """Returns every setting in types that JSON has. `from_dict` reads it.

        The dictionary holds the class names of the parts, and the values by address. For an
        extractor that is not a `settings` class it holds the class name alone.
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
    """Makes a `Config` from the result of `Config.to_dict`.

    Args:
      values: the result of `Config.to_dict`.
      types: your own classes of terms and networks. Values may come from files, so the function
        never imports a class that they name.

    Raises:
      ValueError: a class is not in the package and not in `types`, or `values` do not describe a
        `Config`.
    """
    own = [kind for kinds in TERMS.values() for kind in kinds.values()]
    known = {kind.__name__: kind for kind in (*own, *OPTIMIZERS.values(), VGGExtractor, *types)}

    def make(kind: str) -> Any:
        if kind not in known:
            raise ValueError(f"types must have the class {kind!r}, got {_listed(known.values())}")
        return known[kind]()

    if not isinstance(values, Mapping):
        raise ValueError(f"config must be a result of Config.to_dict, got {type(values).__name__}")
    try:
        values = dict(values)
        parts = {name: make(values.pop(name)) for name in _PARTS}
        terms = []
        for name, kind in values.pop("terms").items():
            term = make(kind)
            # No check here: a weight of 0 would remove the term before its own weight is set.
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
        raise ValueError(f"config must be a result of Config.to_dict: {error} is missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"config must be a result of Config.to_dict: {error}") from None


def _plain(value: Any, *, whole: bool = False) -> Any:
    """Converts a value to types that JSON has."""
    if whole and not isinstance(value, str | None):  # a number that went through JAX is float32
        return int(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | bool | int | float | None) else float(value)


def _usual_term(name: str) -> Term:
    """Returns the term of the default, or the default of the term's first class."""
    usual = {term.name: term for term in _TERMS}
    return usual[name] if name in usual else next(iter(TERMS[name].values()))()


def _is_optimizer(value: Any) -> bool:
    """Says whether a value is an optimiser that can run."""
    bare = Optimizer.transformation
    return is_settings(value) and getattr(type(value), "transformation", bare) is not bare


def _is_zero(weight: Any) -> bool:
    # Only a float is a weight. JAX may put an int in its place, which is an axis.
    return isinstance(weight, float) and weight == 0


def _listed(kinds: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _fields(value: Any) -> dict[str, dataclasses.Field]:
    """Returns the fields of a part that have an address."""
    if not is_settings(value):
        return {}
    found = {field.name: field for field in dataclasses.fields(value)}
    return {n: f for n, f in found.items() if n != "name" and f.metadata["type"] != "nested"}


def _addresses(cls: type[Config], parts: Mapping[str, Any]) -> dict[str, Address]:
    own = {f.name: f for f in dataclasses.fields(cls) if f.metadata["type"] != "nested"}
    found = {name: Address(None, field) for name, field in own.items()}
    terms = [name for name in parts if name not in _PARTS]
    for owner, part in parts.items():
        prefix = "" if owner in _PARTS else f"{owner}_"
        for name, field in _fields(part).items():
            if prefix + name in found:
                owners = [each for each in (owner, found[prefix + name].owner) if each in terms]
                whose = f"rename the term {owners[0]!r}" if owners else f"one is in {owner}"
                raise ValueError(f"two settings are named {prefix + name!r}: {whose}")
            found[prefix + name] = Address(owner, field)
    for name in terms:
        if name in found or name in _PARTS or name == "terms":
            raise ValueError(f"a term must not have the name of a setting, got {name!r}")
    return found


def addresses(config: Config) -> dict[str, Address]:
    """Returns every field of a config by its flat address.

    Raises:
      ValueError: two fields have the same address.
    """
    return _addresses(type(config), _parts_of(config))


@functools.cache
def known_addresses() -> dict[str, tuple[Address, ...]]:
    """Returns the addresses of all terms, networks and optimisers of the package.

    Classes of one part, such as SGD and Adam, may share an address. It then has several places.
    """
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
    """Refuses an address that a sweep cannot vary, and values that the field must not have.

    Args:
      config: the config to vary.
      address: the address of a number.
      values: its values.

    Raises:
      TypeError: there is no such address, the field is not a number that can differ between
        outputs, or a value has the wrong type.
      ValueError: the number has no effect, or a value is out of range.
    """
    known = addresses(config)
    if address not in known:
        raise TypeError(_without(address, _parts_of(config), known))
    owner, field = known[address]
    about = field.metadata
    if owner == "network" or about["type"] != "number" or not about["leaf"] or about.get("per_run"):
        raise TypeError(f"sweep must name numbers that can differ between outputs, got {address!r}")
    if owner == "optimizer" and field.name in config.optimizer.idle:
        raise ValueError(f"sweep[{address!r}] has no effect in {config.optimizer}")
    for value in values:
        check_value(field, value, name=address)


def _parts_of(config: Config) -> dict[str, Any]:
    return {term.name: term for term in config.terms} | {
        name: getattr(config, name) for name in _PARTS
    }


def _without(address: str, parts: Mapping[str, Any], known: Iterable[str]) -> str:
    """Says why a config has no such address."""
    others = known_addresses().get(address)
    if not others:
        hint = nearest(address, {*known, *parts} - {address}, others=OTHER_NAMES)
        return f"Config has no field {address!r}{hint}"
    owner = others[0].owner
    assert owner is not None  # every config has the config's own fields
    if owner in parts:
        kind = type(parts[owner]).__name__
        return f"Config has no {address!r}: its {owner} is {kind}, which has none"
    return f"Config has no {address!r}: there is no term {owner!r}, and {owner}_weight= adds it"
