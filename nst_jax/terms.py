"""The terms of a loss: what each compares, and what it needs to know of a picture.

A loss is a sum of terms. A term looks at layers of a network, or at the picture itself. It says
what its `target` keeps of a content, of a style or of data of the run, which `sums` over positions
it takes of a picture, and the `loss` that these sums and the target give. Sums of parts of a
picture add up to those of the picture. So `nst_jax.objective` can blend, mask and weigh a term, and
`nst_jax.partition` can evaluate it whole, in strips, in windows or on a mesh, without knowing it.

To write a term, derive a class from `Term`, decorate it by `nst_jax.settings.settings`, and give it
`name`, `weight`, `layers`, `sums` and `loss`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from nst_jax import losses
from nst_jax.settings import is_settings, number, option, settings, weighted

IMAGE = "image"
"""The layer that is the picture itself, as it is before a jitter moves it."""

KINDS = ("features", "picture", "mask")

Tree = Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values"],
    meta_fields=["layer", "kind", "per_output"],
)
@dataclasses.dataclass(frozen=True)
class Field:
    """An array with one value a position, which is cut, resized and sharded as its layer is.

    Attributes:
      values: `[h, w, ...]`, of the whole picture at `layer`.
      layer: a layer of the network, or `IMAGE`.
      kind: "picture", `[h, w, ..., 3]` in [0, 1], or "mask", `[h, w, ...]` in [0, 1], which say how
        it is resized: as `nst_jax.image.resize` or `resize_mask` does. "features" are not resized.
      per_output: whether there is a leading axis of outputs, in what is given to a run.
    """

    values: jax.Array
    layer: str
    kind: Literal["features", "picture", "mask"] = "features"
    per_output: bool = False


def is_field(value: Any) -> bool:
    return isinstance(value, Field)


def map_fields(function: Callable[[Field], Any], tree: Tree) -> Tree:
    """`tree` with `function` of each `Field`; other leaves stay."""
    return jax.tree.map(
        lambda leaf: function(leaf) if is_field(leaf) else leaf, tree, is_leaf=is_field
    )


def fields_of(tree: Tree) -> Tree:
    """`tree` with None in place of each leaf that is no `Field`."""
    return jax.tree.map(lambda leaf: leaf if is_field(leaf) else None, tree, is_leaf=is_field)


def without_fields(tree: Tree) -> Tree:
    """`tree` with None in place of each `Field`."""
    return jax.tree.map(lambda leaf: None if is_field(leaf) else leaf, tree, is_leaf=is_field)


def with_fields(fields: Tree, others: Tree) -> Tree:
    """The tree of which these are `fields_of` and `without_fields`."""
    return jax.tree.map(
        lambda field, other: other if field is None else field,
        fields,
        others,
        is_leaf=lambda leaf: leaf is None or is_field(leaf),
    )


@dataclasses.dataclass(frozen=True)
class At:
    """The picture that is looked at: always the whole one, also where a part of it is measured.

    Attributes:
      shape: `(H, W)` in pixels.
      positions: by layer, how many it has.
      channels: by layer.
      origin: by layer, `[2]`, row and column at which the part that is measured begins.
      key: random key of the run and step, for terms that draw; the same in every part of a picture.
    """

    shape: tuple[int, int]
    positions: Mapping[str, int]
    channels: Mapping[str, int]
    origin: Mapping[str, jax.Array]
    key: jax.Array | None = None


class Term:
    """What every term has, with what is usual. A term is a `settings` class derived from this.

    Attributes:
      name: unique in a loss; the key of its history.
      weight: a factor of its loss, which the objective applies.
      layers: `{layer: weight}`; the weights are for `loss` to apply.
      refers: what the target is made of: the "style", the "content", data of the "run", or None.
      reach: how many positions beyond its own `sums` reads, along each side.
      additive: whether the sums of parts add up. If not, `sums` is called once, on the whole layer.
      linear: whether `loss` is linear in the sums.
      regions: whether masks apply: sums and loss are then taken once a region.
      mix: how a blend of styles is made, of their "targets" or of their "losses".
      fixed: whether the value depends on the picture alone; False where `at.key` is used.
    """

    name: str
    weight: Any
    layers: Mapping[str, Any]
    refers: ClassVar[Literal["style", "content", "run"] | None] = None
    reach: ClassVar[int] = 0
    additive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    regions: ClassVar[bool] = False
    mix: ClassVar[Literal["targets", "losses"]] = "targets"
    fixed: ClassVar[bool] = True

    def target(self, layer: str, measured: Tree, at: At) -> Tree:
        """What is kept of the style's sums, of the content's `Field` or of the run's data.

        Shapes must not depend on the style's size, for the targets of several are stacked. Values
        must not depend on numbers of the term.
        """
        return measured

    def sums(
        self,
        layer: str,
        x: jax.Array,
        weights: jax.Array | None,
        target: Tree,
        at: At,
    ) -> Tree:
        """Sums over the positions of a picture, or of a part of it.

        Args:
          layer: the layer's name.
          x: `[h, w, C]`, a part that lies inside the picture.
          weights: `[h, w]`, at least 0; None is 1 everywhere. A position of weight 0 must add
            exactly nothing.
          target: the layer's target, its `Field`s cut to the part. While a style is measured it is
            None. From a style's target only the `Field`s come: sums are taken once, and a blend or
            a mask has several targets.
          at: the whole picture.

        Returns:
          A tree of float32 arrays.
        """
        raise NotImplementedError

    def loss(self, sums: Mapping[str, Tree], target: Mapping[str, Tree], at: At) -> dict:
        """The loss by part, `{part: scalar}`, where the parts are layers if they can be.

        Args:
          sums: `{layer: tree}`, of the whole picture.
          target: `{layer: tree}`, without its `Field`s.
          at: the picture.
        """
        raise NotImplementedError

    def check_mixing(self, mixing: np.ndarray) -> None:
        """Refuses rows of a blend that it cannot have.

        Raises:
          ValueError: a row of that kind.
        """


def check_term(term: Any) -> None:
    """Refuses what is no term.

    Raises:
      TypeError: a member that is missing.
    """
    kind = type(term).__name__
    if not (isinstance(term, Term) and is_settings(term)):
        raise TypeError(
            "a term must be an object of a class derived from nst_jax.terms.Term and decorated by "
            f"nst_jax.settings.settings, got {term!r}"
        )
    missing = [name for name in ("name", "weight", "layers") if not hasattr(term, name)]
    missing += [
        name for name in ("sums", "loss") if getattr(type(term), name) is getattr(Term, name)
    ]
    if missing:
        raise TypeError(f"a term must have {missing[0]!r}, and {kind} has none")
    if not isinstance(term.name, str) or not term.name.isidentifier():
        raise ValueError(f"the name of a term must be like 'style' or 'my_term', got {term.name!r}")
    if term.name == "total":
        raise ValueError("a term must not be called 'total', which is the sum of all")
    if term.refers not in ("style", "content", "run", None):
        raise ValueError(
            f"{kind}.refers must be 'style', 'content', 'run' or None, got {term.refers!r}"
        )
    if term.mix not in ("targets", "losses"):
        raise ValueError(f"{kind}.mix must be 'targets' or 'losses', got {term.mix!r}")
    if not isinstance(term.reach, int) or term.reach < 0:
        raise ValueError(f"{kind}.reach must be a whole number, at least 0, got {term.reach!r}")


def check_terms(terms: Any) -> None:
    """Refuses what is no sequence of terms with names of their own.

    Raises:
      TypeError, ValueError: what is no term, or two terms of one name.
    """
    if not isinstance(terms, tuple | list):
        raise TypeError(f"terms must be a tuple of terms, got {terms!r}")
    for term in terms:
        check_term(term)
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"terms must differ in their names, got {name!r} twice")


@settings
class Content(Term):
    """Squared differences of the activations from the content picture's, equation 1 of Gatys et al.

    Attributes:
      reduction: "half_sum" is 1/2 the sum of squares (Gatys), "sum" twice that, "mean" the mean of
        squares, which does not grow with the picture.
    """

    name: str = option("content")
    weight: Any = number(1.0, low=0, help="weight of the content loss")
    layers: Mapping[str, Any] = weighted(
        ("block4_conv2",), low=0, help="layers compared with the content"
    )
    reduction: str = option(
        "mean", choices=("half_sum", "sum", "mean"), help="of squared differences"
    )
    refers = "content"
    linear = True

    def sums(self, layer, x, weights, target, at):
        return losses.content_loss(x, target.values, weights=weights)

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            size = at.positions[layer] * at.channels[layer]
            factor = {"half_sum": 1.0, "sum": 2.0, "mean": 2.0 / size}[self.reduction]
            found[layer] = weight * factor * sums[layer]
        return found


# The style layers of Gatys et al.
FIRST_CONVOLUTIONS = tuple(f"block{block}_conv1" for block in range(1, 6))
_STYLE_LAYERS = "layers whose statistics are compared with the style"


class _Style(Term):
    """A comparison of sums of features and of their products, as means over the positions.

    The target is taken over as many positions as the picture has, which is the papers' equation
    when both are of one size. Both sides stay divided by the positions.
    """

    refers = "style"
    regions = True

    def target(self, layer, measured, at):
        return losses.per_position(measured)

    def sums(self, layer, x, weights, target, at):
        return losses.statistics(x, weights=weights)

    def loss(self, sums, target, at):
        return {
            layer: weight
            * self.distance(losses.per_position(sums[layer]), target[layer], layer, at)
            for layer, weight in self.layers.items()
        }


@settings
class GramStyle(_Style):
    """Squared differences of Gram matrices from the style's, equations 4 and 5 of Gatys et al.

    Attributes:
      normalization: what divides a layer's squared difference: "gatys" 4 N^2 M^2, "keras"
        4 * 3^2 * (height * width)^2 of the picture at every layer, "mean" N^2 M^2,
        "mean_per_channel" N^4 M^2, for N channels and M positions; "relative" the squared norm of
        the style's Gram matrix, whatever the size of activations.
    """

    name: str = option("style")
    weight: Any = number(1.0, low=0, help="weight of the style loss")
    layers: Mapping[str, Any] = weighted(FIRST_CONVOLUTIONS, low=0, help=_STYLE_LAYERS)
    normalization: str = option(
        "mean_per_channel",
        choices=("gatys", "keras", "mean", "mean_per_channel", "relative"),
        help="divisor of squared Gram differences",
    )

    def distance(self, own, target, layer, at):
        if self.normalization == "relative":
            return losses.relative_style_loss(own.gram, target.gram)
        channels, positions = at.channels[layer], at.positions[layer]
        normalizer = {
            "gatys": losses.gatys_normalizer(channels, positions),
            "keras": losses.keras_normalizer(*at.shape),
            "mean": losses.mean_normalizer(channels, positions),
            "mean_per_channel": losses.mean_normalizer(channels, positions) * float(channels) ** 2,
        }[self.normalization]
        # Of means, so divided by the positions' square: the same number, without sums of 1e15.
        return losses.style_loss(
            own.gram, target.gram, normalizer=normalizer / float(positions) ** 2
        )


@settings
class WassersteinStyle(_Style):
    """The squared 2-Wasserstein distance of Gaussians with the features' means and covariances."""

    name: str = option("style")
    weight: Any = number(1.0, low=0, help="weight of the style loss")
    layers: Mapping[str, Any] = weighted(FIRST_CONVOLUTIONS, low=0, help=_STYLE_LAYERS)

    def distance(self, own, target, layer, at):
        return losses.wasserstein_loss(own, target)

    def check_mixing(self, mixing):
        if mixing.min() < 0:
            raise ValueError("mixing must not be negative with the wasserstein style loss")


