"""Features at drawn positions, which stand for all positions.

A sample is a sum over positions: each position adds its own row. So samples of the parts of a
picture add up to the sample of the whole.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from nst_jax import losses
from nst_jax.terms.contract import At


def drawn_positions(at: At, layer: str, count: int) -> Int[Array, "count 2"]:
    """Draws rows and columns of a layer by `at.key`.

    The same key gives the same places of the picture in every layer, so the features of several
    layers at a place can be joined to a hypercolumn.
    """
    assert at.key is not None  # a term that draws has one
    places = jax.random.uniform(at.key, (count, 2))
    return jnp.floor(places * jnp.array(at.sides[layer], jnp.float32)[None]).astype(jnp.int32)


def features_at(
    x: Float[Array, "h w C"],
    positions: Int[Array, "count 2"],
    origin: Int[Array, "2"],
    weights: Float[Array, "h w"] | None,
) -> Float[Array, "count C"]:
    """Returns the features of a part of a layer at positions of the whole layer.

    Args:
      x: the part.
      positions: rows and columns in the whole layer.
      origin: the row and the column of the layer where the part begins.
      weights: factors of the positions of the part; None is 1.

    Returns:
      float32. A row is zero if its position is outside the part.
    """
    places = positions - jnp.asarray(origin)[None]
    sides = jnp.array(x.shape[:2])[None]
    inside = jnp.all((places >= 0) & (places < sides), axis=1)
    row, column = jnp.clip(places, 0, sides - 1).T
    factors = jnp.where(inside, 1.0 if weights is None else weights[row, column], 0.0)
    return factors[:, None] * x[row, column].astype(losses.sum_type(x))


def drawn_features(
    x: Float[Array, "h w C"],
    at: At,
    layer: str,
    count: int,
    weights: Float[Array, "h w"] | None,
) -> Float[Array, "count C"]:
    """Returns what a part `x` of a layer adds to its features at `drawn_positions`."""
    return features_at(x, drawn_positions(at, layer, count), at.origin[layer], weights)


def drawn_style(
    x: Float[Array, "h w C"],
    at: At,
    layer: str,
    count: int,
    weights: Float[Array, "h w"] | None,
) -> dict[str, Float[Array, "count ..."]]:
    """Returns what a part `x` of a style's layer adds to its features at `drawn_positions`.

    Returns:
      `{"rows": features times weights, "weights": weights of the positions}`.
    """
    ones = jnp.ones((*x.shape[:2], 1), jnp.float32)
    return {
        "rows": drawn_features(x, at, layer, count, weights),
        "weights": drawn_features(ones, at, layer, count, weights)[:, 0],
    }


def style_hypercolumns(
    drawn: Mapping[str, Mapping[str, Float[Array, "count ..."]]],
    layers: Mapping[str, Float[ArrayLike, ""]],
) -> Float[Array, "count C"]:
    """Returns the `hypercolumns` of a style.

    Positions that the style's mask leaves out in one of the layers are replaced by others.

    Args:
      drawn: `{layer: result of drawn_style}`.
      layers: `{layer: weight}`.
    """
    weights = {layer: drawn[layer]["weights"] for layer in layers}
    least = jnp.min(jnp.stack(list(weights.values())), axis=0)
    count = len(least)
    places = jnp.where(least > 0, jnp.arange(count), spread_places(least, count))
    rows = {
        layer: drawn[layer]["rows"] / jnp.where(own > 0, own, 1.0)[:, None]
        for layer, own in weights.items()
    }
    return hypercolumns(rows, layers)[places]


def spread_places(weights: Float[Array, " n"], count: int) -> Int[Array, " count"]:
    """Returns places that are spread evenly over the weight of all `n` places.

    A place of twice the weight comes twice as often, and one of weight 0 never does.
    """
    # Multiples of the golden ratio spread any number of places evenly.
    shares = np.mod((np.arange(count) + 0.5) * 0.6180339887498949, 1.0).astype(np.float32)
    sums = jnp.cumsum(weights)
    found = jnp.searchsorted(sums, shares * sums[-1], side="right")
    return found.clip(0, len(weights) - 1).astype(jnp.int32)


def hypercolumns(
    rows: Mapping[str, Float[Array, "count _"]], layers: Mapping[str, Float[ArrayLike, ""]]
) -> Float[Array, "count C"]:
    """Joins the features of several layers at the same places.

    Args:
      rows: `{layer: features}`.
      layers: `{layer: weight}`. Features count by the root of their layer's weight, because a
        product of two features then carries the weight.
    """
    return jnp.concatenate(
        [jnp.sqrt(jnp.asarray(weight)) * rows[layer] for layer, weight in layers.items()], axis=1
    )
