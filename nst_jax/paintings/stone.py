"""A Roman mosaic: courses of stones that follow the forms."""

import math
from typing import NamedTuple

import numpy as np

from nst_jax.canvas import Array, Size, mix, render, rgb, smoothstep, value_noise
from nst_jax.paintings.common import (
    fine_grain,
    fractal_table,
    generator,
    half_sides,
    hashed,
    palette,
)


def mosaic(size: Size, *, seed: int = 0) -> np.ndarray:
    """Draws fish in the sea as a Roman mosaic: courses of small stones that follow the forms.

    Args:
      size: the side of a square picture, or (height, width), in pixels. Each is at least 32.
      seed: the variant of the picture, 0 or more. It sets the fish, the waves and the stones.

    Returns:
      float32 `[H, W, 3]`, sRGB in [0, 1].

    Raises:
      TypeError: a side or `seed` is not a whole number.
      ValueError: a side is below 32 pixels, or `seed` is negative.
    """
    half, rng = half_sides(size), generator(seed)
    table, fractal = rng.random((256, 256), np.float32), fractal_table(rng, 4)
    school = _school(half, rng)
    phase = rng.uniform(0, 2 * math.pi, 3).astype(np.float32)

    def shade(x: Array, y: Array) -> Array:
        # Stones are split by hand: their sides are not quite straight.
        chip, slope = value_noise(x * 100, y * 100, fractal)
        chip = chip - 0.5
        x, y = x + 0.008 * chip, y + 0.012 * slope
        stones = _sea(x, y, phase, table)
        for number, fish in enumerate(school):
            _set_fish(stones, x, y, fish, number, table)
        return _light_stones(stones, chip, fine_grain(x, y, 400, table))

    return render(shade, size, samples=2, least=768)


_STONE = 0.030  # the width of a course


class _Stones(NamedTuple):
    """The stone under each sample, all `[rows, columns]` but `colour`."""

    colour: Array  # [3, rows, columns]
    across: Array  # the place in the stone across its course, from 0 to 1
    along: Array  # the place along its course, from 0 to 1
    edge: Array  # the distance to the nearest side


class _Fish(NamedTuple):
    x: float
    y: float
    turn: float
    scale: float
    bend: float
    coat: int


_COATS = [  # the outline, then courses from the outline to the middle, and the stripes
    ("4a1410", "b3301a e0561f f08a2c f7b948 f9dc86", "8a1f16"),
    ("14263f", "2f5f86 7aa9b8 c4d8d0 efe9d2 f7f2e0", "1f4a6e"),
    ("3a1230", "8a2450 c44a6a e58a8a f3bfa0 f8e2c0", "5a1838"),
    ("1f2a12", "51702a 86a03a c2c25a ecdc8a f8f0c0", "2e4a1c"),
]


def _course(row: Array, length: Array, kind: int, table: Array) -> tuple[Array, Array, Array]:
    """Divides courses into stones.

    Args:
      row: the number of the course.
      length: the way along the course.
      kind: tells courses of one number apart.

    Returns:
      The number of the stone in its course, the place in the stone from 0 to 1, and its length.
    """
    place = length / np.float32(1.12 * _STONE) + 17 * hashed(table, 3 * kind, row, 0)

    def joint(number: Array) -> Array:
        # A joint is not quite where it should be.
        return number + 0.36 * (hashed(table, 3 * kind + 1, row, number) - 0.5)

    stone = np.floor(place)
    stone = stone - (place < joint(stone)) + (place >= joint(stone + 1))
    start, end = joint(stone), joint(stone + 1)
    return stone, (place - start) / (end - start), (end - start) * np.float32(1.12 * _STONE)


def _middle(row: Array, stone: Array, kind: int, table: Array) -> Array:
    """Returns the way along a course to the middle of a stone, as `_course` numbers them."""
    return (stone + 0.5 - 17 * hashed(table, 3 * kind, row, 0)) * (1.12 * _STONE)


def _edge(across: Array, along: Array, long: Array) -> Array:
    """Computes the distance to the nearest side of a stone with round corners."""
    s = (0.5 - np.abs(across - 0.5)) * np.float32(_STONE)
    t = (0.5 - np.abs(along - 0.5)) * long
    corner = np.float32(0.009)
    cut = corner - np.hypot(np.maximum(corner - s, 0), np.maximum(corner - t, 0))
    return np.where((s < corner) & (t < corner), cut, np.minimum(s, t))


def _sea(x: Array, y: Array, phase: Array, table: Array) -> _Stones:
    """Lays the sea in wavy courses, lighter on the crests."""
    level = y + 0.055 * np.sin(3.4 * x + phase[0]) + 0.030 * np.sin(7.1 * x + phase[1] + 1.5 * y)
    level = level / np.float32(_STONE)
    row = np.floor(level)
    stone, along, long = _course(row, np.broadcast_to(x, level.shape), 1, table)
    own = hashed(table, 2, row, stone)
    place = _middle(row, stone, 1, table)
    swell = np.sin(row * 0.42 + phase[2] + 1.3 * np.sin(2.1 * place + 0.2 * row))
    depth = 0.46 + 0.27 * swell + 0.16 * np.sin(5 * place - 0.11 * row) + 0.42 * (own - 0.5)
    colour = palette("0c2440 123f63 1a648a 2a8da6 58b3b3 9fd2c2 e3ecd4", depth)
    foam = (swell > 0.82) & (own > 0.45)
    colour = np.where(foam, palette("cfe3d4 f3efdc", own), colour)
    return _Stones(colour, level - row, along, _edge(level - row, along, long))