@settings
class TotalVariation(Term):
    """How much neighbouring pixels differ.

    Attributes:
      form: "keras" (sum of (dx^2 + dy^2)^1.25 of grey levels), "nine_point" (mean of squares over
        eight neighbours, range [0, 1]) or "l1" (mean of absolute differences of grey levels).
    """

    name: str = option("tv")
    weight: Any = number(1.0, low=0, help="weight of the total variation")
    layers: Mapping[str, Any] = weighted((IMAGE,), low=0, help="the picture itself", flag=False)
    form: str = option(
        "keras", choices=("keras", "nine_point", "l1"), help="form of the total variation"
    )
    reach = 1
    linear = True

    def sums(self, layer, x, weights, target, at):
        # Published weights of "keras" and "l1" are for grey levels.
        if self.form == "keras":
            return losses.total_variation(255.0 * x, weights=weights)
        if self.form == "l1":
            return losses.total_variation_l1(255.0 * x, weights=weights, shape=at.shape)
        return losses.total_variation_nine_point(x, weights=weights, shape=at.shape)

    def loss(self, sums, target, at):
        return {layer: weight * sums[layer] for layer, weight in self.layers.items()}


TERMS: dict[str, dict[str, type[Term]]] = {
    "content": {"squares": Content},
    "style": {"gram": GramStyle, "wasserstein": WassersteinStyle},
    "tv": {"total_variation": TotalVariation},
}
"""The package's own terms, `{name: {kind: class}}`; the first kind is the usual one."""
