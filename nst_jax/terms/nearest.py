"""Nearest neighbours of features.

Source: Nicholas Kolkin, Michal Kucera, Sylvain Paris, Daniel Sykora, Eli Shechtman, Gregory
Shakhnarovich: "Neural Neighbor Style Transfer", 2022, https://arxiv.org/abs/2203.13215
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from nst_jax import losses
from nst_jax.settings import Number, Weights, number, option, settings, weighted
from nst_jax.terms.contract import IMAGE, At, Term
from nst_jax.terms.distances import TINY, unit_rows
from nst_jax.terms.sampling import (
    drawn_features,
    drawn_style,
    hypercolumns,
    spread_places,
    style_hypercolumns,
)

BLOCK = 2**23
"""The most distances that are in memory at once."""


def nearest_rows(x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"]) -> Int[Array, " n"]:
    """Returns the index of the row of `y` that has the least cosine distance from each row of `x`.

    Distances are computed in blocks of rows of `y`. So `x` may be divided among devices. The result
    has no gradient.
    """
    x, y = (unit_rows(jax.lax.stop_gradient(jnp.asarray(rows))) for rows in (x, y))
    rows = max(1, min(len(y), BLOCK // len(x)))
    blocks = -(-len(y) // rows)

    def nearest(block):
        # In the backend's own precision: which of two near neighbours wins does not show.
        cosines = jnp.matmul(x, block.T)
        return jnp.max(cosines, axis=1), jnp.argmax(cosines, axis=1)

    def nearer(best, numbered):
        number, block = numbered
        cosine, index = nearest(block)
        closer = functools.partial(jnp.where, cosine > best[0])
        return tuple(map(closer, (cosine, number + index), best)), None

    if blocks == 1:
        return nearest(y)[1]
    # Rows that fill the last block repeat the last row, so they are no nearer.
    padded = jnp.pad(y, ((0, blocks * rows - len(y)), (0, 0)), mode="edge")
    parts = padded.reshape(blocks, rows, -1)
    numbers = rows * jnp.arange(1, blocks)
    (_, found), _ = jax.lax.scan(nearer, nearest(parts[0]), (numbers, parts[1:]))
    return jnp.minimum(found, len(y) - 1)


def nearest_distance(
    x: Float[ArrayLike, "n C"],
    y: Float[ArrayLike, "m C"],
    *,
    weights: Float[ArrayLike, " n"] | None = None,
) -> Float[Array, ""]:
    """Returns the mean cosine distance of each row of `x` from its nearest row of `y`.

    It is equation 2 of the paper, with matches that are found anew in each step:
    `1/n sum_i min_j D_cos(x_i, y_j)`. The gradient needs the distances of the matches alone.

    Args:
      x, y: features.
      weights: of the rows of `x`, at least 0; None weighs all alike.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    matches = unit_rows(y)[nearest_rows(x, y)]
    distances = 1.0 - jnp.sum(unit_rows(x) * matches, axis=1)
    if weights is None:
        return jnp.mean(distances)
    weights = jnp.asarray(weights)
    return jnp.sum(weights * distances) / (jnp.sum(weights) + TINY)


def matched_distance(
    x: Float[ArrayLike, "n C"], content: Float[ArrayLike, "n C"], style: Float[ArrayLike, "m C"]
) -> Float[Array, ""]:
    """Returns the mean cosine distance of each row of `x` from the style's row that it must become.

    It is equation 2 of the paper, with the matches of `content`: row i must become the row of
    `style` that is nearest to row i of `content`. Matches are found after the mean of each set is
    subtracted. Distances are of the rows themselves.

    Args:
      x: features of the picture.
      content: features of the content at the same places.
      style: features of the style.
    """
    x, content, style = map(jnp.asarray, (x, content, style))
    found = nearest_rows(
        *(rows - jnp.mean(rows, axis=0, keepdims=True) for rows in (content, style))
    )
    return jnp.mean(1.0 - jnp.sum(unit_rows(x) * unit_rows(style)[found], axis=1))