def _school(half: tuple[float, float], rng: np.random.Generator) -> list[_Fish]:
    """Places the fish of the middle, and repeats them over a longer canvas."""
    coats = rng.permutation(4)
    swim = float(rng.choice([-1, 1]))
    motif = [
        (-0.08, -0.42, 0.12, 1.20, 0.35, 0),
        (0.10, 0.38, math.pi + 0.15, 1.25, 0.35, 1),
        (0.80, -0.05, 1.3, 0.52, -0.5, 2),
        (-0.80, 0.02, -1.8, 0.52, -0.5, 2),
        (0.68, -0.86, 0.5, 0.46, 0.4, 3),
        (-0.62, 0.86, 2.9, 0.50, -0.4, 3),
    ]
    jitter = rng.uniform(-1, 1, (len(motif), 3)) * [0.05, 0.05, 0.15]
    rows, columns = (math.ceil((side + 0.6) / 2.3) for side in half)
    school = []
    for j in range(-rows, rows + 1):
        for i in range(-columns, columns + 1):
            for (x, y, turn, scale, bend, coat), (dx, dy, dt) in zip(motif, jitter, strict=True):
                turn = turn + dt if swim > 0 else math.pi - turn - dt
                place = swim * (x + dx) + 2.3 * i, y + dy + 2.3 * j
                school.append(_Fish(*place, turn, scale, swim * bend, int(coats[coat])))
    return school


class _Body(NamedTuple):
    """Where a sample lies in a fish. The fish swims along u, and v points to its belly."""

    u: Array
    v: Array
    long: float  # half the length of the body
    wide: float  # half its width
    radius: float  # of the two arcs that bound it
    depth: Array  # in courses below the outline, negative outside
    angle: Array  # of the arc
    ring: Array  # in courses from the root of the tail
    spread: Array  # the angle from the middle of the tail
    fan: Array  # the length of the tail, in courses
    high: Array  # the height of the fin, in courses
    tail: Array  # the regions from here on are masks
    fin: Array
    halo: Array  # light stones round the tail
    margin: Array  # light stones round the body


def _set_fish(stones: _Stones, x: Array, y: Array, fish: _Fish, number: int, table: Array) -> None:
    """Sets the stones of a fish in place of those of the sea."""
    reach = 0.66 * fish.scale
    near = (np.abs(x - fish.x) < reach) & (np.abs(y - fish.y) < reach)
    if not near.any():
        return
    x, y = x[near] - fish.x, y[near] - fish.y
    cos, sin = math.cos(fish.turn), math.sin(fish.turn)
    # The back is up, whichever way the fish swims.
    u, v = cos * x + sin * y, (cos * y - sin * x) * (1 if cos > 0 else -1)
    body = _body(u, v - np.float32(fish.bend / fish.scale) * u * u, fish.scale)

    # Courses follow the arcs of the body, and round the root of the tail.
    kind = 5 + number % 6
    by_fan = body.tail | body.halo
    row = np.floor(np.where(by_fan, body.ring, body.depth))
    across = np.where(by_fan, body.ring, body.depth) - row
    bow = np.where(by_fan, (row + 0.5) * _STONE, body.radius - (row + 0.5) * _STONE)
    length = np.where(by_fan, body.spread, body.angle) * bow
    key = row + 64 * (body.v < 0) + 128 * by_fan
    stone, along, size = _course(key, length, kind, table)
    own = hashed(table, 36 + kind, key, stone)
    middle = _middle(key, stone, kind, table) / body.long

    colour = _coat(body, _COATS[fish.coat], row, middle, own)
    colour = _fins(colour, body, _COATS[fish.coat], length, own)
    edge = np.minimum(_edge(across, along, size), _seams(body))
    colour, edge = _eye(colour, edge, body, fish.scale)
    used = (body.depth >= 0) | body.tail | body.fin | body.margin | body.halo
    where = np.flatnonzero(near)[used]
    stones.colour.reshape(3, -1)[:, where] = colour[:, used]
    for field, value in zip(stones[1:], (across, along, edge), strict=True):
        field.reshape(-1)[where] = value[used]


