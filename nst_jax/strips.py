"""A picture as horizontal strips in the batch dimension: `[H, W, C]` as `[S, h, W, C]`.

A network runs on all strips at once. Before a convolution, `Strips.halo` takes a row from each
neighbour. The strips may hold more rows than the picture has. `Strips.inside` makes these rows
zeros, so that convolutions see there what they see beyond the border of a whole picture.
"""

import dataclasses

import jax
import jax.numpy as jnp


def divide(x: jax.Array, count: int, rows: int, *, repeat: bool = False) -> jax.Array:
    """`[H, ...]` as `[count, rows, ...]`. Rows that are missing are zeros, or with `repeat` the
    last row of `x` again."""
    missing = ((0, count * rows - x.shape[0]), *[(0, 0)] * (x.ndim - 1))
    if missing[0][1]:
        x = jnp.pad(x, missing, mode="edge" if repeat else "constant")
    return x.reshape(count, rows, *x.shape[1:])


def join(x: jax.Array, height: int) -> jax.Array:
    """`[S, h, ...]` as `[height, ...]`: the inverse of `divide`."""
    return x.reshape(-1, *x.shape[2:])[:height]


def _shift(rows: jax.Array, by: int) -> jax.Array:
    """Each row moved `by` strips on, and zeros where none comes from.

    On a mesh the compiler makes this one exchange between neighbours; of a roll it makes more.
    """
    zero = jnp.zeros((), rows.dtype)
    return jax.lax.pad(rows, zero, [(by, -by, 0), *[(0, 0, 0)] * (rows.ndim - 1)])


@dataclasses.dataclass(frozen=True)
class Strips:
    """What a network has to know of a layer `[S, h, W, C]` in strips.

    Attributes:
      height: the layer's rows in the whole picture.
    """

    height: int

    def halo(self, x: jax.Array, *, repeat: bool = False) -> jax.Array:
        """Strips `[S, h + 2, W, C]` with a row of each neighbour. Beyond the first and the last
        strip are zeros, or with `repeat` the strip's own border row."""
        first, last = x[:, :1], x[:, -1:]
        above, below = _shift(last, 1), _shift(first, -1)
        if repeat:
            index = jnp.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))
            above = jnp.where(index > 0, above, first)
            below = jnp.where(index < len(x) - 1, below, last)
        return jnp.concatenate([above, x, below], axis=1)

    def inside(self, x: jax.Array) -> jax.Array:
        """`x` with zeros in the rows that the whole picture doesn't have."""
        count, rows = x.shape[:2]
        if count * rows == self.height:
            return x
        index = jnp.arange(count * rows).reshape(count, rows, *[1] * (x.ndim - 2))
        return jnp.where(index < self.height, x, 0)

    def pooled(self) -> "Strips":
        """The same of the layer that a pooling makes."""
        return Strips(self.height // 2)
