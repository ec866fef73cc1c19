"""Style losses that compare distributions of features along directions, by sorting.

Sources:

- [1] Eric Heitz, Kenneth Vanhoey, Thomas Chambon, Laurent Belcour: "A Sliced Wasserstein Loss for
  Neural Texture Synthesis", CVPR 2021, https://arxiv.org/abs/2006.07229
- [2] Eric Risser, Pierre Wilmot, Connelly Barnes: "Stable and Controllable Neural Texture Synthesis
  and Style Transfer Using Histogram Losses", 2017, https://arxiv.org/abs/1701.08893
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax import losses
from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import Term
from nst_jax.terms.statistics import FIRST_CONVOLUTIONS, STYLE_HELP

BLOCK = 2**24
"""The most numbers that are sorted at once, so that large pictures take bounded memory."""


def quantiles(ordered: Float[ArrayLike, "n D"], count: int) -> Float[Array, "count D"]:
    """Returns `count` quantiles of sorted samples.

    Quantile k is at the share (k + 1/2) / count. Sample i stands at the share (i + 1/2) / n.
    Between samples, quantiles are interpolated linearly. With `count = n` they are the samples.

    Args:
      ordered: n samples of D axes, sorted along the first axis.
      count: how many quantiles.
    """
    ordered = jnp.asarray(ordered)
    place = (np.arange(count) + 0.5) / count * len(ordered) - 0.5
    below = np.clip(np.floor(place).astype(np.int32), 0, len(ordered) - 1)
    above = np.minimum(below + 1, len(ordered) - 1)
    share = jnp.asarray(np.clip(place - below, 0, 1), jnp.float32)[:, None]
    return (1 - share) * ordered[below] + share * ordered[above]


def wasserstein_along_axes(
    x: Float[ArrayLike, "n D"], target: Float[ArrayLike, "k D"]
) -> Float[Array, ""]:
    """Returns the mean over the D axes of the squared 2-Wasserstein distance along an axis.

    Along one axis, the distance compares sorted samples, see equation 3 of [1]:
    `1/n sum_i |sort(x)_i - q_i|^2`, where `q` are n quantiles of the target.

    Args:
      x: n samples.
      target: k quantiles of each axis, sorted along the first axis.
    """
    ordered = jnp.sort(jnp.asarray(x), axis=0)
    return jnp.mean(jnp.square(ordered - quantiles(target, len(ordered))))


def random_directions(channels: int, count: int, *, seed: int = 0) -> Float[np.ndarray, "C count"]:
    """Draws directions from the uniform distribution on the unit sphere, as columns."""
    drawn = np.random.default_rng(seed).standard_normal((channels, count))
    return (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)


class _Sorted(Term):
    """A style loss that compares quantiles of features along directions."""

    refers = "style"
    additive = False
    quantiles: int

    def directions(self, channels: int) -> np.ndarray | None:
        """The directions as columns `[C, D]`. None stands for the axes of the features."""
        raise NotImplementedError

    def sums(self, layer, x, weights, target, at):
        return x.reshape(-1, x.shape[-1]).astype(losses.sum_type(x))

    def target(self, layer, measured, at):
        return quantiles(jnp.sort(self._along(measured), axis=0), self.quantiles)

    def loss(self, sums, target, at):
        return {
            layer: weight * _relative_distance(self._along(sums[layer]), target[layer])
            for layer, weight in self.layers.items()
        }

    def _along(self, x: jax.Array) -> jax.Array:
        """The samples `[n, C]` along the directions, `[n, D]`."""
        directions = self.directions(x.shape[1])
        return x if directions is None else jnp.matmul(x, directions, precision="highest")


def _relative_distance(x: jax.Array, target: jax.Array) -> jax.Array:
    """The mean squared distance along all axes, divided by the mean square of the style.

    It sorts a block of axes at a time.
    """
    count = x.shape[1]
    blocks = next(
        blocks
        for blocks in range(1, count + 1)
        if count % blocks == 0 and (blocks == count or x.size <= blocks * BLOCK)
    )
    parts = [jnp.moveaxis(each.reshape(len(each), blocks, -1), 1, 0) for each in (x, target)]

    @jax.checkpoint
    def distance(part):
        return wasserstein_along_axes(*part)

    values = distance([each[0] for each in parts]) if blocks == 1 else jax.lax.map(distance, parts)
    return jnp.mean(values) / (jnp.mean(jnp.square(target)) + 1e-12)


@settings
class SlicedWassersteinStyle(_Sorted):
    """The sliced Wasserstein loss of [1]: sorted features along random directions.

    The loss of a layer is divided by the mean square of the style along these directions. So the
    size of the activations does not matter. The directions stay the same during a run.

    Attributes:
      slices: how many directions.
      quantiles: how many quantiles are kept of the style along each direction.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=STYLE_HELP)
    slices: int = option(64, low=1, whole=True, help="directions along which features are sorted")
    quantiles: int = option(
        4096, low=2, whole=True, help="quantiles of the style that are kept along each direction"
    )

    def directions(self, channels):
        return random_directions(channels, self.slices)


@settings
class HistogramStyle(_Sorted):
    """The histogram loss of [2]: the distance of each channel from its histogram-matched self.

    The paper subtracts the activations that are matched to the style's histogram. Matching maps
    each activation to the style's quantile of the same rank. So the loss is the squared
    2-Wasserstein distance of each channel. It is divided as in `SlicedWassersteinStyle`.

    Attributes:
      quantiles: how many quantiles are kept of each channel of the style.
    """

    name: str = option("style")
    weight: Number = number(1.0, low=0, help="weight of the style loss")
    layers: Weights = weighted(FIRST_CONVOLUTIONS, low=0, help=STYLE_HELP)
    quantiles: int = option(
        4096, low=2, whole=True, help="quantiles of the style that are kept along each direction"
    )

    def directions(self, channels):
        return None
