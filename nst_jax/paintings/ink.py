"""Pen and ink: hatching and cross-hatching."""

import math
from typing import NamedTuple

import numpy as np

from nst_jax.canvas import Array, Size, mix, render, rgb, smoothstep, value_noise, window_of
from nst_jax.paintings.common import (
    fine_grain,
    fractal_table,
    generator,
    half_sides,
    hashed,
    scatter,
)


def hatching(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws hills with trees under a sun in pen and ink: hatched and cross-hatched on warm paper.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the land, the trees and the hand.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    half, rng = half_sides(size), generator(seed)
    table, fractal = rng.random((256, 256), np.float32), fractal_table(rng, 4)
    land = _Land(half, rng, table)

    def shade(x: Array, y: Array) -> Array:
        # The hand trembles.
        tremble = value_noise(x * 60, y * 60, fractal)[0] - 0.5
        form = land.draw(x, y)
        u, v = x + 0.012 * tremble, y + 0 * x
        ink = np.maximum(form.contour, 0.96 * smoothstep(0.93, 1.0, form.tone))
        diagonals = (
            ((u + v) * 0.707, (u - v) * 0.707),
            ((u - 0.6 * v) * 0.857, (v + 0.6 * u) * 0.857),
        )
        layers = [
            (form.phase + 0.014 * tremble, form.along, 0.04, 0.62),
            (*diagonals[0], 0.36, 0.66),
            (*diagonals[1], 0.60, 0.80),
        ]
        for kind, (phase, along, least, gain) in enumerate(layers):
            width = gain * np.clip(form.tone - np.float32(least), 0, 1)
            ink = np.maximum(ink, _pen(phase, along, width, kind, table))
        paper = rgb("f1e4c8") * (0.965 + 0.07 * tremble + 0.05 * fine_grain(x, y, 230, table))
        colour = mix(rgb("231a1c"), rgb("8f3a20"), form.red)
        return mix(paper, colour + 0.05 * tremble, ink * (0.90 + 0.25 * tremble))

    return render(shade, size)


_LINES = 0.0185  # from one line of a hatching to the next
_TREE = 0.95  # no hill or tree reaches higher above the base of its hill


class _Form(NamedTuple):
    """What a pen draws, for each sample."""

    tone: Array  # 0 is paper, 1 is black
    phase: Array  # the lines of the first hatching are level sets of this
    along: Array  # the way along these lines
    red: Array  # 1 where the first ink is sanguine, 0 where it is sepia
    contour: Array  # the ink of the outlines


def _pen(phase: Array, along: Array, width: Array, kind: int, table: Array) -> Array:
    """Inks the lines phase = 0, 1, 2, ... spacings, each in strokes that swell and taper.

    `width` is the share of the paper that the lines cover.
    """
    rows = phase / np.float32(_LINES)
    line = np.floor(rows)
    place = along / np.float32(0.21) + 31 * hashed(table, 3 * kind, line, 0)
    stroke = np.floor(place)
    own = hashed(table, 3 * kind + 1, line, stroke)
    away = np.abs(rows - line - 0.5 + 0.24 * (own - 0.5))
    t = place - stroke
    pressure = smoothstep(0.0, 0.22, t) * (1 - smoothstep(0.80, 1.0, t))
    half = 0.5 * width * (0.35 + 0.80 * pressure) * (0.82 + 0.36 * own)
    return smoothstep(-0.10, 0.06, half - away) * smoothstep(0.0, 0.05, half)


class _Land:
    """The motif: a sun, clouds, and hills one behind another with round and slender trees."""

    def __init__(self, half: tuple[float, float], rng: np.random.Generator, table: Array) -> None:
        self.table = table
        self.phase = rng.uniform(0, 2 * math.pi, (64, 3)).astype(np.float32)
        self.sun = np.array([-0.38, -0.56]) + rng.uniform(-0.14, 0.14, 2)
        self.hills = math.ceil((half[0] + _TREE) / 0.27) + 1
        self.trees = [self._plant(hill, half[1]) for hill in range(self.hills)]
        clouds = scatter((0.45, half[1]), rng, 0.62, 0.7, 0.7)
        self.clouds = clouds[(clouds[:, 1] < -0.1)]

    def crest(self, hill: int, x: Array) -> tuple[Array, Array]:
        """The height of a hill, and its slope."""
        a, b, c = (float(v) for v in self.phase[hill % 64])
        base = 0.02 + 0.27 * hill
        f, g = 1.9 + 0.5 * math.sin(c), 4.3 + 0.8 * math.cos(c)
        height = base + 0.11 * np.sin(f * x + a) + 0.035 * np.sin(g * x + b)
        return height, 0.11 * f * np.cos(f * x + a) + 0.035 * g * np.cos(g * x + b)

    def _plant(self, hill: int, half_width: float) -> list[tuple[float, float, float, float]]:
        """Returns x, y of the foot and both radii of the trees of a hill, from the left."""
        columns = math.ceil((half_width + 0.6) / 0.21)
        trees = []
        for column in range(-columns, columns + 1):
            u, v, kind, there = (float(hashed(self.table, 50 + k, hill, column)) for k in range(4))
            if there < 0.42:
                continue
            x = 0.21 * (column + 0.8 * u)
            wide = (0.042 + 0.040 * v) * (1 + 0.10 * min(hill, 5))
            tall = wide * (2.5 if kind < 0.25 else 1.05)
            foot = float(self.crest(hill, np.array(x))[0]) + 0.05 + 0.07 * v
            trees.append((x, foot, wide, tall))
        return sorted(trees, key=lambda tree: tree[1])

    def draw(self, x: Array, y: Array) -> _Form:
        form = self._sky(x, y)
        for hill in range(self.hills):
            if y[-1, 0] < 0.02 + 0.27 * hill - _TREE:
                break
            self._hill(form, hill, x, y)
            for tree in self.trees[hill]:
                self._tree(form, tree, x, y)
        return form

    def _sky(self, x: Array, y: Array) -> _Form:
        dx, dy = x - np.float32(self.sun[0]), y - np.float32(self.sun[1])
        far = np.hypot(dx, dy)
        turn = np.arctan2(dy, dx)
        tone = 0.10 + 0.42 * smoothstep(0.15, 1.5, far) - 0.30 * smoothstep(-0.1, 0.35, y)
        disc = 1 - smoothstep(0.148, 0.152, far)
        ray = np.abs(turn * (36 / (2 * math.pi)) - np.rint(turn * (36 / (2 * math.pi))))
        long = 0.30 + 0.10 * (np.rint(turn * (36 / (2 * math.pi))) % 2)
        rays = (ray * far < 0.010 * (1.15 - far / long)) & (far > 0.175) & (far < long)
        form = _Form(
            np.where(far < 0.42, 0.02, tone).astype(np.float32),
            far.astype(np.float32),
            (turn * far).astype(np.float32),
            (far < 0.40).astype(np.float32),
            np.maximum(rays, (np.abs(far - 0.15) < 0.004)).astype(np.float32),
        )
        np.copyto(form.tone, 0.22 + 1.5 * (dx + dy), where=disc > 0.5)
        np.copyto(form.phase, dx + dy, where=disc > 0.5)
        for cx, cy, size, _, draw in self.clouds:
            self._cloud(form, x, y, float(cx), float(cy), 0.10 + 0.10 * float(size), float(draw))
        return form

    def _cloud(
        self, form: _Form, x: Array, y: Array, cx: float, cy: float, size: float, draw: float
    ) -> None:
        """Draws a cloud of five round heads on a flat base."""
        box = window_of(
            x, y, np.array([[cx - 3 * size, cy - 2 * size], [cx + 3 * size, cy + size]])
        )
        if box is None:
            return
        x, y = x[:, box[1]] - np.float32(cx), y[box[0]] - np.float32(cy)
        depth = np.full((y.size, x.size), -1, np.float32)
        for k in range(-2, 3):
            reach = size * (0.72 - 0.16 * abs(k) + 0.20 * math.sin(40 * draw + 2.4 * k))
            depth = np.maximum(depth, reach - np.hypot(x - 0.62 * size * k, y + 0.30 * reach))
        depth = np.minimum(depth, 0.28 * size - y)
        tone = 0.48 * smoothstep(-0.4, 0.55, y / size + 0.35 * x / size) - 0.06
        self._put(form, box, depth > 0, tone, y + 0.5 * x * x, x + 0 * y, 0)
        line = np.abs(depth) < 0.0042 * (0.6 + 0.6 * smoothstep(-0.3, 0.3, y / size + 0 * x))
        self._outline(form, box, line)

    def _put(
        self,
        form: _Form,
        box: tuple,
        where: Array,
        tone: Array,
        phase: Array,
        along: Array,
        red: Array | int,
    ) -> None:
        for field, value in zip(form, (tone, phase, along, red, 0), strict=True):
            np.copyto(field[box], np.float32(value), where=where)

    def _outline(self, form: _Form, box: tuple, where: Array) -> None:
        """Draws a line in the dark ink."""
        np.copyto(form.contour[box], 1, where=where)
        np.copyto(form.red[box], 0, where=where)

    def _hill(self, form: _Form, hill: int, x: Array, y: Array) -> None:
        crest, slope = self.crest(hill, x)
        below = y - crest
        if (below < -0.01).all():
            return
        steep = np.sqrt(1 + slope * slope)
        valley = self.crest(hill + 1, x)[0] - crest
        hollow = smoothstep(0.0, 1.0, below / np.maximum(valley, 0.05))
        tone = 0.24 + 0.85 * slope + 0.34 * hollow + 0.10 * np.sin(11 * x + 7 * below)
        tone = np.clip(tone, 0.05, 0.86)
        if hill % 3 == 0:  # lines along the crest
            phase, along = below * (1 + 0.25 * slope), x + 0 * y
        elif hill % 3 == 1:  # lines that fall down the slope
            phase, along = x + 0.55 * np.sqrt(np.maximum(below, 0) + 0.01), below
        else:  # furrows
            phase, along = 0.8 * below - 0.45 * x, x + 0.5 * below
        self._put(form, np.s_[:, :], below > 0, tone, phase, along, int(hill % 3 == 1))
        # Tufts of grass.
        blade, tuft = np.floor(x / 0.011), np.floor(below / 0.050)
        own = hashed(self.table, 60 + hill % 8, blade, tuft)
        s = (x / 0.011 - blade - 0.5) + 0.7 * (below / 0.050 - tuft - 0.5) * (own * 40 % 2 - 1)
        t = below / 0.050 - tuft
        grass = (own < 0.11) & (np.abs(s) < 0.26 * t) & (below > 0) & (t > own * 3)
        np.copyto(form.contour, 1, where=grass)
        pressure = 0.7 + 0.6 * np.sin(9 * x + hill) ** 2
        self._outline(form, np.s_[:, :], np.abs(below) / steep < 0.0036 * pressure)

    def _tree(
        self, form: _Form, tree: tuple[float, float, float, float], x: Array, y: Array
    ) -> None:
        """Draws a round or a slender crown on a trunk, with its shadow on the grass."""
        cx, foot, wide, tall = tree
        cy = foot - 0.55 * wide - tall
        corners = np.array([[cx - 1.2 * wide, cy - 1.2 * tall], [cx + 3.6 * wide, foot + wide]])
        box = window_of(x, y, corners)
        if box is None:
            return
        dx, dy = x[:, box[1]] - np.float32(cx), y[box[0]] - np.float32(cy)
        up = y[box[0]] - np.float32(foot)
        shadow = np.hypot((dx - 1.5 * wide) / (1.9 * wide), (up - 0.12 * wide) / (0.38 * wide))
        shade = form.tone[box]
        np.copyto(shade, np.maximum(shade, 0.84), where=shadow < 1)
        trunk = (np.abs(dx) < 0.13 * wide * (1 + 0.8 * np.clip(up / wide + 0.5, 0, 1) ** 2)) & (
            up < 0
        )
        trunk &= up > -0.9 * wide - 0.1 * tall
        self._put(
            form, box, trunk, np.where(dx < -0.03 * wide, 0.3, 0.97) + 0 * up, dx + up, up + dx, 0
        )
        self._outline(form, box, trunk & (np.abs(np.abs(dx) - 0.13 * wide) < 0.003))
        s, t = dx / np.float32(wide), dy / np.float32(tall)
        turn = np.arctan2(t, s)
        leaves = 11 + int(70 * wide)
        reach = np.hypot(s, t) / (0.95 + 0.06 * np.abs(np.sin(turn * (leaves / 2) + 40 * cx)))
        inside = reach < 1
        light = -0.50 * s - 0.62 * t + 0.60 * np.sqrt(np.clip(1 - s * s - t * t, 0, 1))
        clump = 0.16 * np.sin(13 * s + 5 * t + 60 * cx) * np.sin(12 * t - 4 * s)
        tone = np.clip(0.80 - 0.84 * light + clump, 0.05, 0.99)
        arc_x, arc_y = dx + np.float32(0.45 * wide), dy + np.float32(0.5 * tall)
        radius = np.hypot(arc_x, arc_y * np.float32(wide / tall) * 1.4)
        self._put(form, box, inside, tone, radius, np.arctan2(arc_y, arc_x) * radius, 0)
        # Small loops of leaves in the light and along the rim.
        rim = (np.abs(reach - 1) * wide < 0.0028 + 0.0022 * smoothstep(-0.4, 0.7, s + t)) | (
            inside & (np.abs(reach - 0.62) * wide < 0.0016) & (np.sin(5 * turn + 50 * cx) > 0.2)
        )
        self._outline(form, box, rim)
