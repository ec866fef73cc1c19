"""Image arrays: sizes, resizing, masks, noise. `nst_jax.files.images` reads and writes files.

Every image is float32 sRGB in RGB order, range [0, 1], layout [..., H, W, 3]. A mask is float32,
range [0, 1], layout [..., H, W]: 1 where a style applies fully, 0 where it does not apply.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32


def whole_number(name: str, value: Any, *, least: int = 1) -> int:
    """Returns the argument `name` as an int.

    Args:
      name: the name of the argument in error messages.
      value: an int, or an object that Python takes as an index.
      least: the smallest number allowed.

    Raises:
      TypeError: `value` is not a whole number.
      ValueError: `value` is less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def _check_array(
    name: str, array: Any, axes: int, layout: str, *, values: str = "floating point in [0, 1]"
) -> None:
    if not hasattr(array, "shape"):
        raise TypeError(f"{name} must be an array {layout}, got a {type(array).__name__}")
    if array.ndim < axes:
        raise ValueError(f"{name} must have shape {layout}, got {list(array.shape)}")
    if 0 in array.shape:
        raise ValueError(f"{name} must not be empty, got shape {list(array.shape)}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be {values}, got {array.dtype}")


def check_image(name: str, image: Any, *, single: bool = False) -> None:
    """Refuses an array that is not a picture. Looks only at its shape and type.

    Args:
      name: the name of the argument in error messages.
      image: any object.
      single: whether `image` must be one picture, without leading axes.

    Raises:
      TypeError: `image` is not an array or not floating point.
      ValueError: `image` is not [..., H, W, 3], or with `single` not [H, W, 3], or is empty.
    """
    layout = "[H, W, 3]" if single else "[..., H, W, 3]"
    _check_array(name, image, 3, layout)
    if image.shape[-1] != 3 or (single and image.ndim != 3):
        raise ValueError(f"{name} must have shape {layout}, got {list(image.shape)}")


