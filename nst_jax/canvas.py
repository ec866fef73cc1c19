"""A canvas for pictures drawn by formula: pixels, colours, soft steps and noise.

A picture is a function from points of the plane to colours. The shorter side of the canvas spans
[-1, 1], and y points down. Pixels are means of the samples under them.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from nst_jax.image import whole_number

MIN_SIDE = 32  # in pixels
STRIP = 2**18  # samples: a canvas is drawn in strips, which need little memory

Size = int | tuple[int, int]
Array = np.ndarray
Shade = Callable[[Array, Array], Array]


def sides(size: Size) -> tuple[int, int]:
    """Returns the height and the width of a canvas in pixels. Each is at least `MIN_SIDE`."""
    height, width = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    return (
        whole_number("size", height, least=MIN_SIDE),
        whole_number("size", width, least=MIN_SIDE),
    )


def render(shade: Shade, size: Size, *, samples: int = 3, least: int = 1024) -> Array:
    """Averages a plane of colours over the pixels of a canvas.

    The function averages sRGB values, so that a picture of half the size equals the larger picture
    scaled down.

    Args:
      shade: takes x `[1, columns]` and y `[rows, 1]` and returns `[3, rows, columns]`.
      size: the side of a square picture, or (height, width), in pixels.
      samples: the samples along the side of a pixel of a large picture.
      least: the least samples along the side of a square picture. Small pictures take more samples
        per pixel. Otherwise fine detail would depend on the size.

    Returns:
      float32 `[H, W, 3]` in [0, 1].
    """
    height, width = sides(size)
    samples = max(samples, math.ceil(least / math.sqrt(height * width)))
    y, x = (
        ((2 * np.arange(side * samples) + 1) / samples - side) / min(height, width)
        for side in (height, width)
    )
    x, y = x[None].astype(np.float32), y[:, None].astype(np.float32)
    image = np.empty((height, width, 3), np.float32)
    rows = max(1, STRIP // (width * samples * samples))
    for top in range(0, height, rows):
        strip = shade(x, y[top * samples : (top + rows) * samples])
        blocks = strip.reshape(3, -1, samples, width, samples)
        image[top : top + rows] = np.moveaxis(blocks.mean(axis=(2, 4)), 0, -1)
    return np.clip(image, 0, 1)


def rgb(codes: str) -> Array:
    """Reads hexadecimal colours as `[codes, 3, 1, 1]`, or as `[3, 1, 1]` for one code."""
    colours = np.array([list(bytes.fromhex(code)) for code in codes.split()], np.float32) / 255
    return colours[..., None, None] if len(colours) > 1 else colours[0, :, None, None]


def mix(first: Array, second: Array, amount: Array | float) -> Array:
    """Mixes linearly: `first` where amount is 0, `second` where amount is 1."""
    return first + (second - first) * amount


def smoothstep(edge0: float, edge1: float, value: Array) -> Array:
    """Rises smoothly from 0 at edge0 to 1 at edge1."""
    t = np.clip((value - np.float32(edge0)) / np.float32(edge1 - edge0), 0, 1)
    return t * t * (3 - 2 * t)


def value_noise(x: Array, y: Array, table: Array) -> tuple[Array, Array]:
    """Computes value noise and its slope along x, smooth between the values of a square table."""
    i, j = np.floor(x), np.floor(y)
    s, t = x - i, y - j
    rise, s, t = 6 * s * (1 - s), smoothstep(0, 1, s), smoothstep(0, 1, t)
    i, j, side = i.astype(np.int32), j.astype(np.int32), len(table)
    wrap = side - 1  # a mask, because the side is a power of two
    left, right = i & wrap, (i + 1) & wrap
    top, bottom = (j & wrap) * side, ((j + 1) & wrap) * side
    flat = table.ravel()
    start = mix(flat[top + left], flat[bottom + left], t)
    step = mix(flat[top + right], flat[bottom + right], t) - start
    return start + s * step, rise * step


def window_of(x: Array, y: Array, corners: Array) -> tuple[slice, slice] | None:
    """Returns the rows and columns of a strip inside the bounding box of some points, if any."""
    columns = np.searchsorted(x[0], [corners[:, 0].min(), corners[:, 0].max()])
    rows = np.searchsorted(y[:, 0], [corners[:, 1].min(), corners[:, 1].max()])
    return (slice(*rows), slice(*columns)) if np.ptp(rows) and np.ptp(columns) else None


def spline(points: Sequence[tuple[float, float]]) -> Array:
    """Runs a Catmull-Rom spline through points, given in hundredths of the unit.

    Returns:
      A polyline `[n, 2]` with 6 pieces per span.
    """
    p = np.array([points[0], *points, points[-1]]) / 100
    t = np.linspace(0, 1, 6, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.concatenate([curve.swapaxes(0, 1).reshape(-1, 2), p[-1:]]).astype(np.float32)
