"""Keeping the content's colours: luminance transfer and linear colour matching.

Leon A. Gatys, Matthias Bethge, Aaron Hertzmann, Eli Shechtman: "Preserving Color in Neural
Artistic Style Transfer", 2016, https://arxiv.org/abs/1606.05897. Either only the luminance is
stylised (`grey`, `match_luminance` before, `with_luminance_of` after), or the style picture is
given the content's colours beforehand (`match_colors`).

Every image is float32 sRGB in RGB order, range [0, 1], layout [..., H, W, 3]. As in the paper,
all arithmetic is on the gamma-encoded values.
"""

import jax
import jax.numpy as jnp

from nst_jax.image import check_image

# A standard deviation below one grey level is taken for this: rounding to 8 bits alone makes
# differences of that size, and a flat picture would else be divided by zero.
FLAT = 1 / 255


def luminance(image: jax.Array) -> jax.Array:
    """The Y of YIQ: Y = 0.299 R + 0.587 G + 0.114 B.

    The weights are those of ITU-R BT.601, https://www.itu.int/rec/R-REC-BT.601.

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
    # 0.299 = 1 - 0.587 - 0.114: written so, a grey stays what it is to the last bit.
    return red + 0.587 * (green - red) + 0.114 * (blue - red)


def grey(image: jax.Array) -> jax.Array:
    """The picture without its colours: its luminance in all three channels.

    Arguments, result (which keeps the shape) and errors are else those of `luminance`.
    """
    return jnp.repeat(luminance(image), 3, axis=-1)


def match_luminance(style: jax.Array, content: jax.Array) -> jax.Array:
    """A grey style picture with the mean and the spread of the content's luminance.

    Equation of the paper's section "Luminance-only transfer",
    Y' = σ_content / σ_style · (Y - μ_style) + μ_content. A style with a standard deviation below
    one grey level of 255 is stretched as if it had that one.

    Args:
      style: [..., h, w, 3], range [0, 1].
      content: [..., H, W, 3], range [0, 1], leading axes as those of `style`.

    Returns:
      [..., h, w, 3], three equal channels, clipped to [0, 1]; the mean and the deviation are
      the content's where nothing had to be clipped.

    Raises:
      TypeError: a picture is not floating point.
      ValueError: a picture has another layout or is empty, or the leading axes differ.
    """
    style, content = _pair(style=style, content=content)
    ours, theirs = luminance(style), luminance(content)
    scale = jnp.sqrt(_variance(theirs) / jnp.maximum(_variance(ours), FLAT**2))
    matched = scale * (ours - _mean(ours)) + _mean(theirs)
    return jnp.repeat(jnp.clip(matched, 0, 1), 3, axis=-1)


def with_luminance_of(content: jax.Array, output: jax.Array) -> jax.Array:
    """The content's colours with the luminance of another picture.

    I and Q of YIQ are differences of channels: adding one number to all three changes Y by
    that number and neither of them. Where the luminance asked for would leave [0, 1] in some
    channel, the nearest that fits is taken, so that the content's I and Q always stay.

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
            f"content and output must have one shape, got {list(content.shape)} "
            f"and {list(output.shape)}"
        )
    darkest = -jnp.min(content, axis=-1, keepdims=True)
    brightest = 1 - jnp.max(content, axis=-1, keepdims=True)
    return content + jnp.clip(luminance(output) - luminance(content), darkest, brightest)


def color_transfer_map(style: jax.Array, content: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The affine map of colours that gives the style the content's mean and covariance.

    The paper's section "Color histogram matching", in its image-analogies form:
    x ↦ A x + b with A = Σ_content^½ Σ_style^-½ and b = μ_content - A μ_style, where Σ^½ is the
    symmetric square root. Along a direction of the style's colours with a standard deviation
    below one grey level of 255 (all but the diagonal, in a grey picture) there is nothing to
    match with; such a direction is stretched as if it had that deviation. Not
    differentiable where two variances along the principal directions are equal.

    Args:
      style: [..., h, w, 3], range [0, 1].
      content: [..., H, W, 3], range [0, 1], leading axes as those of `style`.

    Returns:
      (matrix [..., 3, 3], offset [..., 3]).

    Raises:
      TypeError: a picture is not floating point.
      ValueError: a picture has another layout or is empty, or the leading axes differ.
    """
    style, content = _pair(style=style, content=content)
    matrix = _matmul(
        _covariance_power(content, 0.5, smallest=0),
        _covariance_power(style, -0.5, smallest=FLAT**2),
    )
    from_mean, to_mean = _mean(style)[..., 0, :], _mean(content)[..., 0, :]
    return matrix, (to_mean - _matmul(from_mean, matrix.mT))[..., 0, :]


def match_colors(style: jax.Array, content: jax.Array) -> jax.Array:
    """The style picture in the content's colours: `color_transfer_map`, applied and clipped.

    Arguments and errors are those of `color_transfer_map`.

    Returns:
      [..., h, w, 3], clipped to [0, 1]; its mean and covariance are the content's where nothing
      had to be clipped.
    """
    matrix, offset = color_transfer_map(style, content)
    mapped = _matmul(jnp.asarray(style), matrix.mT[..., None, :, :]) + offset[..., None, None, :]
    return jnp.clip(mapped, 0, 1)


def _pair(**pictures: jax.Array) -> list[jax.Array]:
    """The two pictures as arrays, if both are pictures and their leading axes agree."""
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


def _mean(image: jax.Array) -> jax.Array:
    """Mean over the positions: [..., H, W, C] -> [..., 1, 1, C]."""
    return jnp.mean(image, axis=(-3, -2), keepdims=True)


def _variance(image: jax.Array) -> jax.Array:
    """Variance over the positions: [..., H, W, C] -> [..., 1, 1, C]."""
    return jnp.var(image, axis=(-3, -2), keepdims=True)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b in full float32 also where the backend multiplies in less."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _covariance_power(image: jax.Array, power: float, *, smallest: float) -> jax.Array:
    """Power of the covariance of an image's colours: [..., H, W, 3] -> [..., 3, 3].

    Eigenvalues below `smallest` are taken for it.
    """
    centred = (image - _mean(image)).reshape(*image.shape[:-3], -1, 3)
    values, vectors = jnp.linalg.eigh(_matmul(centred.mT, centred) / centred.shape[-2])
    # Rounding leaves a zero eigenvalue slightly on either side of zero.
    values = jnp.maximum(values, smallest) ** power
    return _matmul(vectors * values[..., None, :], vectors.mT)