def _scaled(side: int, wanted: int, given: int) -> int:
    """Returns side · wanted / given, rounded to the nearest pixel (halves up), at least 1.

    The integer arithmetic is exact at any size.
    """
    return max(1, (2 * side * wanted + given) // (2 * given))


def fit_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns the height and width of an image after scaling its longer side to `size`.

    The shorter side keeps the aspect ratio, rounded to the nearest pixel (halves up) and at
    least 1.

    Args:
      height: height in pixels.
      width: width in pixels.
      size: wanted length of the longer side, in pixels.

    Returns:
      (height, width), two ints.

    Raises:
      TypeError: an argument is not a whole number.
      ValueError: an argument is less than 1.
    """
    height = whole_number("height", height)
    width = whole_number("width", width)
    size = whole_number("size", size)
    longer = max(height, width)
    return _scaled(height, size, longer), _scaled(width, size, longer)


def fit_height(height: int, width: int, rows: int) -> tuple[int, int]:
    """Returns the height and width of an image after scaling its height to `rows`.

    The width keeps the aspect ratio, rounded to the nearest pixel (halves up) and at least 1.

    Args:
      height: height in pixels.
      width: width in pixels.
      rows: wanted height, in pixels.

    Returns:
      (height, width), two ints.

    Raises:
      TypeError: an argument is not a whole number.
      ValueError: an argument is less than 1.
    """
    height = whole_number("height", height)
    width = whole_number("width", width)
    rows = whole_number("rows", rows)
    return rows, _scaled(width, rows, height)


def resize(
    image: Float[ArrayLike, "*N H W 3"], height: int, width: int, *, wraps: bool = False
) -> Float[Array, "*N height width 3"]:
    """Resizes an image with Keys' cubic filter, antialiased along a side that shrinks.

    When enlarging, the cubic filter overshoots a black-white edge by 7 %, Lanczos-3 by 12 %. A
    clipped overshoot is a halo, and style statistics would include it.

    Args:
      image: [..., H, W, 3], range [0, 1].
      height: wanted height in pixels, static under `jax.jit`.
      width: wanted width in pixels, static under `jax.jit`.
      wraps: whether the image is a tile, which continues by its other side. So does the result.

    Returns:
      [..., height, width, 3], clipped to [0, 1]. An image of that size comes back unchanged.

    Raises:
      TypeError: `image` is not floating point, or a size is not a whole number.
      ValueError: `image` has another layout or is empty, or a size is less than 1.
    """
    image = jnp.asarray(image)
    check_image("image", image)
    height = whole_number("height", height)
    width = whole_number("width", width)
    if image.shape[-3:-1] == (height, width):
        return image
    if wraps:  # the middle one of nine tiles has neighbours on all sides
        tiles = jnp.tile(image, (3, 3, 1))
        return resize(tiles, 3 * height, 3 * width)[..., height:-height, width:-width, :]
    shape = (*image.shape[:-3], height, width, 3)
    return jnp.clip(jax.image.resize(image, shape, method="cubic"), 0, 1)


def cover(
    image: Float[ArrayLike, "*N H W 3"], height: int, width: int
) -> Float[Array, "*N height width 3"]:
    """Resizes an image to the smallest size that covers `height` by `width`, and crops the middle.

    The image keeps its aspect ratio, except that one side is rounded to a whole pixel. The filter
    is that of `resize`.

    Args:
      image: [..., H, W, 3], range [0, 1].
      height: wanted height in pixels, static under `jax.jit`.
      width: wanted width in pixels, static under `jax.jit`.

    Returns:
      [..., height, width, 3], range [0, 1]. If an odd number of rows or columns is cut off, the
      end loses one more than the beginning.

    Raises:
      TypeError: `image` is not floating point, or a size is not a whole number.
      ValueError: `image` has another layout or is empty, or a size is less than 1.
    """
    image = jnp.asarray(image)
    check_image("image", image)
    height = whole_number("height", height)
    width = whole_number("width", width)
    old_height, old_width = image.shape[-3:-1]
    if height * old_width >= width * old_height:
        full_height, full_width = height, _scaled(old_width, height, old_height)
    else:
        full_height, full_width = _scaled(old_height, width, old_width), width
    top, left = (full_height - height) // 2, (full_width - width) // 2
    full = resize(image, full_height, full_width)
    return full[..., top : top + height, left : left + width, :]


def resample(
    array: Float[ArrayLike, "*N H W C"], height: int, width: int
) -> Float[Array, "*N height width C"]:
    """Resizes an array of any range with the linear filter, antialiased along a side that shrinks.

    Each value of the result is a weighted mean of values of the array, with weights that are not
    negative. So nothing overshoots, and a positive array stays positive. Use it for data that
    belong to an image, such as the moments of an optimiser. For an image, `resize` is sharper.

    Args:
      array: floating point, [..., H, W, C], any range.
      height: wanted height, static under `jax.jit`.
      width: wanted width, static under `jax.jit`.

    Returns:
      [..., height, width, C]. An array of that size comes back unchanged.

    Raises:
      TypeError: `array` is not floating point, or a size is not a whole number.
      ValueError: `array` has fewer axes or is empty, or a size is less than 1.
    """
    array = jnp.asarray(array)
    _check_array("array", array, 3, "[..., H, W, C]", values="floating point")
    height = whole_number("height", height)
    width = whole_number("width", width)
    if array.shape[-3:-1] == (height, width):
        return array
    shape = (*array.shape[:-3], height, width, array.shape[-1])
    return jax.image.resize(array, shape, method="linear")


# The generating kernel of Burt and Adelson with a = 3/8: the binomial coefficients over 16.
_PYRAMID_KERNEL = np.array([1, 4, 6, 4, 1], np.float32) / 16
# EXPAND makes two rows of each row. Both take every second coefficient, twice as large.
_EXPANSION_KERNEL = np.stack([_PYRAMID_KERNEL[::2], [0, *_PYRAMID_KERNEL[1::2]]]) * np.float32(2)


def pyramid_down(array: Float[ArrayLike, "H W C"]) -> Float[Array, "h w C"]:
    """Computes the next coarser level of a Gaussian pyramid: REDUCE, a convolution of stride 2.

    Peter J. Burt, Edward H. Adelson: "The Laplacian Pyramid as a Compact Image Code", IEEE
    Transactions on Communications 31(4), 1983, equation 1, https://doi.org/10.1109/TCOM.1983.1095851

    Along the border, the weights inside the array are scaled to sum to 1, so that a constant array
    stays constant. On a mesh that divides the height, devices exchange only border rows.

    Args:
      array: floating point, [H, W, C], any range.

    Returns:
      [ceil(H / 2), ceil(W / 2), C].
    """
    array = jnp.asarray(array)
    height, width, _ = array.shape
    reduced = jax.lax.platform_dependent(
        array, tpu=_reduced_by_products, default=_reduced_by_convolution
    )
    return reduced / _inside(_reduced_weights, height, width).astype(array.dtype)


def _reduced_by_convolution(array: jax.Array) -> jax.Array:
    kernel = np.einsum("i,j,cd->ijcd", *[_PYRAMID_KERNEL] * 2, np.eye(array.shape[2]))
    return _convolve(array, kernel, stride=2, padding=2)


def _reduced_by_products(array: jax.Array) -> jax.Array:
    """What `_reduced_by_convolution` computes, side by side: see `_by_products`."""
    for axis, block in _BLOCKS:
        matrix = np.zeros((block // 2, block + 3), np.float32)
        for row in range(block // 2):
            matrix[row, 2 * row : 2 * row + 5] = _PYRAMID_KERNEL
        length = -(-array.shape[axis] // 2)
        array = _by_products(array, axis, matrix, block, before=2, after=1, length=length)
    return array


def pyramid_up(
    array: Float[ArrayLike, "h w C"], height: int, width: int
) -> Float[Array, "height width C"]:
    """Enlarges a level of a Gaussian pyramid to the size of the next finer level: EXPAND.

    Burt and Adelson 1983, equation 2, see `pyramid_down`. The border is treated as there.

    Args:
      array: floating point, [ceil(height / 2), ceil(width / 2), C], any range.
      height: the number of rows of the finer level, static under `jax.jit`.
      width: the number of columns of the finer level, static under `jax.jit`.

    Returns:
      [height, width, C].
    """
    array = jnp.asarray(array)
    expanded = jax.lax.platform_dependent(
        array,
        tpu=functools.partial(_expanded_by_products, height=height, width=width),
        default=functools.partial(_expanded_by_convolution, height=height, width=width),
    )
    return expanded / _inside(_expanded_weights, height, width).astype(array.dtype)


def _expanded_by_convolution(array: jax.Array, *, height: int, width: int) -> jax.Array:
    rows, columns, channels = array.shape
    # Each pixel becomes four. They are channels of an ordinary convolution, because a dilated
    # convolution is several times slower on a CPU.
    kernel = np.einsum("pi,qj,cd->ijcpqd", *[_EXPANSION_KERNEL] * 2, np.eye(channels))
    pixels = _convolve(array, kernel.reshape(3, 3, channels, -1), stride=1, padding=1)
    pixels = pixels.reshape(rows, columns, 2, 2, channels).transpose(0, 2, 1, 3, 4)
    return pixels.reshape(2 * rows, 2 * columns, channels)[:height, :width]


def _expanded_by_products(array: jax.Array, *, height: int, width: int) -> jax.Array:
    """What `_expanded_by_convolution` computes, side by side: see `_by_products`."""
    for (axis, block), length in zip(_BLOCKS, (height, width), strict=True):
        matrix = np.zeros((block, block // 2 + 2), np.float32)
        for row in range(block // 2):
            matrix[2 * row : 2 * row + 2, row : row + 3] = _EXPANSION_KERNEL
        array = _by_products(array, axis, matrix, block // 2, before=1, after=1, length=length)
    return array


# On a TPU, a convolution of 3 channels fills 3 of 128 lanes. A product of matrices along each side
# takes a thirtieth of its cycles. Blocks of rows, because a mesh divides the height and products
# of blocks exchange only border rows; few blocks of columns, because they lie along the lanes.
_BLOCKS = ((0, 32), (1, 1024))  # axis, finer rows or columns of a block


def _by_products(
    array: jax.Array,
    axis: int,
    matrix: np.ndarray,
    block: int,
    *,
    before: int,
    after: int,
    length: int,
) -> jax.Array:
    """Multiplies blocks of rows (`axis` 0) or columns (1) of `[H, W, C]` by a matrix.

    Args:
      array: the array. Beyond its border are zeros.
      axis: the side to multiply along.
      matrix: `[rows or columns of a block of the result, before + block + after]`.
      block: rows or columns of a block. A shorter side is one block.
      before, after: how many of the neighbours' rows or columns a block sees.
      length: how many rows or columns to keep of the result.
    """
    side = array.shape[axis]
    if side < block:
        even = side + side % 2
        matrix, block = matrix[: even * len(matrix) // block, : before + even + after], even
    count = -(-side // block)
    x = jnp.moveaxis(array, 2, 0)
    x = _padded(x, axis + 1, 0, count * block - side)
    x = x.reshape(*x.shape[: axis + 1], count, block, *x.shape[axis + 2 :])
    inner = axis + 2
    first = jax.lax.slice_in_dim(x, 0, after, axis=inner)
    last = jax.lax.slice_in_dim(x, block - before, block, axis=inner)
    above, below = (_padded(edge, axis + 1, by, -by) for edge, by in ((last, 1), (first, -1)))
    x = jnp.concatenate([above, x, below], axis=inner)
    x = jnp.tensordot(x, jnp.asarray(matrix, x.dtype), (inner, 1), precision="highest")
    x = jnp.moveaxis(x, -1, inner)
    x = x.reshape(*x.shape[: axis + 1], -1, *x.shape[inner + 1 :])
    return jnp.moveaxis(jax.lax.slice_in_dim(x, 0, length, axis=axis + 1), 0, 2)


def _padded(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Adds zeros along an axis; a negative number takes away."""
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (before, after, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), widths)


