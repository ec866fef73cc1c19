"""Image arrays: sizes, resizing, masks, noise. Arrays in, arrays out; files are for `io`.

Every image is float32 sRGB in RGB order, range [0, 1], layout [..., H, W, 3]. A mask is float32,
range [0, 1], layout [..., H, W]: 1 where a style rules, 0 where it has no say.
"""

import math
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def whole_number(name: str, value: int, *, least: int = 1) -> int:
    """The argument `name`, an int or what stands for one, as an int.

    Raises:
      TypeError: it is not a whole number.
      ValueError: it is less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def _check_array(
    name: str, array: jax.Array, axes: int, layout: str, *, values: str = "floating point in [0, 1]"
) -> None:
    if not hasattr(array, "shape"):
        raise TypeError(f"{name} must be an array {layout}, got {type(array)}")
    if array.ndim < axes:
        raise ValueError(f"{name} must have shape {layout}, got {list(array.shape)}")
    if 0 in array.shape:
        raise ValueError(f"{name} must not be empty, got shape {list(array.shape)}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be {values}, got {array.dtype}")


def check_image(name: str, image: jax.Array, *, single: bool = False) -> None:
    """Refuses an array that is no picture, by its shape and type alone.

    Args:
      name: what the message calls it.
      image: anything.
      single: whether it must be one picture, without leading axes.

    Raises:
      TypeError: `image` is no array or not floating point.
      ValueError: `image` is not [..., H, W, 3], or [H, W, 3], or is empty.
    """
    layout = "[H, W, 3]" if single else "[..., H, W, 3]"
    _check_array(name, image, 3, layout)
    if image.shape[-1] != 3 or (single and image.ndim != 3):
        raise ValueError(f"{name} must have shape {layout}, got {list(image.shape)}")


def _scaled(side: int, wanted: int, given: int) -> int:
    """side · wanted / given to the nearest pixel (halves up), at least 1; exact at any size."""
    return max(1, (2 * side * wanted + given) // (2 * given))


def fit_size(height: int, width: int, size: int) -> tuple[int, int]:
    """The height and width of an image scaled so that its longer side is `size`.

    The shorter side keeps the aspect ratio, rounded to the nearest pixel (halves up) and at
    least 1.

    Args:
      height: height in pixels.
      width: width in pixels.
      size: length of the longer side wanted, in pixels.

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
    """The height and width of an image scaled so that its height is `rows`.

    The width keeps the aspect ratio, rounded to the nearest pixel (halves up) and at least 1.

    Args:
      height: height in pixels.
      width: width in pixels.
      rows: height wanted, in pixels.

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


def resize(image: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes with Keys' cubic filter, antialiased along a side that shrinks.

    Cubic overshoots a black-white edge by 7 % when enlarging where Lanczos-3 overshoots by
    12 %, and an overshoot, once clipped, is a halo that the style would be read from.

    Args:
      image: [..., H, W, 3], range [0, 1].
      height: height wanted, in pixels; static under `jax.jit`.
      width: width wanted, in pixels; static under `jax.jit`.

    Returns:
      [..., height, width, 3], clipped to [0, 1]; the image untouched when it has that size.

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
    shape = (*image.shape[:-3], height, width, 3)
    return jnp.clip(jax.image.resize(image, shape, method="cubic"), 0, 1)


def cover(image: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes to the least size that covers `height` by `width`, and cuts out the middle.

    The aspect ratio stays, to the rounding of one side to a whole pixel. Filter: see `resize`.

    Args:
      image: [..., H, W, 3], range [0, 1].
      height: height wanted, in pixels; static under `jax.jit`.
      width: width wanted, in pixels; static under `jax.jit`.

    Returns:
      [..., height, width, 3], range [0, 1]. Where an odd number of rows or columns is cut off,
      the end loses one more than the beginning.

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


def resample(array: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes an array of any range with the linear filter, antialiased along a side that shrinks.

    Each value of the result is a weighted mean of values of the array, with weights that are
    not negative: nothing overshoots, and what was positive everywhere stays so. Made for what is
    kept beside an image, such as an optimiser's moments; for an image itself, `resize` is
    sharper.

    Args:
      array: floating point, [..., H, W, C], any range.
      height: height wanted; static under `jax.jit`.
      width: width wanted; static under `jax.jit`.

    Returns:
      [..., height, width, C]; the array untouched when it has that size.

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
_PYRAMID_KERNEL = np.float32([1, 4, 6, 4, 1]) / 16
# What each of the two rows that a row becomes takes from it and from its neighbours: every second
# coefficient, twice as large.
_EXPANSION_KERNEL = np.stack([_PYRAMID_KERNEL[::2], [0, *_PYRAMID_KERNEL[1::2]]]) * np.float32(2)


def pyramid_down(array: jax.Array) -> jax.Array:
    """The next coarser level of a Gaussian pyramid: REDUCE, a convolution of stride 2.

    Peter J. Burt, Edward H. Adelson: "The Laplacian Pyramid as a Compact Image Code", IEEE
    Transactions on Communications 31(4), 1983, equation 1, https://doi.org/10.1109/TCOM.1983.1095851

    Along the border the kernel's weights inside the array are scaled to sum to 1, so that a
    constant array stays constant. On a mesh that divides the height only border rows are exchanged.

    Args:
      array: floating point, [H, W, C], any range.

    Returns:
      [ceil(H / 2), ceil(W / 2), C].
    """
    height, width, channels = array.shape
    kernel = np.einsum("i,j,cd->ijcd", *[_PYRAMID_KERNEL] * 2, np.eye(channels))
    reduced = _convolve(array, kernel, stride=2, padding=2)
    return reduced / _inside(_reduced_weights, height, width).astype(array.dtype)


def pyramid_up(array: jax.Array, height: int, width: int) -> jax.Array:
    """A level of a Gaussian pyramid brought to the size of the next finer one: EXPAND.

    Burt and Adelson 1983, equation 2, see `pyramid_down`, whose border it has as well.

    Args:
      array: floating point, [ceil(height / 2), ceil(width / 2), C], any range.
      height: rows of the finer level; static under `jax.jit`.
      width: columns of the finer level; static under `jax.jit`.

    Returns:
      [height, width, C].
    """
    rows, columns, channels = array.shape
    # The four pixels that each becomes, as channels of an ordinary convolution: a dilated one is
    # several times slower on a CPU.
    kernel = np.einsum("pi,qj,cd->ijcpqd", *[_EXPANSION_KERNEL] * 2, np.eye(channels))
    pixels = _convolve(array, kernel.reshape(3, 3, channels, -1), stride=1, padding=1)
    pixels = pixels.reshape(rows, columns, 2, 2, channels).transpose(0, 2, 1, 3, 4)
    expanded = pixels.reshape(2 * rows, 2 * columns, channels)[:height, :width]
    return expanded / _inside(_expanded_weights, height, width).astype(array.dtype)


def laplacian_pyramid(array: jax.Array, levels: int) -> list[jax.Array]:
    """The bands of an array: what each level of its Gaussian pyramid has beyond the next one.

    Burt and Adelson 1983, equation 3, see `pyramid_down`. `laplacian_sum` is the inverse.

    Args:
      array: floating point, [H, W, C], any range.
      levels: how many, the last of which is the coarsest level itself; static under `jax.jit`.
        There are fewer where a level is a single row or column.

    Returns:
      Arrays [H, W, C], [ceil(H / 2), ceil(W / 2), C], ..., from fine to coarse.
    """
    bands = []
    while len(bands) < levels - 1 and min(array.shape[:2]) > 1:
        coarser = pyramid_down(array)
        bands.append(array - pyramid_up(coarser, *array.shape[:2]))
        array = coarser
    return [*bands, array]


def laplacian_sum(bands: Sequence[jax.Array]) -> jax.Array:
    """The array that `laplacian_pyramid` made `bands` of."""
    *finer, array = bands
    for band in reversed(finer):
        array = band + pyramid_up(array, *band.shape[:2])
    return array


def _convolve(array: jax.Array, kernel: np.ndarray, *, stride: int, padding: int) -> jax.Array:
    """Convolution of `[H, W, in]` by `[h, w, in, out]`, zeros beyond the border."""
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
    """`[H, W, 1]`: the sum of the weights that lie inside, the product of those of both sides."""
    rows, columns = weights_of(height), weights_of(width)
    return jnp.asarray(rows)[:, None, None] * jnp.asarray(columns)[None, :, None]


def _reduced_weights(side: int) -> np.ndarray:
    return np.convolve(np.ones(side, np.float32), _PYRAMID_KERNEL)[2 : side + 2 : 2]


def _expanded_weights(side: int) -> np.ndarray:
    coarser = np.zeros(side, np.float32)
    coarser[::2] = 2
    return np.convolve(coarser, _PYRAMID_KERNEL)[2 : side + 2]


def resize_mask(mask: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes a mask with the linear filter, antialiased along a side that shrinks.

    Args:
      mask: [..., H, W], range [0, 1].
      height: height wanted, in pixels; static under `jax.jit`.
      width: width wanted, in pixels; static under `jax.jit`.

    Returns:
      [..., height, width], clipped to [0, 1] (rounding).

    Raises:
      TypeError: `mask` is not floating point, or a size is not a whole number.
      ValueError: `mask` has fewer than two axes or is empty, or a size is less than 1.
    """
    mask = jnp.asarray(mask)
    _check_array("mask", mask, 2, "[..., H, W]")
    return jnp.clip(resample(mask[..., None], height, width)[..., 0], 0, 1)


