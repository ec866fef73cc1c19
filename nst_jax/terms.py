"""The terms of a loss: what they compare, and how to write another one.

A loss is a weighted sum of terms. A term looks at layers of a network, or at the picture itself. It
says three things:

- `target`: what to keep of the content, of a style or of data of the run;
- `sums`: which sums over positions to take of the picture;
- `loss`: the loss that these sums and the target give.

The sums of the parts of a picture add up to those of the whole picture. So `nst_jax.objective` can
blend, mask and weigh any term. `nst_jax.partition` can evaluate it on a whole picture, in strips,
in windows or on a mesh.

To write a term, derive a class from `Term`, decorate it with `nst_jax.settings.settings`, and
define `name`, `weight`, `layers`, `sums` and `loss`. This term compares the means of the channels:

    @settings
    class ChannelMeans(Term):
        name: str = option("means")
        weight: Number = number(1.0, low=0)
        layers: Weights = weighted(("block1_conv1", "block2_conv1"))
        refers = "style"

        def sums(self, layer, x, weights, target, at):
            weights = jnp.ones(x.shape[:2]) if weights is None else weights
            return {"count": jnp.sum(weights), "sum": jnp.einsum("hw,hwc->c", weights, x)}

        def target(self, layer, measured, at):
            return measured["sum"] / measured["count"]

        def loss(self, sums, target, at):
            found = {}
            for layer, weight in self.layers.items():
                mean = sums[layer]["sum"] / sums[layer]["count"]
                found[layer] = weight * jnp.mean(jnp.square(mean - target[layer]))
            return found

`Config().replace(means=ChannelMeans(weight=3.0))` adds it to a loss. `Term` describes each method,
and the facts that a term may state about itself.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from nst_jax import losses
from nst_jax.settings import (
    Number,
    Weights,
    is_settings,
    number,
    option,
    register_for_export,
    settings,
    weighted,
)

IMAGE = "image"
"""The name of the layer that is the picture itself, before a jitter moves it."""

Kind = Literal["features", "picture", "mask"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Tree: TypeAlias = Any
"""Any pytree of arrays."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values"],
    meta_fields=["layer", "kind", "per_output"],
)
@dataclasses.dataclass(frozen=True)
class Field:
    """An array with one value per position, which is cut, resized and sharded like its layer.

    Attributes:
      values: `[h, w, ...]`, for the whole picture at `layer`.
      layer: a layer of the network, or `IMAGE`.
      kind: how the array is resized. A "picture", `[h, w, ..., 3]` in [0, 1], is resized by
        `nst_jax.image.resize`. A "mask", `[h, w, ...]` in [0, 1], is resized by
        `nst_jax.image.resize_mask`. "features" are not resized.
      per_output: True if the array has a leading axis of outputs. Only data that are given to a run
        may have one.
    """

    values: jax.Array | np.ndarray
    layer: str
    kind: Kind = "features"
    per_output: bool = False


register_for_export(Field)


def is_field(value: Any) -> bool:
    """Says whether a value is a `Field`."""
    return isinstance(value, Field)


def map_fields(function: Callable[[Field], Any], tree: Tree) -> Tree:
    """Applies a function to each `Field` of a tree. Other leaves stay as they are."""
    return jax.tree.map(
        lambda leaf: function(leaf) if is_field(leaf) else leaf, tree, is_leaf=is_field
    )


def fields_of(tree: Tree) -> Tree:
    """Replaces each leaf that is not a `Field` by None."""
    return jax.tree.map(lambda leaf: leaf if is_field(leaf) else None, tree, is_leaf=is_field)


def without_fields(tree: Tree) -> Tree:
    """Replaces each `Field` of a tree by None."""
    return jax.tree.map(lambda leaf: None if is_field(leaf) else leaf, tree, is_leaf=is_field)


