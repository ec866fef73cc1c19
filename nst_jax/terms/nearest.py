"""Nearest neighbours of features.

Source: Nicholas Kolkin, Michal Kucera, Sylvain Paris, Daniel Sykora, Eli Shechtman, Gregory
Shakhnarovich: "Neural Neighbor Style Transfer", 2022, https://arxiv.org/abs/2203.13215
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import Term
from nst_jax.terms.distances import unit_rows

BLOCK = 2**22
"""The most distances that are in memory at once."""


def nearest_rows(x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"]) -> Int[Array, " n"]:
    """Returns the index of the row of `y` that has the least cosine distance from each row of `x`.

    Distances are computed in blocks of rows of `x`. The result has no gradient.
    """
    x, y = (unit_rows(jax.lax.stop_gradient(jnp.asarray(rows))) for rows in (x, y))
    rows = max(1, min(len(x), BLOCK // len(y)))
    blocks = -(-len(x) // rows)
    padded = jnp.pad(x, ((0, blocks * rows - len(x)), (0, 0))).reshape(blocks, rows, -1)

    def nearest(block):
        return jnp.argmax(jnp.matmul(block, y.T, precision="highest"), axis=1)

    found = nearest(padded[0])[None] if blocks == 1 else jax.lax.map(nearest, padded)
    return found.reshape(-1)[: len(x)]


def nearest_distance(x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"]) -> Float[Array, ""]:
    """Returns the mean cosine distance of each row of `x` from its nearest row of `y`.

    It is equation 2 of the paper, with matches that are found anew in each step:
    `1/n sum_i min_j D_cos(x_i, y_j)`. The gradient needs the distances of the matches alone.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    matches = unit_rows(y)[nearest_rows(x, y)]
    return jnp.mean(1.0 - jnp.sum(unit_rows(x) * matches, axis=1))


@settings
class NearestNeighbors(Term):
    """The loss of Neural Neighbor Style Transfer: each feature moves to its nearest of the style.

    Each layer is matched by itself, as in the last pass of the paper. Features are compared after
    the mean of their picture is subtracted. Matches are found anew in each step.

    Attributes:
      rows: how many positions of the style are kept, spread evenly over it.
    """

    name: str = option("nearest")
    weight: Number = number(1.0, low=0, help="weight of the distance from nearest neighbours")
    layers: Weights = weighted(
        ("block2_conv2", "block3_conv3", "block4_conv3"),
        low=0,
        help="layers whose features move to their nearest neighbours in the style",
    )
    rows: int = option(4096, low=1, whole=True, help="positions of the style that are kept")
    refers = "style"
    additive = False
    mix = "losses"

    def sums(self, layer, x, weights, target, at):
        return x.reshape(-1, x.shape[-1]).astype(jnp.float32)

    def target(self, layer, measured, at):
        rows = measured - jnp.mean(measured, axis=0, keepdims=True)
        # By the golden ratio's multiples, which spread any number of rows evenly.
        places = np.mod(np.arange(self.rows) * 0.6180339887498949, 1.0)
        return rows[np.floor(places * len(rows)).astype(np.int32)]

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            x = sums[layer]
            # The mean counts as a constant: the gradient moves features and not their mean.
            x -= jax.lax.stop_gradient(jnp.mean(x, axis=0, keepdims=True))
            found[layer] = weight * nearest_distance(x, target[layer])
        return found
