"""Watercolour: translucent washes on rough paper."""

import math
from typing import NamedTuple

import numpy as np

from nst_jax.canvas import Array, Size, render, rgb, smoothstep, value_noise, window_of
from nst_jax.paintings.common import fractal_table, generator, half_sides, scatter


def watercolour(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws poppies in translucent washes on rough paper.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the flowers, the washes and the blooms.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    half, rng = half_sides(size), generator(seed)
    fractal = fractal_table(rng, 4)
    paper = rng.random((256, 256), np.float32)
    washes = _poppies(half, rng)
    blooms = scatter(half, rng, 1.1, 0.5, 0.6)

    def shade(x: Array, y: Array) -> Array:
        # Rough paper: pigment settles in its hollows.
        tooth, slope = value_noise(x * 130 + 7 * y, y * 130 - 7 * x, paper)
        fibre = value_noise(x * 57 - 9 * y, y * 57 + 9 * x, paper)
        tooth = 0.55 * tooth + 0.45 * fibre[0] - 0.5
        wet = value_noise(x * 160, y * 160, fractal)[0] - 0.5
        density = _background(x, y, wet, fractal)
        for bloom in blooms:
            _back_run(density, x, y, bloom, fractal)
        for wash in washes:
            _lay_wash(density, x, y, wash, fractal)
        density *= 1 - 0.55 * tooth
        light = 1 + 0.030 * slope + 0.022 * fibre[1]
        return rgb("fcf8ee") * np.exp(-density) * light

    return render(shade, size, samples=2, least=768)


class _Wash(NamedTuple):
    """A shape of one wash of paint, in its own coordinates.

    kind: "petal", "leaf" (both ellipses, the leaf pointed), "stem" (a bent line) or "drop".
    """

    kind: str
    x: float
    y: float
    turn: float
    long: float
    wide: float
    pigment: Array  # the density of a full wash, [3, 1, 1]
    second: Array  # a pigment that runs into it from the root
    shift: float  # tells the edges of washes apart


def _pigment(code: str, strength: float = 1.0) -> Array:
    """Returns the optical density of a wash that turns white paper into a colour."""
    return np.float32(-strength) * np.log(np.maximum(rgb(code), np.float32(0.02)))


_REDS = ["e8402a", "f0683a", "d92f3f", "f2913f", "e85a6a", "c92a4f"]
_GREENS = ["7fa04a", "4f8a5a", "2f6f62", "9aa83a", "5a7f8a"]
_DARK, _PURPLE = "2a1a35", "6a2a5a"
_STEM = 0.55  # half the length of a stem


def _poppies(half: tuple[float, float], rng: np.random.Generator) -> list[_Wash]:
    """Makes the washes of all flowers: stems and leaves first, then petals, then the hearts."""
    back, petals, front = [], [], []
    for x, y, size, tilt, draw in scatter(half, rng, 0.56, 0.62, 1.2):
        own = np.random.default_rng(int(draw * 2**40))
        if own.random() < 0.18:
            continue
        radius = 0.13 + 0.15 * size
        reds = [_pigment(_REDS[k], 0.75) for k in own.integers(0, 6, 2)]
        back += _stalk(x, y, own)
        petals += _corolla(x, y, radius, 6 * tilt, reds, own)
        front += _heart(x, y, radius, own)
        front += _splashes(x, y, reds[0], own)
    return [*back, *petals, *front]


def _stalk(x: float, y: float, own: np.random.Generator) -> list[_Wash]:
    """Makes the stem of a flower, and up to two leaves."""
    green = _pigment(own.choice(_GREENS), 0.9)
    lean, shift = own.uniform(-0.25, 0.25), own.uniform(0, 7)
    foot = x + lean * _STEM / 2, y + _STEM
    washes = [_Wash("stem", *foot, lean, _STEM, 0.013, green, green, shift)]
    for side in (-1, 1):
        if own.random() < 0.25:
            continue
        long, wide = own.uniform(0.16, 0.30), own.uniform(0.03, 0.055)
        turn = 1.5 * math.pi + side * own.uniform(0.5, 1.2)
        root = y + own.uniform(0.35, 0.7)
        place = x + 0.8 * long * math.cos(turn), root + 0.8 * long * math.sin(turn)
        green = _pigment(own.choice(_GREENS), own.uniform(0.5, 1.0))
        blue, shift = _pigment("2f5f7a", 0.8), own.uniform(0, 200)
        washes.append(_Wash("leaf", *place, turn, long, wide, green, blue, shift))
    return washes


def _corolla(
    x: float, y: float, radius: float, start: float, reds: list[Array], own: np.random.Generator
) -> list[_Wash]:
    """Makes four to six petals in two reds. Purple runs into them from the heart."""
    count = int(own.integers(4, 7))
    washes = []
    for k in range(count):
        turn = 2 * math.pi * (k + own.uniform(-0.2, 0.2)) / count + start
        place = x + 0.55 * radius * math.cos(turn), y + 0.44 * radius * math.sin(turn)
        long, wide = radius * own.uniform(0.55, 0.70), radius * own.uniform(0.50, 0.68)
        red = reds[k % 2] * np.float32(own.uniform(0.55, 0.95))
        purple = _pigment(_PURPLE, own.uniform(0.18, 0.63))
        washes.append(_Wash("petal", *place, turn, long, wide, red, purple, own.uniform(0, 200)))
    return washes


def _heart(x: float, y: float, radius: float, own: np.random.Generator) -> list[_Wash]:
    """Makes the dark heart of a flower, in a ring of stamens."""
    dark, purple = _pigment(_DARK), _pigment(_PURPLE, 0.9)
    size, shift = (0.24 * radius, 0.20 * radius), own.uniform(0, 60)
    washes = [_Wash("petal", x, y, 0.0, *size, dark, purple, shift)]
    for _ in range(int(200 * radius - 12)):
        turn, far = own.uniform(0, 2 * math.pi), radius * own.uniform(0.24, 0.50)
        place = x + far * math.cos(turn), y + 0.8 * far * math.sin(turn)
        dot = own.uniform(0.006, 0.012)
        washes.append(_Wash("drop", *place, turn, 1.5 * dot, dot, dark, dark, 0.0))
    return washes


def _splashes(x: float, y: float, red: Array, own: np.random.Generator) -> list[_Wash]:
    """Lets three drops fall from the brush."""
    washes = []
    for _ in range(3):
        place = x + own.normal(0, 0.22), y + own.normal(0, 0.22)
        dot = own.uniform(0.006, 0.016)
        washes.append(_Wash("drop", *place, 0.0, dot, dot, red, red, 0.0))
    return washes


def _background(x: Array, y: Array, wet: Array, fractal: Array) -> Array:
    """Lays washes that run into each other while the paper is wet."""
    density = np.zeros((3, y.size, x.size), np.float32)
    for number, (code, strength, floor) in enumerate(
        [
            ("f8dc7a", 0.65, 0.56),
            ("7cc8d0", 0.75, 0.58),
            ("6a8fdc", 0.75, 0.62),
            ("a5cc74", 0.70, 0.60),
            ("d29ad6", 0.70, 0.60),
        ]
    ):
        shift = np.float32(51.3 * number)
        field = value_noise(x * 50 + shift, y * 50 + 2.7 * shift, fractal)[0]
        field = field + 0.20 * wet - np.float32(floor)
        # Where a wash dries, its edge is darker.
        body = smoothstep(-0.02, 0.16, field) * 0.8 + smoothstep(0, 0.010, field) * 0.20
        edge = np.exp(-np.square((field - 0.012) / 0.012)) * (0.14 + 0.9 * np.clip(wet, 0, 1))
        density += _pigment(code, strength) * (body + edge)
    return density


def _back_run(density: Array, x: Array, y: Array, bloom: Array, fractal: Array) -> None:
    """Lets a drop of water push the pigment out to a frilled rim."""
    cx, cy, size, turn, _ = (float(value) for value in bloom)
    reach = 0.16 + 0.20 * size
    box = _box(x, y, cx, cy, 1.4 * reach)
    if box is None:
        return
    dx, dy = x[:, box[1]] - cx, y[box[0]] - cy
    frill = value_noise(dx * 180 + 99 * turn, dy * 70 + 9, fractal)[0] - 0.5
    far = np.hypot(dx, dy) / reach + 0.55 * frill
    inside = 1 - smoothstep(0.84, 0.90, far)
    rim = np.exp(-np.square((far - 0.90) / 0.045))
    density[:, box[0], box[1]] *= 1 - 0.50 * inside * (1 - 0.5 * far) + 0.50 * rim


def _box(x: Array, y: Array, cx: float, cy: float, reach: float) -> tuple[slice, slice] | None:
    return window_of(x, y, np.array([[cx - reach, cy - reach], [cx + reach, cy + reach]]))


def _lay_wash(density: Array, x: Array, y: Array, wash: _Wash, fractal: Array) -> None:
    """Adds the density of one wash, darker at its edge, where the pigment gathers."""
    box = _box(x, y, wash.x, wash.y, 1.35 * wash.long)
    if box is None:
        return
    dx, dy = x[:, box[1]] - np.float32(wash.x), y[box[0]] - np.float32(wash.y)
    cos, sin = math.cos(wash.turn), math.sin(wash.turn)
    part = density[:, box[0], box[1]]
    if wash.kind == "stem":
        bend = 0.10 * np.sin(3 * dy + 6 * wash.turn) + wash.turn * dy
        inside = np.abs(dx + bend) / wash.wide
        fade = smoothstep(0.0, 0.35, 1 - np.abs(dy) / wash.long)
        body = (1 - smoothstep(0.7, 1.0, inside)) * (0.7 + 0.5 * np.minimum(inside, 1) ** 4)
        part += wash.pigment * (body * fade)
        return
    s, t = (cos * dx + sin * dy) / wash.long, (cos * dy - sin * dx) / wash.wide
    if wash.kind == "drop":
        far = s * s + t * t
        part += wash.pigment * ((1 - smoothstep(0.7, 1.0, far)) * (0.5 + 0.4 * far))
        return
    wobble = value_noise(dx * 230 + wash.shift, dy * 230 + wash.shift, fractal)[0] - 0.5
    if wash.kind == "leaf":
        t = t / np.maximum(1.02 - s * s, 0.02)
        inside = 1 - np.maximum(np.abs(s), np.abs(t)) + 0.30 * wobble
    else:
        inside = 1 - np.sqrt(s * s + t * t) + 0.78 * wobble
    width = 0.014 / min(wash.long, wash.wide)
    shape = smoothstep(0, 0.35 * width, inside)
    edge = np.exp(-np.maximum(inside, 0) / width)
    run = value_noise(dx * 140 - wash.shift, dy * 140, fractal)[0]
    body = np.clip(0.15 + 1.0 * run + 0.20 * s, 0.10, 1.3)
    root = smoothstep(0.1, -1.0, s + 0.8 * wobble)
    # The painter lifted the paint below, or left the paper white there.
    part *= 1 - (0.35 if wash.kind == "leaf" else 0.62) * shape
    part += wash.pigment * (shape * (body + 0.90 * edge)) + wash.second * (shape * root)
