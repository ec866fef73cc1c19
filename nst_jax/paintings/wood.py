"""A colour woodcut: flat inks, carved lines and a key-line."""

import math
from typing import NamedTuple

import numpy as np

from nst_jax.canvas import Array, Size, mix, render, rgb, smoothstep, spline, value_noise, window_of
from nst_jax.paintings.common import (
    fine_grain,
    fractal_table,
    generator,
    half_sides,
    hashed,
    scatter,
)


def woodcut(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws breaking waves as a colour woodcut: few flat inks, carved lines and a dark key-line.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the waves, the sky and the wood.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    half, rng = half_sides(size), generator(seed)
    table, fractal = rng.random((256, 256), np.float32), fractal_table(rng, 4)
    wave, sky = _breaker(rng), _Sky(half, rng)
    rows = _rows_of_waves(half[0], rng)

    def shade(x: Array, y: Array) -> Array:
        warp = value_noise(x * 24, y * 24, fractal)[0] - 0.5
        picture = sky.draw(x, y, warp)
        for number, row in enumerate(rows):
            _print_wave(picture, x, y, row, number, wave, warp, table)
        # The grain of the block prints along with the ink. Paper takes ink unevenly.
        grain = value_noise(x * 5 + 9, (y + 0.10 * warp) * 130, table)[0] - 0.5
        fibre = fine_grain(x, y, 260, table) - 0.5
        paper = rgb(_PAPER) * (1 + 0.05 * fibre + 0.06 * warp)
        inked = 1 - picture.min(axis=0)
        worn = (0.10 + 0.16 * grain + 0.10 * warp + 0.07 * fibre) * np.clip(1.3 * inked, 0, 1)
        return mix(picture, paper, np.clip(worn, 0, 1))

    return render(shade, size, least=768)


_PAPER, _KEY = "f0e5ca", "13213f"
_DEEP, _MIDDLE, _LIGHT, _FOAM = "1d3f73", "4d7fa8", "a3c0c4", "f6f0df"

# The outline of a breaking wave over one period of 160 hundredths. y points down.
_BREAKER = [
    (0, 0), (26, -5), (50, -18), (69, -39), (83, -59), (96, -72), (110, -75), (122, -69),
    (129, -57), (131, -46), (124, -54), (116, -58), (107, -54), (102, -42), (105, -26),
    (117, -11), (137, -2), (160, 0),
]  # fmt: skip
_PERIOD, _CELLS, _TOP, _FINE = 1.6, 256, -1.0, 160  # the table: 160 places per unit


class _Breaker(NamedTuple):
    """A wave, tabulated `[256, 256]`, flattened: as deep as one unit below the crest and above."""

    depth: Array  # the depth below the outline, negative in the air
    way: Array  # the way along the outline to the nearest point, from 0 to 1
    foam: Array  # the depth inside the foam, negative outside


class _Row(NamedTuple):
    """One row of waves: its scale, its place, and how flat it is."""

    scale: float
    x: float
    y: float
    flat: float


def _rows_of_waves(half_height: float, rng: np.random.Generator) -> list[_Row]:
    """Places rows of waves from the horizon to the bottom of the canvas."""
    shift = rng.uniform(-0.14, 0.14, 4)
    rows = [
        _Row(0.40, shift[0], 0.20, 0.65),
        _Row(0.62, 0.35 + shift[1], 0.33, 0.85),
        _Row(1.22, -1.62 + shift[2], 0.62, 1.0),
        _Row(0.75, 0.12 + shift[3], 0.82, 0.80),
    ]
    own = np.random.default_rng(int(rng.integers(2**31)))
    while rows[-1].y < half_height + 0.8:
        scale, x = own.uniform(0.8, 1.0), own.uniform(0, 1.6)
        rows.append(_Row(scale, x, rows[-1].y + 0.30, own.uniform(0.70, 0.85)))
    return rows


_GRID_X = (np.arange(_CELLS) / _FINE)[None]
_GRID_Y = (np.arange(_CELLS) / _FINE)[:, None] + _TOP


def _wrapped(dx: Array) -> Array:
    """Returns the way along x to the nearest of all periods."""
    return np.mod(dx + _PERIOD / 2, _PERIOD) - _PERIOD / 2


def _breaker(rng: np.random.Generator) -> _Breaker:
    """Tabulates the wave: its outline and its foam."""
    curve = spline(_BREAKER).astype(np.float64)
    depth, way = _water(curve)
    foam = _foam(curve, rng)
    return _Breaker(*(part.astype(np.float32).ravel() for part in (depth, way, foam)))


def _lengths(curve: Array) -> Array:
    """Returns the way along a polyline to each of its points."""
    return np.concatenate([[0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])


def _water(curve: Array) -> tuple[Array, Array]:
    """Tabulates the depth below the outline, and the way along it to the nearest point."""
    best = np.full((_CELLS, _CELLS), np.inf)
    way = np.zeros_like(best)
    water = np.zeros(best.shape, bool)
    length = _lengths(curve)
    pieces = zip(curve[:-1], np.diff(curve, axis=0), length[:-1], strict=True)
    for (x0, y0), (ex, ey), start in pieces:
        dx, dy = _wrapped(_GRID_X - x0), _GRID_Y - y0
        t = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0, 1)
        far = np.square(dx - t * ex) + np.square(dy - t * ey)
        way = np.where(far < best, start + t * math.hypot(ex, ey), way)
        best = np.minimum(best, far)
        # A point lies in the water if an odd number of pieces runs above it.
        across = (min(x0, x0 + ex) <= _GRID_X) & (max(x0, x0 + ex) > _GRID_X)
        water ^= across & (y0 + ey * (_GRID_X - x0) / (ex or 1) < _GRID_Y)
    return np.sqrt(best) * np.where(water, 1, -1), way / length[-1]


def _foam(curve: Array, rng: np.random.Generator) -> Array:
    """Tabulates the foam along the crest: discs on the outline, and fingers that hook forward."""
    foam = np.full((_CELLS, _CELLS), -1.0)
    step, length = np.diff(curve, axis=0), _lengths(curve)

    def add(centre: Array, size: float) -> None:
        nonlocal foam
        far = np.hypot(_wrapped(_GRID_X - centre[0]), _GRID_Y - centre[1])
        foam = np.maximum(foam, size - far)

    place, end = length[18], length[66]  # from the back of the wave to its hollow
    while place < end:
        k = int(np.searchsorted(length, place))
        tangent = step[k] / np.hypot(*step[k])
        out = np.array([tangent[1], -tangent[0]])
        growth = math.sin(math.pi * (place - length[14]) / (length[72] - length[14]))
        size = (0.010 + 0.022 * growth) * rng.uniform(0.8, 1.2)
        add(curve[k] + out * size * rng.uniform(-0.8, 0.2), size)
        hook, size = out + 0.15 * tangent, (0.012 + 0.007 * growth) * rng.uniform(0.8, 1.2)
        centre = curve[k] + out * (0.010 + 0.022 * growth)
        for _ in range(int(growth * rng.uniform(0, 5))):
            hook = hook + np.array([0.16, 0.22])
            hook /= np.hypot(*hook)
            centre = centre + hook * size * 1.15
            add(centre, size)
            size *= 0.84
        place += 0.024 + 0.014 * rng.random()
    return foam


class _Sky:
    """The motif above the waves: a graded sky with bands of mist, a red sun and a far mountain."""

    def __init__(self, half: tuple[float, float], rng: np.random.Generator) -> None:
        self.sun = np.array([0.52, -0.52]) + rng.uniform(-0.1, 0.1, 2)
        self.peak = 0.62 + float(rng.uniform(-0.1, 0.1))
        bands = scatter(half, rng, 0.46, 0.9, 0.7)
        self.bands = bands[(bands[:, 1] < -0.12) & (bands[:, 4] > 0.25)]

    def draw(self, x: Array, y: Array, warp: Array) -> Array:
        # The printer wipes the ink on the block, so that it fades.
        level = y + 0.05 * warp + 0 * x
        picture = mix(rgb("e9b98f"), rgb(_PAPER), smoothstep(0.25, -0.25, level))
        picture = mix(picture, rgb("7fa3ae"), 0.75 * smoothstep(-0.45, -0.95, level))
        picture = mix(picture, rgb("24426e"), 0.85 * smoothstep(-0.78, -1.02, level))
        far = np.hypot(x - np.float32(self.sun[0]), y - np.float32(self.sun[1]))
        picture = mix(picture, rgb("c93a26"), 1 - smoothstep(0.186, 0.190, far))
        for cx, cy, size, draw, _ in self.bands:
            self._mist(picture, x, y, float(cx), float(cy), float(size), float(draw))
        away = np.abs(x - np.float32(self.peak))
        slope = 0.34 * away / (0.16 + 0.55 * away) - 0.20 + 0.006 * warp
        body = y - slope
        ridge = np.abs(np.mod(8 * (x - self.peak) + 0.3, 1) - 0.5) + 0.5 * np.sin(37 * x) ** 2
        snow = y + 0.13 - 0.13 * ridge * (0.8 + warp)
        hill = mix(rgb("5d7f96"), rgb("2f567f"), smoothstep(-0.1, 0.2, y))
        picture = mix(picture, hill, smoothstep(0, 0.004, body))
        picture = mix(picture, rgb(_FOAM), smoothstep(0, 0.004, body) * (snow < 0))
        edge = np.minimum(np.abs(body), np.where(body > 0, np.abs(snow), 9))
        return mix(picture, rgb(_KEY), 1 - smoothstep(0.0028, 0.0052, edge))

    def _mist(
        self, picture: Array, x: Array, y: Array, cx: float, cy: float, size: float, draw: float
    ) -> None:
        """Prints a band of mist: three lobes with round ends, one over the other."""
        corners = np.array([[cx - 0.65, cy - 0.14], [cx + 0.65, cy + 0.14]])
        box = window_of(x, y, corners)
        if box is None:
            return
        x, y = x[:, box[1]] - np.float32(cx), y[box[0]] - np.float32(cy)
        depth = np.full((y.size, x.size), -1, np.float32)
        for lobe, (shift, long, up) in enumerate(
            [
                (0.00, 0.26 + 0.14 * size, 0),
                (0.22 * draw - 0.3, 0.16, 1),
                (0.3 - 0.25 * size, 0.15, -1),
            ]
        ):
            high = 0.030 - 0.004 * lobe
            beyond = np.maximum(np.abs(x - np.float32(shift)) - np.float32(long), 0)
            depth = np.maximum(depth, high - np.hypot(beyond, y - np.float32(0.042 * up)))
        part = picture[:, box[0], box[1]]
        tint = mix(rgb(_FOAM), rgb("edc9a4"), smoothstep(-0.06, 0.09, y + 0 * x))
        part[:] = mix(part, tint, smoothstep(0, 0.003, depth))
        part[:] = mix(part, rgb(_KEY), 0.85 * (1 - smoothstep(0.0016, 0.0034, np.abs(depth))))


def _print_wave(
    picture: Array,
    x: Array,
    y: Array,
    row: _Row,
    number: int,
    wave: _Breaker,
    warp: Array,
    table: Array,
) -> None:
    """Prints a row of waves over a picture: flat inks first, then lines, foam and the key-line."""
    high = row.scale * row.flat
    first, last = np.searchsorted(y[:, 0], [row.y - 0.98 * high, row.y + 0.56 * high])
    if first >= last:
        return
    warp = warp[first:last]
    part = picture[:, first:last]
    u = (x - np.float32(row.x)) / np.float32(row.scale) + 0.012 * warp
    v = (y[first:last] - np.float32(row.y)) / np.float32(high) + 0.012 * warp
    depth, way, foam = _look_up(wave, np.mod(u, np.float32(_PERIOD)), v)
    inks = _carve(depth, way, warp, number, table)
    part[:] = np.where(depth > 0.003, inks, part)
    scale = np.float32(row.scale)
    key = (np.abs(depth) * scale < 0.0046 * (1 + 0.8 * warp)) & (foam < 0)
    key |= np.abs(foam + 0.002) * scale < 0.0036
    part[:] = mix(part, rgb(_FOAM), smoothstep(0.0, 0.004, foam))
    _spatter(part, u, v, depth, foam, wave, table)
    part[:] = np.where(key, rgb(_KEY), part)


def _carve(depth: Array, way: Array, warp: Array, number: int, table: Array) -> Array:
    """Returns the flat inks of the water: stripes that follow the form, swell and taper."""
    line = depth * np.float32(17.0) + 0.9 * warp
    band = np.floor(line)
    own = hashed(table, 80 + number % 8, band, 0)
    turn = np.float32(2 * math.pi) * way
    # Deep below the outline, the way along it jumps.
    outer = 1 - smoothstep(0.16, 0.30, depth)
    swell = np.sin(2 * turn + 6.3 * own) * outer
    wide = 0.30 + 0.20 * swell + 0.10 * (own - 0.5)
    off = line - band - 0.5
    stripe = np.abs(off) < wide
    pale = ~stripe & ((depth < 0.055 + 0.03 * np.sin(3 * turn)) | (band % 3 == 2))
    carved = np.abs(off + np.where(own > 0.5, -0.25, 0.25)) < 0.25 * wide
    carved &= np.sin(4 * turn + 30 * own) * outer > np.where(own < 0.3, -0.2, 0.3)
    ink = np.where(carved, 3, np.where(pale, 2, np.where(stripe, 1, 0)))
    return rgb(" ".join([_MIDDLE, _DEEP, _LIGHT, _FOAM]))[:, :, 0, 0].T[:, ink]


def _spatter(
    part: Array, u: Array, v: Array, depth: Array, foam: Array, wave: _Breaker, table: Array
) -> None:
    """Prints blue dots into the foam, and white drops into the air near it."""
    pitch = np.float32(0.042)
    i, j = np.floor(u / pitch), np.floor(v / pitch)
    across, down = (0.3 + 0.4 * hashed(table, kind, i, j) for kind in (90, 91))
    size = 0.10 + 0.20 * hashed(table, 92, i, j)
    drop = size - np.hypot(u / pitch - i - across, v / pitch - j - down)
    part[:] = np.where((foam > 0.006) & (drop > 0.09), rgb(_LIGHT), part)
    own = hashed(table, 93, i, j)
    near = (drop > -0.07) & (own < 0.4) & (depth < 0) & (foam < -0.01)
    # A drop is whole or not there at all. Its middle decides.
    centre_u, centre_v = (i + across)[near] * pitch, (j + down)[near] * pitch
    deep, _, close = _look_up(wave, np.mod(centre_u, np.float32(_PERIOD)), centre_v)
    reach = size[near] * pitch
    flying = (deep < -reach) & (close < -0.008 - reach) & (own[near] < 0.38 + 2.6 * close)
    rows, columns = (place[flying] for place in np.nonzero(near))
    white = drop[rows, columns] > 0
    part[:, rows, columns] = np.where(white, rgb(_FOAM)[:, 0], rgb(_KEY)[:, 0])


def _look_up(wave: _Breaker, u: Array, v: Array) -> list[Array]:
    """Evaluates the tables of a wave, linearly between their points."""
    u = np.clip(u * np.float32(_FINE), 0, _CELLS - 1e-3)
    v = np.clip((v - np.float32(_TOP)) * np.float32(_FINE), 0, _CELLS - 1.001)
    i, j = np.floor(u), np.floor(v)
    s, t = u - i, v - j
    i, j = i.astype(np.int32), j.astype(np.int32) * _CELLS
    right = (i + 1) & (_CELLS - 1)
    values = []
    for field in (wave.depth, wave.foam):
        upper = mix(field.take(j + i), field.take(j + right), s)
        lower = mix(field.take(j + (_CELLS + i)), field.take(j + (_CELLS + right)), s)
        values.append(mix(upper, lower, t))
    return [values[0], wave.way.take(j + i), values[1]]