def with_fields(fields: Tree, others: Tree) -> Tree:
    """Joins the results of `fields_of` and `without_fields` to the tree that they came from."""
    return jax.tree.map(
        lambda field, other: other if field is None else field,
        fields,
        others,
        is_leaf=lambda leaf: leaf is None or is_field(leaf),
    )


@dataclasses.dataclass(frozen=True)
class At:
    """Facts about the picture that a term looks at.

    They describe the whole picture, even when `Term.sums` sees only a part of it.

    Attributes:
      shape: `(H, W)` of the picture in pixels.
      positions: `{layer: number of positions}`.
      channels: `{layer: number of channels}`.
      origin: `{layer: [row, column]}`, where the part that `Term.sums` sees begins in the layer.
        They are 0 for a whole picture.
      key: the random key of this run and step, for terms that draw. It is the same in every part of
        a picture.
    """

    shape: tuple[int, int]
    positions: Mapping[str, int]
    channels: Mapping[str, int]
    origin: Mapping[str, Int[Array, "2"]]
    key: jax.Array | None = None


class Term:
    """The base class of terms. The facts below have defaults; a term states those that differ.

    A term is a class that derives from this one and that `nst_jax.settings.settings` decorates.

    Attributes:
      name: unique in a loss. It is the key of the term's history and the prefix of its addresses
        in a `Config`, such as `style_weight`.
      weight: a factor of the loss. The objective applies it, so `loss` must not.
      layers: `{layer: weight}`, the layers that the term looks at. `loss` applies these weights.
      refers: what `target` is made of: a "style", the "content", data of the "run", or None for a
        term without a target.
      reach: how many positions beyond a position its part of `sums` reads, on each side.
      additive: True if the sums of parts add up to the sum of the whole. If False, `sums` is called
        once, on the whole layer. Such a term cannot be tiled.
      linear: True if `loss` is linear in the sums. Tiling then needs one pass fewer.
      regions: True if the term works with masks. `sums` and `loss` are then taken once per region.
      mix: how styles are blended: by a weighted sum of their "targets", or of their "losses".
      fixed: True if the loss depends on the picture alone. It must be False if the term uses
        `at.key`.
      unordered: True if `sums` treats all positions alike. Without weights, it must then take a
        picture in strips, `[S, h, w, C]`, and two columns side by side in the channels,
        `[S, h, w / 2, 2 C]`: a TPU has block 1 in this form.
    """

    name: str
    weight: Number
    layers: Weights
    refers: ClassVar[Literal["style", "content", "run"] | None] = None
    reach: ClassVar[int] = 0
    additive: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    regions: ClassVar[bool] = False
    mix: ClassVar[Literal["targets", "losses"]] = "targets"
    fixed: ClassVar[bool] = True
    unordered: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        # Sums of a class's own need not take strips or packed columns, as the inherited ones do.
        if "sums" in cls.__dict__ and "unordered" not in cls.__dict__:
            cls.unordered = False

    def target(self, layer: str, measured: Tree, at: At) -> Tree:
        """Returns what the loss keeps of a style, of the content or of the run's data.

        The default keeps everything. The targets of several styles are stacked. So the shapes must
        not depend on the size of the style. The values must not depend on numbers of the term.

        Args:
          layer: the name of the layer.
          measured: depends on `refers`. For "style" it is the result of `sums` on the style at its
            own size. For "content" it is a `Field` with the content's activations. For "run" it is
            the tree in `inputs[name]`.
          at: the picture that was measured.

        Returns:
          A tree of arrays. Arrays with one value per position must be `Field`s.
        """
        return measured

    def sums(
        self,
        layer: str,
        x: Float[Array, "h w C"],
        weights: Float[Array, "h w"] | None,
        target: Tree,
        at: At,
    ) -> Tree:
        """Returns sums over the positions of a picture, or of a part of it.

        Args:
          layer: the name of the layer.
          x: `[h, w, C]`, the layer's activations in a part that lies inside the picture. Their type
            is the network's. At `IMAGE` it is the picture itself, in [0, 1].
          weights: `[h, w]`, at least 0. None means 1 everywhere. A position of weight 0 must add
            exactly nothing: it belongs to another part, or it lies beyond the border.
          target: the target at this layer. Its `Field`s are cut to the part. It is None while a
            style is measured. A style's target comes without its other arrays, because a blend or
            a mask has several targets but takes the sums once.
          at: the whole picture.

        Returns:
          A tree of float32 arrays. The trees of all parts are added.
        """
        raise NotImplementedError

    def loss(
        self, sums: Mapping[str, Tree], target: Mapping[str, Tree], at: At
    ) -> Mapping[str, Float[Array, ""]]:
        """Returns the loss in parts, `{part: scalar}`. The parts are layers where possible.

        Args:
          sums: `{layer: tree}`, the sums of the whole picture.
          target: `{layer: tree}`, without its `Field`s.
          at: the picture.

        Returns:
          The parts, which the objective adds up and multiplies by `weight`.
        """
        raise NotImplementedError

    def check_mixing(self, mixing: np.ndarray) -> None:
        """Refuses blends that the term cannot have. The default accepts every blend.

        Args:
          mixing: `[rows, styles]`, the weights of the styles; each row is a blend.

        Raises:
          ValueError: the term cannot have one of the rows.
        """


