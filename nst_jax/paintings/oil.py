"""Strokes of oil paint: thousands of reliefs that follow a flow."""

import math
from typing import NamedTuple

import numpy as np

from nst_jax.canvas import Array, Size, mix, render, rgb, value_noise
from nst_jax.paintings.common import fine_grain, generator, half_sides, hashed, lattice, palette


def brush_strokes(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws a field under a swirling sky in thousands of thick strokes of oil paint.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the whirls, the land and the strokes.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    half, rng = half_sides(size), generator(seed)
    scene, stamps = _Scene(rng), _stamps(rng)
    strokes = _lay_strokes(half, scene)
    weave = rng.random((256, 256), np.float32)

    def shade(x: Array, y: Array) -> Array:
        top, place = _cover(x, y, strokes, stamps)
        lit = stamps.light.take(place)
        picture = strokes.colour[:, top] * lit
        # Wet ridges that face the light shine.
        picture += 0.5 * np.maximum(lit - 1.12, 0)
        return np.minimum(picture * (0.985 + 0.03 * fine_grain(x, y, 180, weave)), 1)

    return render(shade, size)


class _Strokes(NamedTuple):
    """Strokes in the order of painting. Each field but `colour` is `[n]`."""

    x: Array
    y: Array
    cos: Array
    sin: Array
    bend: Array
    long: Array
    wide: Array
    stamp: Array  # the index of its relief in the tables of `_Stamps`
    colour: Array  # [3, n]


class _Stamps(NamedTuple):
    """Reliefs of strokes, tabulated: `[relief, across, along]`, flattened."""

    paint: Array  # whether there is paint
    light: Array  # how brightly the paint is lit


_ACROSS, _ALONG, _TURNS = 40, 128, 32


class _Scene:
    """The motif: a sky of whirls with a sun, hills, a wheat field, and a cypress."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.table = rng.random((256, 256), np.float32)
        self.phase = rng.uniform(0, 2 * math.pi, 6)
        self.sun = np.array([0.42, -0.50]) + rng.uniform(-0.12, 0.12, 2)
        self.tree = -0.60 + rng.uniform(-0.1, 0.1)

    def noise(self, x: Array, y: Array) -> Array:
        """Noise between -0.5 and 0.5."""
        return value_noise(x, y, self.table)[0] - 0.5

    def crest(self, x: Array) -> Array:
        """Where the sky ends and the hills begin."""
        a, b, *_ = self.phase
        return 0.20 + 0.09 * np.sin(1.9 * x + a) + 0.04 * np.sin(4.3 * x + b)

    def verge(self, x: Array) -> Array:
        """Where the hills end and the field begins."""
        return 0.44 + 0.04 * np.sin(2.3 * x + self.phase[2])

    def inside_tree(self, x: Array, y: Array) -> Array:
        """Whether a point lies in the cypress, which has the outline of a flame."""
        up = np.clip((0.95 - y) / 1.80, 0, 1)
        wide = 0.40 * up**0.6 * (1 - up) ** 0.9
        return np.abs(x - self.tree - 0.03 * np.sin(8 * y + self.phase[3])) < wide

    def whirls(self, x: Array, y: Array) -> list[tuple[Array, Array, Array, Array, Array]]:
        """Returns distance, both offsets, spin and reach of the whirls near each point."""
        found = []
        i, j = np.floor(x / 0.8), np.floor(y / 0.8)
        for dj in (-1, 0, 1):
            for di in (-1, 0, 1):
                u, v, w = (hashed(self.table, kind, i + di, j + dj) for kind in (1, 2, 3))
                dx = x - 0.8 * (i + di + 0.25 + 0.5 * u)
                dy = y - 0.8 * (j + dj + 0.25 + 0.5 * v)
                spin = np.where(hashed(self.table, 4, i + di, j + dj) < 0.5, -1.0, 1.0)
                found.append((np.hypot(dx, dy), dx, dy, spin, 0.16 + 0.16 * w))
        return found

    def angle(self, x: Array, y: Array) -> Array:
        """The direction of a stroke in radians."""
        flow_x = 1.0 + 0.0 * x
        flow_y = 0.35 * np.sin(2.6 * x + self.phase[4]) + 0.9 * self.noise(1.5 * x, 1.5 * y + 9)
        for far, dx, dy, spin, reach in self.whirls(x, y):
            pull = 4.0 * spin * np.exp(-np.square(far / reach)) / reach
            flow_x, flow_y = flow_x - dy * pull, flow_y + dx * pull
        dx, dy = x - self.sun[0], y - self.sun[1]
        far = np.hypot(dx, dy) + 1e-6
        round_sun = np.exp(-np.square(np.square(far / 0.40)))
        flow_x = mix(flow_x, -4 * dy / far, round_sun)
        flow_y = mix(flow_y, 4 * dx / far, round_sun)
        sky = np.arctan2(flow_y, flow_x)
        slope = 0.17 * np.cos(1.9 * x + self.phase[0]) + 0.17 * np.cos(4.3 * x + self.phase[1])
        hill = np.arctan(1.6 * slope) + 0.9 * self.noise(5 * x, 5 * y)
        furrow = np.arctan2(y - 0.05, x - 0.25) + 0.9 * self.noise(3 * x, 3 * y)
        flame = math.pi / 2 + 0.7 * np.sin(9 * y + 5 * x) - 1.2 * (x - self.tree)
        angle = np.where(y > self.crest(x), hill, sky)
        angle = np.where(y > self.verge(x), furrow, angle)
        return np.where(self.inside_tree(x, y), flame, angle)

    def colour(self, x: Array, y: Array, mood: Array, accent: Array) -> Array:
        """The colour of a stroke. `mood` and `accent` are its own random numbers of [0, 1)."""
        drift = self.noise(2.2 * x + 3, 2.2 * y) + 0.5 * self.noise(6 * x, 6 * y)
        level = 0.42 + 0.16 * y + 0.5 * drift + 0.30 * (mood - 0.5)
        for far, _, _, _, reach in self.whirls(x, y):
            ring = np.cos(2 * math.pi * far / (0.55 * reach))
            level = level + 0.42 * ring * np.exp(-np.square(far / (1.1 * reach)))
        sky = palette("101d4a 1b3a8c 2a62bd 4a9bd6 8fd0dc d8ecc8 fbf3c4", level)
        far = np.hypot(x - self.sun[0], y - self.sun[1])
        rings = 0.92 - 1.9 * far + 0.13 * np.cos(far * 52) + 0.30 * (mood - 0.5)
        glow = palette("2a62bd 5aa9d0 a9dccb e9efb0 fff3b0 ffd84a ffc21f", rings)
        sky = np.where(far + 0.10 * mood < 0.46, glow, sky)
        sun = palette("e8730f f9a11b ffc933 fff2a8", 1.2 * mood - 0.1)
        sky = np.where(far < 0.15, sun, sky)
        fold = np.sin(30 * (y - self.crest(x)) + 3 * x)
        hill = 0.5 + 0.30 * fold + 0.9 * drift + 0.5 * (mood - 0.5)
        hill = palette("1c3d6e 2f6f9c 3f8f86 79ad5c b9cf7a e6dba0", hill)
        row = np.arctan2(y - 0.05, x - 0.25) * 9
        wheat = 0.42 + 0.28 * np.sin(row) + 0.6 * drift + 0.45 * (mood - 0.5)
        wheat = palette("6b4a16 a8741c d99a24 f2bf3c fbe07a fff2b8", wheat)
        wheat = np.where((accent < 0.10) & (y > 0.5), rgb("c8311f")[:, 0], wheat)
        green = (accent > 0.84) | (drift < -0.36)
        wheat = np.where(green, palette("35602f 5f8f3a a7b84e", mood), wheat)
        dark = 0.35 + 0.5 * (mood - 0.5) + 0.45 * np.sin(26 * (x - self.tree) + 6 * y)
        tree = palette("07160f 12301f 1f4f2c 3f7034 8a8a35", dark)
        colour = np.where(y > self.crest(x), hill, sky)
        colour = np.where(y > self.verge(x), wheat, colour)
        return np.where(self.inside_tree(x, y), tree, colour)


def _stamps(rng: np.random.Generator) -> _Stamps:
    """Makes 8 reliefs of a stroke, each lit under `_TURNS` directions of the stroke."""
    table = rng.random((64, 64), np.float32)
    across = np.linspace(-1.05, 1.05, _ACROSS, dtype=np.float32)[:, None]
    along = np.linspace(-1.05, 1.05, _ALONG, dtype=np.float32)[None]
    paint, light = [], []
    for kind in range(8):
        shift = 8 * kind
        bristle = value_noise(across * 6.5 + shift, along * 0.9 + shift, table)[0]
        fray = value_noise(across * 4 + shift, 0 * across + 31, table)[0]
        edge = value_noise(along * 3, 0 * along + 11 + shift, table)[0]
        tail = 0.98 - 0.45 * fray - 0.35 * np.square(across)
        head = 0.95 - 0.12 * fray - 0.25 * np.square(across) ** 2
        wet = (along < tail) & (along > -head) & (np.abs(across) < 0.84 + 0.16 * edge)
        # The brush runs dry towards the tail. Bristles without paint leave gaps.
        wet &= bristle > 0.30 * np.clip(along - 0.1, 0, 1)
        ridge = np.exp(-np.square((np.abs(across) - 0.78) / 0.14))
        blob = np.exp(-np.square((along + 0.80) / 0.16))
        height = wet * (0.35 + 0.75 * bristle + 0.30 * ridge + 0.25 * blob)
        slope_across, slope_along = np.gradient(height, 2.1 / _ACROSS, 2.1 / _ALONG)
        for turn in np.arange(_TURNS) * (2 * math.pi / _TURNS):
            # The light comes from the upper left.
            facing = slope_across * math.cos(turn + 0.9) + 0.22 * slope_along * math.sin(turn + 0.9)
            light.append(0.80 + 0.26 * height + 0.085 * np.clip(facing, -3.5, 3.5))
            paint.append(wet)
    return _Stamps(np.array(paint).ravel(), np.array(light, np.float32).ravel())


def _lay_strokes(half: tuple[float, float], scene: _Scene) -> _Strokes:
    """Lays strokes along the flow in three layers, from the broadest to the finest."""
    layers = []
    for layer, (pitch, long, wide, share) in enumerate(
        [(0.075, 0.150, 0.040, 1.0), (0.052, 0.100, 0.022, 1.0), (0.046, 0.062, 0.0125, 0.7)]
    ):
        i, j = lattice(half, pitch, long)
        u, v, mood, accent, size, order, kept = (
            hashed(scene.table, 10 * layer + kind, i, j) for kind in range(20, 27)
        )
        chosen = np.argsort(order, kind="stable")
        chosen = chosen[kept[chosen] < share]
        x, y = (i + u)[chosen] * pitch, (j + v)[chosen] * pitch
        mood, accent, size = mood[chosen], accent[chosen], 0.75 + 0.5 * size[chosen]
        angle = scene.angle(x, y) + 0.25 * (accent - 0.5)
        cos, sin, reach = np.cos(angle), np.sin(angle), 0.7 * long
        turned = scene.angle(x + reach * cos, y + reach * sin)
        turned = turned - scene.angle(x - reach * cos, y - reach * sin)
        turned = np.mod(turned + math.pi, 2 * math.pi) - math.pi
        bend = np.clip(turned, -1.4, 1.4) / (4 * reach)
        turn = np.rint(angle * (_TURNS / (2 * math.pi))).astype(np.int64) % _TURNS
        stamp = (accent * 4096).astype(np.int64) % 8 * _TURNS + turn
        colour = scene.colour(x, y, mood, accent)
        layers.append((x, y, cos, sin, bend, long * size, wide * size, stamp, *colour))
    *numbers, red, green, blue = (np.concatenate(part) for part in zip(*layers, strict=True))
    numbers = [part if part.dtype == np.int64 else part.astype(np.float32) for part in numbers]
    return _Strokes(*numbers, np.stack([red, green, blue]).astype(np.float32))


def _cover(x: Array, y: Array, strokes: _Strokes, stamps: _Stamps) -> tuple[Array, Array]:
    """Finds for each sample its topmost stroke, and the place in the tables of reliefs."""
    size = _ACROSS * _ALONG
    top = np.zeros((y.size, x.size), np.int32)
    place = np.full((y.size, x.size), size // 2, np.int32)
    along, across = np.abs(strokes.cos), np.abs(strokes.sin)
    sag = np.abs(strokes.bend) * strokes.long**2 + strokes.wide
    reach_x, reach_y = along * strokes.long + across * sag, across * strokes.long + along * sag
    left, right = (np.searchsorted(x[0], strokes.x + side * reach_x) for side in (-1, 1))
    first, last = (np.searchsorted(y[:, 0], strokes.y + side * reach_y) for side in (-1, 1))
    for k in np.flatnonzero((left < right) & (first < last)):
        box = slice(first[k], last[k]), slice(left[k], right[k])
        dx, dy = x[:, box[1]] - strokes.x[k], y[box[0]] - strokes.y[k]
        cos, sin = strokes.cos[k], strokes.sin[k]
        s = (cos / strokes.long[k]) * dx + (sin / strokes.long[k]) * dy
        t = (cos / strokes.wide[k]) * dy - (sin / strokes.wide[k]) * dx
        t -= (strokes.bend[k] * strokes.long[k] ** 2 / strokes.wide[k]) * (s * s)
        # Outside the stroke, the clipped places lie on the empty rim of the relief.
        s, t = s * (_ALONG / 2.1) + _ALONG / 2, t * (_ACROSS / 2.1) + _ACROSS / 2
        s, t = np.clip(s, 0, _ALONG - 1).astype(np.int32), np.clip(t, 0, _ACROSS - 1)
        cell = t.astype(np.int32) * _ALONG + s + int(strokes.stamp[k]) * size
        wet = stamps.paint.take(cell)
        np.copyto(top[box], k, where=wet)
        np.copyto(place[box], cell, where=wet)
    return top, place
