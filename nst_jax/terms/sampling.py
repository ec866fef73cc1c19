"""Features at drawn positions, which stand for all positions.

A sample is a sum over positions: each position adds its own row. So samples of the parts of a
picture add up to the sample of the whole.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
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


def hypercolumns(rows: Mapping[str, Float[Array, "count _"]]) -> Float[Array, "count C"]:
    """Joins the features of several layers at the same places."""
    return jnp.concatenate(list(rows.values()), axis=1)