def _mean_row(x: Float[Array, "n C"], weights: Float[Array, " n"]) -> Float[Array, "1 C"]:
    return jnp.matmul(weights[None], x, precision="highest") / (jnp.sum(weights) + TINY)


def _placed(x: Float[Array, "h w ..."], at: At, layer: str) -> Float[Array, "H W ..."]:
    """A part of a layer at its place in the whole layer, which is 0 elsewhere."""
    whole = (*at.sides[layer], *x.shape[2:])
    if x.shape == whole:
        return x
    row, column = at.origin[layer]
    zeros = (jnp.zeros_like(row),) * (x.ndim - 2)
    return jax.lax.dynamic_update_slice(jnp.zeros(whole, x.dtype), x, (row, column, *zeros))


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
    regions = True
    placed = True
    mix = "losses"

    def sums(self, layer, x, weights, target, at):
        # Parts do not overlap, so their features add up to those of the whole layer.
        x = x.astype(losses.sum_type(x))
        if weights is None:
            weights = jnp.ones(x.shape[:2])
        else:
            x = jnp.where(weights[..., None] > 0, x, 0.0)
        return {"features": _placed(x, at, layer), "weights": _placed(weights, at, layer)}

    def target(self, layer, measured, at):
        rows, weights = _flat(measured)
        return (rows - _mean_row(rows, weights))[spread_places(weights, self.rows)]

    def loss(self, sums, target, at):
        found = {}
        for layer, weight in self.layers.items():
            x, weights = _flat(sums[layer])
            # The mean counts as a constant: the gradient moves features and not their mean.
            x -= jax.lax.stop_gradient(_mean_row(x, weights))
            found[layer] = weight * nearest_distance(x, target[layer], weights=weights)
        return found


def _flat(sums):
    """Features `[n, C]` and weights `[n]` of all positions."""
    return sums["features"].reshape(-1, sums["features"].shape[-1]), sums["weights"].reshape(-1)


@settings
class MatchedNeighbors(Term):
    """The first passes of Neural Neighbor Style Transfer: hypercolumns become those of the style.

    Each place of the picture must become the hypercolumn of the style that is nearest to the
    content's. So the matches stay during a run, and the content decides what becomes what. Each
    step draws positions of the picture. The style keeps the same positions during a run.

    The paper finds the matches at the start of each scale, by a blend of the content and of the
    picture so far. Here they are those of the content alone, as at the paper's first scale.

    Attributes:
      samples: how many positions each step draws.
      style_samples: how many positions of the style are kept.
    """

    name: str = option("matched")
    weight: Number = number(1.0, low=0, help="weight of the distance from the content's matches")
    layers: Weights = weighted(
        ("block1_conv2", "block2_conv2", "block3_conv1", "block3_conv3", "block4_conv1"),
        low=0,
        help="layers of the hypercolumns that are matched",
    )
    samples: int = option(1024, low=2, whole=True, help="positions that are drawn in each step")
    style_samples: int = option(
        4096, low=2, whole=True, help="positions of the style that are kept"
    )
    refers = "both"
    mix = "losses"
    fixed = False

    def sums(self, layer, x, weights, target, at):
        if target is None:  # a style is measured
            return drawn_style(x, at, layer, self.style_samples, weights)
        return {
            "picture": drawn_features(x, at, layer, self.samples, weights),
            "content": drawn_features(target["content"].values, at, layer, self.samples, weights),
        }

    def loss(self, sums, target, at):
        own, content = (
            hypercolumns({layer: sums[layer][of] for layer in self.layers}, self.layers)
            for of in ("picture", "content")
        )
        style = style_hypercolumns(
            {layer: kept["style"] for layer, kept in target.items()}, self.layers
        )
        return {IMAGE: matched_distance(own, content, style)}
