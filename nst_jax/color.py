"""Colours of one picture for another: luminance transfer, linear and histogram matching.

Leon A. Gatys, Matthias Bethge, Aaron Hertzmann, Eli Shechtman: "Preserving Color in Neural
Artistic Style Transfer", 2016, https://arxiv.org/abs/1606.05897. The paper has two ways:

- Stylise only the luminance: `grey` and `match_luminance` before, `with_luminance_of` after.
- Give the style picture the content's colours before stylising: `match_colors`.

`match_histograms` is another way to give a picture the colours of another one.

Every image is float32 sRGB in RGB order, range [0, 1], layout [..., H, W, 3]. All arithmetic is on
the gamma-encoded values, as in the paper.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nst_jax.image import check_image

# A smaller standard deviation counts as this one. Rounding to 8 bits alone makes differences of one
# grey level, and a flat picture would otherwise be divided by zero.
FLAT = 1 / 255


def luminance(image: Float[ArrayLike, "*N H W 3"]) -> Float[Array, "*N H W 1"]:
    """Computes the luminance, the Y of YIQ: Y = 0.299 R + 0.587 G + 0.114 B.

    The weights are from ITU-R BT.601, https://www.itu.int/rec/R-REC-BT.601.

    Args:
      image: [..., H, W, 3], range [0, 1].

    Returns:
      [..., H, W, 1], range [0, 1].

    Raises:
      TypeError: `image` is not floating point.
      ValueError: `image` has another layout or is empty.
    """
    image = jnp.asarray(image)
    check_image("image", image)
    red, green, blue = jnp.split(image, 3, axis=-1)
    # 0.299 = 1 - 0.587 - 0.114. In this form a grey pixel keeps its value to the last bit.
    return red + 0.587 * (green - red) + 0.114 * (blue - red)


def grey(image: Float[ArrayLike, "*N H W 3"]) -> Float[Array, "*N H W 3"]:
    """Removes the colours of a picture: all three channels become its luminance.

    Args:
      image: [..., H, W, 3], range [0, 1].

    Returns:
      [..., H, W, 3], range [0, 1].

    Raises:
      TypeError: `image` is not floating point.
      ValueError: `image` has another layout or is empty.
    """
    return jnp.repeat(luminance(image), 3, axis=-1)


def match_luminance(
    style: Float[ArrayLike, "*N h w 3"],
    content: Float[ArrayLike, "*N H W 3"],
    *,
    mask: Float[ArrayLike, "*N h w"] | None = None,
) -> Float[Array, "*N h w 3"]:
    """Makes a grey style picture with the mean and the spread of the content's luminance.

    The equation is from the paper's section "Luminance-only transfer":
    Y' = σ_content / σ_style · (Y - μ_style) + μ_content. If the style's standard deviation is below
    one grey level of 255, it counts as one grey level.

    Args:
      style: [..., h, w, 3], range [0, 1].
      content: [..., H, W, 3], range [0, 1], with the leading axes of `style`.
      mask: [..., h, w] in [0, 1], the part of the style that counts in its mean and spread; None
        is all of it.

    Returns:
      [..., h, w, 3], three equal channels, clipped to [0, 1]. If nothing is clipped, the mean and
      the deviation of the part that counts are those of the content.

    Raises:
      TypeError: a picture is not floating point.
      ValueError: a picture has another layout or is empty, or the leading axes differ.
    """
    style, content = _pair(style=style, content=content)
    ours, theirs = luminance(style), luminance(content)
    scale = jnp.sqrt(_variance(theirs) / jnp.maximum(_variance(ours, mask), FLAT**2))
    matched = scale * (ours - _mean(ours, mask)) + _mean(theirs)
    return jnp.repeat(jnp.clip(matched, 0, 1), 3, axis=-1)


def with_luminance_of(
    content: Float[ArrayLike, "*N H W 3"], output: Float[ArrayLike, "*N H W 3"]
) -> Float[Array, "*N H W 3"]:
    """Combines the content's colours with the luminance of another picture.

    I and Q of YIQ are differences of channels. Adding one number to all three channels changes Y
    by that number and keeps I and Q. If a channel would leave [0, 1], the pixel takes the nearest
    luminance that fits. So the content's I and Q always stay.

    Args:
      content: [..., H, W, 3], range [0, 1]: gives the chroma.
      output: [..., H, W, 3], range [0, 1]: gives the luminance.

    Returns:
      [..., H, W, 3], range [0, 1].

    Raises:
      TypeError: a picture is not floating point.
      ValueError: a picture has another layout or is empty, or the shapes differ.
    """
    content, output = _pair(content=content, output=output)
    if content.shape != output.shape:
        raise ValueError(
            f"content and output must have the same shape, got {list(content.shape)} "
            f"and {list(output.shape)}"
        )
    darkest = -jnp.min(content, axis=-1, keepdims=True)
    brightest = 1 - jnp.max(content, axis=-1, keepdims=True)
    return content + jnp.clip(luminance(output) - luminance(content), darkest, brightest)


def color_transfer_map(
    style: Float[ArrayLike, "*N h w 3"],
    content: Float[ArrayLike, "*N H W 3"],
    *,
    mask: Float[ArrayLike, "*N h w"] | None = None,
) -> tuple[Float[Array, "*N 3 3"], Float[Array, "*N 3"]]:
    """Computes the affine map of colours that gives the style the content's mean and covariance.

    This is the image-analogies form in the paper's section "Color histogram matching":
    x ↦ A x + b with A = Σ_content^½ Σ_style^-½ and b = μ_content - A μ_style, where Σ^½ is the
    symmetric square root.

    A principal direction of the style's colours may have a standard deviation below one grey level
    of 255. In a grey picture, all directions but the diagonal do. Such a deviation counts as one
    grey level. The map is not differentiable where two variances along the principal directions
    are equal.

    Args:
      style: [..., h, w, 3], range [0, 1].
      content: [..., H, W, 3], range [0, 1], with the leading axes of `style`.
      mask: [..., h, w] in [0, 1], the part of the style that counts; None is all of it.

    Returns:
      (matrix [..., 3, 3], offset [..., 3]).

    Raises:
      TypeError: a picture is not floating point.
      ValueError: a picture has another layout or is empty, or the leading axes differ.
    """
    style, content = _pair(style=style, content=content)
    matrix = _matmul(
        _covariance_power(content, 0.5, smallest=0),
        _covariance_power(style, -0.5, smallest=FLAT**2, mask=mask),
    )
    from_mean, to_mean = _mean(style, mask)[..., 0, :], _mean(content)[..., 0, :]
    return matrix, (to_mean - _matmul(from_mean, matrix.mT))[..., 0, :]


def match_colors(
    style: Float[ArrayLike, "*N h w 3"],
    content: Float[ArrayLike, "*N H W 3"],
    *,
    mask: Float[ArrayLike, "*N h w"] | None = None,
) -> Float[Array, "*N h w 3"]:
    """Gives the style picture the content's colours, by `color_transfer_map`.

    Args:
      style: [..., h, w, 3], range [0, 1].
      content: [..., H, W, 3], range [0, 1], with the leading axes of `style`.
      mask: [..., h, w] in [0, 1], the part of the style that counts; None is all of it.

    Returns:
      [..., h, w, 3], clipped to [0, 1]. If nothing is clipped, the mean and covariance of the part
      that counts are those of the content.

    Raises:
      TypeError: a picture is not floating point.
      ValueError: a picture has another layout or is empty, or the leading axes differ.
    """
    matrix, offset = color_transfer_map(style, content, mask=mask)
    mapped = _matmul(jnp.asarray(style), matrix.mT[..., None, :, :]) + offset[..., None, None, :]
    return jnp.clip(mapped, 0, 1)


def match_histograms(
    style: Float[ArrayLike, "*N h w 3"],
    content: Float[ArrayLike, "*N H W 3"],
    *,
    mask: Float[ArrayLike, "*N h w"] | None = None,
) -> Float[Array, "*N h w 3"]:
    """Gives the style picture the histograms of the content, each channel by itself.

    It is the histogram specification of Rafael C. Gonzalez, Richard E. Woods: "Digital Image
    Processing", 4th edition, 2018, section 3.3. A value takes the place of the content's value of
    the same rank. Equal values stay equal: they take the middle of their ranks. Between two ranks
    of the content, the value is interpolated.

    Args:
      style: [..., h, w, 3], range [0, 1].
      content: [..., H, W, 3], range [0, 1], with the leading axes of `style`.
      mask: [..., h, w] in [0, 1], the part of the style that counts in its ranks; None is all of
        it.

    Returns:
      [..., h, w, 3], range [0, 1]. Its gradient is zero.

    Raises:
      TypeError: a picture is not floating point.
      ValueError: a picture has another layout or is empty, or the leading axes differ.
    """
    style, content = _pair(style=style, content=content)
    mask = jnp.ones(style.shape[:-1]) if mask is None else jnp.asarray(mask)

    def one_channel(values: jax.Array, wanted: jax.Array, weights: jax.Array) -> jax.Array:
        order = jnp.argsort(values)
        ordered = values[order]
        before = jnp.concatenate([jnp.zeros(1), jnp.cumsum(weights[order])])
        below, through = (
            before[jnp.searchsorted(ordered, values, side)] for side in ("left", "right")
        )
        share = (below + through) / (2 * before[-1])
        middle = (jnp.arange(wanted.size, dtype=jnp.float32) + 0.5) / wanted.size
        return jnp.interp(share, middle, jnp.sort(wanted))

    channels = jnp.broadcast_to(mask[..., None], style.shape)
    rows = [
        jnp.moveaxis(each, -1, -3).reshape(-1, math.prod(each.shape[-3:-1]))
        for each in (style, content, channels)
    ]
    matched = jax.vmap(one_channel)(*map(jax.lax.stop_gradient, rows))
    shape = (*style.shape[:-3], 3, *style.shape[-3:-1])
    return jnp.moveaxis(matched.reshape(shape), -3, -1)


def _pair(**pictures: ArrayLike) -> list[jax.Array]:
    """Returns two pictures as arrays. Refuses arrays that are not pictures, or other axes."""
    arrays = [jnp.asarray(picture) for picture in pictures.values()]
    for name, array in zip(pictures, arrays, strict=True):
        check_image(name, array)
    first, second = arrays
    if first.shape[:-3] != second.shape[:-3]:
        raise ValueError(
            f"{' and '.join(pictures)} must have the same leading axes, got shapes "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    return arrays


def _mean(image: jax.Array, mask: ArrayLike | None = None) -> jax.Array:
    """Computes the mean over the positions under the mask: [..., H, W, C] -> [..., 1, 1, C]."""
    if mask is None:
        return jnp.mean(image, axis=(-3, -2), keepdims=True)
    weights = jnp.asarray(mask)[..., None]
    return jnp.sum(weights * image, axis=(-3, -2), keepdims=True) / jnp.sum(
        weights, axis=(-3, -2), keepdims=True
    )


def _variance(image: jax.Array, mask: ArrayLike | None = None) -> jax.Array:
    """Computes the variance over the positions under the mask: [..., H, W, C] -> [..., 1, 1, C]."""
    return _mean((image - _mean(image, mask)) ** 2, mask)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes a @ b in full float32, on every backend."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _covariance_power(
    image: jax.Array, power: float, *, smallest: float, mask: ArrayLike | None = None
) -> jax.Array:
    """Raises the covariance of an image's colours to a power: [..., H, W, 3] -> [..., 3, 3].

    Eigenvalues below `smallest` are replaced by it. Positions count by the mask.
    """
    centred = image - _mean(image, mask)
    if mask is not None:
        share = jnp.asarray(mask) / jnp.mean(jnp.asarray(mask), axis=(-2, -1), keepdims=True)
        centred = jnp.sqrt(share)[..., None] * centred
    centred = centred.reshape(*image.shape[:-3], -1, 3)
    values, vectors = jnp.linalg.eigh(_matmul(centred.mT, centred) / centred.shape[-2])
    # Rounding leaves a zero eigenvalue slightly on either side of zero.
    values = jnp.maximum(values, smallest) ** power
    return _matmul(vectors * values[..., None, :], vectors.mT)
