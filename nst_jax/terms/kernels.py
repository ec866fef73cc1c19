"""Style losses by the distributions of features: maximum mean discrepancy and BN statistics.

Source: Yanghao Li, Naiyan Wang, Jiaying Liu, Xiaodi Hou: "Demystifying Neural Style Transfer",
IJCAI 2017, https://arxiv.org/abs/1701.01036
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax import losses
from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import Term
from nst_jax.terms.distances import squared_distances
from nst_jax.terms.sampling import drawn_features, drawn_style, style_hypercolumns
from nst_jax.terms.statistics import FIRST_CONVOLUTIONS, STYLE_HELP

Kernel = Literal["gaussian", "polynomial", "linear"]


def kernel(
    x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"], *, kind: Kernel, width: ArrayLike = 1.0
) -> Float[Array, "n m"]:
    """Returns the kernel of all pairs of rows, table 1 of the paper.

    Args:
      x, y: the rows.
      kind: "gaussian" is `exp(-|x - y|^2 / (2 width^2))`; "polynomial" is `(x.y / width^2)^2`;
        "linear" is `x.y / width^2`.
      width: of the kernel, in the unit of the features.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if kind == "gaussian":
        return jnp.exp(-squared_distances(x, y) / (2.0 * jnp.square(width)))
    products = jnp.matmul(x, y.T, precision="highest") / jnp.square(width)
    return jnp.square(products) if kind == "polynomial" else products


def mean_discrepancy(
    x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"], *, kind: Kernel, width: ArrayLike = 1.0
) -> Float[Array, ""]:
    """Returns the squared maximum mean discrepancy of two sets, equation 5 of the paper.

        `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)`

    The means run over all pairs, so the result is at least 0.
    """
    own, style, both = (
        jnp.mean(kernel(a, b, kind=kind, width=width)) for a, b in ((x, x), (y, y), (x, y))
    )
    return own + style - 2.0 * both


@settings
class KernelStyle(Term):
    """The maximum mean discrepancy of features at drawn positions.

    With the polynomial kernel it is the Gram loss of a sample. The width of the kernel is the root
    mean square distance of the style's features, times `bandwidth`.

    Attributes:
      kernel: which kernel, see `nst_jax.terms.kernels.kernel`.
      bandwidth: a factor of the width.
      samples: how many positions each step draws, and how many of the style are kept.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=STYLE_HELP)
    kernel: Kernel = option("gaussian", choices=get_args(Kernel), help="kernel of the features")
    bandwidth: Number = number(
        1.0, above=0, help="width of the kernel, by the mean distance of the style's features"
    )
    samples: int = option(1024, low=2, whole=True, help="positions that are drawn in each step")
    refers = "style"
    mix = "losses"
    fixed = False

    def sums(self, layer, x, weights, target, at):
        draw = drawn_style if target is None else drawn_features  # a style is measured, or not
        return draw(x, at, layer, self.samples, weights)

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            style = style_hypercolumns({layer: target[layer]}, {layer: 1.0})
            spread = jnp.mean(squared_distances(style, style))
            width = self.bandwidth * jnp.sqrt(spread + 1e-12)
            found[layer] = weight * mean_discrepancy(
                sums[layer], style, kind=self.kernel, width=width
            )
        return found


def batch_norm_distance(
    mean: Float[ArrayLike, " C"],
    deviation: Float[ArrayLike, " C"],
    other_mean: Float[ArrayLike, " C"],
    other_deviation: Float[ArrayLike, " C"],
) -> Float[Array, ""]:
    """Returns the distance of BN statistics, equation 11 of the paper.

    `1/C sum_i (mean_i - mean'_i)^2 + (deviation_i - deviation'_i)^2` over the channels.
    """
    means = jnp.asarray(mean) - jnp.asarray(other_mean)
    deviations = jnp.asarray(deviation) - jnp.asarray(other_deviation)
    return jnp.mean(jnp.square(means) + jnp.square(deviations))


@settings
class BatchNormStyle(Term):
    """The distance of means and standard deviations of each channel, the statistics of BN.

    The loss of a layer is divided by the mean square of the style's features. So the size of the
    activations does not matter.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=STYLE_HELP)
    refers = "style"
    regions = True

    def sums(self, layer, x, weights, target, at):
        x = x.astype(losses.sum_type(x))
        weights = jnp.ones(x.shape[:2], jnp.float32) if weights is None else weights
        weighted = weights[..., None] * x
        return {
            "count": jnp.sum(weights),
            "total": jnp.sum(weighted, axis=(0, 1)),
            "squares": jnp.sum(weighted * x, axis=(0, 1)),
        }

    def target(self, layer, measured, at):
        return {name: measured[name] / measured["count"] for name in ("total", "squares")}

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            own, style = sums[layer], target[layer]
            count = jnp.maximum(own["count"], 1e-12)
            statistics = [
                *_mean_and_deviation(own["total"] / count, own["squares"] / count),
                *_mean_and_deviation(style["total"], style["squares"]),
            ]
            size = jnp.mean(style["squares"]) + 1e-12
            found[layer] = weight * batch_norm_distance(*statistics) / size
        return found


def _mean_and_deviation(mean: jax.Array, square: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean and the standard deviation, from the means of the values and of their squares.

    The gradient of the root is finite where a channel is constant.
    """
    return mean, jnp.sqrt(jnp.maximum(square - jnp.square(mean), 0.0) + 1e-12)
