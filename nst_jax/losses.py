"""The losses of neural style transfer, one function an equation; no network is known here.

Features are real arrays `[..., H, W, C]`. Every function is pure and differentiable, takes one
item or any number of leading axes as said, and can be jitted and vmapped.

Sums over positions are accumulated in float32 at the highest matmul precision: a TPU would
otherwise multiply float32 in bfloat16, and a Gram sum in half precision overflows.

[1] Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "A Neural Algorithm of Artistic Style",
    2015, https://arxiv.org/abs/1508.06576
[2] The same: "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016,
    https://openaccess.thecvf.com/content_cvpr_2016/html/Gatys_Image_Style_Transfer_CVPR_2016_paper.html
[3] Keras' example "Neural style transfer", https://keras.io/examples/generative/neural_style_transfer/
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Statistics(NamedTuple):
    """Sums over positions, all that a style loss knows of a feature map.

    They add up over parts of a picture, over devices and over pictures.

    Attributes:
      count: number of positions, `[...]`.
      total: sum of the features, `[..., C]`.
      gram: sum of the outer products of the features, `[..., C, C]`.
    """

    count: jax.Array
    total: jax.Array
    gram: jax.Array


def gram_matrix(features: jax.Array) -> jax.Array:
    """Gram matrix `G_ij = sum_k F_ki F_kj` over the positions k, the plain sum of [1].

    Args:
      features: `[..., H, W, C]`.

    Returns:
      `[..., C, C]`, symmetric, float32.
    """
    return jnp.einsum(
        "...hwc,...hwd->...cd",
        features,
        features,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def statistics(features: jax.Array) -> Statistics:
    """Count, sum and Gram matrix of `features` `[..., H, W, C]`."""
    *leading, height, width, _ = features.shape
    return Statistics(
        count=jnp.full(leading, height * width, jnp.float32),
        total=jnp.sum(features, axis=(-3, -2), dtype=jnp.float32),
        gram=gram_matrix(features),
    )


def per_position(sums: Statistics) -> Statistics:
    """The same statistics as means over positions, that is with a count of one."""
    count = sums.count[..., None]
    return Statistics(
        count=jnp.ones_like(sums.count),
        total=sums.total / count,
        gram=sums.gram / count[..., None],
    )


def content_loss(features: jax.Array, target: jax.Array) -> jax.Array:
    """Half the sum of squared differences, `1/2 sum_ij (F_ij - P_ij)^2`, equation 1 of [2].

    Args:
      features, target: arrays of one shape.

    Returns:
      A scalar.
    """
    return 0.5 * jnp.sum(jnp.square(features - target))


def style_loss(
    gram: jax.Array,
    target_gram: jax.Array,
    *,
    normalizer: jax.Array | float,
    weight: jax.Array | float = 1.0,
) -> jax.Array:
    """Squared difference of Gram matrices, `w / M * sum_ij (G_ij - A_ij)^2`, equation 4 of [2].

    Args:
      gram, target_gram: `[C, C]`, sums over the same number of positions.
      normalizer: M: `gatys_normalizer` for the paper's, `keras_normalizer` for Keras'.
      weight: w, the layer's weight.

    Returns:
      A scalar.
    """
    return weight / normalizer * jnp.sum(jnp.square(gram - target_gram))


def gatys_normalizer(channels: int, positions: int) -> float:
    """`4 N^2 M^2` for N channels and M positions of the layer, equation 4 of [2]."""
    return 4.0 * float(channels) ** 2 * float(positions) ** 2


def keras_normalizer(height: int, width: int) -> float:
    """`4 * 3^2 * (height * width)^2` of the picture, the same at every layer, as in [3]."""
    return 4.0 * 3.0**2 * (float(height) * float(width)) ** 2


def total_variation(image: jax.Array, *, exponent: float = 1.25) -> jax.Array:
    """Total variation `sum (dy^2 + dx^2)^exponent` of [3], over all pixels but the last row and
    column and over the colours.

    Args:
      image: `[H, W, 3]`; the published weights are for grey levels of 0-255.
      exponent: 1.25 in [3].

    Returns:
      A scalar.
    """
    corner = image[:-1, :-1]
    dy = image[1:, :-1] - corner
    dx = image[:-1, 1:] - corner
    return jnp.sum((jnp.square(dy) + jnp.square(dx)) ** exponent)