def check_term(term: Any) -> None:
    """Refuses a value that is not a complete term.

    Raises:
      TypeError: the value is not a term, or a member is missing.
      ValueError: a member has a value that it must not have.
    """
    kind = type(term).__name__
    if not (isinstance(term, Term) and is_settings(term)):
        raise TypeError(
            "a term must be an object of a class derived from nst_jax.terms.Term and decorated "
            f"with nst_jax.settings.settings, got {term!r}"
        )
    missing = [name for name in ("name", "weight", "layers") if not hasattr(term, name)]
    missing += [
        name for name in ("sums", "loss") if getattr(type(term), name) is getattr(Term, name)
    ]
    if missing:
        raise TypeError(f"a term must have {missing[0]!r}, but {kind} has none")
    if not isinstance(term.name, str) or not term.name.isidentifier():
        raise ValueError(
            f"the name of a term must be an identifier such as 'style', got {term.name!r}"
        )
    if term.name == "total":
        raise ValueError(
            "a term must not be named 'total', which is the key of the sum of all terms"
        )
    if term.refers not in ("style", "content", "run", None):
        raise ValueError(
            f"{kind}.refers must be 'style', 'content', 'run' or None, got {term.refers!r}"
        )
    if term.mix not in ("targets", "losses"):
        raise ValueError(f"{kind}.mix must be 'targets' or 'losses', got {term.mix!r}")
    if not isinstance(term.reach, int) or term.reach < 0:
        raise ValueError(f"{kind}.reach must be a whole number, at least 0, got {term.reach!r}")


def check_terms(terms: Any) -> None:
    """Refuses a value that is not a tuple or list of terms with different names.

    Raises:
      TypeError: the value is not such a sequence, or one of the terms is not complete.
      ValueError: a member of a term has a wrong value, or two terms have the same name.
    """
    if not isinstance(terms, tuple | list):
        raise TypeError(f"terms must be a tuple of terms, got {terms!r}")
    for term in terms:
        check_term(term)
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"terms must differ in their names, got {name!r} twice")


Reduction = Literal["half_sum", "sum", "mean"]
Normalization = Literal["gatys", "keras", "mean", "mean_per_channel", "relative"]
VariationForm = Literal["keras", "nine_point", "l1"]