def shrink_mask(mask: jax.Array, *, times: int) -> jax.Array:
    """A mask of a picture as a mask of what a network makes of it after `times` poolings.

    Each pooling takes the mean of windows of 2x2 and leaves out an odd last row or column, as
    the network does, so that a value of the mask belongs to the same pixels as the activation
    at its position. Guidance channels brought down to each layer are due to Leon A. Gatys,
    Alexander S. Ecker, Matthias Bethge, Aaron Hertzmann, Eli Shechtman: "Controlling Perceptual
    Factors in Neural Style Transfer", 2017, https://arxiv.org/abs/1611.07865.

    Args:
      mask: [..., H, W], range [0, 1].
      times: number of poolings, 0 or more; static under `jax.jit`.

    Returns:
      [..., H // 2**times, W // 2**times], range [0, 1].

    Raises:
      TypeError: `mask` is not floating point, or `times` is not a whole number.
      ValueError: `mask` has fewer than two axes, or a side shorter than 2**times, or `times` is
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
    # The mean of means over 2x2 is the mean over the whole window, and the rows that floor
    # divisions drop one after another are those past the last whole window.
    height, width = (length // side for length in mask.shape[-2:])
    whole = mask[..., : height * side, : width * side]
    windows = whole.reshape(*mask.shape[:-2], height, side, width, side)
    return windows.mean(axis=(-3, -1))


def noise(key: jax.Array, height: int, width: int) -> jax.Array:
    """An image of independent uniform noise.

    Args:
      key: a `jax.random.key`; the same key gives the same image.
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


def pyramid_sizes(size: int, *, first: int, factor: float = 2.0) -> tuple[int, ...]:
    """The sizes of a coarse-to-fine pyramid, from `first` to `size` in equal factors.

    There are as many as bring these factors nearest to `factor`. There is one alone, `size`, where
    `size / first` is below the square root of `factor`.

    Args:
      size: the finest size, in pixels.
      first: the coarsest size, in pixels.
      factor: ratio of one size to the next coarser one that is wanted, greater than 1.

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
