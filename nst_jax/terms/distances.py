"""Distances between rows of features, which several terms share."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

TINY = 1e-8  # keeps roots and quotients of zeros finite


def cosine_distances(x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"]) -> Float[Array, "n m"]:
    """Returns `1 - cos(x_i, y_j)` of all rows. The distance from a row of zeros is 1."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    return 1.0 - jnp.matmul(unit_rows(x), unit_rows(y).T, precision="highest")


def unit_rows(x: Float[Array, "n C"]) -> Float[Array, "n C"]:
    """Divides each row by its Euclidean norm. Rows of zeros stay zeros."""
    squares = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    return x / jnp.sqrt(squares + TINY**2)


def squared_distances(
    x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"]
) -> Float[Array, "n m"]:
    """Returns the squared Euclidean distances of all rows, at least 0."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    norms = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None]
    return jnp.maximum(norms - 2.0 * jnp.matmul(x, y.T, precision="highest"), 0.0)


def euclidean_distances(
    x: Float[ArrayLike, "n C"], y: Float[ArrayLike, "m C"]
) -> Float[Array, "n m"]:
    """Returns the Euclidean distances of all rows. The gradient is finite at distance 0."""
    return jnp.sqrt(squared_distances(x, y) + TINY)