def laplacian_pyramid(array: Float[ArrayLike, "H W C"], levels: int) -> list[Float[Array, "_ _ C"]]:
    """Splits an array into bands: each level of its Gaussian pyramid minus the next, enlarged.

    Burt and Adelson 1983, equation 3, see `pyramid_down`. `laplacian_sum` is the inverse.

    Args:
      array: floating point, [H, W, C], any range.
      levels: the number of bands, static under `jax.jit`. The last band is the coarsest level
        itself. There are fewer bands if a level is a single row or column.

    Returns:
      Arrays [H, W, C], [ceil(H / 2), ceil(W / 2), C], ..., from fine to coarse.
    """
    array = jnp.asarray(array)
    bands: list[jax.Array] = []
    while len(bands) < levels - 1 and min(array.shape[:2]) > 1:
        coarser = pyramid_down(array)
        bands.append(array - pyramid_up(coarser, *array.shape[:2]))
        array = coarser
    return [*bands, array]


def laplacian_sum(bands: Sequence[Float[ArrayLike, "_ _ C"]]) -> Float[Array, "H W C"]:
    """Restores the array that `laplacian_pyramid` split into `bands`.

    Args:
      bands: floating point, [H, W, C], [ceil(H / 2), ceil(W / 2), C], ..., from fine to coarse.

    Returns:
      [H, W, C].
    """
    *finer, array = map(jnp.asarray, bands)
    for band in reversed(finer):
        array = band + pyramid_up(array, *band.shape[:2])
    return array