@settings
class Content(Term):
    """The content loss: squared differences of activations from those of the content picture.

    It is equation 1 of Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style Transfer
    Using Convolutional Neural Networks", CVPR 2016.

    Attributes:
      reduction: how the squares of a layer are reduced. "half_sum" is half their sum, as in the
        paper. "sum" is their sum. "mean" is their mean, which does not grow with the picture.
    """

    name: str = option("content")
    weight: Number = number(1.0, low=0, help="weight of the content loss")
    layers: Weights = weighted(("block4_conv2",), low=0, help="layers to compare with the content")
    reduction: Reduction = option(
        "mean", choices=get_args(Reduction), help="how to reduce the squared differences"
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


FIRST_CONVOLUTIONS = tuple(f"block{block}_conv1" for block in range(1, 6))
"""The style layers of Gatys et al.: the first convolution of each block."""

_STYLE_LAYERS = "layers whose statistics to compare with the style"


class _Style(Term):
    """A style loss that compares means over the positions, of features and of their products.

    The papers compare sums over the positions. Both are the same if the picture and the style have
    the same size. With other sizes, the style counts as if it had as many positions as the picture.
    """

    refers = "style"
    regions = True
    unordered = True

    def target(self, layer, measured, at):
        return losses.per_position(measured)

    def sums(self, layer, x, weights, target, at):
        columns = x.shape[-1] // at.channels[layer]
        return losses.statistics(x, weights=weights, columns=columns, axes=x.ndim - 1)

    def distance(
        self, own: losses.Statistics, target: losses.Statistics, layer: str, at: At
    ) -> jax.Array:
        """Returns the loss of one layer without its weight, from statistics per position."""
        raise NotImplementedError

    def loss(self, sums, target, at):
        return {
            layer: weight
            * self.distance(losses.per_position(sums[layer]), target[layer], layer, at)
            for layer, weight in self.layers.items()
        }


@settings
class GramStyle(_Style):
    """The Gram style loss: squared differences of Gram matrices from those of the style.

    It is equations 4 and 5 of Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "Image Style
    Transfer Using Convolutional Neural Networks", CVPR 2016.

    Attributes:
      normalization: what divides the squared difference of a layer with N channels and M positions.
        "gatys": 4 N^2 M^2. "keras": 4 * 3^2 * (height * width)^2 of the picture, the same for
        every layer. "mean": N^2 M^2. "mean_per_channel": N^4 M^2. "relative": the squared norm of
        the style's Gram matrix, so that the size of the activations does not matter.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=_STYLE_LAYERS)
    normalization: Normalization = option(
        "mean_per_channel",
        choices=get_args(Normalization),
        help="what divides the squared Gram differences",
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
        # The matrices are means, so the divisor is divided by the squared positions, too. This
        # gives the same number without sums of 1e15.
        return losses.style_loss(
            own.gram, target.gram, normalizer=normalizer / float(positions) ** 2
        )


@settings
class WassersteinStyle(_Style):
    """The Wasserstein style loss: it compares features as Gaussian distributions.

    It is the squared 2-Wasserstein distance of two Gaussians, with the means and the covariances of
    the features, see `nst_jax.losses.wasserstein_loss`.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=_STYLE_LAYERS)

    def distance(self, own, target, layer, at):
        return losses.wasserstein_loss(own, target)

    def check_mixing(self, mixing):
        if mixing.min() < 0:
            raise ValueError("mixing must not be negative with the wasserstein style loss")


@settings
class TotalVariation(Term):
    """The total variation: how much neighbouring pixels differ.

    Attributes:
      form: "keras" is the sum of (dx^2 + dy^2)^1.25 in grey levels of 255. "nine_point" is the mean
        of squares over eight neighbours in the range [0, 1]. "l1" is the mean of absolute
        differences in grey levels of 255.
    """

    name: str = option("tv")
    weight: Number = number(1.0, low=0, help="weight of the total variation")
    layers: Weights = weighted((IMAGE,), low=0, help="the picture itself", flag=False)
    form: VariationForm = option(
        "keras", choices=get_args(VariationForm), help="form of the total variation"
    )
    reach = 1
    linear = True

    def sums(self, layer, x, weights, target, at):
        # The published weights of "keras" and "l1" are for grey levels.
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
"""The terms that come with the package, `{name: {kind: class}}`. The first kind is the default."""