def _body(u: Array, v: Array, scale: float) -> _Body:
    """Divides the plane of a fish into its parts."""
    long, wide = 0.40 * scale, 0.155 * scale
    radius = (long * long + wide * wide) / (2 * wide)
    rise = np.abs(v) + np.float32(radius - wide)
    depth = (radius - np.hypot(u, rise)) / np.float32(_STONE)
    root = u + np.float32(0.93 * long)
    spread = np.arctan2(v, -root)
    ring = np.hypot(root, v) / np.float32(_STONE)
    fan = scale * (7.2 - 3.0 * np.cos(3.6 * spread)) * (np.abs(spread) < 0.85)
    high = np.where(v < 0, 3.4, 2.2) * scale * (1 - np.square(u / np.float32(0.62 * long)))
    outside = depth < 0
    tail = outside & (ring < fan)
    halo = outside & (ring < fan + 1.3) & (np.abs(spread) < 1.2) & ~tail
    fin = outside & ~tail & ((u - 0.02 * long) ** 2 < (0.62 * long) ** 2)
    fin &= -depth < np.maximum(high, 0)
    margin = outside & (depth > -2) & ~tail & ~fin & ~halo
    angle = np.arctan2(u, rise)
    return _Body(
        u, v, long, wide, radius, depth, angle, ring, spread, fan, high, tail, fin, halo, margin
    )


def _coat(body: _Body, coat: tuple, row: Array, middle: Array, own: Array) -> Array:
    """Colours the stones of the body by their course and by their place along it.

    A stone has one colour. `middle` is the place of its middle, from -1 at the tail to 1 at the
    snout, and `own` is its random number.
    """
    outline, courses, stripe = coat
    back, inside = body.v < 0, body.depth >= 0
    level = np.clip((row - 0.5) * (_STONE / body.wide), 0, 1)
    level = level + np.where(back, 0, 0.16) + 0.30 * (own - 0.5)
    colour = palette(courses, level)
    belt = np.cos(middle * 17 + 0.7 * row) > 0.55
    dark = palette(stripe + " " + courses[:6], 0.5 * own)
    colour = np.where(belt & back & (row > 0) & (middle < 0.45), dark, colour)
    head = (middle > 0.52) & inside
    colour = np.where(head, palette(courses, 0.55 * level + 0.1), colour)
    gill = (np.abs(middle - 0.50) < 0.05) & inside
    rim = (row == 0) & inside | gill
    return np.where(rim, palette(outline + " " + courses[:6], 0.35 * own), colour)


def _fins(colour: Array, body: _Body, coat: tuple, length: Array, own: Array) -> Array:
    """Colours the stones of the fins and the tail in rays, and those around the fish in white."""
    outline, courses, _ = coat
    rays = np.where(np.abs(np.floor(length / 0.05)) % 2 == 0, 0.30, 0.62) + 0.4 * (own - 0.5)
    end = body.fin & (-body.depth > body.high - 1.2) | body.tail & (body.ring > body.fan - 1.2)
    rays = palette(outline + " " + courses, np.where(end, 0.05, rays))
    colour = np.where(body.fin | body.tail, rays, colour)
    light = palette("8fc7bf c9e0d0 f1ecd6", own + 0.1)
    return np.where(body.margin | body.halo, light, colour)


def _seams(body: _Body) -> Array:
    """Computes the distance to where regions meet. Stones are cut to fit there."""
    outside = body.depth < 0
    seams = [
        np.abs(body.depth),
        np.where(outside, np.abs(body.depth + 2), 9),
        np.where(outside, np.abs(body.ring - body.fan), 9),
        np.where(body.fin | body.margin, np.abs(-body.depth - body.high), 9),
    ]
    edge = np.minimum.reduce(seams) * np.float32(_STONE)
    return np.minimum(edge, np.where(outside, 9, np.abs(body.v)))


def _eye(colour: Array, edge: Array, body: _Body, scale: float) -> tuple[Array, Array]:
    """Sets the eye: a dark stone in a ring of white ones."""
    u, v = body.u - np.float32(0.66 * body.long), body.v + np.float32(0.20 * body.wide)
    far, size = np.hypot(u, v), np.float32(0.008 + 0.022 * scale)
    eye = far < 1.9 * size
    colour = np.where(eye, rgb("f7f0dc")[:, 0], colour)
    colour = np.where(far < size, rgb("120d0c")[:, 0], colour)
    away = np.minimum(np.abs(far - size), np.abs(far - 1.9 * size))
    turn = np.arctan2(v, u) * 4 / math.pi
    spoke = (0.5 - np.abs(turn - np.floor(turn) - 0.5)) * 0.8 * far
    ring = np.where(far > size, np.minimum(away, spoke), away)
    return colour, np.where(eye, ring, np.minimum(edge, away))


def _light_stones(stones: _Stones, chip: Array, grain: Array) -> Array:
    """Lights the stones from the upper left, over the mortar."""
    own = stones.colour.sum(axis=0) * np.float32(97)
    tilt = 0.20 * (own - np.floor(own) - 0.5)
    slope = (stones.across - 0.5) + 0.6 * (stones.along - 0.5)
    colour = stones.colour * (0.99 + tilt * slope + 0.16 * chip + 0.07 * (grain - 0.5))
    rim = 1 - smoothstep(0.002, 0.0065, stones.edge)
    colour = colour * (1 - 0.34 * rim * smoothstep(-0.5, 0.5, slope)) + 0.07 * rim * (slope < -0.2)
    mortar = rgb("b7ab94") * (0.72 + 0.30 * chip + 0.16 * (grain - 0.5))
    return mix(mortar, colour, smoothstep(0.0012, 0.0032, stones.edge))