def _convolve(array: jax.Array, kernel: np.ndarray, *, stride: int, padding: int) -> jax.Array:
    """Convolves `[H, W, in]` with `[h, w, in, out]`. Pads with zeros."""
    found = jax.lax.conv_general_dilated(
        array[None],
        jnp.asarray(kernel, array.dtype),
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return found[0]


def _inside(weights_of: Callable[[int], np.ndarray], height: int, width: int) -> jax.Array:
    """Returns the sum of the weights inside the array at each position, `[H, W, 1]`."""
    rows, columns = weights_of(height), weights_of(width)
    return jnp.asarray(rows)[:, None, None] * jnp.asarray(columns)[None, :, None]


def _reduced_weights(side: int) -> np.ndarray:
    return np.convolve(np.ones(side, np.float32), _PYRAMID_KERNEL)[2 : side + 2 : 2]


def _expanded_weights(side: int) -> np.ndarray:
    coarser = np.zeros(side, np.float32)
    coarser[::2] = 2
    return np.convolve(coarser, _PYRAMID_KERNEL)[2 : side + 2]


def resize_mask(
    mask: Float[ArrayLike, "*N H W"], height: int, width: int
) -> Float[Array, "*N height width"]:
    """Resizes a mask with the linear filter, antialiased along a side that shrinks.

    Args:
      mask: [..., H, W], range [0, 1].
      height: wanted height in pixels, static under `jax.jit`.
      width: wanted width in pixels, static under `jax.jit`.

    Returns:
      [..., height, width], clipped to [0, 1] against rounding.

    Raises:
      TypeError: `mask` is not floating point, or a size is not a whole number.
      ValueError: `mask` has fewer than two axes or is empty, or a size is less than 1.
    """
    mask = jnp.asarray(mask)
    _check_array("mask", mask, 2, "[..., H, W]")
    return jnp.clip(resample(mask[..., None], height, width)[..., 0], 0, 1)


def shrink_mask(mask: Float[ArrayLike, "*N H W"], *, times: int) -> Float[Array, "*N h w"]:
    """Shrinks the mask of a picture to the size of a layer after `times` poolings.

    Each pooling takes the mean of windows of 2x2, and drops an odd last row or column as the
    network does. So a value of the mask belongs to the same pixels as the activation at its
    position.

    Guidance channels at each layer are from Leon A. Gatys, Alexander S. Ecker, Matthias Bethge,
    Aaron Hertzmann, Eli Shechtman: "Controlling Perceptual Factors in Neural Style Transfer", 2017,
    https://arxiv.org/abs/1611.07865.

    Args:
      mask: [..., H, W], range [0, 1].
      times: number of poolings, 0 or more, static under `jax.jit`.

    Returns:
      [..., H // 2**times, W // 2**times], range [0, 1].

    Raises:
      TypeError: `mask` is not floating point, or `times` is not a whole number.
      ValueError: `mask` has fewer than two axes or a side shorter than 2**times, or `times` is
        negative.
    """
    mask = jnp.asarray(mask)
    _check_array("mask", mask, 2, "[..., H, W]")
    times = whole_number("times", times, least=0)
    side = 2**times
    if min(mask.shape[-2:]) < side:
        raise ValueError(
            f"mask must be at least {side} by {side} to be shrunk {times} times, "
            f"got shape {list(mask.shape)}"
        )
    # The mean of means over 2x2 is the mean over the whole window. The floor divisions together
    # drop the rows and columns after the last whole window.
    height, width = (length // side for length in mask.shape[-2:])
    whole = mask[..., : height * side, : width * side]
    windows = whole.reshape(*mask.shape[:-2], height, side, width, side)
    return windows.mean(axis=(-3, -1))


def noise(key: jax.Array, height: int, width: int) -> Float32[Array, "height width 3"]:
    """Makes an image of independent uniform noise.

    Args:
      key: a `jax.random.key`. The same key gives the same image.
      height: height in pixels.
      width: width in pixels.

    Returns:
      [height, width, 3], range [0, 1).

    Raises:
      TypeError: a size is not a whole number.
      ValueError: a size is less than 1.
    """
    shape = (whole_number("height", height), whole_number("width", width), 3)
    return jax.random.uniform(key, shape, jnp.float32)


def drawn_pixels(
    key: jax.Array, image: Float[ArrayLike, "h w 3"], height: int, width: int
) -> Float[Array, "height width 3"]:
    """Makes a picture of pixels that are drawn from another one, independently and uniformly.

    Args:
      key: a `jax.random.key`. The same key draws the same pixels.
      image: [h, w, 3], range [0, 1].
      height: height in pixels.
      width: width in pixels.

    Returns:
      [height, width, 3], range [0, 1].

    Raises:
      TypeError: `image` is not floating point, or a size is not a whole number.
      ValueError: `image` has another layout or is empty, or a size is less than 1.
    """
    image = jnp.asarray(image)
    check_image("image", image, single=True)
    shape = (whole_number("height", height), whole_number("width", width))
    pixels = image.reshape(-1, 3)
    return pixels[jax.random.randint(key, shape, 0, len(pixels))]


def pyramid_sizes(size: int, *, first: int, factor: float = 2.0) -> tuple[int, ...]:
    """Returns the sizes of a coarse-to-fine pyramid, from `first` to `size` in equal factors.

    The number of sizes brings these factors as near as possible to `factor`. If `size / first` is
    below the square root of `factor`, the only size is `size`.

    Args:
      size: the finest size, in pixels.
      first: the coarsest size, in pixels.
      factor: wanted ratio of a size to the next coarser size, greater than 1.

    Returns:
      A tuple of strictly increasing ints that ends in `size`.

    Raises:
      TypeError: `size` or `first` is not a whole number.
      ValueError: `size` or `first` is less than 1, or `factor` is not above 1.
    """
    size = whole_number("size", size)
    first = whole_number("first", first)
    if not 1 < factor < math.inf:
        raise ValueError(f"factor must be finite and greater than 1, got {factor}")
    times = max(0, round(math.log(size / first, factor)))
    coarser = [round(first * (size / first) ** (n / times)) for n in range(times)]
    return tuple(sorted({*coarser, size}))
