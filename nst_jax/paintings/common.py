"""What the paintings share: random numbers by place, noise, grids and ramps of colours."""

import math

import numpy as np

from nst_jax.canvas import Array, Size, rgb, sides, value_noise
from nst_jax.image import whole_number


def half_sides(size: Size) -> tuple[float, float]:
    """Returns half the height and half the width of the canvas in units of the plane."""
    height, width = sides(size)
    return height / min(height, width), width / min(height, width)


def generator(seed: int) -> np.random.Generator:
    """Returns the random numbers of a seed, a whole number from 0."""
    return np.random.default_rng(whole_number("seed", seed, least=0))


def hashed(table: Array, kind: int, i: Array | int, j: Array | int) -> Array:
    """Returns a random number of [0, 1) for each pair of whole numbers, one draw per kind."""
    cell = np.asarray(i).astype(np.int32) * 7919 + np.asarray(j).astype(np.int32) * 15401
    return table.ravel()[(cell + kind * 26699) % table.size]


def fine_grain(x: Array, y: Array, scale: float, table: Array) -> Array:
    """Reads a square table at the nearest point, `scale` values per unit: fine grain, cheap."""
    wrap = len(table) - 1
    columns = np.floor(x * np.float32(scale)).astype(np.int32) & wrap
    rows = np.floor(y * np.float32(scale)).astype(np.int32) & wrap
    return table.ravel()[rows * len(table) + columns]


def palette(codes: str, level: Array) -> Array:
    """Runs through colours as level goes from 0 to 1. Returns `[3, *level.shape]`."""
    stops = rgb(codes)[:, :, 0, 0]
    grid = np.linspace(0, len(stops) - 1, 256)
    ramp = np.array([np.interp(grid, range(len(stops)), c) for c in stops.T], np.float32)
    return ramp[:, (np.clip(level, 0, 1) * np.float32(255)).astype(np.int32)]


def lattice(half: tuple[float, float], pitch: float, margin: float) -> tuple[Array, Array]:
    """Returns the whole-numbered places i, j of a grid that covers the canvas and a margin."""
    rows, columns = (math.ceil((side + margin) / pitch) for side in half)
    j, i = np.meshgrid(np.arange(-rows, rows + 1), np.arange(-columns, columns + 1), indexing="ij")
    return i.ravel(), j.ravel()


def fractal_table(rng: np.random.Generator, coarsest: int) -> Array:
    """Makes a periodic table `[256, 256]` of noise in [0, 1] with detail of all sizes.

    The coarsest detail spans 256 / coarsest values. Each finer one is half as long and as strong.
    """
    line = np.arange(256, dtype=np.float32)
    total = np.zeros((256, 256), np.float32)
    while coarsest <= 128:
        table = rng.random((coarsest, coarsest), np.float32)
        place = line * np.float32(coarsest / 256)
        total += value_noise(place[None], place[:, None], table)[0] / coarsest
        coarsest *= 2
    return (total - total.min()) / np.ptp(total)


def scatter(
    half: tuple[float, float],
    rng: np.random.Generator,
    pitch: float,
    jitter: float,
    margin: float,
) -> Array:
    """Returns points `[n, 5]` of a jittered grid: x, y and three random numbers of [0, 1)."""
    table = rng.random((256, 256))
    i, j = lattice(half, pitch, margin + jitter * pitch)
    u, v, *more = (hashed(table, kind, i, j) for kind in range(5))
    x, y = (i + jitter * (u - 0.5)) * pitch, (j + jitter * (v - 0.5)) * pitch
    return np.stack([x, y, *more], -1)
